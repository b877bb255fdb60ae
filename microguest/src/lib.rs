//! The micro-guest.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod checksum;
pub mod cmdline;
pub mod histogram;
pub mod nic;
pub mod report;
pub mod station;
pub mod virtqueue;
pub mod workload;
