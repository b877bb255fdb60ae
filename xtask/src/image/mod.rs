//! `cargo xtask image`: a small Debian on a disk, to boot from.

pub(crate) mod initrd;
mod root;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::lab::parse_mib;
use crate::run::{find_program, run, target_dir};
use crate::setup::is_root;

/// The file system's label, by which the initial RAM disk finds it.
const LABEL: &str = "enlight-root";
/// Its size in MiB if nobody says another one.
const MIB: u32 = 1024;
/// What an image was made from. A present one that was made from the same is not made again.
const RECIPE: &str = "recipe";
/// What makes up an image.
const PARTS: [&str; 4] = ["root.img", "vmlinuz", "initrd.img", RECIPE];

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask image
      target/image/root.img (a sparse ext4 file system), vmlinuz and initrd.img, and the command that boots them.
  cargo xtask image --out /tmp/router --size 2G --package tcpdump --package nftables --kernel full
Needs `cargo xtask setup` (mmdebstrap, e2fsprogs, the kernels). Whoever is not root needs fakeroot beside them, and user
namespaces with newuidmap, or fakechroot. Packages come from where this machine's apt takes them. Root has no password in
the image: it is for tests. docs/guests.md tells what it understands on the kernel's command line.")]
pub(crate) struct Args {
    /// The directory for the image, made if it is not there [default: image in the target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// The file system's size: MiB, or with M or G behind the number; the file is sparse
    #[arg(long, value_name = "SIZE", default_value_t = MIB, value_parser = parse_mib)]
    size: u32,

    /// A Debian package to have in it beside acpid, e2fsprogs, ethtool, iperf3, iproute2, iputils-ping, kmod and procps; may
    /// be repeated
    #[arg(long = "package", value_name = "P")]
    packages: Vec<String>,

    /// Which of Debian's kernels: the one for virtual machines, or the one for all machines
    #[arg(long, value_name = "KERNEL", value_enum, default_value_t = KernelKind::Cloud)]
    kernel: KernelKind,

    /// Another release of Debian than this machine's
    #[arg(long, value_name = "SUITE")]
    suite: Option<String>,

    /// Another archive than the one that this machine's apt uses
    #[arg(long, value_name = "URI", requires = "suite")]
    mirror: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum KernelKind {
    Cloud,
    Full,
}

impl KernelKind {
    /// Its directory below the target directory.
    fn home(self) -> &'static str {
        match self {
            Self::Cloud => "debian-kernel",
            Self::Full => "debian-kernel-full",
        }
    }
}

/// Makes the image that is asked for and says how it boots.
pub(crate) fn image(args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(default_out);
    make(args, &out)?;
    let file = |name: &str| out.join(name).display().to_string();
    println!(
        "enlight vm run --kernel {} --initrd {} --cmdline 'console=ttyS0 root=LABEL={LABEL} rw' --disk {}",
        file("vmlinuz"),
        file("initrd.img"),
        file("root.img").replace(',', ",,"),
    );
    Ok(())
}

/// The image that tests use. It is not the one that people boot from, because those write to theirs.
pub(crate) fn for_tests() -> Result<()> {
    let args = Args {
        out: None,
        size: MIB,
        packages: Vec::new(),
        kernel: KernelKind::Cloud,
        suite: None,
        mirror: None,
    };
    make(&args, &tests_out()).context("the disk image for tests")
}

fn default_out() -> PathBuf {
    target_dir().join("image")
}

fn tests_out() -> PathBuf {
    target_dir().join("debian-disk")
}

fn make(args: &Args, out: &Path) -> Result<()> {
    let home = target_dir().join(args.kernel.home());
    let kernel = home.join("vmlinuz");
    let vmlinuz = fs::read(&kernel).with_context(|| {
        format!(
            "{}: there is no kernel for the image; run `cargo xtask setup`",
            kernel.display()
        )
    })?;
    let release = release_of(&vmlinuz).with_context(|| {
        format!(
            "{} does not tell its release; remove it and run `cargo xtask setup`",
            kernel.display()
        )
    })?;
    let sources = match (&args.mirror, &args.suite) {
        (Some(mirror), Some(suite)) => sources::of_mirror(mirror, suite),
        (_, suite) => sources::of_this_machine(suite.as_deref())?,
    };
    let packages = packages(&args.packages)?;
    let recipe = recipe(args.size, &packages, &release, &sources);
    if is_there(out, &recipe) {
        eprintln!("image: {} is there, made from the same", out.display());
        return Ok(());
    }
    let part = part_of(out)?;
    fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
    let done = if is_there(&tests_out(), &recipe) {
        copy(&tests_out(), &part)
    } else {
        let modules = home.join("modules");
        let root = root::Root {
            packages: &packages,
            sources: &sources,
            modules: &modules,
            release: &release,
            mib: args.size,
        };
        build(&root, &vmlinuz, &part)
    };
    let done = done.and_then(|()| {
        fs::write(part.join(RECIPE), &recipe)?;
        put_in_place(&part, out)
    });
    // What is not the image, and all of it after a failure.
    fs::remove_dir_all(&part).with_context(|| format!("removing {}", part.display()))?;
    done?;
    eprintln!(
        "image: Debian {} with Linux {release} is in {}",
        sources.suite,
        out.display()
    );
    Ok(())
}

