//! Enlight: a hypervisor and virtual switch that explain what introspection costs.
//!
//! This crate is the program: command line, configuration, control socket and lab. The work is done by the crates
//! `vswitch`, `introspection`, `offload` and `vmm`.

pub mod agent;
pub mod bench;
pub mod capture;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod diagnose;
pub mod explain;
pub mod lab;
pub mod spec;
pub mod vm_control;
