//! One ring of a port, with its doorbells: what the peer has said of it, and whether it runs.
//!
//! `unsafe` is needed for `preadv2`, which alone reads a doorbell without ever waiting.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use introspection::Instant;

use crate::memory::GuestMemory;
use crate::ring::inflight::Region;
use crate::ring::{Ring, RingAddresses, RingFault, RingSetup};

/// How long a guest waits at most to hear of transmitted frames, as `tx-usecs` of a NIC. Frames that it receives in the
/// meantime have it look at these, too (Linux does, in NAPI), and spare it the interrupt.
const TRANSMIT_DELAY: Duration = Duration::from_micros(200);
/// Transmitted entries of which a guest hears without delay, as `tx-frames` of a NIC.
const TRANSMIT_ENTRIES: u32 = 32;

/// A ring's state. The protocol's thread and the worker share it under a lock.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) size: u16,
    pub(super) addresses: Option<RingAddresses>,
    /// Where the ring goes on when it starts.
    pub(super) base: u16,
    pub(super) kick: Kick,
    pub(super) call: Option<File>,
    pub(super) err: Option<File>,
    pub(super) enabled: bool,
    /// The running ring.
    pub(super) ring: Option<Ring>,
    /// The worker has frames in hand whose octets are in this queue's memory.
    pub(super) busy: bool,
    /// Whether the worker watches the kick.
    pub(super) watched: bool,
    /// When the guest is to hear of what it transmitted.
    due: Option<Instant>,
    /// Memory that is not the guest's any more but that the worker's frames are in.
    retired: Vec<Arc<GuestMemory>>,
}

/// How the guest rings.
#[derive(Debug, Default)]
pub(super) enum Kick {
    /// The queue is stopped.
    #[default]
    Stopped,
    /// Not at all: we have to look.
    Poll,
    /// By this eventfd.
    Event(File),
}

impl Queue {
    /// Starts the ring if all is there that it needs, and it does not run. Chains in hand are written down in `region`.
    pub(super) fn start(
        &mut self,
        memory: Option<&Arc<GuestMemory>>,
        features: u64,
        receive: bool,
        region: Option<Region>,
    ) -> Result<(), RingFault> {
        let (Some(memory), Some(addresses)) = (memory, self.addresses) else {
            return Ok(());
        };
        if self.ring.is_some() || matches!(self.kick, Kick::Stopped) {
            return Ok(());
        }
        let setup = RingSetup {
            size: self.size,
            addresses,
            features,
            base: self.base,
        };
        let mut ring = Ring::new(memory, &setup)?;
        if let Some(region) = region {
            ring.track(region)?;
        }
        if receive {
            ring.disable_notifications();
        }
        self.ring = Some(ring);
        Ok(())
    }

    /// Stops the ring; it would go on at `base`.
    pub(super) fn stop(&mut self) {
        // Whoever goes on with the ring knows nothing of what the guest has yet to hear.
        self.notify();
        if let Some(ring) = &mut self.ring {
            ring.untrack();
        }
        self.abandon();
    }

    /// Stops the ring as if this process ended: what was written down of it still counts.
    fn abandon(&mut self) {
        self.kick = Kick::Stopped;
        if let Some(ring) = self.ring.take() {
            self.base = ring.base();
            self.retire(Arc::clone(ring.memory()));
        }
    }

    /// Forgets all that the peer said.
    pub(super) fn reset(&mut self) {
        self.abandon();
        *self = Self {
            busy: self.busy,
            retired: std::mem::take(&mut self.retired),
            ..Self::default()
        };
    }

    /// Goes on in other memory, or at other addresses.
    pub(super) fn relocate(&mut self, memory: &Arc<GuestMemory>) -> Result<(), RingFault> {
        let Some(addresses) = self.addresses else {
            return Ok(());
        };
        let Some(ring) = self.ring.as_mut() else {
            return Ok(());
        };
        let old = Arc::clone(ring.memory());
        ring.relocate(memory, &addresses)?;
        self.retire(old);
        Ok(())
    }

    /// The worker has no frames of this queue in hand any more.
    pub(super) fn release(&mut self) {
        self.busy = false;
        self.retired.clear();
    }

