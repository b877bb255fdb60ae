//! Debian's cloud kernel: from the cache, or fetched into it with apt, which needs no root for that.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

/// The package that depends on the current kernel's.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// Names a kernel and its modules instead.
const KERNEL_VARIABLE: &str = "ENLIGHT_DISTRO_KERNEL";
const MODULES_VARIABLE: &str = "ENLIGHT_DISTRO_MODULES";
/// What helps whatever the trouble with apt is.
const REMEDY: &str = "name a kernel with --kernel and its modules with --modules instead";

/// A distribution's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) kernel: PathBuf,
    pub(super) modules: PathBuf,
}

/// Finds or fetches the kernel; `talk` says on standard error what takes time.
pub(super) fn files(talk: bool) -> Result<Files> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    match (variable(KERNEL_VARIABLE), variable(MODULES_VARIABLE)) {
        (Some(kernel), Some(modules)) => return Ok(Files { kernel, modules }),
        (None, None) => {}
        _ => bail!("{KERNEL_VARIABLE} and {MODULES_VARIABLE} go together; set both or none"),
    }
    let cache = cache_directory(variable("XDG_CACHE_HOME"), variable("HOME"))?;
    let place = cache.join("enlight").join(PACKAGE);
    if !place.exists() {
        fetch(&place, talk)?;
    }
    in_tree(&place)
}

fn cache_directory(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf> {
    // A relative path there is to be ignored (XDG Base Directory Specification).
    xdg.filter(|path| path.is_absolute())
        .or_else(|| home.map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is no place for a kernel; set one of them")
}

/// Fetches the package and unpacks it at `place`, which is complete as soon as it is there.
fn fetch(place: &Path, talk: bool) -> Result<()> {
    let parent = place.parent().context("the cache has a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("making the directory {}", parent.display()))?;
    let work = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(parent)
        .with_context(|| format!("making a directory in {}", parent.display()))?;
    let depends = run("apt-cache", &["depends", PACKAGE].map(OsStr::new), work.path())?;
    let package = kernel_package(&depends).ok_or_else(|| {
        anyhow!("apt knows no kernel that {PACKAGE} depends on: run apt-get update as root, or {REMEDY}")
    })?;
    if talk {
        eprintln!("Fetching {package} to {} (once, about 35 MB)", place.display());
    }
    run("apt-get", &["download", package].map(OsStr::new), work.path())?;
    let file = only_file(work.path(), "deb")
        .with_context(|| format!("apt-get downloaded no {package}; {REMEDY}"))?;
    if talk {
        eprintln!("Unpacking it");
    }
    let tree = work.path().join("tree");
    run(
        "dpkg-deb",
        &[OsStr::new("-x"), file.as_os_str(), tree.as_os_str()],
        work.path(),
    )?;
    in_tree(&tree)?;
    match fs::rename(&tree, place) {
        // Another lab was faster.
        Err(_) if place.exists() => Ok(()),
        other => other.with_context(|| format!("moving the kernel to {}", place.display())),
    }
}

/// Runs a program in `directory`; its output, or one line that tells what went wrong.
fn run(program: &str, words: &[&OsStr], directory: &Path) -> Result<String> {
    let output = Command::new(program)
        .args(words)
        .current_dir(directory)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{program} is not installed, and --distro fetches Debian's kernel with it; {REMEDY}")
        }
        Err(error) => return Err(error).with_context(|| format!("running {program}")),
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or("no message");
        bail!("{program} failed ({}): {}; {REMEDY}", output.status, last.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The kernel's package in the output of `apt-cache depends`.
fn kernel_package(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
}

/// Kernel and modules in an unpacked package.
fn in_tree(tree: &Path) -> Result<Files> {
    let missing = || {
        format!(
            "{} holds no kernel package; remove it, it is fetched again",
            tree.display()
        )
    };
    let kernel = first(&tree.join("boot"), |name| name.starts_with("vmlinuz-")).with_context(missing)?;
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|place| first(&tree.join(place), |_| true))
        .with_context(missing)?;
    Ok(Files { kernel, modules })
}

fn only_file(directory: &Path, ending: &str) -> Option<PathBuf> {
    first(directory, |name| name.ends_with(&format!(".{ending}")))
}

/// The first of a directory's entries whose name is as wanted.
fn first(directory: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    entries.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_package_is_read_from_apt() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-18-cloud-amd64\n  Recommends: x\n";
        assert_eq!(kernel_package(text), Some("linux-image-6.1.0-18-cloud-amd64"));
        assert_eq!(kernel_package("linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn caches_are_where_the_user_wants_them() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(cache_directory(path("/c"), path("/h")).unwrap(), Path::new("/c"));
        assert_eq!(
            cache_directory(path("c"), path("/h")).unwrap(),
            Path::new("/h/.cache")
        );
        assert!(cache_directory(None, None).is_err());
    }

    #[test]
    fn programs_that_fail_or_are_missing_are_named() {
        let here = Path::new("/");
        let error = run("enlight-no-such-program", &[], here).unwrap_err().to_string();
        assert!(error.contains("enlight-no-such-program is not installed") && error.contains("--kernel"));
        let script = ["-c", "echo E: no network >&2; exit 100"].map(OsStr::new);
        let error = run("sh", &script, here).unwrap_err().to_string();
        assert!(
            error.contains("sh failed (exit status: 100): E: no network;"),
            "{error}"
        );
    }

    #[test]
    fn an_unpacked_package_is_found_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            in_tree(dir.path())
                .unwrap_err()
                .to_string()
                .contains("fetched again")
        );
        fs::create_dir_all(dir.path().join("boot")).unwrap();
        fs::create_dir_all(dir.path().join("lib/modules/6.1.0")).unwrap();
        fs::write(dir.path().join("boot/vmlinuz-6.1.0"), "").unwrap();
        let files = in_tree(dir.path()).unwrap();
        assert!(files.kernel.ends_with("boot/vmlinuz-6.1.0") && files.modules.ends_with("lib/modules/6.1.0"));
    }
}
