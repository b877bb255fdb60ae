//! Client and server for the benchmark, beside those of the lab: the host's own TCP over taps, and the empty paths that tell what
//! the generator itself costs.

mod direct;
mod kernel;

use std::fs;

use anyhow::{Result, anyhow, bail};
use vswitch::Switch;

use crate::lab::guests::{EndpointGuests, Guests, KvmGuests, Linux, Orders, Wanted, can_run, probe_kvm};
use crate::lab::private_dir::PrivateDir;

use super::args::{Args, GuestChoice};
use super::report::GuestKind;

/// What runs client and server.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) kind: GuestKind,
    pub(super) linux: Option<Linux>,
}

/// Decides what runs client and server, or says why that cannot be had here.
pub(super) fn choose(args: &Args) -> Result<Choice> {
    let kind = choose_kind(args)?;
    if kind != GuestKind::Linux {
        if args.kernel.is_some() {
            bail!("--kernel is for Linux guests; add --guests linux");
        }
        return Ok(Choice { kind, linux: None });
    }
    let wanted = Wanted {
        kernel: args.kernel.as_deref(),
        modules: args.modules.as_deref(),
        sysctls: &[],
        talk: !args.json,
    };
    let linux = Some(Linux::choose(wanted)?);
    Ok(Choice { kind, linux })
}

fn choose_kind(args: &Args) -> Result<GuestKind> {
    let kvm = || probe_kvm().map_err(|why| anyhow!("no KVM guests: {why}; --guests endpoint works without"));
    match args.guests {
        GuestChoice::Auto if kernel::missing().is_none() => Ok(GuestKind::Taps),
        GuestChoice::Auto | GuestChoice::Endpoint => Ok(GuestKind::Endpoint),
        GuestChoice::Taps => match kernel::missing() {
            None => Ok(GuestKind::Taps),
            Some(why) => bail!("no taps: {why}; --guests endpoint works without"),
        },
        GuestChoice::Micro => kvm().map(|_| GuestKind::Micro),
        GuestChoice::Linux => {
            kvm()?;
            can_run(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())?;
            Ok(GuestKind::Linux)
        }
    }
}

/// Starts client and server on two ports of a switch.
pub(super) fn start<'a>(
    choice: &Choice,
    switch: &'a Switch,
    dir: &'a PrivateDir,
    orders: &Orders,
) -> Result<Box<dyn Guests + 'a>> {
    Ok(match choice.kind {
        GuestKind::Micro | GuestKind::Linux => {
            Box::new(KvmGuests::start(switch, dir, orders, choice.linux.as_ref())?)
        }
        GuestKind::Taps => Box::new(kernel::KernelGuests::on_taps(switch, orders)?),
        GuestKind::Endpoint => Box::new(EndpointGuests::start(switch, orders)?),
    })
}

/// Starts the same generator on a path without a switch.
pub(super) fn start_without_switch(kind: GuestKind, orders: &Orders) -> Result<Box<dyn Guests>> {
    Ok(match kind {
        GuestKind::Taps | GuestKind::Linux => Box::new(kernel::KernelGuests::on_loopback(orders)?),
        GuestKind::Micro | GuestKind::Endpoint => Box::new(direct::DirectGuests::start(orders)?),
    })
}

/// The empty path in words.
pub(super) const fn empty_path(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Taps => "the same threads over the kernel's loopback interface",
        GuestKind::Linux => "the same client and server over this machine's loopback interface",
        GuestKind::Micro | GuestKind::Endpoint => {
            "the same client and server in one thread of this process, frame by frame, without a switch"
        }
    }
}