    fn retire(&mut self, memory: Arc<GuestMemory>) {
        if self.busy {
            self.retired.push(memory);
        }
    }

    /// The running ring, if the peer has enabled it.
    pub(super) fn enabled_ring(&mut self) -> Option<&mut Ring> {
        self.ring.as_mut().filter(|_| self.enabled)
    }

    /// Tells the guest, if it wants to know of what was published.
    pub(super) fn notify(&mut self) {
        let wanted = self.ring.as_mut().is_some_and(Ring::needs_notification);
        if wanted && let Some(call) = &self.call {
            ring_bell(call);
        }
    }

    /// Tells the guest of transmitted frames once there are enough of them, or the first has waited long enough.
    pub(super) fn moderate(&mut self, now: Instant) {
        let Some(ring) = &self.ring else { return };
        let entries = ring.unannounced().unwrap_or(TRANSMIT_ENTRIES);
        if entries == 0 {
            self.due = None;
        } else if entries >= TRANSMIT_ENTRIES || *self.due.get_or_insert(now.after(TRANSMIT_DELAY)) <= now {
            self.due = None;
            self.notify();
        }
    }

    /// When [`Queue::moderate`] has something to tell that the guest wants to hear.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
            .filter(|_| self.ring.as_ref().is_some_and(Ring::wants_notification))
    }

    /// The kick's descriptor, if the worker has to watch it.
    pub(super) fn kick_fd(&self) -> Option<RawFd> {
        match (&self.kick, &self.ring) {
            (Kick::Event(file), Some(_)) => Some(file.as_raw_fd()),
            _ => None,
        }
    }

    /// Clears the kick.
    pub(super) fn clear_kick(&self) {
        if let Kick::Event(file) = &self.kick {
            clear_bell(file);
        }
    }
}

/// Adds one to an eventfd. A full one has rung already, and a vanished listener does not matter.
pub(super) fn ring_bell(bell: &File) {
    let _ = (&*bell).write(&1u64.to_ne_bytes());
}

/// Takes an eventfd's count. The peer could make it block by changing flags that it shares with us, so the kernel is
/// asked per call not to wait.
fn clear_bell(bell: &File) {
    let mut count = [0u8; 8];
    let part = libc::iovec {
        iov_base: count.as_mut_ptr().cast(),
        iov_len: count.len(),
    };
    // SAFETY: one part that leads to a local of its length; offset -1 reads a stream.
    unsafe { libc::preadv2(bell.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
}

/// Whether a file that a peer sent as a doorbell is an eventfd; makes it one that does not block.
///
/// Anything else could block, or be written to with effects of the peer's choice. A peer that makes its eventfd block
/// again afterwards, and full, could still stop the worker that writes to it: peers are VMMs of the same user, whereas
/// their guests reach no eventfd but through KVM.
pub(super) fn check_bell(bell: &File) -> bool {
    let fd = bell.as_raw_fd();
    let target = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    if !target.is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]") {
        return false;
    }
    // SAFETY: changes a flag of an open descriptor and touches no memory.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, IntoRawFd};

    use vmm_sys_util::eventfd::EventFd;

    use super::*;

    fn bell(flags: i32) -> (EventFd, File) {
        let event = EventFd::new(flags).unwrap();
        // SAFETY: the duplicate's descriptor is owned by nobody else.
        let file = unsafe { File::from_raw_fd(event.try_clone().unwrap().into_raw_fd()) };
        (event, file)
    }

    #[test]
    fn a_bell_is_cleared_without_waiting_even_if_it_blocks() {
        let (event, file) = bell(0);
        ring_bell(&file);
        ring_bell(&file);
        assert_eq!(event.read().unwrap(), 2);
        clear_bell(&file);
        ring_bell(&file);
        clear_bell(&file);
        event.write(5).unwrap();
        assert_eq!(event.read().unwrap(), 5);
    }

    #[test]
    fn only_an_eventfd_is_a_bell() {
        let (event, file) = bell(0);
        assert!(check_bell(&file));
        assert!(event.read().is_err(), "it does not block any more");
        assert!(!check_bell(&File::open("/dev/null").unwrap()));
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        // SAFETY: takes the socket's descriptor over.
        assert!(!check_bell(&unsafe { File::from_raw_fd(socket.into_raw_fd()) }));
    }
}
