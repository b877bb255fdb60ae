//! Reading what the user types, from a terminal, a pipe or a file.
#![allow(unsafe_code)] // termios has no safe wrapper in the crates used here

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Ctrl-A: the next key is for the monitor.
const ESCAPE: u8 = 1;

/// A console's input.
pub(crate) struct Input {
    file: File,
    terminal: Option<RawTerminal>,
    escaped: bool,
}

/// What a read brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Octets for the guest, perhaps none.
    Octets(Vec<u8>),
    /// The user asks to stop the machine.
    Stop,
    /// There is and will be no more.
    End,
}

impl Input {
    /// Takes over the descriptor; a terminal is set to raw mode until this is dropped.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let file = File::from(fd);
        let terminal = RawTerminal::enter(&file);
        Self {
            file,
            terminal,
            escaped: false,
        }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Reads at most `room` octets; call it when there is something to read.
    pub(crate) fn read(&mut self, room: usize) -> Typed {
        // An escape that turns out to be none adds an octet.
        let mut octets = vec![0; room.saturating_sub(1).max(1)];
        match self.file.read(&mut octets) {
            Ok(0) => Typed::End,
            Ok(len) => {
                octets.truncate(len);
                if self.terminal.is_some() {
                    self.without_escapes(&octets)
                } else {
                    Typed::Octets(octets)
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                Typed::Octets(Vec::new())
            }
            Err(_) => Typed::End,
        }
    }

    fn without_escapes(&mut self, octets: &[u8]) -> Typed {
        let mut passed = Vec::with_capacity(octets.len() + 1);
        for octet in octets {
            match (std::mem::take(&mut self.escaped), *octet) {
                (true, b'x') => return Typed::Stop,
                (true, ESCAPE) => passed.push(ESCAPE),
                (true, other) => passed.extend([ESCAPE, other]),
                (false, ESCAPE) => self.escaped = true,
                (false, other) => passed.push(other),
            }
        }
        Typed::Octets(passed)
    }
}

/// A terminal in raw mode; dropping it restores the mode that it was in.
struct RawTerminal {
    file: File,
    before: libc::termios,
}

impl RawTerminal {
    /// `None` when the file is no terminal.
    fn enter(file: &File) -> Option<Self> {
        let file = file.try_clone().ok()?;
        // SAFETY: termios is plain data, for which all-zero octets are a value.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `before` a live structure of the type that the call fills in.
        if unsafe { libc::tcgetattr(file.as_raw_fd(), &raw mut before) } != 0 {
            return None;
        }
        let mut raw = before;
        // SAFETY: `raw` is a live structure that tcgetattr has initialised.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // Guests end lines with a line feed alone; the terminal goes on translating it.
        raw.c_oflag = before.c_oflag;
        // SAFETY: the descriptor is open and `raw` a live, initialised structure.
        let entered = unsafe { libc::tcsetattr(file.as_raw_fd(), libc::TCSANOW, &raw const raw) } == 0;
        entered.then_some(Self { file, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open and `before` is what tcgetattr filled in.
        unsafe { libc::tcsetattr(self.file.as_raw_fd(), libc::TCSANOW, &raw const self.before) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;

    fn pseudo_terminal() -> (File, File) {
        let (mut main, mut side) = (0, 0);
        let null = std::ptr::null_mut();
        // SAFETY: both descriptors are written to live integers; the other arguments may be null.
        let result = unsafe { libc::openpty(&raw mut main, &raw mut side, null, null.cast(), null.cast()) };
        assert_eq!(result, 0, "openpty");
        // SAFETY: openpty just returned both descriptors, so nothing else owns them.
        unsafe { (File::from_raw_fd(main), File::from_raw_fd(side)) }
    }

    fn local_flags(file: &File) -> libc::tcflag_t {
        // SAFETY: termios is plain data, and tcgetattr fills in a live structure.
        unsafe {
            let mut mode: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(file.as_raw_fd(), &raw mut mode), 0);
            mode.c_lflag
        }
    }

    #[test]
    fn terminal_is_raw_meanwhile_and_restored() {
        let (mut main, side) = pseudo_terminal();
        let before = local_flags(&side);
        let mut input = Input::new(side.try_clone().expect("a duplicate").into());
        assert_eq!(local_flags(&side) & (libc::ICANON | libc::ECHO | libc::ISIG), 0);
        io::Write::write_all(&mut main, b"a\x01\x01b\x01c").expect("typed");
        assert_eq!(input.read(64), Typed::Octets(b"a\x01b\x01c".to_vec()));
        io::Write::write_all(&mut main, b"\x01x").expect("typed");
        assert_eq!(input.read(64), Typed::Stop);
        drop(input);
        assert_eq!(local_flags(&side), before);
    }

    #[test]
    fn pipes_pass_everything_and_end() {
        let (read, write) = io::pipe().expect("a pipe");
        let mut input = Input::new(read.into());
        io::Write::write_all(&mut &write, b"g\x01x").expect("written");
        assert_eq!(input.read(64), Typed::Octets(b"g\x01x".to_vec()));
        drop(write);
        assert_eq!(input.read(64), Typed::End);
    }
}
