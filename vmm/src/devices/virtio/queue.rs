//! A queue as the driver describes it, and the check that it lies in guest memory.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestRam;

/// A split virtqueue's registers (Virtio 1.2, 2.7).
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) enabled: bool,
    /// Descriptor table.
    pub(super) descriptors: u64,
    /// Available ring, which the driver writes.
    pub(super) driver: u64,
    /// Used ring, which the device writes.
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

    /// Whether size, alignment and place of all three parts are what 2.7 demands.
    pub(super) fn is_valid(&self, ram: &GuestRam) -> bool {
        let size = usize::from(self.size);
        let parts = [
            (self.descriptors, 16, 16 * size),
            (self.driver, 2, 6 + 2 * size),
            (self.device, 4, 6 + 8 * size),
        ];
        self.size.is_power_of_two()
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
