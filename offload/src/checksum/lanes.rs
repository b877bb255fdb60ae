//! The summing loops, and which of them this processor gets.
//!
//! A 64-bit word is added as it is, modulo 2^64, and its upper half once more to a sum of its own. The second sum is exact
//! below 16 GiB of data, so the first one's lost carries can be worked out at the end: three operations a vector. SSE2,
//! AVX2 and other machines' 64-bit registers share that loop; AVX-512 has two of its own.
//!
//! Measured on an EPYC of family 25, model 17 (Zen 4), in GB/s at 1500 and 65,536 octets: adding both halves masked, four
//! operations, 56 and 103 with AVX2; this loop left to the compiler to vectorize 61 and 114, and as it is 82 and 113. What
//! AVX-512 was tried with is told in [`avx512`].
#![allow(unsafe_code)] // Calls code for an instruction set that was found at run time, through raw pointers.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod vector;

use core::sync::atomic::{AtomicPtr, Ordering};

/// One version of the loop: sums `len` octets at the second pointer and, in versions that copy, stores them at the first.
///
/// Calling it needs its instruction set, `len` readable octets at the second pointer and, to copy, as many writable ones at the
/// first that the others do not overlap.
type Version = unsafe fn(dst: *mut u8, src: *const u8, len: usize) -> u64;

/// The [`Version`]s in use: at first the one that looks for the best and puts it here.
static SUM: AtomicPtr<()> = AtomicPtr::new(choose::<false> as *mut ());
static COPY: AtomicPtr<()> = AtomicPtr::new(choose::<true> as *mut ());

/// The sum of `data` as words in the machine's byte order; folded to 16 bits it is the sum of big-endian 16-bit words,
/// byte-swapped on little-endian machines (RFC 1071, 2 (B)). It is 0 only if all octets are.
#[inline]
pub(super) fn sum_native(data: &[u8]) -> u64 {
    // SAFETY: the slice may be read, and nothing is written.
    unsafe { call(&SUM, core::ptr::null_mut(), data.as_ptr(), data.len()) }
}

/// Copies `len` octets and returns what [`sum_native`] would of the copy. Each octet of `src` is read once.
///
/// # Safety
/// `src` must be readable and `dst` writable for `len` octets, and they must not overlap.
#[inline]
pub(super) unsafe fn copy_native(dst: *mut u8, src: *const u8, len: usize) -> u64 {
    // SAFETY: the caller's promises.
    unsafe { call(&COPY, dst, src, len) }
}

/// # Safety
/// `chosen` must be one of the statics here; the rest is [`Version`]'s.
#[inline]
unsafe fn call(chosen: &AtomicPtr<()>, dst: *mut u8, src: *const u8, len: usize) -> u64 {
    // SAFETY: only `choose` stores there, and what it stores is a `Version` that this processor has.
    unsafe {
        let version = core::mem::transmute::<*mut (), Version>(chosen.load(Ordering::Relaxed));
        version(dst, src, len)
    }
}

/// Finds the best version, for all calls to come, and calls it. Threads that get here at once find the same.
///
/// # Safety
/// [`Version`]'s.
#[cold]
unsafe fn choose<const COPIES: bool>(dst: *mut u8, src: *const u8, len: usize) -> u64 {
    let version = best::<COPIES>();
    let chosen = if COPIES { &COPY } else { &SUM };
    chosen.store(version as *mut (), Ordering::Relaxed);
    // SAFETY: the processor has the instruction set, and the rest is the caller's promise.
    unsafe { version(dst, src, len) }
}

fn best<const COPIES: bool>() -> Version {
    #[cfg(target_arch = "x86_64")]
    {
        if has_avx512() {
            return avx512::run::<COPIES>;
        }
        if is_x86_feature_detected!("avx2") {
            return avx2::<COPIES>;
        }
    }
    baseline::<COPIES>
}

/// Processors that have AVX-512 with VNNI run it without a penalty on their clock, unlike the first ones with AVX-512.
#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// # Safety
/// [`Version`]'s.
unsafe fn baseline<const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> u64 {
    #[cfg(target_arch = "x86_64")]
    type Widest = core::arch::x86_64::__m128i;
    #[cfg(not(target_arch = "x86_64"))]
    type Widest = u64;
    // SAFETY: the caller's promises are the same; each x86-64 processor has SSE2.
    unsafe { vector::run::<Widest, COPY>(dst, src, len) }
}

/// # Safety
/// [`Version`]'s, with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2<const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> u64 {
    // SAFETY: the caller's promises are the same.
    unsafe { vector::run::<core::arch::x86_64::__m256i, COPY>(dst, src, len) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::fold;

    fn versions<const COPIES: bool>() -> Vec<(&'static str, Version)> {
        let mut versions: Vec<(_, Version)> = vec![("baseline", baseline::<COPIES>)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                versions.push(("AVX2", avx2::<COPIES>));
            }
            if has_avx512() {
                versions.push(("AVX-512", avx512::run::<COPIES>));
            }
        }
        versions
    }

    /// RFC 1071 word by word.
    fn reference(data: &[u8]) -> u16 {
        let words = data.chunks(2).map(|word| match *word {
            [a, b] => u64::from(u16::from_ne_bytes([a, b])),
            _ => u64::from(u16::from_ne_bytes([word[0], 0])),
        });
        fold(words.sum())
    }

    /// Lengths around every change of loop and block.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..700).chain([1447, 1448, 1500, 4096, 9000]).chain([
            65_535, 65_536, 130_559, 130_560, 130_561, 130_623, 131_072, 262_144,
        ])
    }

    #[test]
    fn every_version_sums_alike_wherever_the_data_stands() {
        let random: Vec<u8> = (0..262_400_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for data in [random, vec![0xff; 262_400], vec![0; 262_400]] {
            for (len, start) in lengths().flat_map(|len| [0, 1, 6, 63, 64].map(|start| (len, start))) {
                let data = &data[start..start + len];
                for (name, version) in versions::<false>() {
                    // SAFETY: its instruction set was found in this processor; nothing is copied.
                    let sum = unsafe { version(core::ptr::null_mut(), data.as_ptr(), len) };
                    assert_eq!(fold(sum), reference(data), "{name}, {len} octets at {start}");
                }
            }
        }
    }

    #[test]
    fn every_version_copies_what_it_sums() {
        let data: Vec<u8> = (0..262_400_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect();
        for (len, start) in lengths().flat_map(|len| [0, 1, 54].map(|start| (len, start))) {
            let data = &data[start..start + len];
            for (name, version) in versions::<true>() {
                let mut copy = vec![0xee; len + 65];
                // SAFETY: its instruction set was found in this processor; `copy` has more than `len` octets of its own.
                let sum = unsafe { version(copy.as_mut_ptr().add(1), data.as_ptr(), len) };
                assert_eq!(fold(sum), reference(data), "{name}, {len} octets at {start}");
                assert_eq!(&copy[1..=len], data, "{name}, {len} octets");
                assert!(copy[0] == 0xee && copy[len + 1..].iter().all(|octet| *octet == 0xee));
            }
        }
    }
}
