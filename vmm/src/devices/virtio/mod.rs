//! The virtio transport over PCI, without what is particular to one kind of device.
//!
//! Source: Virtual I/O Device (VIRTIO) 1.2, chapter 2 and 4.1. Modern interface only.

mod function;
mod queue;
mod registers;
mod served;
#[cfg(test)]
mod tests;

pub(crate) use function::{BAR_SPAN, VirtioFunction};
pub(crate) use queue::ActiveQueue;
pub(crate) use served::ServedRing;

use super::lifecycle::Lifecycle;

/// `VIRTIO_F_VERSION_1`: the driver speaks the modern interface.
pub(crate) const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_RING_PACKED`: rings are packed.
pub(crate) const F_RING_PACKED: u64 = 1 << 34;

/// What a device does behind the transport. [`Lifecycle::reset`] is what the driver asks for by writing 0 to the status.
pub(crate) trait VirtioDevice: Lifecycle + Send {
    /// The virtio device number (Virtio 1.2, chapter 5).
    fn device_id(&self) -> u16;

    /// PCI base class, subclass and programming interface.
    fn class(&self) -> u32;

    /// The features offered to the driver; must not change while a driver is active.
    fn features(&self) -> u64;

    /// The largest size of each queue in descriptors, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// A driver's read of the device configuration; what does not exist reads as zeros.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// The driver is ready: `features` are what it accepted, `queues` those that it enabled.
    fn activate(&mut self, features: u64, queues: &[ActiveQueue]) -> Result<(), String>;

    /// Serves a queue that the driver notified, if it is one that this process serves itself; `false` if not.
    fn serve(&mut self, queue: u16) -> bool;

    /// The driver notified a queue that others serve, for the first time since the machine was made.
    fn first_notification(&mut self, queue: u16);
}
