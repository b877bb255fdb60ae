//! A userspace virtual switch whose ports are vhost-user sockets, taps and endpoints.

pub mod control;
pub mod counters;
pub mod frame;
pub mod guard;
pub mod memory;
pub mod port;
pub mod ring;
pub mod table;
pub mod vlan;
