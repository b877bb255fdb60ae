//! Debian's kernels, fetched by apt without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use initramfs::ModuleTree;

use crate::image::initrd;
use crate::run::{has_program, output, run, target_dir};
use crate::setup::{apt_get, is_root};

/// A kernel that is fetched.
struct Fetched {
    /// The package that depends on the present version's.
    package: &'static str,
    /// Its directory below the target directory.
    home: &'static str,
    /// Modules to keep, with what they need; none for all.
    modules: &'static [&'static str],
}

/// The kernel for virtual machines, which the laboratory and most guests run, and the one for all machines.
const KERNELS: [Fetched; 2] = [
    Fetched {
        package: "linux-image-cloud-amd64",
        home: "debian-kernel",
        modules: &[],
    },
    Fetched {
        package: "linux-image-amd64",
        home: "debian-kernel-full",
        modules: &initrd::MODULES,
    },
];

/// Puts each kernel and its modules into its directory, unless they are there.
pub(crate) fn fetch() -> Result<()> {
    KERNELS.iter().try_for_each(fetch_one)
}

fn fetch_one(kernel: &Fetched) -> Result<()> {
    let home = target_dir().join(kernel.home);
    let parts = ["vmlinuz", "modules/modules.builtin", "modules/kernel"];
    if parts.iter().all(|part| home.join(part).exists()) {
        eprintln!("setup: {} is in {}", kernel.package, home.display());
        return Ok(());
    }
    for program in ["apt-get", "apt-cache", "dpkg-deb", "tar"] {
        if !has_program(program) {
            bail!(
                "{program} is not installed; fetching Debian's {} takes it",
                kernel.package
            );
        }
    }
    let part = home.with_extension(format!("part{}", std::process::id()));
    fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    let done = download(kernel, &part).and_then(|()| {
        // A directory that was left incomplete makes way.
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        fs::rename(part.join("done"), &home).context("putting the kernel in place")
    });
    fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
    done?;
    eprintln!("setup: {} is in {}", kernel.package, home.display());
    Ok(())
}

fn download(kernel: &Fetched, part: &Path) -> Result<()> {
    let package = present_package(kernel.package)?;
    eprintln!("setup: downloading {package}");
    run(Command::new("apt-get")
        .args(["-q", "download", &package])
        .current_dir(part))?;
    let deb = only_file(part, "deb")?;
    let tree = part.join("tree");
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&tree))?;
    let release =
        only_entry(&tree.join("lib/modules")).or_else(|_| only_entry(&tree.join("usr/lib/modules")))?;
    // Later releases of Debian pack each module.
    run(Command::new("find")
        .arg(&release)
        .args(["-name", "*.ko.xz", "-exec", "xz", "-d", "{}", "+"]))?;
    let done = part.join("done");
    fs::create_dir_all(done.join("modules"))?;
    let name = release.file_name().context("a kernel release has a name")?;
    let image = format!("vmlinuz-{}", name.to_string_lossy());
    fs::rename(tree.join("boot").join(image), done.join("vmlinuz")).context("the kernel image")?;
    let builtin = "modules.builtin";
    fs::copy(release.join(builtin), done.join("modules").join(builtin))
        .context("the list of what the kernel has built in")?;
    if kernel.modules.is_empty() {
        fs::rename(release.join("kernel"), done.join("modules/kernel")).context("the kernel's modules")
    } else {
        keep(kernel.modules, &release, &done.join("modules"))
    }
}

/// Takes the named modules, and what they need, from one directory to another.
fn keep(names: &[&str], release: &Path, modules: &Path) -> Result<()> {
    for module in ModuleTree::open(release)?.load_order(names)? {
        let to = modules.join(module.file.strip_prefix(release)?);
        fs::create_dir_all(to.parent().context("a module is in a directory")?)?;
        fs::rename(&module.file, to)?;
    }
    Ok(())
}

/// The package of the present version that a package for all versions depends on.
fn present_package(package: &str) -> Result<String> {
    let present = || -> Result<Option<String>> {
        let text = output(Command::new("apt-cache").args(["depends", package]))?;
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
    present()?.with_context(|| format!("apt knows no {package}; run `apt-get update` as root, on Debian"))
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
