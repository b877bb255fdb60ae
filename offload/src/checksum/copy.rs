//! Copying and summing in one pass.
#![allow(unsafe_code)] // Passes raw pointers on.

use super::{fold, lanes};

/// Copies `src` to `dst` and returns the sum of what was copied, as [`super::sum`] would: `src` is read once and `dst` not at all.
///
/// # Panics
/// When the lengths differ, as [`slice::copy_from_slice`] does.
#[inline]
pub fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
    assert_eq!(dst.len(), src.len(), "a copy has the length of its source");
    // SAFETY: both slices have this many octets, and one that is borrowed mutably overlaps no other.
    unsafe { copy_and_sum_raw(dst.as_mut_ptr(), src.as_ptr(), src.len()) }
}

/// [`copy_and_sum`] for memory that cannot be borrowed, such as a guest's, or that is not initialized yet.
///
/// Should somebody else write to `src` meanwhile, any mixture of old and new octets may be copied, but the sum is that of
/// the copy: each octet is read once.
///
/// # Safety
/// `len` octets must be readable at `src` and writable at `dst`, and the two ranges must not overlap.
#[inline]
pub unsafe fn copy_and_sum_raw(dst: *mut u8, src: *const u8, len: usize) -> u64 {
    // SAFETY: the caller's promises are the same.
    let sum = unsafe { lanes::copy_native(dst, src, len) };
    u64::from(u16::from_be(fold(sum)))
}
