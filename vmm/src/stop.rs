//! Why a machine stopped, and how to ask it to.
#![allow(unsafe_code)] // a signal handler may only call what is safe in one, such as write(2)

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::register_signal_handler;

/// The eventfd that SIGTERM, SIGINT and SIGHUP signal; -1 as long as there is none.
static SIGNALLED: AtomicI32 = AtomicI32::new(-1);

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

    /// Has SIGTERM, SIGINT and SIGHUP do the same as [`StopHandle::stop`], for the rest of the process's life.
    /// The last handle that asks for it gets them.
    pub fn stop_on_signals(&self) -> io::Result<()> {
        // The handler may run at any time from now on, so the descriptor must stay open.
        std::mem::forget(Arc::clone(&self.0));
        SIGNALLED.store(self.0.as_raw_fd(), Ordering::SeqCst);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            register_signal_handler(signal, stop_from_signal)?;
        }
        Ok(())
    }
}

extern "C" fn stop_from_signal(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let one = 1_u64;
    // SAFETY: eight octets of a live integer are written; write(2) is async-signal-safe, and a descriptor of -1
    // only makes it fail. It changes errno, which the interrupted code may be about to read, on failure only: the
    // eventfd is never closed, and full only when a stop stands already.
    unsafe {
        libc::write(
            SIGNALLED.load(Ordering::SeqCst),
            (&raw const one).cast(),
            size_of::<u64>(),
        )
    };
}

impl AsRawFd for StopHandle {
    /// An eventfd: writing the 8 octets of a native `1_u64` to it is the same as [`StopHandle::stop`].
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_stop_the_machine() {
        let handle = StopHandle::new().expect("an eventfd");
        handle.stop_on_signals().expect("handlers");
        // SAFETY: the signal has a handler since the line above.
        assert_eq!(unsafe { libc::raise(libc::SIGTERM) }, 0);
        assert_eq!(handle.0.read().expect("signalled"), 1);
    }

    #[test]
    fn reasons_are_one_line_each() {
        let gone = StopReason::SwitchGone {
            socket: "/run/v0.sock".into(),
            reason: "it closed the connection".into(),
        };
        assert_eq!(
            gone.to_string(),
            "the switch behind /run/v0.sock is gone: it closed the connection"
        );
        assert!(!StopReason::TripleFault.to_string().contains('\n'));
    }
}
