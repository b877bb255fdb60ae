//! Linux guests of `enlight vm run`, whose shell the test drives over the serial line.

use std::ops::{Deref, DerefMut};
use std::path::Path;

use super::shell::Shell;
use super::vm::Site;

/// What every guest's kernel is told.
pub const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off";

/// What a guest boots.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The initial RAM disk, made by [`super::image`].
    pub initramfs: &'a Path,
}

/// A machine with a Linux guest. Its process ends with this value.
pub struct LinuxVm {
    shell: Shell,
}

impl LinuxVm {
    /// Starts a machine of that name, and does not wait.
    pub fn boot(site: &Site, name: &str, boot: Boot<'_>, more: &[&str]) -> Self {
        let mut command = site.command(&["vm", "run", "--name", name, "--cmdline", CMDLINE]);
        command
            .arg("--kernel")
            .arg(boot.kernel)
            .arg("--initrd")
            .arg(boot.initramfs)
            .args(more);
        Self {
            shell: Shell::spawn(name, &mut command),
        }
    }
}

impl Deref for LinuxVm {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.shell
    }
}

impl DerefMut for LinuxVm {
    fn deref_mut(&mut self) -> &mut Shell {
        &mut self.shell
    }
}
