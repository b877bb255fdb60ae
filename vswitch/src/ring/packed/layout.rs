//! A packed ring's three parts in shared memory, behind an interface that cannot leave them.
//!
//! `unsafe` is needed because they are reached by pointers into memory that a guest writes at any time. All access is
//! atomic, of one word at a time, and no reference into that memory outlives a call.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::memory::GuestMemory;
use crate::ring::chain::Descriptor;
use crate::ring::gather::prefetch;
use crate::ring::{MAX_QUEUE_SIZE, RingAddresses, RingFault, part};

/// A ring in memory that stays mapped as long as this value lives.
///
/// Invariant: `descriptors` points at `16 * size` octets, `driver` and `device` at 4 each, all inside of `memory` and
/// aligned to 16 and 4.
#[derive(Debug)]
pub(super) struct Layout {
    size: u16,
    descriptors: *mut u8,
    driver: *mut u8,
    device: *mut u8,
    memory: Arc<GuestMemory>,
}

/// Where the descriptors are, to be kept in registers meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    size: u16,
    descriptors: *mut u8,
    /// What keeps them mapped, and its invariant.
    _layout: PhantomData<&'a Layout>,
}

// SAFETY: the pointers lead into `memory`, which is mapped for the whole process and kept by this value; access through
// them is atomic, so the thread does not matter.
unsafe impl Send for Layout {}

impl Layout {
    /// Finds a ring's parts. The driver's event suppression is where a split ring has its available ring, the
    /// device's where it has the used ring.
    pub(super) fn resolve(
        memory: &Arc<GuestMemory>,
        addresses: &RingAddresses,
        size: u16,
    ) -> Result<Self, RingFault> {
        if size == 0 || size > MAX_QUEUE_SIZE {
            return Err(RingFault::Size(size.into()));
        }
        let ring = 16 * u64::from(size);
        Ok(Self {
            size,
            descriptors: part(memory, "descriptor ring", addresses.descriptors, ring, 16)?,
            driver: part(memory, "driver's event suppression", addresses.available, 4, 4)?,
            device: part(memory, "device's event suppression", addresses.used, 4, 4)?,
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
            _layout: PhantomData,
        }
    }

    /// When the driver wants to be interrupted: a position, and flags above it (virtio 1.2, 2.8.14).
    pub(super) fn driver_event(&self) -> u32 {
        // SAFETY: 4 octets of guest memory, aligned to 4; the guest's concurrent writes are what atomics are for.
        let event = unsafe { AtomicU32::from_ptr(self.driver.cast()) };
        u32::from_le(event.load(Ordering::Relaxed))
    }

    /// Says when the driver should ring.
    pub(super) fn set_device_event(&self, value: u32) {
        // SAFETY: as for the driver's.
        let event = unsafe { AtomicU32::from_ptr(self.device.cast()) };
        event.store(value.to_le(), Ordering::Relaxed);
    }
}

impl View<'_> {
    #[inline]
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// A copy of a descriptor. If its flags say that it is available, all that the driver wrote before is visible.
    #[inline]
    pub(super) fn descriptor(&self, slot: u16) -> Descriptor {
        let high = self.high(slot).load(Ordering::Acquire);
        // SAFETY: as for `high`; this is the descriptor's first word.
        let low = unsafe { AtomicU64::from_ptr(self.descriptors.add(self.offset(slot)).cast()) };
        Descriptor::of_packed(low.load(Ordering::Relaxed), high)
    }

    /// Replaces a descriptor's length, identifier and flags; the driver may see that at any time.
    #[inline]
    pub(super) fn write(&self, slot: u16, word: u64) {
        self.high(slot).store(word.to_le(), Ordering::Relaxed);
    }

    /// The same, and all that was written before is visible to whoever sees it.
    #[inline]
    pub(super) fn write_last(&self, slot: u16, word: u64) {
        self.high(slot).store(word.to_le(), Ordering::Release);
    }

    /// Fetches a descriptor's cache line ahead of its use.
    #[inline]
    pub(super) fn prefetch_descriptor(&self, slot: u16) {
        prefetch(self.descriptors.wrapping_add(self.offset(slot)));
    }

    #[inline]
    fn offset(&self, slot: u16) -> usize {
        debug_assert!(slot < self.size);
        16 * usize::from(slot.min(self.size - 1))
    }

    /// A descriptor's second word.
    #[inline]
    fn high(&self, slot: u16) -> &AtomicU64 {
        // SAFETY: `offset` stays below `16 * size`, so both words are inside of the ring, which is aligned to 16; the
        // guest's concurrent writes are what atomics are for.
        unsafe { AtomicU64::from_ptr(self.descriptors.add(self.offset(slot) + 8).cast()) }
    }
}
