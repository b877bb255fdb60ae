//! The laboratory's kernel.

use std::path::{Path, PathBuf};

use crate::LabError;

/// Modules that are there, with what they need: those of the laboratory's own hardware, KVM, networks, and devices of guests
/// that a test may want to look at from the other side.
pub const MODULES: [&str; 18] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "kvm",
    "kvm_amd",
    "tun",
    "vhost_net",
    "vhost_vsock",
    "bridge",
    "veth",
    "macvtap",
    "loop",
    "overlay",
    "button",
    "evdev",
];

/// A kernel and its modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// The directory with `kernel/` and `modules.builtin`, as `/lib/modules/RELEASE` is.
    pub modules: PathBuf,
}

impl Kernel {
    /// The one that `cargo xtask setup` fetched into `debian-kernel` below the target directory.
    pub fn in_target(target: &Path) -> Result<Self, LabError> {
        let home = target.join("debian-kernel");
        let kernel = Self {
            image: home.join("vmlinuz"),
            modules: home.join("modules"),
        };
        for path in [&kernel.image, &kernel.modules.join("modules.builtin")] {
            if !path.is_file() {
                return Err(LabError::NoKernel { path: path.clone() });
            }
        }
        Ok(kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_kernel_is_named_with_what_fetches_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = Kernel::in_target(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("debian-kernel/vmlinuz") && error.contains("cargo xtask setup"),
            "{error}"
        );
    }
}
