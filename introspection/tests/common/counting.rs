//! An allocator that counts.
#![allow(unsafe_code)] // implementing `GlobalAlloc` is unsafe by nature

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static OCTETS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counting.
pub(crate) struct Counting;

// SAFETY: each method passes its arguments on to `System` unchanged and returns what that returns, so `System`'s own
// adherence to the trait's contract carries over; the counter neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        OCTETS.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout` (a size above 0) is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        OCTETS.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: `block` came from `alloc` or `realloc` above with this layout, hence from `System`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        OCTETS.fetch_add(size as u64, Ordering::Relaxed);
        OCTETS.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: `block` came from `System` with this layout, and the caller vouches for `size`.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// How often `work` allocates.
#[allow(dead_code)] // as `allocated`
pub(crate) fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Octets that are allocated now.
#[allow(dead_code)] // of those who share this file, some only count
pub(crate) fn allocated() -> u64 {
    OCTETS.load(Ordering::Relaxed)
}
