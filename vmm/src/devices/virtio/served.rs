//! A ring that this process serves itself, in the exit that a notification causes.

use std::sync::Arc;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::ActiveQueue;
use crate::memory::GuestRam;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (Virtio 1.2, 2.7.6).
const NO_INTERRUPT: u16 = 1;

/// The device's end of such a ring. The device must not offer `VIRTIO_F_EVENT_IDX`: then every addition of an honest
/// driver comes with a notification, and serving can end at any time without forgetting one.
pub(crate) struct ServedRing {
    queue: Queue,
    call: Arc<EventFd>,
    /// The available ring's flags.
    flags: GuestAddress,
}

/// The ring breaks the rules: its index ran ahead, an entry is no descriptor, or it left memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenRing;

impl ServedRing {
    pub(crate) fn new(active: &ActiveQueue) -> Result<Self, String> {
        Ok(Self {
            queue: active.ring(false)?,
            call: Arc::clone(&active.call),
            flags: GuestAddress(active.driver),
        })
    }

    /// Answers what is available: `answer` returns the octets that it wrote to a chain, or `None` to leave that chain
    /// and those behind it. Ends after as many chains as the ring has descriptors, however fast the driver adds more.
    pub(crate) fn serve(
        &mut self,
        ram: &GuestRam,
        mut answer: impl FnMut(DescriptorChain<&GuestRam>) -> Option<u32>,
    ) -> Result<(), BrokenRing> {
        let mut served = 0;
        let outcome = loop {
            if served == self.queue.size() {
                break Ok(());
            }
            match self.serve_one(ram, &mut answer) {
                Ok(true) => served += 1,
                Ok(false) => break Ok(()),
                Err(broken) => break Err(broken),
            }
        };
        if served > 0 {
            self.signal(ram);
        }
        outcome
    }

    /// Next available and next used entry.
    pub(crate) fn position(&self) -> (u16, u16) {
        (self.queue.next_avail(), self.queue.next_used())
    }

    /// Whether there was a chain, and it was answered.
    fn serve_one(
        &mut self,
        ram: &GuestRam,
        answer: &mut impl FnMut(DescriptorChain<&GuestRam>) -> Option<u32>,
    ) -> Result<bool, BrokenRing> {
        let next = self.queue.iter(ram).map_err(|_| BrokenRing)?.next();
        let Some(chain) = next else { return Ok(false) };
        let head = chain.head_index();
        let Some(written) = answer(chain) else {
            self.queue.go_to_previous_position();
            return Ok(false);
        };
        self.queue.add_used(ram, head, written).map_err(|_| BrokenRing)?;
        Ok(true)
    }

    /// Interrupts the driver unless it does not want that.
    fn signal(&self, ram: &GuestRam) {
        let flags = ram.read_obj::<u16>(self.flags).map_or(0, u16::from_le);
        if flags & NO_INTERRUPT == 0 {
            // Fails only when the counter is full, and then the interrupt is pending already.
            let _ = self.call.write(1);
        }
    }
}
