//! The image's initial RAM disk: busybox, the modules that a root on a virtio disk takes, and what finds the root.

use std::path::Path;

use anyhow::{Context as _, Result};
use initramfs::archive::DeviceKind;
use initramfs::{Archive, ModuleTree, Program};

/// The first process.
pub(super) const INIT: &str = include_str!("initrd.sh");

/// Modules that are loaded before the root is looked for. Everything that a machine has is served then, so that the root
/// needs nobody who loads modules.
pub(crate) const MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "crc32c_generic",
    "crc32c_intel",
    "ext4",
    "button",
    "evdev",
];

/// Makes the archive. It is not compressed: a guest takes longer to unpack it than a host to read it.
pub(super) fn build(busybox: &Path, modules: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for directory in ["/dev", "/proc", "/sys", "/root"] {
        archive.directory(directory, 0o755)?;
    }
    archive.device("/dev/console", DeviceKind::Character, 0o600, (5, 1))?;
    archive.file("/init", 0o755, INIT.as_bytes())?;
    Program::read(busybox)?.add_to(&mut archive, "/bin/busybox")?;
    let mut load = String::new();
    for module in ModuleTree::open(modules)?.load_order(&MODULES)? {
        let octets = std::fs::read(&module.file)
            .with_context(|| format!("reading the module {}", module.file.display()))?;
        archive.file(&format!("/modules/{}", module.file_name()), 0o644, &octets)?;
        load.push_str(&module.file_name());
        load.push('\n');
    }
    archive.file("/modules/load", 0o644, load.as_bytes())?;
    Ok(archive.finish())
}
