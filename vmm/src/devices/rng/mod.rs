//! The virtio entropy device (Virtio 1.2, 5.4): the host's random numbers for the guest.
//!
//! Requests are carried out while the driver notifies. A driver gets no more than [`REQUEST_MAX`] octets for one
//! buffer, which the specification allows, so that a notification has an end soon whatever the buffers are.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::Bytes;
use vmm_sys_util::eventfd::EventFd;

use super::lifecycle::{CannotExport, Lifecycle, SavedState};
use super::virtio::{ActiveQueue, F_VERSION_1, VirtioDevice};
use crate::memory::GuestRam;

/// Descriptors that the ring may have.
const RING_SIZE: u16 = 64;
/// `VIRTIO_F_EVENT_IDX`.
const EVENT_IDX: u64 = 1 << 29;
/// Octets given for one buffer at most.
const REQUEST_MAX: usize = 256;
/// Buffers served for one notification: only a driver that adds more meanwhile, and will notify again, reaches it.
const BATCH: usize = 2 * RING_SIZE as usize;

/// What happened to an entropy device so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RngCounts {
    /// Buffers filled, at least in part.
    pub requests: u64,
    /// Octets given.
    pub octets: u64,
    /// Buffers without room or outside memory, and rings that broke the rules.
    pub refusals: u64,
}

/// An entropy device.
pub(crate) struct Rng {
    ram: GuestRam,
    ring: Option<(Queue, Arc<EventFd>)>,
    paused: bool,
    counts: RngCounts,
}

impl Rng {
    pub(crate) fn new(ram: GuestRam) -> Self {
        Self {
            ram,
            ring: None,
            paused: false,
            counts: RngCounts::default(),
        }
    }

    pub(crate) fn counts(&self) -> RngCounts {
        self.counts
    }

    fn fill_buffers(&mut self) {
        let Some((queue, call)) = &mut self.ring else {
            return;
        };
        for _ in 0..BATCH {
            let Some(chain) = queue.pop_descriptor_chain(&self.ram) else {
                match queue.enable_notification(&self.ram) {
                    Ok(true) => continue,
                    Ok(false) => break,
                    Err(_) => return self.counts.refusals += 1,
                }
            };
            let head = chain.head_index();
            let given = fill(&self.ram, chain);
            self.counts.octets += u64::from(given);
            self.counts.requests += u64::from(given > 0);
            self.counts.refusals += u64::from(given == 0);
            if queue.add_used(&self.ram, head, given).is_err() {
                return self.counts.refusals += 1;
            }
        }
        if queue.needs_notification(&self.ram).unwrap_or(true) {
            // Fails only when the counter is full, and then the interrupt is pending already.
            let _ = call.write(1);
        }
    }
}

/// Fills the beginning of a buffer; returns the octets written.
fn fill(ram: &GuestRam, chain: DescriptorChain<&GuestRam>) -> u32 {
    let mut random = [0; REQUEST_MAX];
    let mut written = 0;
    for part in chain.writable() {
        let len = (part.len() as usize).min(REQUEST_MAX - written);
        let Some(octets) = random.get_mut(..len) else {
            break;
        };
        // Only a kernel without getrandom(2) refuses, and a refused read of it must not give the guest zeros.
        if getrandom::fill(octets).is_err() || ram.write_slice(octets, part.addr()).is_err() {
            break;
        }
        written += len;
    }
    written as u32
}

impl Lifecycle for Rng {
    fn pause(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        if std::mem::replace(&mut self.paused, false) {
            self.fill_buffers();
        }
    }

    fn reset(&mut self) {
        self.ring = None;
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        if !self.paused {
            return Err(CannotExport::Running("virtio-rng"));
        }
        let position = self
            .ring
            .as_ref()
            .map(|(queue, _)| (queue.next_avail(), queue.next_used()));
        SavedState::new("virtio-rng", 1, position)
    }
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u16 {
        4
    }

    /// Unclassified: PCI has no class for it.
    fn class(&self) -> u32 {
        0xff_0000
    }

    fn features(&self) -> u64 {
        F_VERSION_1 | EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &[RING_SIZE]
    }

    fn read_config(&self, _: usize, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, features: u64, queues: &[ActiveQueue]) -> Result<(), String> {
        let queue = queues.first().ok_or("the driver enabled no queue")?;
        self.ring = Some((queue.ring(features & EVENT_IDX != 0)?, Arc::clone(&queue.call)));
        Ok(())
    }

    fn serve(&mut self, _: u16) -> bool {
        if !self.paused {
            self.fill_buffers();
        }
        true
    }

    fn first_notification(&mut self, _: u16) {}
}
