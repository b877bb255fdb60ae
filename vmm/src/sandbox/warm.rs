//! Has the C library do what it does once and needs files for, while they can still be opened.
#![allow(unsafe_code)] // mallopt has no safe wrapper

use std::hint::black_box;
use std::io;
use std::thread::Builder;

/// Below the size that the allocator would map on its own.
const BLOCK: usize = 100 << 10;
/// What a heap may keep at its end; more goes back to the system.
const KEPT: i32 = 128 << 10;
/// Heaps that all threads share: they allocate seldom.
const HEAPS: i32 = 2;
/// Together well above that.
const BLOCKS: usize = 8;

/// The GNU C library looks at `/proc/sys/vm/overcommit_memory` when the heap of a thread beside the first becomes smaller for the
/// first time, and at the number of processors when the ninth thread allocates, unless the number of heaps has a bound.
pub(super) fn allocator() -> io::Result<()> {
    set_bounds();
    let shrink = || {
        let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| Vec::with_capacity(BLOCK)).collect();
        drop(black_box(blocks));
    };
    let thread = Builder::new().stack_size(64 << 10).spawn(shrink)?;
    // The thread does not panic, and nothing depends on how it ended.
    let _ = thread.join();
    Ok(())
}

/// Without the first the allocator would keep more after large blocks were freed, and then not shrink here.
fn set_bounds() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the calls take integers; the allocator may be used meanwhile.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}
