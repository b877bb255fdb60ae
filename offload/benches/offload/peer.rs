//! DPDK's libraries in processes of their own, compiled when they are needed.

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
    /// Compiles and starts `benches/peers/NAME.c`; why it cannot run, if it cannot.
    pub(crate) fn start(name: &str) -> Result<Self, String> {
        let flags = Command::new("pkg-config")
            .args(["--cflags", "--libs", "libdpdk"])
            .output()
            .ok()
            .filter(|flags| flags.status.success())
            .ok_or("libdpdk is not installed (libdpdk-dev)")?;
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let source = format!("{}/benches/peers/{name}.c", env!("CARGO_MANIFEST_DIR"));
        // Behind pkg-config's, which name a processor of their own.
        let compiled = Command::new("cc")
            .args(["-DALLOW_EXPERIMENTAL_API", &source, "-o"])
            .arg(&program)
            .args(String::from_utf8_lossy(&flags.stdout).split_whitespace())
            .args(FLAGS.split(' '))
            .status();
        if !compiled.is_ok_and(|status| status.success()) {
            return Err(format!("{source} could not be compiled"));
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

    /// What it computes of its input, to compare.
    pub(crate) fn digest(&mut self, command: &str) -> String {
        self.ask(command)
    }

    /// How long it takes to do so `times` times.
    pub(crate) fn run(&mut self, command: &str, times: u64) -> Duration {
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
