//! Linux guests of `enlight vm run`, whose shell the test drives over the serial line.

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

/// Starts a machine of that name with a Linux guest, and does not wait.
pub fn boot(site: &Site, name: &str, boot: Boot<'_>, more: &[&str]) -> Shell {
    let mut command = site.command(&["vm", "run", "--name", name, "--cmdline", CMDLINE]);
    command
        .arg("--kernel")
        .arg(boot.kernel)
        .arg("--initrd")
        .arg(boot.initramfs)
        .args(more);
    Shell::spawn(name, &mut command)
}
