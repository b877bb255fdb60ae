//! A queue as the driver describes it, and the check that it lies in guest memory.

use std::sync::Arc;

use serde::Serialize;
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestRam;

/// A virtqueue's registers (Virtio 1.2, 2.7 and 2.8).
#[derive(Clone, Debug, Serialize)]
pub(super) struct Queue {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) enabled: bool,
    /// Descriptor table, or a packed ring's descriptors.
    pub(super) descriptors: u64,
    /// Available ring, or a packed ring's event suppression, which the driver writes.
    pub(super) driver: u64,
    /// Used ring, or a packed ring's event suppression, which the device writes.
    pub(super) device: u64,
}

impl Queue {
    pub(super) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            enabled: false,
            descriptors: 0,
            driver: 0,
            device: 0,
        }
    }

    /// Whether size, alignment and place of all three parts are what 2.7 or 2.8 demands.
    pub(super) fn is_valid(&self, ram: &GuestRam, packed: bool) -> bool {
        let size = usize::from(self.size);
        let [driver, device] = if packed {
            [(4, 4), (4, 4)]
        } else {
            [(2, 6 + 2 * size), (4, 6 + 8 * size)]
        };
        let parts = [
            (self.descriptors, 16, 16 * size),
            (self.driver, driver.0, driver.1),
            (self.device, device.0, device.1),
        ];
        (self.size.is_power_of_two() || packed && self.size > 0)
            && self.size <= self.max_size
            && parts.iter().all(|(address, align, len)| {
                address.is_multiple_of(*align) && ram.get_slice(GuestAddress(*address), *len).is_ok()
            })
    }
}

/// An enabled queue, checked to lie in guest memory, with its two doorbells.
#[derive(Clone, Debug)]
pub(crate) struct ActiveQueue {
    /// Its number in the device.
    pub(crate) index: u16,
    /// Descriptors in the table.
    pub(crate) size: u16,
    /// Guest-physical address of the descriptor table.
    pub(crate) descriptors: u64,
    /// Guest-physical address of the available ring.
    pub(crate) driver: u64,
    /// Guest-physical address of the used ring.
    pub(crate) device: u64,
    /// Signalled by the driver: buffers are available.
    pub(crate) kick: Arc<EventFd>,
    /// Signalled to the driver: buffers are used.
    pub(crate) call: Arc<EventFd>,
}

impl ActiveQueue {
    /// The device's end of the ring, for queues that this process serves itself.
    pub(crate) fn ring(&self, event_idx: bool) -> Result<virtio_queue::Queue, String> {
        let mut ring = virtio_queue::Queue::new(self.size).map_err(|error| error.to_string())?;
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        ring.set_size(self.size);
        let (low, high) = halves(self.descriptors);
        ring.set_desc_table_address(low, high);
        let (low, high) = halves(self.driver);
        ring.set_avail_ring_address(low, high);
        let (low, high) = halves(self.device);
        ring.set_used_ring_address(low, high);
        ring.set_event_idx(event_idx);
        ring.set_ready(true);
        Ok(ring)
    }
}
