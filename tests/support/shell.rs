//! The shell of a Linux guest, driven over its serial line: what the `init` of [`super::image`] does for it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a guest has to boot or to carry out a command, on a busy machine with a software CPU: longer than a laboratory takes
/// to notice that its kernel is stuck.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// A guest's process whose standard input and output are its serial line. Dropping it kills it.
pub struct Shell {
    name: String,
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// What it printed so far, for error messages.
    log: Vec<String>,
}

impl Shell {
    /// Starts the process and does not wait.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the machine starts");
        let input = child.stdin.take().expect("a pipe");
        let lines = read_lines(child.stdout.take().expect("a pipe"));
        Self {
            name: name.to_owned(),
            child,
            input,
            lines,
            log: Vec::new(),
        }
    }

    /// Waits for the guest's shell.
    pub fn wait_ready(&mut self) {
        self.finish("boot", PATIENCE);
    }

    /// Runs a shell command in the guest; panics when it fails.
    pub fn run(&mut self, command: &str) -> String {
        let (status, output) = self.try_run(command, PATIENCE);
        assert_eq!(status, "0", "{}: `{command}` failed:\n{output}", self.name);
        output
    }

    /// Runs a shell command in the guest: its status and output.
    pub fn try_run(&mut self, command: &str, limit: Duration) -> (String, String) {
        self.send(command);
        self.finish(command, limit)
    }

    /// Starts a shell command in the guest; [`Shell::finish`] waits for it.
    pub fn send(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("the guest's serial line takes a command");
    }

    /// Waits for a command that was sent.
    pub fn finish(&mut self, command: &str, limit: Duration) -> (String, String) {
        let end = Instant::now() + limit;
        let mut output = Vec::new();
        loop {
            match self.next_line(end) {
                Ok(line) => {
                    // Kernel messages may precede the marker on its line.
                    if let Some((before, status)) = line.split_once("@@ ") {
                        output.push(before.to_owned());
                        return (status.to_owned(), output.join("\n"));
                    }
                    output.push(line);
                }
                Err(why) => panic!(
                    "{}: `{command}` {why}; the serial line ended in:\n{}",
                    self.name,
                    self.log_end(30)
                ),
            }
        }
    }

    fn next_line(&mut self, end: Instant) -> Result<String, &'static str> {
        let wait = end.saturating_duration_since(Instant::now());
        let line = self.lines.recv_timeout(wait).map_err(|error| match error {
            RecvTimeoutError::Timeout => "took too long",
            RecvTimeoutError::Disconnected => "ended with the guest",
        })?;
        self.log.push(line.clone());
        Ok(line)
    }

    /// Waits for the process to end, and gives everything that it printed since it was last waited for.
    pub fn ends(&mut self, limit: Duration) -> (std::process::ExitStatus, String) {
        let end = Instant::now() + limit;
        let mut output = Vec::new();
        loop {
            match self.next_line(end) {
                Ok(line) => output.push(line),
                Err("took too long") => {
                    panic!("{} goes on; it printed last:\n{}", self.name, self.log_end(30))
                }
                Err(_) => break,
            }
        }
        (self.child.wait().expect("a status"), output.join("\n"))
    }

    /// The last lines that it printed.
    pub fn log_end(&self, lines: usize) -> String {
        self.log[self.log.len().saturating_sub(lines)..].join("\n")
    }

    /// The process, to look at or to kill.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// The lines that a guest prints, read by a thread of their own.
fn read_lines(output: ChildStdout) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if send.send(text).is_err() {
                break;
            }
        }
    });
    lines
}

impl Drop for Shell {
    fn drop(&mut self) {
        super::kill(&mut self.child);
    }
}
