//! DPDK's librte_gso in a process of its own, compiled when it is needed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Flags that the peer is compiled with, besides pkg-config's.
pub(crate) const FLAGS: &str = "-O3 -march=native";

pub(crate) struct Dpdk {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Dpdk {
    /// Why it cannot run, if it cannot.
    pub(crate) fn start() -> Result<Self, String> {
        let flags = Command::new("pkg-config")
            .args(["--cflags", "--libs", "libdpdk"])
            .output()
            .ok()
            .filter(|flags| flags.status.success())
            .ok_or("libdpdk is not installed (libdpdk-dev)")?;
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gso");
        let compiled = Command::new("cc")
            .args(FLAGS.split(' '))
            .arg("-DALLOW_EXPERIMENTAL_API")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/gso.c"))
            .arg("-o")
            .arg(&program)
            .args(String::from_utf8_lossy(&flags.stdout).split_whitespace())
            .status();
        if !compiled.is_ok_and(|status| status.success()) {
            return Err("benches/peers/gso.c could not be compiled".to_owned());
        }
        let mut child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{} could not be started: {error}", program.display()))?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).ok_or("no pipes")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    fn ask(&mut self, command: &str) -> String {
        let mut answer = String::new();
        writeln!(self.input, "{command}").expect("the peer reads commands");
        self.output.read_line(&mut answer).expect("the peer answers");
        answer.trim().to_owned()
    }

    /// The digest of all its segments, and their number.
    pub(crate) fn digest(&mut self) -> String {
        self.ask("d")
    }

    /// Cuts `times` frames, into linear buffers or (`indirect`) ones that point into the frame.
    pub(crate) fn cut(&mut self, indirect: bool, times: u64) -> Duration {
        let command = if indirect { 'i' } else { 'l' };
        let answer = self.ask(&format!("{command} {times}"));
        Duration::from_nanos(answer.parse().expect("the peer answers with nanoseconds"))
    }
}

impl Drop for Dpdk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
