//! Uplinks: one kernel's traffic through a veth pair, the switch and a tap to another kernel.
//!
//! The switch and both hosts are in network namespaces of their own, which need root; without it each test says by name
//! that it is skipped.

mod packet;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod transfer;
mod vmq;
mod xdp;
