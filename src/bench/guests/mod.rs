//! Client and server for the benchmark, beside those of the lab: the host's own TCP over taps, and the empty paths that tell what
//! the generator itself costs.

mod direct;
mod kernel;

use anyhow::{Result, bail};
use vswitch::Switch;

use crate::lab::guests::{EndpointGuests, Guests, KvmGuests, Orders, probe_kvm};
use crate::lab::private_dir::PrivateDir;

use super::args::{Args, GuestChoice};
use super::report::GuestKind;

/// Decides what runs client and server, or says why that cannot be had here.
pub(super) fn choose(args: &Args) -> Result<GuestKind> {
    match args.guests {
        GuestChoice::Auto if kernel::missing().is_none() => Ok(GuestKind::Taps),
        GuestChoice::Auto | GuestChoice::Endpoint => Ok(GuestKind::Endpoint),
        GuestChoice::Taps => match kernel::missing() {
            None => Ok(GuestKind::Taps),
            Some(why) => bail!("no taps: {why}; --guests endpoint works without"),
        },
        GuestChoice::Micro => match probe_kvm() {
            Ok(_) => Ok(GuestKind::Micro),
            Err(why) => bail!("no KVM guests: {why}; --guests endpoint works without"),
        },
    }
}

/// Starts client and server on two ports of a switch.
pub(super) fn start<'a>(
    kind: GuestKind,
    switch: &'a Switch,
    dir: &'a PrivateDir,
    orders: &Orders,
) -> Result<Box<dyn Guests + 'a>> {
    Ok(match kind {
        GuestKind::Micro => Box::new(KvmGuests::start(switch, dir, orders, None)?),
        GuestKind::Taps => Box::new(kernel::KernelGuests::on_taps(switch, orders)?),
        GuestKind::Endpoint => Box::new(EndpointGuests::start(switch, orders)?),
    })
}

/// Starts the same generator on a path without a switch.
pub(super) fn start_without_switch(kind: GuestKind, orders: &Orders) -> Result<Box<dyn Guests>> {
    Ok(match kind {
        GuestKind::Taps => Box::new(kernel::KernelGuests::on_loopback(orders)?),
        GuestKind::Micro | GuestKind::Endpoint => Box::new(direct::DirectGuests::start(orders)?),
    })
}

/// The empty path in words.
pub(super) const fn empty_path(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Taps => "the same threads over the kernel's loopback interface",
        GuestKind::Micro | GuestKind::Endpoint => {
            "the same client and server in one thread of this process, frame by frame, without a switch"
        }
    }
}
