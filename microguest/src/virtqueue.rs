//! The driver's side of a split virtqueue (virtio 1.2, 2.7), one descriptor a buffer.
//!
//! Descriptor `i` always stands for buffer `i` of the owner's, so nothing needs to be looked up when the device returns
//! it. Event indices (2.7.7.1) are left out on purpose: the driver asks for interrupts only before it sleeps, which
//! the rings' flags express as well.
#![allow(unsafe_code)] // Rings are memory that the device changes: raw pointers and atomics.

use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering, fence};

/// Octets of a descriptor.
const DESCRIPTOR: usize = 16;
/// Octets of flags and index before a ring's elements.
const RING_HEADER: usize = 4;
/// Octets of an element of the used ring.
const USED_ELEMENT: usize = 8;
/// `VIRTQ_DESC_F_WRITE`: the device writes the buffer.
const WRITE: u16 = 2;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const NO_NOTIFY: u16 = 1;

/// Memory shared with the device: zeroed, at a fixed address, freed when dropped.
#[derive(Debug)]
pub struct SharedMemory {
    start: NonNull<u8>,
    layout: Layout,
}

impl SharedMemory {
    /// Allocates `len` octets, aligned to a page.
    pub fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), 4096).unwrap_or(Layout::new::<u8>());
        // SAFETY: the layout's size is at least 1.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) });
        let start = start.unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout }
    }

    /// Where it starts. The guest maps memory one to one, so this is the device's address as well.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// The octets from `offset` on; as many of `len` as there are. The device must not own them meanwhile.
    pub fn octets(&self, offset: usize, len: usize) -> &[u8] {
        let (offset, len) = self.clamp(offset, len);
        // SAFETY: `clamp` keeps the range inside the allocation, which lives as long as `self` and was zeroed. The
        // callers in this crate only ask for buffers that the device has returned.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr().add(offset), len) }
    }

    /// As [`octets`](Self::octets), to be written.
    pub fn octets_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let (offset, len) = self.clamp(offset, len);
        // SAFETY: as in `octets`; `&mut self` excludes other references into the memory.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr().add(offset), len) }
    }

    fn clamp(&self, offset: usize, len: usize) -> (usize, usize) {
        let offset = offset.min(self.layout.size());
        (offset, len.min(self.layout.size() - offset))
    }

    /// A 16-bit field that the device may change; `offset` is even and within the memory.
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "the start is page-aligned and offsets are even"
    )]
    fn field(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset.is_multiple_of(2) && offset + 2 <= self.layout.size());
        // SAFETY: `Queue` computes offsets from its size, so the field lies within the memory and is aligned, the start
        // being page-aligned; it is only accessed through atomics.
        unsafe { &*self.start.as_ptr().add(offset).cast::<AtomicU16>() }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

// SAFETY: the memory is owned; nothing in it refers to a thread.
unsafe impl Send for SharedMemory {}

/// The physical addresses of a queue's three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring ("driver area").
    pub available: u64,
    /// Used ring ("device area").
    pub used: u64,
}

/// One virtqueue.
#[derive(Debug)]
pub struct Queue {
    memory: SharedMemory,
    size: u16,
    available: usize,
    used: usize,
    next_available: u16,
    next_used: u16,
}

impl Queue {
    /// An empty queue of `size` descriptors, a power of two.
    pub fn new(size: u16) -> Self {
        let len = usize::from(size);
        let available = DESCRIPTOR * len;
        let used = (available + RING_HEADER + 2 * len + 2).next_multiple_of(64);
        Self {
            memory: SharedMemory::new(used + RING_HEADER + USED_ELEMENT * len + 2),
            size,
            available,
            used,
            next_available: 0,
            next_used: 0,
        }
    }

    /// How many descriptors there are.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where the device finds the queue.
    pub fn addresses(&self) -> Addresses {
        let start = self.memory.address();
        Addresses {
            descriptors: start,
            available: start + self.available as u64,
            used: start + self.used as u64,
        }
    }

    /// Makes buffer `id` available to the device: `len` octets at `address`. A buffer that the device fills is `writable`.
    pub fn publish(&mut self, id: u16, address: u64, len: u32, writable: bool) {
        debug_assert!(id < self.size);
        let descriptor = DESCRIPTOR * usize::from(id % self.size);
        let flags = if writable { WRITE } else { 0 };
        let entry = self.memory.octets_mut(descriptor, DESCRIPTOR);
        let values = address
            .to_le_bytes()
            .into_iter()
            .chain(len.to_le_bytes())
            .chain(flags.to_le_bytes());
        for (octet, value) in entry.iter_mut().zip(values) {
            *octet = value;
        }
        let slot = usize::from(self.next_available % self.size);
        self.memory
            .field(self.available + RING_HEADER + 2 * slot)
            .store(id.to_le(), Ordering::Relaxed);
        self.next_available = self.next_available.wrapping_add(1);
        // Release: the device that sees the index sees descriptor, ring and buffer too.
        self.memory
            .field(self.available + 2)
            .store(self.next_available.to_le(), Ordering::Release);
    }

    /// Whether the device wants to be told of what was published.
    pub fn wants_doorbell(&self) -> bool {
        // The index must be visible before the flag is read, or both sides could miss each other (2.7.13.4.1).
        fence(Ordering::SeqCst);
        let flags = u16::from_le(self.memory.field(self.used).load(Ordering::Relaxed));
        flags & NO_NOTIFY == 0
    }

