//! An allocator that counts what the switch's workers allocate.
//!
//! The guests of these tests run in the same process and allocate as they like, so a thread is asked for its name.
#![allow(unsafe_code)] // implementing `GlobalAlloc` is unsafe by nature

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static WATCHING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// What the names of threads begin with whose allocations count.
const COUNTED: &[u8] = b"worker-";
/// Octets of a thread's name with its terminator (prctl(2), `PR_GET_NAME`).
const NAME: usize = 16;

/// The system's allocator, counting.
pub(crate) struct Counting;

// SAFETY: each method passes its arguments on to `System` unchanged and returns what that returns, so `System`'s own
// adherence to the trait's contract carries over; `note` neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise about `layout` (a size above 0) is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `alloc` or `realloc` above with this layout, hence from `System`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: `block` came from `System` with this layout, and the caller vouches for `size`.
        unsafe { System.realloc(block, layout, size) }
    }
}

fn note() {
    if WATCHING.load(Ordering::Relaxed) && thread_name().starts_with(COUNTED) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

fn thread_name() -> [u8; NAME] {
    let mut name = [0; NAME];
    // SAFETY: the call writes a name of at most 16 octets, terminator included, which is what `name` has room for.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// How often workers allocate while `work` runs.
pub(crate) fn by_workers(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    WATCHING.store(true, Ordering::SeqCst);
    work();
    WATCHING.store(false, Ordering::SeqCst);
    ALLOCATIONS.load(Ordering::Relaxed) - before
}
