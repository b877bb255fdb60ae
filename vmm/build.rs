//! Builds the micro-guest, which `vmm::MICROGUEST` embeds.
//!
//! The image needs its own profile, linker script and panic strategy, so a nested cargo builds it, in a directory of
//! its own: the outer cargo holds the lock of the usual one.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Settings of the outer build that must not reach the image: flags for the host's programs, wrappers such as
/// clippy's, and what cargo tells a build script about this package.
const FOREIGN: [&str; 11] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_FEATURE_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CLIPPY_",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

fn main() -> ExitCode {
    match build_image() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("cannot build the micro-guest: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn build_image() -> Result<(), String> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../microguest");
    let target = PathBuf::from(variable("OUT_DIR")?).join("guest");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.args([
        "build",
        "--quiet",
        "--package",
        "microguest",
        "--bin",
        "microguest",
    ]);
    cargo.args(["--features", "image", "--profile", "guest", "--manifest-path"]);
    cargo
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    if env::var_os("CARGO_NET_OFFLINE").is_some_and(|offline| offline == "true") {
        cargo.arg("--offline");
    }
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| FOREIGN.iter().any(|foreign| name.starts_with(foreign)))
        {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("cargo ended with {status}"));
    }
    watch_sources(&package, &target.join("guest"));
    println!(
        "cargo:rustc-env=MICROGUEST_IMAGE={}",
        target.join("guest/microguest").display()
    );
    Ok(())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set"))
}

/// Has cargo run this again when a source of the image changes: the package, and what its dependency file lists.
fn watch_sources(package: &Path, built: &Path) {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CARGO_NET_OFFLINE");
    for path in [
        "Cargo.toml",
        "build.rs",
        "guest.ld",
        "src",
        "../Cargo.toml",
        "../Cargo.lock",
    ] {
        println!("cargo:rerun-if-changed={}", package.join(path).display());
    }
    let listed = std::fs::read_to_string(built.join("microguest.d")).unwrap_or_default();
    for source in listed
        .split_once(": ")
        .map_or("", |(_, sources)| sources)
        .split_whitespace()
    {
        println!("cargo:rerun-if-changed={source}");
    }
}
