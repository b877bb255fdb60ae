//! What a machine is made of, on the command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use vmm::{DiskConfig, Kernel, VmConfig};

use super::disk;
use super::nic::{NicArg, resolve};

/// Memory of a guest that does not say how much it wants.
const DEFAULT_MEMORY: &str = "256M";

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("boot").required(true).args(["kernel", "micro_guest"]))]
pub(in crate::cli) struct Args {
    /// Boot this kernel: vmlinuz (bzImage) or vmlinux (ELF), compressed or not
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Boot the small guest that is part of this program
    #[arg(long)]
    micro_guest: bool,

    /// Hand this file to the kernel as its initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    cmdline: String,

    /// Guest memory: octets, or with K, M or G behind the number
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_MEMORY, value_parser = parse_size)]
    pub(super) memory: u64,

    /// Virtual processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    vcpus: u8,

    /// A network interface: port=NAME or vhost-user=PATH, then, if wanted, mac=M, queues=N, mtu=N, reconnect=SECONDS, all
    /// separated by commas; may be repeated
    #[arg(long = "nic", value_name = "NIC")]
    nics: Vec<NicArg>,

    /// A disk: an image or block device, then, if wanted, ro and format=raw|qcow2|vhd, all separated by commas (a comma in
    /// the name is written twice); may be repeated
    #[arg(long = "disk", value_name = "FILE[,ro][,format=F]", value_parser = disk::parser())]
    disks: Vec<DiskConfig>,

    /// The control socket of the switch that `port=NAME` is looked up in
    #[arg(long, value_name = "SOCKET", env = "ENLIGHT_CONTROL", hide_env_values = true)]
    control: Option<PathBuf>,

    /// Print what the machine cost as JSON to standard output, not in words to standard error
    #[arg(long)]
    pub(super) json: bool,
}

impl Args {
    /// The machine that they describe.
    pub(super) fn config(&self) -> Result<VmConfig> {
        let nics = self.nics.iter().map(|nic| resolve(nic, self.control.as_ref()));
        let embedded = Kernel::Embedded(vmm::MICROGUEST);
        Ok(VmConfig {
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            memory: self.memory,
            vcpus: self.vcpus,
            nics: nics.collect::<Result<_>>()?,
            disks: self.disks.clone(),
            ..VmConfig::new(self.kernel.clone().map_or(embedded, Kernel::File))
        })
    }
}

/// A number of octets, such as `64M`.
fn parse_size(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len() - 1), 10),
        Some(b'm' | b'M') => (text.get(..text.len() - 1), 20),
        Some(b'g' | b'G') => (text.get(..text.len() - 1), 30),
        _ => (Some(text), 0),
    };
    let number = digits.and_then(|digits| digits.parse::<u64>().ok());
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .with_context(|| format!("\"{text}\" is no size; write 64M or 1G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("4096").unwrap(), 4096);
        assert_eq!(
            [parse_size("16M").unwrap(), parse_size("1g").unwrap()],
            [16 << 20, 1 << 30]
        );
        for text in ["", "M", "12X", "-1", "99999999999G", "€"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
