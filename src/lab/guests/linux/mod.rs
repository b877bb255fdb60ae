//! Linux guests for the lab: which kernel, and the initramfs that makes this program their first process.

mod distro;
mod image;
mod release;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use microguest::cmdline::Parameters;

use crate::agent;
use crate::lab::private_dir::PrivateDir;

/// A guest's memory in MiB, without what its initramfs takes.
const MEMORY_MIB: u64 = 128;
/// The kernel holds the initramfs twice while it unpacks it.
const COPIES: u64 = 2;
/// What the kernel is told: its console is the serial port, and it says little there, since every octet is an exit from
/// the guest; a panic ends the machine.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 reboot=t 8250.nr_uarts=1";

/// A kernel, and what its guests run.
#[derive(Clone, Debug)]
pub(crate) struct Linux {
    /// Its release, as `uname -r` tells it.
    pub(crate) release: String,
    kernel: PathBuf,
    modules: PathBuf,
    settings: String,
}

/// Which kernel is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Its file; Debian's cloud kernel without.
    pub(crate) kernel: Option<&'a Path>,
    /// Its modules' directory.
    pub(crate) modules: Option<&'a Path>,
    /// `KEY=VALUE` for `/proc/sys` in the guests.
    pub(crate) sysctls: &'a [String],
    /// Whether to say on standard error what takes time.
    pub(crate) talk: bool,
}

/// Files that a guest boots from.
#[derive(Clone, Debug)]
pub(super) struct BootFiles {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) release: String,
    pub(super) memory_mib: u64,
}

impl Linux {
    /// Finds the kernel that is wanted, fetches it if need be.
    pub(crate) fn choose(wanted: Wanted<'_>) -> Result<Self> {
        let (kernel, modules) = if let Some(kernel) = wanted.kernel {
            (kernel.to_owned(), wanted.modules.map(Path::to_owned))
        } else {
            let files = distro::files(wanted.talk)?;
            (files.kernel, Some(files.modules))
        };
        let release = release::of_file(&kernel)?;
        let modules = modules.unwrap_or_else(|| Path::new("/lib/modules").join(&release));
        let settings = wanted.sysctls.join("\n");
        Ok(Self {
            release,
            kernel,
            modules,
            settings,
        })
    }

    /// Makes the initramfs in `dir`.
    pub(super) fn prepare(&self, dir: &PrivateDir) -> Result<BootFiles> {
        let octets = image::build(&self.modules, &self.settings)
            .with_context(|| format!("making the initramfs for Linux {}", self.release))?;
        let initramfs = dir.file("initramfs");
        std::fs::write(&initramfs, &octets).with_context(|| format!("writing {}", initramfs.display()))?;
        let size_mib = (octets.len() as u64).div_ceil(1 << 20);
        Ok(BootFiles {
            kernel: self.kernel.clone(),
            initramfs,
            release: self.release.clone(),
            memory_mib: MEMORY_MIB + COPIES * size_mib,
        })
    }
}

/// A guest's command line: the kernel's own words, then, behind two dashes, the agent's.
pub(super) fn cmdline(parameters: &Parameters) -> String {
    format!("{CMDLINE} rdinit={} -- {parameters}", agent::PATH)
}

/// Whether this machine's KVM runs Linux, from `/proc/cpuinfo`: without the processor's virtualization flags, ring 0 is
/// interpreted, and by no KVM completely enough for Linux.
pub(crate) fn can_run(cpuinfo: &str) -> Result<()> {
    if super::kvm::has_virtualization_flags(cpuinfo) {
        return Ok(());
    }
    bail!(
        "this machine's KVM cannot run Linux: its processor has neither vmx nor svm, so KVM interprets ring 0; use other \
         guests (leave --kernel, --distro and --guests linux out), or a machine inside QEMU (cargo xtask kvm-lab)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_without_flags_is_named_with_its_remedy() {
        assert!(can_run("flags\t\t: fpu vme svm lm\n").is_ok());
        assert!(can_run("flags\t\t: fpu vmx\n").is_ok());
        let error = can_run("flags\t\t: fpu svm_lock\n").unwrap_err().to_string();
        assert!(error.contains("neither vmx nor svm") && error.contains("kvm-lab"));
    }
}
