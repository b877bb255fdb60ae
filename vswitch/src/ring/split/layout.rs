//! A ring's three parts in shared memory, behind an interface that cannot leave them.
//!
//! `unsafe` is needed because they are reached by pointers into memory that a guest writes at any time. All access is
//! atomic or volatile, of one field at a time, and no reference into that memory outlives a call.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::memory::GuestMemory;
use crate::ring::chain::Descriptor;
use crate::ring::gather::{prefetch, prefetch_to_write};
use crate::ring::{MAX_QUEUE_SIZE, RingAddresses, RingFault, part};

/// A ring in memory that stays mapped as long as this value lives.
///
/// Invariant: `descriptors` points at `16 * size` octets, `available` at `6 + 2 * size` and `used` at `6 + 8 * size`
/// (each 2 less without an event index), all inside of `memory` and aligned to 16, 2 and 4; `size` is a power of two.
#[derive(Debug)]
pub(super) struct Layout {
    size: u16,
    event_idx: bool,
    descriptors: *mut u8,
    available: *mut u8,
    used: *mut u8,
    memory: Arc<GuestMemory>,
}

/// Where the parts are that are looked at for each frame, to be kept in registers meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    size: u16,
    descriptors: *mut u8,
    available: *mut u8,
    used: *mut u8,
    /// What keeps them mapped, and its invariant.
    _layout: PhantomData<&'a Layout>,
}

// SAFETY: the pointers lead into `memory`, which is mapped for the whole process and kept by this value; access through
// them is atomic, so the thread does not matter.
unsafe impl Send for Layout {}

/// `VRING_AVAIL_F_NO_INTERRUPT` and `VRING_USED_F_NO_NOTIFY` (virtio 1.2, 2.7.6 and 2.7.8).
const SUPPRESS: u16 = 1;

impl Layout {
    /// Finds a ring's parts.
    pub(super) fn resolve(
        memory: &Arc<GuestMemory>,
        addresses: &RingAddresses,
        size: u16,
        event_idx: bool,
    ) -> Result<Self, RingFault> {
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return Err(RingFault::Size(size.into()));
        }
        let entries = u64::from(size);
        let event = if event_idx { 2 } else { 0 };
        Ok(Self {
            size,
            event_idx,
            descriptors: part(
                memory,
                "descriptor table",
                addresses.descriptors,
                16 * entries,
                16,
            )?,
            available: part(
                memory,
                "available ring",
                addresses.available,
                4 + 2 * entries + event,
                2,
            )?,
            used: part(memory, "used ring", addresses.used, 4 + 8 * entries + event, 4)?,
            memory: Arc::clone(memory),
        })
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    #[inline]
    pub(super) fn view(&self) -> View<'_> {
        View {
            size: self.size,
            descriptors: self.descriptors,
            available: self.available,
            used: self.used,
            _layout: PhantomData,
        }
    }

    /// The driver's index; what it listed before is visible after this load.
    pub(super) fn avail_index(&self) -> u16 {
        self.available_field(2).load(Ordering::Acquire)
    }

    /// Whether the driver asked not to be interrupted.
    pub(super) fn driver_suppresses(&self) -> bool {
        self.available_field(0).load(Ordering::Relaxed) & SUPPRESS != 0
    }

    /// The used index at which the driver wants an interrupt.
    pub(super) fn used_event(&self) -> u16 {
        debug_assert!(self.event_idx);
        self.available_field(4 + 2 * usize::from(self.size))
            .load(Ordering::Relaxed)
    }

    /// Our own index, as it stands in memory.
    pub(super) fn used_index(&self) -> u16 {
        self.used_field(2).load(Ordering::Relaxed)
    }

    /// Publishes our index; entries written before are visible to whoever sees it.
    pub(super) fn publish_used(&self, index: u16) {
        self.used_field(2).store(index, Ordering::Release);
    }

    /// Asks the driver not to ring, or to ring.
    pub(super) fn suppress_driver(&self, on: bool) {
        self.used_field(0)
            .store(if on { SUPPRESS } else { 0 }, Ordering::Relaxed);
    }

    /// Asks the driver to ring when its index passes `event`.
    pub(super) fn set_avail_event(&self, event: u16) {
        debug_assert!(self.event_idx);
        self.used_field(4 + 8 * usize::from(self.size))
            .store(event, Ordering::Relaxed);
    }

    /// Fetches a used entry's cache line ahead, to be written.
    pub(super) fn prefetch_used(&self, entry: u16) {
        prefetch_to_write(self.used.wrapping_add(4 + 8 * self.view().slot(entry)), 1);
    }

    /// A 16-bit field of the available ring; `offset` is even and at most `4 + 2 * size`.
    fn available_field(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: callers pass offsets of fields inside of the available ring, which is aligned to 2; the guest's
        // concurrent writes are what atomics are for.
        unsafe { AtomicU16::from_ptr(self.available.add(offset).cast()) }
    }

    /// A 16-bit field of the used ring; `offset` is even and at most `4 + 8 * size`.
    fn used_field(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as for the available ring; the used ring is aligned to 4.
        unsafe { AtomicU16::from_ptr(self.used.add(offset).cast()) }
    }
}

impl View<'_> {
    #[inline]
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// The head listed in a free-running entry.
    #[inline]
    pub(super) fn avail_entry(&self, entry: u16) -> u16 {
        // SAFETY: `slot` is below `size`, so the entry is inside of the available ring, which is aligned to 2.
        let entry = unsafe { AtomicU16::from_ptr(self.available.add(4 + 2 * self.slot(entry)).cast()) };
        entry.load(Ordering::Relaxed)
    }

    /// Writes a free-running used entry.
    #[inline]
    pub(super) fn write_used(&self, entry: u16, head: u16, len: u32) {
        let offset = 4 + 8 * self.slot(entry);
        // SAFETY: `slot` is below `size`, so both words are inside of the used ring; it is aligned to 4 and the offset
        // a multiple of 4.
        let (id, length) = unsafe {
            let at: *mut u32 = self.used.add(offset).cast();
            (AtomicU32::from_ptr(at), AtomicU32::from_ptr(at.add(1)))
        };
        id.store(u32::from(head).to_le(), Ordering::Relaxed);
        length.store(len.to_le(), Ordering::Relaxed);
    }

    /// A copy of a descriptor, which must be below `size`.
    #[inline]
    pub(super) fn descriptor(&self, index: u16) -> Descriptor {
        // SAFETY: the index is masked below `size`, so both words are inside of the table; it is aligned to 16.
        let (low, high) = unsafe {
            let at: *mut u64 = self.descriptors.add(16 * self.slot(index)).cast();
            (AtomicU64::from_ptr(at), AtomicU64::from_ptr(at.add(1)))
        };
        Descriptor::of_split(low.load(Ordering::Relaxed), high.load(Ordering::Relaxed))
    }

    /// Fetches a descriptor's cache line ahead of its use.
    #[inline]
    pub(super) fn prefetch_descriptor(&self, index: u16) {
        prefetch(self.descriptors.wrapping_add(16 * self.slot(index)));
    }

    #[inline]
    fn slot(&self, entry: u16) -> usize {
        usize::from(entry & (self.size - 1))
    }
}
