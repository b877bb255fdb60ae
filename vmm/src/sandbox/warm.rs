//! Has the C library do what it does once and needs files for, while they can still be opened.
#![allow(unsafe_code)] // mallopt has no safe wrapper

use std::hint::black_box;
use std::io;
use std::thread::Builder;

/// Below the size that the allocator would map on its own.
const BLOCK: usize = 100 << 10;
/// Together well above what a heap keeps at its end.
const BLOCKS: usize = 8;

/// The GNU C library looks at the number of CPUs when more than a few threads have heaps of their own, and at
/// `/proc/sys/vm/overcommit_memory` when such a heap becomes smaller: each the first time.
pub(super) fn allocator() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    set_limits();
    let shrink = || {
        let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| Vec::with_capacity(BLOCK)).collect();
        drop(black_box(blocks));
    };
    let thread = Builder::new().stack_size(64 << 10).spawn(shrink)?;
    // The thread does not panic, and nothing depends on how it ended.
    let _ = thread.join();
    Ok(())
}

/// A limit that is set is not asked for. A heap would keep more after large blocks were freed, and then not shrink here.
#[cfg(target_env = "gnu")]
fn set_limits() {
    /// Heaps for each CPU, beyond which threads share them, and octets that a heap keeps at its end: the library's own.
    const HEAPS: usize = 8;
    const KEPT: libc::c_int = 128 << 10;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let heaps = i32::try_from(HEAPS * cpus).unwrap_or(i32::MAX);
    // SAFETY: the calls take integers; the allocator may be used meanwhile.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, heaps);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}
