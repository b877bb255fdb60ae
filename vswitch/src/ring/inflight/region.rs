//! One queue's part of the shared memory.
//!
//! `unsafe` is needed because it is reached by a pointer into memory that the front end writes at any time. All access is
//! atomic, of one field or word at a time.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::region_len;
use crate::memory::GuestMemory;

/// One queue's part, which stays mapped as long as this value lives.
///
/// Invariant: `region_len(entries)` octets from `start` are in `_memory`; `start` is aligned to 8.
#[derive(Clone, Debug)]
pub struct Region {
    start: *mut u8,
    entries: u16,
    _memory: Arc<GuestMemory>,
}

// SAFETY: the pointer leads into `_memory`, which is mapped for the whole process and kept by this value; access
// through it is atomic, so the thread does not matter.
unsafe impl Send for Region {}

impl Region {
    /// The part of queue `index`, where each is for up to `entries` entries; `None` if it is not entirely there, or not
    /// aligned. `memory` has the shared memory at guest address 0.
    pub fn find(memory: &Arc<GuestMemory>, index: usize, entries: u16) -> Option<Self> {
        let len = region_len(entries);
        let start = memory.translate((index as u64).checked_mul(len)?, len)?;
        (start as usize).is_multiple_of(8).then(|| Self {
            start,
            entries,
            _memory: Arc::clone(memory),
        })
    }

    /// The largest queue that it has room for.
    pub fn entries(&self) -> u16 {
        self.entries
    }

    pub(super) fn get_u16(&self, at: u64) -> u16 {
        // SAFETY: `field` checks that the field is in the region and aligned; accesses are atomic.
        unsafe { AtomicU16::from_ptr(self.field(at, 2).cast()) }.load(Ordering::Relaxed)
    }

    pub(super) fn get_u64(&self, at: u64) -> u64 {
        // SAFETY: as for `get_u16`.
        unsafe { AtomicU64::from_ptr(self.field(at, 8).cast()) }.load(Ordering::Relaxed)
    }

    /// Stores are in order: whoever finds one finds those before it, too, should this process end in between.
    pub(super) fn set_u8(&self, at: u64, value: u8) {
        // SAFETY: as for `get_u16`; an octet is always aligned.
        unsafe { AtomicU8::from_ptr(self.field(at, 1)) }.store(value, Ordering::Release);
    }

    pub(super) fn set_u16(&self, at: u64, value: u16) {
        // SAFETY: as for `get_u16`.
        unsafe { AtomicU16::from_ptr(self.field(at, 2).cast()) }.store(value, Ordering::Release);
    }

    pub(super) fn set_u32(&self, at: u64, value: u32) {
        // SAFETY: as for `get_u16`.
        unsafe { AtomicU32::from_ptr(self.field(at, 4).cast()) }.store(value, Ordering::Release);
    }

    pub(super) fn set_u64(&self, at: u64, value: u64) {
        // SAFETY: as for `get_u16`.
        unsafe { AtomicU64::from_ptr(self.field(at, 8).cast()) }.store(value, Ordering::Release);
    }

    /// A field of `size` octets. Offsets are those of entries below [`Region::entries`]; another one is an error of ours.
    fn field(&self, at: u64, size: u64) -> *mut u8 {
        assert!(at + size <= region_len(self.entries) && at.is_multiple_of(size));
        self.start.wrapping_add(at as usize)
    }
}
