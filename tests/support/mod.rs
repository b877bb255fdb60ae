//! What the tests with real programs share: Linux guests in QEMU, and a running switch.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod bystander;
pub mod daemon;
pub mod frames;
pub mod guest;
pub mod image;
pub mod machine;
pub mod netns;
pub mod obedient;
pub mod peer;
pub mod scene;
pub mod vm;

use std::path::PathBuf;
use std::process::Command;

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

/// Says by name that a test does not run here, and why.
pub fn skip(test: &str, reason: &str) {
    println!("SKIPPED {test}: {reason}");
    eprintln!("SKIPPED {test}: {reason}");
}
