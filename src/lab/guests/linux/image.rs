//! The initramfs of a lab guest: this program, its libraries, the kernel's modules.

use std::path::Path;

use anyhow::{Context as _, Result};
use initramfs::archive::DeviceKind;
use initramfs::{Archive, ModuleTree, Program};

use crate::agent;

/// What a guest's NIC needs.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

/// Makes the archive. It is not compressed: the guest would only take longer to start.
pub(super) fn build(modules: &Path, settings: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for directory in ["/dev", "/proc", "/sys"] {
        archive.directory(directory, 0o755)?;
    }
    archive.device("/dev/console", DeviceKind::Character, 0o600, (5, 1))?;
    let own = std::env::current_exe().context("finding this program's own file")?;
    Program::read(&own)?.add_to(&mut archive, agent::PATH)?;
    let order = ModuleTree::open(modules)?.load_order(&MODULES)?;
    for (index, module) in order.iter().enumerate() {
        let octets =
            std::fs::read(&module.file).with_context(|| format!("reading {}", module.file.display()))?;
        let place = format!("{}/{index:03}-{}", agent::MODULES, module.file_name());
        archive.file(&place, 0o644, &octets)?;
    }
    if !settings.is_empty() {
        archive.file(agent::SETTINGS, 0o644, settings.as_bytes())?;
    }
    Ok(archive.finish())
}
