//! The root file system: packages by mmdebstrap, then the project's own files, then an ext4 image of the whole.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use initramfs::{ModuleError, ModuleTree};

use super::sources::{self, Sources};
use super::{LABEL, initrd};
use crate::run::{has_program, say};

/// What every image has beside the essential packages and apt.
pub(super) const PACKAGES: [&str; 9] = [
    "acpid",
    "e2fsprogs",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "procps",
    "sysvinit-core",
];

/// Modules that `modprobe` finds in the running system beside those of the initial RAM disk, where the kernel's package
/// was kept with all of its modules.
pub(super) const MORE_MODULES: [&str; 9] = [
    "8021q",
    "bridge",
    "loop",
    "overlay",
    "sch_fq",
    "sch_netem",
    "tcp_bbr",
    "tun",
    "veth",
];

/// Files of the image: path, mode, contents.
pub(super) const FILES: [(&str, u32, &str); 10] = [
    ("etc/inittab", 0o644, include_str!("files/inittab")),
    ("usr/lib/enlight/boot", 0o755, include_str!("files/boot")),
    ("usr/lib/enlight/run", 0o755, include_str!("files/run")),
    ("usr/lib/enlight/login", 0o755, include_str!("files/login")),
    ("usr/lib/enlight/down", 0o755, include_str!("files/down")),
    (
        "etc/acpi/events/power-button",
        0o644,
        include_str!("files/power-button"),
    ),
    ("etc/hostname", 0o644, "enlight\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost enlight\n::1 localhost\n"),
    // mmdebstrap leaves this machine's.
    ("etc/resolv.conf", 0o644, ""),
    ("etc/motd", 0o644, ""),
];

/// Directories below /usr/share that nobody reads in a test machine.
const LEFT_OUT: [&str; 6] = ["doc", "man", "info", "locale", "bash-completion", "lintian"];

/// Merges /usr before the first package, so that nothing needs usrmerge, which brings all of Perl.
const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/maybe-merged-usr";

/// Turns the archive into an image. In it belongs to root what belongs to whoever runs this, hence fakeroot for others.
pub(super) const PACK: &str = r#"exec >&2
mkdir root
tar -x -p -f root.tar -C root --exclude='./dev/*'
cp -R --preserve=mode overlay/. root/
sed -i 's/^root:[^:]*:/root::/' root/etc/shadow
mkdir -p root/etc/inittab.d
rm -f root/etc/apt/apt.conf.d/99mmdebstrap root/etc/machine-id
depmod -b root "$1"
mke2fs -q -t ext4 -L "$2" -m 1 -J size=16 -E root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0 -d root root.img "$3"
"#;

/// What mmdebstrap needs that root does not.
const NOT_ROOT: &str = ". As somebody else than root it takes user namespaces with newuidmap (package uidmap) and lines in \
    /etc/subuid and /etc/subgid, or the package fakechroot";

/// What is asked of a root.
pub(super) struct Root<'a> {
    pub(super) packages: &'a [String],
    pub(super) sources: &'a Sources,
    pub(super) modules: &'a Path,
    pub(super) release: &'a str,
    pub(super) mib: u32,
}

/// Makes `root.img` in `dir`, as root or as anybody else.
pub(super) fn build(root: &Root<'_>, dir: &Path, is_root: bool) -> Result<()> {
    check_programs(is_root)?;
    write_overlay(root, &dir.join("overlay"))?;
    if !bootstrap(root, dir)? {
        bail!(
            "mmdebstrap did not make the root; what it said is above{}",
            if is_root { "" } else { NOT_ROOT }
        );
    }
    let mut pack = if is_root {
        Command::new("sh")
    } else {
        let mut command = Command::new("fakeroot");
        command.args(["--", "sh"]);
        command
    };
    pack.current_dir(dir).env("PATH", path_with_sbin()).args([
        "-euc",
        PACK,
        "pack",
        root.release,
        LABEL,
        &format!("{}M", root.mib),
    ]);
    eprintln!("image: writing an ext4 file system of {} MiB", root.mib);
    let status = pack.status().context("starting sh")?;
    if !status.success() {
        bail!(
            "the file system was not made ({status}); what was said of it is above. One that is too small takes a larger --size"
        );
    }
    Ok(())
}

fn check_programs(is_root: bool) -> Result<()> {
    let needed = [
        ("mmdebstrap", "mmdebstrap"),
        ("mke2fs", "e2fsprogs"),
        ("depmod", "kmod"),
        ("tar", "tar"),
        ("fakeroot", "fakeroot"),
    ];
    for (program, package) in needed {
        if !(has_program(program) || is_root && program == "fakeroot") {
            bail!(
                "{program} is not installed; run `cargo xtask setup` as root, or apt-get install {package}"
            );
        }
    }
    Ok(())
}

fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

/// Whether mmdebstrap succeeded.
fn bootstrap(root: &Root<'_>, dir: &Path) -> Result<bool> {
    let include = root.packages.join(",");
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--variant=apt", "--format=tar"])
        .arg(format!("--include={include}"));
    for directory in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{directory}/*"));
    }
    for option in sources::apt_options()? {
        command.arg(format!("--aptopt={option}"));
    }
    if Path::new(MERGED_USR).is_dir() {
        command.arg(format!("--hook-dir={MERGED_USR}"));
    }
    command.arg(&root.sources.suite).arg(dir.join("root.tar"));
    // Standard output is for what boots the image.
    command.args(&root.sources.lines).stdout(std::io::stderr());
    say(&command);
    let status = command.stdin(Stdio::null()).status();
    Ok(status.context("starting mmdebstrap")?.success())
}

/// Files and modules that are put over what the packages bring.
fn write_overlay(root: &Root<'_>, overlay: &Path) -> Result<()> {
    for (path, mode, contents) in FILES {
        put(&overlay.join(path), contents.as_bytes(), mode)?;
    }
    let tree = ModuleTree::open(root.modules)?;
    let mut modules = tree.load_order(&initrd::MODULES)?;
    let mut missing = Vec::new();
    for name in MORE_MODULES {
        match tree.load_order(&[name]) {
            Ok(more) => modules.extend(more),
            Err(ModuleError::NoModule { .. }) => missing.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    if !missing.is_empty() {
        eprintln!(
            "image: {} has no modules {}, so the image has none",
            root.modules.display(),
            missing.join(", ")
        );
    }
    let home = overlay.join("usr/lib/modules").join(root.release);
    for module in modules {
        let octets = fs::read(&module.file).with_context(|| format!("reading {}", module.file.display()))?;
        let below = module.file.strip_prefix(root.modules)?;
        put(&home.join(below), &octets, 0o644)?;
    }
    let builtin = "modules.builtin";
    let list = fs::read(root.modules.join(builtin)).context("the list of what the kernel has built in")?;
    put(&home.join(builtin), &list, 0o644)?;
    // depmod asks for them, and does without.
    for list in ["modules.order", "modules.builtin.modinfo"] {
        put(&home.join(list), b"", 0o644)?;
    }
    Ok(())
}

fn put(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(path, contents)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    write().with_context(|| format!("writing {}", path.display()))
}