    /// Whether the device has returned a buffer.
    pub fn has_used(&self) -> bool {
        u16::from_le(self.memory.field(self.used + 2).load(Ordering::Acquire)) != self.next_used
    }

    /// The next buffer that the device returned, and how many octets it wrote.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if !self.has_used() {
            return None;
        }
        let slot = usize::from(self.next_used % self.size);
        let element = self.used + RING_HEADER + USED_ELEMENT * slot;
        let field = |offset| u16::from_le(self.memory.field(element + offset).load(Ordering::Relaxed));
        let (id, len) = (field(0), u32::from(field(4)) | u32::from(field(6)) << 16);
        self.next_used = self.next_used.wrapping_add(1);
        // A device that returns what it cannot have is contradicted by masking, not by a panic.
        Some((id % self.size, len))
    }

    /// Asks for interrupts, or for none. Look at [`has_used`](Self::has_used) after asking: the device may have just
    /// returned something in silence.
    pub fn set_interrupts(&mut self, wanted: bool) {
        let flags = if wanted { 0 } else { NO_INTERRUPT };
        self.memory
            .field(self.available)
            .store(u16::to_le(flags), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
pub(crate) mod device {
    //! The device's side, for tests.

    use super::*;

    /// Reads and writes a driver's queue as a device would.
    pub(crate) struct Device {
        pub(crate) addresses: Addresses,
        pub(crate) size: u16,
        next: u16,
        used: u16,
    }

    pub(crate) struct Buffer {
        pub(crate) id: u16,
        pub(crate) address: u64,
        pub(crate) len: u32,
        pub(crate) writable: bool,
    }

    impl Buffer {
        pub(crate) fn octets(&mut self) -> &mut [u8] {
            // SAFETY: the driver under test published this range of its own live memory.
            unsafe { core::slice::from_raw_parts_mut(self.address as *mut u8, self.len as usize) }
        }
    }

    impl Device {
        pub(crate) fn new(queue: &Queue) -> Self {
            Self {
                addresses: queue.addresses(),
                size: queue.size(),
                next: 0,
                used: 0,
            }
        }

        pub(crate) fn take(&mut self) -> Option<Buffer> {
            let Addresses {
                descriptors,
                available,
                ..
            } = self.addresses;
            // SAFETY: addresses of the queue under test, which outlives its device in each test.
            unsafe {
                if (available as *const u16).add(1).read_volatile() == self.next {
                    return None;
                }
                let id = (available as *const u16)
                    .add(2 + usize::from(self.next % self.size))
                    .read_volatile();
                self.next = self.next.wrapping_add(1);
                let descriptor = (descriptors as *const u64).add(2 * usize::from(id));
                let rest = descriptor.add(1).read_volatile();
                Some(Buffer {
                    id,
                    address: descriptor.read_volatile(),
                    len: rest as u32,
                    writable: rest >> 32 & u64::from(WRITE) != 0,
                })
            }
        }

        pub(crate) fn give(&mut self, id: u16, len: u32) {
            let used = self.addresses.used;
            // SAFETY: as in `take`.
            unsafe {
                let element = (used as *mut u32).add(1 + 2 * usize::from(self.used % self.size));
                element.write_volatile(u32::from(id));
                element.add(1).write_volatile(len);
                self.used = self.used.wrapping_add(1);
                (used as *mut u16).add(1).write_volatile(self.used);
            }
        }

        pub(crate) fn suppress_doorbell(&mut self, suppress: bool) {
            // SAFETY: as in `take`.
            unsafe { (self.addresses.used as *mut u16).write_volatile(u16::from(suppress)) }
        }

        pub(crate) fn interrupts_wanted(&self) -> bool {
            // SAFETY: as in `take`.
            unsafe { (self.addresses.available as *const u16).read_volatile() == 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::device::Device;
    use super::*;

    #[test]
    fn buffers_go_round_for_ever() {
        let mut queue = Queue::new(4);
        let mut device = Device::new(&queue);
        for round in 0..70_000_u32 {
            let id = (round % 4) as u16;
            queue.publish(id, u64::from(round) << 20, round, round % 2 == 0);
            let buffer = device.take().expect("published");
            assert_eq!(
                (buffer.id, buffer.address, buffer.len),
                (id, u64::from(round) << 20, round)
            );
            assert_eq!(buffer.writable, round % 2 == 0);
            assert!(device.take().is_none() && queue.take_used().is_none());
            device.give(id, round);
            assert_eq!(queue.take_used(), Some((id, round)));
        }
        assert!(!queue.has_used());
    }

    #[test]
    fn impossible_ids_stay_inside_the_queue() {
        let mut queue = Queue::new(8);
        Device::new(&queue).give(0xfff9, 1);
        assert_eq!(queue.take_used(), Some((1, 1)));
    }

    #[test]
    fn flags_say_who_wants_to_be_told() {
        let mut queue = Queue::new(8);
        let mut device = Device::new(&queue);
        assert!(queue.wants_doorbell());
        device.suppress_doorbell(true);
        assert!(!queue.wants_doorbell());
        queue.set_interrupts(false);
        assert!(!device.interrupts_wanted());
        queue.set_interrupts(true);
        assert!(device.interrupts_wanted());
    }

    #[test]
    fn parts_are_aligned_and_apart() {
        let queue = Queue::new(256);
        let addresses = queue.addresses();
        assert_eq!(addresses.descriptors % 4096, 0);
        assert_eq!(addresses.available, addresses.descriptors + 4096);
        assert!(addresses.used >= addresses.available + 4 + 512 + 2 && addresses.used.is_multiple_of(64));
    }
}
