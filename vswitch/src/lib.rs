//! A userspace virtual switch whose ports are vhost-user sockets, taps, uplinks and endpoints.

pub mod capture;
pub mod clock;
pub mod control;
pub mod counters;
mod egress;
pub mod frame;
pub mod guard;
mod lane;
pub mod memory;
pub mod net_control;
mod packet;
pub mod placement;
pub mod port;
mod probe;
mod rebalance;
pub mod ring;
mod switch;
pub mod table;
pub mod vlan;
mod vmq;
mod worker;

pub use switch::{MAX_PORTS, Switch};
