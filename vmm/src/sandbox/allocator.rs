//! The C library's allocator, which must not look at files in a confined thread.
#![allow(unsafe_code)] // mallopt has no safe wrapper

/// Heaps that threads share: the main one and another.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Bounds the number of heaps. Without a bound the GNU C library counts the host's processors, in `/sys`, when the ninth
/// thread allocates. Threads of a machine allocate seldom, so few heaps do, and cost less memory.
pub(super) fn limit() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes integers, and sets one that the allocator reads when a thread first needs a heap.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}
