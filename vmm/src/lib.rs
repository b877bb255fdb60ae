//! A small KVM virtual machine monitor: one process, one machine.
//!
//! [`Vm::new`] makes a machine from a [`VmConfig`], [`Vm::run`] runs it until it stops. Its network interfaces are
//! vhost-user front ends: guest memory and rings are shared with a switch in another process, and the data path
//! bypasses this one.

mod acpi;
mod boot;
mod config;
mod console;
mod devices;
mod error;
mod footprint;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod kernel;
mod layout;
mod memory;
mod microguest;
mod report;
mod sandbox;
mod stop;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "fuzz targets use a part of it"))]
mod testing;
mod vcpu;
mod vm;
mod wiring;

pub use boot::BootError;
pub use config::{
    DiskConfig, DiskFormat, Kernel, MAX_DISKS, MAX_NICS, MAX_QUEUE_PAIRS, NicConfig, Terminal, VmConfig,
};
pub use console::Console;
pub use devices::block::{DiskCounts, DiskError, DiskRefusals};
pub use devices::console::ConsoleCounts;
pub use devices::lifecycle::CannotExport;
pub use devices::net::SessionError;
pub use devices::rng::RngCounts;
pub use error::VmError;
pub use kernel::{Compression, Format, KernelError, KernelFault, KernelInfo, Protocol};
pub use layout::MAX_VCPUS;
pub use memory::{MemoryError, available_memory};
pub use microguest::MICROGUEST;
pub use offload::MacAddr;
pub use report::{
    BootTimes, ConsoleReport, DiskReport, ExitCounts, MemoryUse, NetCounts, NicReport, RngReport, VmInfo,
    VmReport, VmState,
};
pub use sandbox::{
    EXIT_STATUS as SANDBOX_EXIT_STATUS, Inherited, SandboxError, SandboxReport, Thread,
    enter as enter_sandbox,
};
pub use stop::{StopHandle, StopReason};
pub use vcpu::{VcpuError, VcpuInfo};
pub use vm::{RequestError, Vm, VmHandle};
