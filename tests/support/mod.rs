//! What the tests with real programs share: Linux guests in QEMU, and a running switch.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod bystander;
pub mod daemon;
pub mod disk;
pub mod frames;
pub mod guest;
pub mod image;
pub mod laboratory;
pub mod linux;
pub mod machine;
pub mod netns;
pub mod obedient;
pub mod peer;
pub mod refusal;
pub mod scene;
pub mod shell;
pub mod talk;
pub mod tcp;
pub mod vm;
pub mod vmlinux;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A variable that names the program under test, where that is not the one that was built with the tests.
pub const PROGRAM_VARIABLE: &str = "ENLIGHT_TEST_PROGRAM";

/// The program under test.
pub fn enlight() -> OsString {
    std::env::var_os(PROGRAM_VARIABLE).unwrap_or_else(|| env!("CARGO_BIN_EXE_enlight").into())
}

/// Whether the program under test is optimised.
pub fn is_release() -> bool {
    std::path::Path::new(&enlight())
        .parent()
        .is_some_and(|dir| dir.ends_with("release"))
}

/// The directory that build products and downloads go to.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    )
}

/// Where a program is, if it is installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Runs a command on this machine; its output, or a panic that says what went wrong.
pub fn host(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", command])
        .output()
        .expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`{command}`: {}\n{text}{error}",
        output.status
    );
    text
}

/// How long the kernel has to end a process that was killed.
const BURIAL: Duration = Duration::from_secs(20);

/// Kills a process and waits for its end, but not for one that the kernel cannot end: what went wrong before is told then.
pub fn kill(child: &mut Child) {
    let _ = child.kill();
    let end = Instant::now() + BURIAL;
    while let Ok(None) = child.try_wait() {
        if Instant::now() > end {
            println!("process {} was killed, and is still there", child.id());
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether this machine's KVM runs Linux.
pub fn has_complete_kvm() -> bool {
    let usable = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    usable
        && cpuinfo
            .split_whitespace()
            .any(|word| word == "vmx" || word == "svm")
}

/// Says by name that a test does not run here, and why.
pub fn skip(test: &str, reason: &str) {
    println!("SKIPPED {test}: {reason}");
    eprintln!("SKIPPED {test}: {reason}");
}
