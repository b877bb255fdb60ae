//! A userspace virtual switch whose ports are vhost-user sockets, taps, uplinks, endpoints and capture files.

mod attribution;
pub mod capture;
pub mod clock;
pub mod control;
pub mod counters;
mod descriptors;
mod egress;
pub mod frame;
pub mod guard;
mod lane;
pub mod memory;
pub mod net_control;
mod packet;
pub mod pcap;
pub mod pcapng;
pub mod placement;
pub mod port;
mod probe;
mod rebalance;
pub mod ring;
#[cfg(test)]
mod sim;
mod switch;
pub mod table;
mod upkeep;
pub mod vlan;
mod vmq;
mod worker;

pub use switch::{MAX_PORTS, Switch};

// So that modules of the integration tests, which name the crate, can be part of its own tests.
#[cfg(test)]
extern crate self as vswitch;
