//! Processes of virtual machines that print to a file.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A virtual machine's process. It ends with this value.
pub struct Machine(pub Child);

impl Drop for Machine {
    fn drop(&mut self) {
        super::kill(&mut self.0);
    }
}

/// Waits for a line of a machine's log that has `word` in it.
pub fn wait_for(log: &Path, word: &str) -> String {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let text = String::from_utf8_lossy(&std::fs::read(log).expect("the log can be read")).into_owned();
        // The last line may be half written.
        let complete = text.rfind('\n').map_or("", |at| &text[..at]);
        if let Some(line) = complete.lines().find(|line| line.contains(word)) {
            return line.trim_end().to_owned();
        }
        assert!(Instant::now() < end, "no \"{word}\" in:\n{text}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A software CPU without the fast-string features: with them Linux copies and clears by `rep movsb` and `rep stosb`, which
/// QEMU carries out octet by octet, and a guest spends most of its time there.
const CPU: &str = "max,-erms,-fsrm";

/// Adds to a QEMU command line a machine on a software CPU with so many MiB of shared memory, whose serial line is
/// standard input and output.
pub fn without_devices(command: &mut Command, mib: u32) {
    command
        .args([
            "-accel",
            "tcg",
            "-cpu",
            CPU,
            "-machine",
            "q35,memory-backend=m",
            "-nodefaults",
        ])
        .args(["-m", &format!("{mib}M")])
        .args([
            "-object",
            &format!("memory-backend-memfd,id=m,size={mib}M,share=on"),
        ])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio"]);
}
