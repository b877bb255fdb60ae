//! What a machine is made of, on the command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use vmm::{DiskConfig, Kernel, Terminal, VmConfig};

use super::disk;
use super::machine::Place;
use super::nic::{NicArg, resolve};
use crate::vm_control::Socket;

/// Memory of a guest that does not say how much it wants.
const DEFAULT_MEMORY: &str = "256M";

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("boot").required(true).args(["kernel", "micro_guest"]))]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch on the command line"
)]
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

    /// Virtual processors, 1 to 254; they may be more than the host has CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_vcpus)]
    pub(super) vcpus: u8,

    /// A network interface: port=NAME or vhost-user=PATH, then, if wanted, mac=M, queues=N, mtu=N, reconnect=SECONDS,
    /// packed=on, all separated by commas; may be repeated
    #[arg(long = "nic", value_name = "NIC")]
    nics: Vec<NicArg>,

    /// A disk: an image or block device, then, if wanted, ro and format=raw|qcow2|vhd, all separated by commas (a comma in
    /// the name is written twice); may be repeated
    #[arg(long = "disk", value_name = "FILE[,ro][,format=F]", value_parser = disk::parser())]
    disks: Vec<DiskConfig>,

    /// Where the guest reads what is typed: the serial port (ttyS0) or a virtio console (hvc0), which exists only then; both
    /// print here
    #[arg(long, value_name = "KIND", value_enum, default_value_t = ConsoleKind::Serial)]
    console: ConsoleKind,

    /// What the machine is called: letters, digits, dots, dashes and underscores [default: vm-PID]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// End the machine when its guest restarts, instead of starting it again
    #[arg(long)]
    no_reboot: bool,

    /// Keep the privileges that the machine does not need, to debug this program
    #[arg(long)]
    no_sandbox: bool,

    #[command(flatten)]
    place: Place,

    /// The control socket of the switch that `port=NAME` is looked up in
    #[arg(long, value_name = "SOCKET", env = "ENLIGHT_CONTROL", hide_env_values = true)]
    control: Option<PathBuf>,

    /// Print what the machine cost as JSON to standard output, not in words to standard error
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ConsoleKind {
    Serial,
    Virtio,
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
            terminal: match self.console {
                ConsoleKind::Serial => Terminal::Serial,
                ConsoleKind::Virtio => Terminal::Virtio,
            },
            reboot: !self.no_reboot,
            sandbox: !self.no_sandbox,
            ..VmConfig::new(self.kernel.clone().map_or(embedded, Kernel::File))
        })
    }

    /// The socket that the machine is controlled by. A machine that nobody named runs without one if need be.
    pub(super) fn socket(&self) -> Result<Option<Socket>> {
        let dir = self.place.directory();
        if let Some(name) = &self.name {
            return Ok(Some(Socket::bind(&dir, name)?));
        }
        match Socket::bind(&dir, &format!("vm-{}", std::process::id())) {
            Err(error) if !self.place.is_chosen() => {
                eprintln!("enlight: `enlight vm` will not find this machine: {error}");
                Ok(None)
            }
            socket => Ok(Some(socket?)),
        }
    }
}

fn parse_vcpus(text: &str) -> Result<u8> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=vmm::MAX_VCPUS).contains(number));
    number.with_context(|| format!("a machine has 1 to {} virtual processors", vmm::MAX_VCPUS))
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
    fn numbers_of_processors_are_refused_with_what_would_do() {
        assert_eq!([parse_vcpus("1").unwrap(), parse_vcpus("254").unwrap()], [1, 254]);
        for text in ["0", "255", "300", "-1", "two"] {
            let error = parse_vcpus(text).expect_err(text).to_string();
            assert_eq!(error, "a machine has 1 to 254 virtual processors");
        }
    }

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
