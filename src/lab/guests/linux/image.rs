//! The initramfs of a lab guest: this program, its libraries, the kernel's modules.

use std::path::Path;

use anyhow::{Context as _, Result};
use initramfs::archive::DeviceKind;
use initramfs::{Archive, ModuleTree, Program};

use unpack::Compression;

use crate::agent;

/// A module is never larger.
const MAX_MODULE: usize = 64 << 20;
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
        let octets = module_octets(&module.file)?;
        let place = format!("{}/{index:03}-{}.ko", agent::MODULES, module.name);
        archive.file(&place, 0o644, &octets)?;
    }
    if !settings.is_empty() {
        archive.file(agent::SETTINGS, 0o644, settings.as_bytes())?;
    }
    Ok(archive.finish())
}

/// A module as the kernel takes it, unpacked if its file is compressed.
fn module_octets(file: &Path) -> Result<Vec<u8>> {
    let octets = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let Some(compression) = Compression::of(&octets) else {
        return Ok(octets);
    };
    let mut room = vec![0; MAX_MODULE];
    let len = unpack::unpack(compression, &octets, &mut room)
        .with_context(|| format!("unpacking {}", file.display()))?;
    room.truncate(len);
    Ok(room)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn compressed_modules_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let plain = b"\x7fELF and some more".repeat(100);
        for (tool, ending) in [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst")] {
            let file = dir.path().join("a.ko");
            std::fs::write(&file, &plain).unwrap();
            assert_eq!(module_octets(&file).unwrap(), plain);
            match Command::new(tool).arg("-q").arg(&file).status() {
                Ok(status) if status.success() => {
                    let packed = dir.path().join(format!("a.ko.{ending}"));
                    assert_eq!(module_octets(&packed).unwrap(), plain);
                    let whole = std::fs::read(&packed).unwrap();
                    std::fs::write(&packed, &whole[..whole.len() / 2]).unwrap();
                    let error = format!("{:#}", module_octets(&packed).unwrap_err());
                    assert!(error.contains("unpacking"), "{error}");
                }
                _ => eprintln!("SKIPPED compressed_modules_are_unpacked: {tool} is not installed"),
            }
            let _ = std::fs::remove_file(&file);
        }
    }
}
