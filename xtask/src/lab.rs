//! `cargo xtask kvm-lab`: a command in the laboratory.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use kvm_lab::{Add, Kernel, Lab};

use crate::run::target_dir;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask kvm-lab -- cat /proc/cpuinfo
  cargo xtask kvm-lab --add target/debug/enlight --add vmlinux:/vmlinux -- enlight vm run --kernel /vmlinux --cmdline console=ttyS0

The command's exit status is this one's. Ctrl-C ends the laboratory; nothing of it stays.")]
pub(crate) struct Args {
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    smp: u8,

    /// Memory: MiB, or with M or G behind the number
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = parse_mib)]
    memory: u32,

    /// Have a file or directory there, at PATH or in /bin; a program brings its libraries along
    #[arg(long = "add", value_name = "FILE[:PATH]")]
    adds: Vec<Add>,

    /// Have a disk image there as /dev/vda, the next one as /dev/vdb; what is written to it is forgotten
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,

    /// How long the command may take, in seconds
    #[arg(long, value_name = "S", default_value_t = 600)]
    timeout: u64,

    /// What to run there
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let lab = Lab {
        smp: args.smp,
        memory: args.memory,
        adds: args.adds,
        disks: args.disks,
        limit: Duration::from_secs(args.timeout),
        ..Lab::new(Kernel::in_target(&target_dir())?)
    };
    let status = lab
        .run(&args.command, &mut io::stdout(), &mut io::stderr())
        // Its text names the causes.
        .map_err(|error| anyhow!("{error}"))?;
    Ok(ExitCode::from(status))
}

pub(crate) fn parse_mib(text: &str) -> Result<u32> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'm' | b'M') => (&text[..text.len() - 1], 0),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 10),
        _ => (text, 0),
    };
    let number = digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift));
    number
        .filter(|mib| (128..=1 << 20).contains(mib))
        .with_context(|| format!("\"{text}\" is no size of memory; write 2G or 1536M, at least 128M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let sizes = ["512", "512M", "2G", "3g"].map(|text| parse_mib(text).unwrap());
        assert_eq!(sizes, [512, 512, 2048, 3072]);
        for text in ["", "G", "64M", "99999999G", "1T", "-1", "2000000000M"] {
            assert!(parse_mib(text).is_err(), "{text}");
        }
    }
}
