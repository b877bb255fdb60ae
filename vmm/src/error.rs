//! Why a machine could not be made or go on.

use std::io;

use crate::boot::BootError;
use crate::devices::block::DiskError;
use crate::devices::net::SessionError;
use crate::kernel::KernelError;
use crate::memory::MemoryError;
use crate::sandbox::SandboxError;
use crate::vcpu::VcpuError;

/// A machine that could not be made or go on. Its text is one line that says what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The description of the machine contradicts itself.
    #[error("{0}")]
    Config(String),
    /// Guest memory could not be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel image cannot be booted.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Command line or initial RAM disk do not fit.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// There is no KVM to use.
    #[error("cannot open /dev/kvm: {0}; load the kvm module and give this user access to the device")]
    NoKvm(io::Error),
    /// KVM lacks something or refused.
    #[error("KVM cannot {what}: {source}")]
    Kvm {
        /// What was being done.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A processor could not be made or go on.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A network back end cannot be used.
    #[error(transparent)]
    Nic(#[from] SessionError),
    /// A disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The process cannot give up what it does not need.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The host is out of descriptors or the like.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Names what was being done when KVM refused.
pub(crate) fn kvm<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> VmError {
    move |source| VmError::Kvm {
        what,
        source: source.into(),
    }
}

/// Names what was being done when the host refused.
pub(crate) fn host(what: &'static str) -> impl FnOnce(io::Error) -> VmError {
    move |source| VmError::Host { what, source }
}
