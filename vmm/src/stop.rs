//! Why a machine stopped, and how to ask it to.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why a machine stopped without a fault of the monitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The guest switched itself off.
    GuestPowerOff,
    /// The guest asked for a reset; the machine is not started again.
    GuestReset,
    /// The guest's processor shut down after a triple fault.
    TripleFault,
    /// A [`StopHandle`] was used, or the user typed Ctrl-A x.
    Requested,
    /// A network back end vanished and did not come back in time.
    SwitchGone {
        /// Its socket.
        socket: PathBuf,
        /// What happened last.
        reason: String,
    },
}

impl fmt::Display for StopReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GuestPowerOff => write!(out, "the guest switched itself off"),
            Self::GuestReset => write!(out, "the guest asked for a reset"),
            Self::TripleFault => write!(out, "the guest's processor shut down after a triple fault"),
            Self::Requested => write!(out, "stopped on request"),
            Self::SwitchGone { socket, reason } => {
                write!(out, "the switch behind {} is gone: {reason}", socket.display())
            }
        }
    }
}

/// Asks a running machine to stop; usable from other threads, and its descriptor from signal handlers.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<EventFd>);

impl StopHandle {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?)))
    }

    /// Makes [`crate::Vm::run`] end with [`StopReason::Requested`], at once if it runs, else when it starts.
    pub fn stop(&self) {
        // Fails only when the counter is full, and then the request stands already.
        let _ = self.0.write(1);
    }
}

impl AsRawFd for StopHandle {
    /// An eventfd: writing the 8 octets of a native `1_u64` to it is the same as [`StopHandle::stop`].
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
