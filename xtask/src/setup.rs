//! Everything that tests need and Rust does not bring: Debian packages, and kernels and a disk for Linux guests.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::image;
use crate::kernels;
use crate::run::{has_program, output, run};

/// A program, by its name or its path, and the package that brings it.
pub(crate) type Program = (&'static str, &'static str);

/// What tests call.
const PROGRAMS: [Program; 20] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("insmod", "kmod"),
    ("iperf3", "iperf3"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("gzip", "gzip"),
    ("xz", "xz-utils"),
    ("ldd", "libc-bin"),
    ("c++", "g++"),
    ("lz4", "lz4"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("fakeroot", "fakeroot"),
    ("qemu-img", "qemu-utils"),
    ("dpdk-testpmd", "dpdk-dev"),
];

/// Installs what is missing; fails when something is missing still.
pub(crate) fn setup() -> Result<()> {
    if missing_packages(&PROGRAMS).is_empty() {
        eprintln!("setup: all programs are installed");
    } else {
        install(&PROGRAMS)?;
    }
    kernels::fetch()?;
    image::for_tests()
}

/// Installs what can be installed, and says what that leaves out.
pub(crate) fn try_setup() {
    if let Err(error) = setup() {
        eprintln!("setup: {error:#}");
        eprintln!("setup: tests that need it are left out by name");
    }
}

/// The packages of those programs that are not there.
pub(crate) fn missing_packages(programs: &[Program]) -> Vec<&'static str> {
    programs
        .iter()
        .filter(|(program, _)| !has_program(program))
        .map(|(_, package)| *package)
        .collect()
}

/// Installs those programs that are not there.
pub(crate) fn install(programs: &[Program]) -> Result<()> {
    let missing = &missing_packages(programs)[..];
    if !has_program("apt-get") {
        bail!(
            "missing: {}; there is no apt-get here, install them your way",
            missing.join(", ")
        );
    }
    if !is_root()? {
        bail!(
            "missing: {0}; run: sudo apt-get install -y --no-install-recommends {0}",
            missing.join(" ")
        );
    }
    eprintln!("setup: installing {}", missing.join(" "));
    run(apt_get().arg("update"))?;
    // Without --no-remove, apt would take a newer qemu-utils away to make room for an older QEMU.
    if run(apt_get()
        .args(["install", "-y", "--no-install-recommends", "--no-remove"])
        .args(missing))
    .is_err()
    {
        let pinned = with_one_qemu(missing)?;
        run(apt_get()
            .args(["install", "-y", "--no-install-recommends", "--allow-downgrades"])
            .args(pinned))?;
    }
    let missing = missing_packages(programs);
    if !missing.is_empty() {
        bail!(
            "apt-get succeeded, but programs of {} are still missing",
            missing.join(", ")
        );
    }
    Ok(())
}

pub(crate) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// The packages, with QEMU and its tools named in one version that the archive has of both.
fn with_one_qemu(packages: &[&str]) -> Result<Vec<String>> {
    let system = versions("qemu-system-x86")?;
    let tools = versions("qemu-utils")?;
    let version = system
        .iter()
        .find(|version| tools.contains(version))
        .context("the archive has no qemu-system-x86 and qemu-utils of the same version")?;
    let others = packages
        .iter()
        .filter(|package| !package.starts_with("qemu-"))
        .map(|package| (*package).to_owned());
    Ok(["qemu-system-x86", "qemu-utils"]
        .into_iter()
        .map(|package| format!("{package}={version}"))
        .chain(others)
        .collect())
}

/// The versions that the archive has of a package, best first.
pub(crate) fn versions(package: &str) -> Result<Vec<String>> {
    let table = output(Command::new("apt-cache").args(["madison", package]))?;
    Ok(table
        .lines()
        .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
        .collect())
}

pub(crate) fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}
