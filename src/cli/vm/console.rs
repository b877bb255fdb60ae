//! `enlight vm console`: the guest's terminal on this one.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::machine::Place;
use crate::vm_control::api::CONSOLE_PROTOCOL;

/// Ctrl-A: the next key is for this program.
const ESCAPE: u8 = 1;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The machine
    name: String,

    #[command(flatten)]
    place: Place,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let machine = args.place.machine(&args.name)?;
    let (stream, came) = machine.upgrade("/v1/console", CONSOLE_PROTOCOL)?;
    let leave = Leave::new(&stream).context("using the connection")?;
    leave.on_signals().context("watching for signals")?;
    let raw = RawTerminal::enter();
    if raw.is_some() {
        eprintln!(
            "enlight: this is the console of {}; Ctrl-A x leaves it",
            args.name
        );
    }
    let typing = (stream.try_clone().context("using the connection")?, leave.clone());
    thread::spawn(move || typed(typing.0, &typing.1));
    let shown = show(stream, &came);
    drop(raw);
    shown?;
    if leave.wanted() {
        eprintln!("\nenlight: left the console; {} goes on", args.name);
    } else {
        eprintln!("\nenlight: {} closed the console", args.name);
    }
    Ok(())
}

/// The user's wish to leave.
#[derive(Clone)]
struct Leave {
    stream: Arc<UnixStream>,
    wanted: Arc<AtomicBool>,
}

impl Leave {
    fn new(stream: &UnixStream) -> io::Result<Self> {
        Ok(Self {
            stream: Arc::new(stream.try_clone()?),
            wanted: Arc::default(),
        })
    }

    /// Ends the connection; the terminal is restored on the usual way out.
    fn now(&self) {
        self.wanted.store(true, Ordering::Relaxed);
        // Fails only when the other end was faster.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn on_signals(&self) -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let leave = self.clone();
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                leave.now();
            }
        });
        Ok(())
    }

    fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }
}

/// Passes on what the guest prints until the connection ends.
fn show(mut stream: UnixStream, came: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(came)?;
    out.flush()?;
    let mut buffer = [0; 4096];
    loop {
        let len = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // What was typed and not read any more makes the end of a machine a reset.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("reading from the console"),
        };
        out.write_all(buffer.get(..len).unwrap_or_default())?;
        out.flush()?;
    }
}

/// Passes on what is typed. The end of the input is not the end of the console: there may be more to see.
fn typed(mut stream: UnixStream, leave: &Leave) {
    let mut keys = Keys::default();
    let mut buffer = [0; 1024];
    let mut input = io::stdin().lock();
    while let Ok(len @ 1..) = input.read(&mut buffer) {
        let (octets, left) = keys.pass(buffer.get(..len).unwrap_or_default());
        if stream.write_all(&octets).is_err() {
            return;
        }
        if left {
            return leave.now();
        }
    }
}

/// Tells the guest's keys from this program's, as `vm run` does.
#[derive(Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    /// What is for the guest, and whether the user leaves.
    fn pass(&mut self, octets: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(octets.len() + 1);
        for octet in octets {
            match (std::mem::take(&mut self.escaped), *octet) {
                (true, b'x') => return (passed, true),
                (true, ESCAPE) => passed.push(ESCAPE),
                (true, other) => passed.extend([ESCAPE, other]),
                (false, ESCAPE) => self.escaped = true,
                (false, other) => passed.push(other),
            }
        }
        (passed, false)
    }
}

/// Standard input in raw mode; dropping it restores the mode that it was in.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` when it is no terminal.
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // Guests end lines with a line feed alone; the terminal goes on translating it.
        raw.output_modes = before.output_modes;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Fails only when the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_leaves_and_everything_else_passes() {
        let mut keys = Keys::default();
        assert_eq!(keys.pass(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(keys.pass(b"\x01"), (Vec::new(), false));
        assert_eq!(keys.pass(b"\x01b"), (b"\x01b".to_vec(), false));
        assert_eq!(keys.pass(b"\x01c"), (b"\x01c".to_vec(), false));
        assert_eq!(keys.pass(b"\x03a\x01"), (b"\x03a".to_vec(), false));
        assert_eq!(keys.pass(b"xb"), (Vec::new(), true));
    }
}