/// Makes everything but the recipe.
fn build(root: &root::Root<'_>, vmlinuz: &[u8], part: &Path) -> Result<()> {
    let busybox = find_program("busybox").context(
        "busybox is not installed; run `cargo xtask setup` as root, or apt-get install busybox-static",
    )?;
    root::build(root, part, is_root()?)?;
    fs::write(part.join("initrd.img"), initrd::build(&busybox, root.modules)?)?;
    Ok(fs::write(part.join("vmlinuz"), vmlinuz)?)
}

/// Takes everything but the recipe from an image that was made from the same.
fn copy(from: &Path, part: &Path) -> Result<()> {
    let files = PARTS
        .iter()
        .filter(|name| **name != RECIPE)
        .map(|name| from.join(name));
    run(Command::new("cp").arg("--sparse=always").args(files).arg(part))
}

/// A directory beside `out` for what is not finished.
fn part_of(out: &Path) -> Result<PathBuf> {
    let name = out
        .file_name()
        .with_context(|| format!("--out {}: name a directory", out.display()))?;
    let name = format!(".{}.part{}", name.to_string_lossy(), std::process::id());
    Ok(out.with_file_name(name))
}

/// Replaces an older image, file by file: a directory of the user's keeps what else is in it.
fn put_in_place(part: &Path, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let _ = fs::remove_file(out.join(RECIPE));
    for name in PARTS {
        fs::rename(part.join(name), out.join(name))
            .with_context(|| format!("putting {} in place", out.join(name).display()))?;
    }
    Ok(())
}

fn is_there(out: &Path, recipe: &str) -> bool {
    PARTS.iter().all(|name| out.join(name).is_file())
        && fs::read_to_string(out.join(RECIPE)).is_ok_and(|present| present == recipe)
}

/// The packages that are always there and those that were asked for.
fn packages(more: &[String]) -> Result<Vec<String>> {
    let sound = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"+-.:".contains(&octet);
    for name in more {
        if !name.bytes().all(sound) || !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            bail!("\"{name}\" is no name of a package; give one with each --package");
        }
    }
    let always = root::PACKAGES.iter().map(|name| (*name).to_owned());
    Ok(always.chain(more.iter().cloned()).collect())
}

/// Everything that decides what the image is, the archive's own changes left out.
fn recipe(mib: u32, packages: &[String], release: &str, sources: &sources::Sources) -> String {
    let mut recipe = format!(
        "{mib} MiB\n{}\n{release}\n{}\n",
        packages.join(" "),
        sources.lines.join("\n")
    );
    recipe.push_str(&format!(
        "{:?} {:?}\n{}\n{}",
        initrd::MODULES,
        root::MORE_MODULES,
        initrd::INIT,
        root::PACK
    ));
    for (path, mode, contents) in root::FILES {
        recipe.push_str(&format!("{path} {mode:o}\n{contents}\n"));
    }
    recipe
}

/// The release that a bzImage says it is (Linux' `Documentation/arch/x86/boot.rst`, `kernel_version`).
fn release_of(vmlinuz: &[u8]) -> Option<String> {
    let pointer: [u8; 2] = vmlinuz.get(0x20e..0x210)?.try_into().ok()?;
    let text = vmlinuz.get(usize::from(u16::from_le_bytes(pointer)) + 0x200..)?;
    let release = text.split(|octet| matches!(octet, b' ' | 0)).next()?;
    let sound = |octet: &u8| octet.is_ascii_alphanumeric() || b".-_+~".contains(octet);
    (release.len() <= 64 && release.first()?.is_ascii_digit() && release.iter().all(sound))
        .then(|| String::from_utf8_lossy(release).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_release_is_read() {
        let mut image = vec![0; 0x500];
        assert_eq!(release_of(&image), None);
        image[0x20f] = 2;
        image[0x400..0x410].copy_from_slice(b"6.1.0-9-cloud x\0");
        assert_eq!(release_of(&image).as_deref(), Some("6.1.0-9-cloud"));
        image[0x402] = b'/';
        assert_eq!(release_of(&image), None);
        assert_eq!(release_of(b"\x7fELF"), None);
    }

    #[test]
    fn packages_are_names_only() {
        let names = packages(&["g++".to_owned(), "libc6:amd64".to_owned()]).unwrap();
        assert!(names.contains(&"iperf3".to_owned()) && names.contains(&"g++".to_owned()));
        for name in ["", "a,b", "--x", "a b", "A"] {
            assert!(packages(&[name.to_owned()]).is_err(), "{name}");
        }
    }

    #[test]
    fn an_image_is_made_again_when_its_recipe_changes() {
        let dir = std::env::temp_dir().join(format!("xtask-image-{}", std::process::id()));
        let part = part_of(&dir).unwrap();
        fs::create_dir_all(&part).unwrap();
        for name in PARTS {
            fs::write(part.join(name), "one").unwrap();
        }
        assert!(!is_there(&dir, "one"));
        put_in_place(&part, &dir).unwrap();
        assert!(is_there(&dir, "one") && !is_there(&dir, "two"));
        fs::remove_dir_all(&dir).unwrap();
        fs::remove_dir_all(&part).unwrap();
    }
}
