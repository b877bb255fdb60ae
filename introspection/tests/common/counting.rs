//! An allocator that counts.
#![allow(unsafe_code)] // implementing `GlobalAlloc` is unsafe by nature

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static OCTETS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Of this thread: the test harness has others.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
pub(crate) struct Counting;

// SAFETY: each method passes its arguments on to `System` unchanged and returns what that returns, so `System`'s own
// adherence to the trait's contract carries over; the counters, of which the thread's own needs no initialisation and no destructor, neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        OCTETS.fetch_add(size as u64, Ordering::Relaxed);
        OCTETS.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: `block` came from `System` with this layout, and the caller vouches for `size`.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// How often `work` allocates.
#[allow(dead_code)] // as `allocated`
pub(crate) fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Octets that are allocated now.
#[allow(dead_code)] // of those who share this file, some only count
pub(crate) fn allocated() -> u64 {
    OCTETS.load(Ordering::Relaxed)
}
