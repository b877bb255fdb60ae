//! Everything that tests need and Rust does not bring: Debian packages, and the kernel of Linux guests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::{has_program, output, run, target_dir};

/// A program that tests call, and the package that brings it.
const PROGRAMS: [(&str, &str); 14] = [
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
];

/// Debian's kernel for virtual machines: a package that depends on the present version's.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// Installs what is missing; fails when something is missing still.
pub(crate) fn setup() -> Result<()> {
    let missing = missing_packages();
    if missing.is_empty() {
        eprintln!("setup: all programs are installed");
    } else {
        install(&missing)?;
    }
    fetch_kernel()
}

/// Installs what can be installed, and says what that leaves out.
pub(crate) fn try_setup() {
    if let Err(error) = setup() {
        eprintln!("setup: {error:#}");
        eprintln!("setup: tests that need it are left out by name");
    }
}

fn missing_packages() -> Vec<&'static str> {
    PROGRAMS
        .into_iter()
        .filter(|(program, _)| !has_program(program))
        .map(|(_, package)| package)
        .collect()
}

fn install(missing: &[&str]) -> Result<()> {
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
    let missing = missing_packages();
    if !missing.is_empty() {
        bail!(
            "apt-get succeeded, but programs of {} are still missing",
            missing.join(", ")
        );
    }
    Ok(())
}

fn apt_get() -> Command {
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
        .filter(|package| **package != "qemu-system-x86")
        .map(|package| (*package).to_owned());
    Ok(["qemu-system-x86", "qemu-utils"]
        .into_iter()
        .map(|package| format!("{package}={version}"))
        .chain(others)
        .collect())
}

/// The versions that the archive has of a package, best first.
fn versions(package: &str) -> Result<Vec<String>> {
    let table = output(Command::new("apt-cache").args(["madison", package]))?;
    Ok(table
        .lines()
        .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
        .collect())
}

fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}

/// Puts Debian's kernel and its modules into `debian-kernel` below the target directory, without installing them.
fn fetch_kernel() -> Result<()> {
    let home = target_dir().join("debian-kernel");
    if home.join("vmlinuz").is_file() && home.join("modules/kernel").is_dir() {
        eprintln!("setup: the guests' kernel is in {}", home.display());
        return Ok(());
    }
    if !has_program("apt-get") || !has_program("dpkg-deb") {
        bail!("the guests' kernel is Debian's {KERNEL_PACKAGE}; fetching it takes apt-get and dpkg-deb");
    }
    let part = home.with_extension(format!("part{}", std::process::id()));
    fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    let done = download_kernel(&part).and_then(|()| {
        // A directory that was left incomplete makes way.
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        fs::rename(part.join("done"), &home).context("putting the kernel in place")
    });
    fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
    done?;
    eprintln!("setup: the guests' kernel is in {}", home.display());
    Ok(())
}

fn download_kernel(part: &Path) -> Result<()> {
    let package = kernel_package()?;
    eprintln!("setup: downloading {package}");
    run(Command::new("apt-get")
        .args(["-q", "download", &package])
        .current_dir(part))?;
    let deb = only_file(part, "deb")?;
    let tree = part.join("tree");
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&tree))?;
    let release =
        only_entry(&tree.join("lib/modules")).or_else(|_| only_entry(&tree.join("usr/lib/modules")))?;
    let done = part.join("done");
    fs::create_dir(&done)?;
    let name = release
        .file_name()
        .context("a kernel release has a name")?
        .to_string_lossy()
        .into_owned();
    fs::rename(
        tree.join("boot").join(format!("vmlinuz-{name}")),
        done.join("vmlinuz"),
    )
    .context("the kernel image")?;
    fs::create_dir(done.join("modules"))?;
    fs::rename(release.join("kernel"), done.join("modules/kernel")).context("the kernel's modules")?;
    // Later releases of Debian pack each module.
    run(Command::new("find")
        .arg(done.join("modules"))
        .args(["-name", "*.ko.xz", "-exec", "xz", "-d", "{}", "+"]))
}

/// The package that holds the present kernel.
fn kernel_package() -> Result<String> {
    let present = || -> Result<Option<String>> {
        let text = output(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
        let depends = |line: &str| line.trim().strip_prefix("Depends: ").map(str::to_owned);
        Ok(text
            .lines()
            .filter_map(depends)
            .find(|name| name.starts_with("linux-image-")))
    };
    if let Ok(Some(package)) = present() {
        return Ok(package);
    }
    if is_root()? {
        run(apt_get().arg("update"))?;
    }
    present()?
        .with_context(|| format!("apt knows no {KERNEL_PACKAGE}; run `apt-get update` as root, on Debian"))
}

fn only_file(dir: &Path, extension: &str) -> Result<PathBuf> {
    entries(dir)?
        .into_iter()
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .with_context(|| format!("no .{extension} file came to {}", dir.display()))
}

fn only_entry(dir: &Path) -> Result<PathBuf> {
    entries(dir)?
        .into_iter()
        .next()
        .with_context(|| format!("{} is empty", dir.display()))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .with_context(|| format!("reading {}", dir.display()))
}
