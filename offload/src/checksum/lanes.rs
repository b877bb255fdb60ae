//! The summing loop, compiled once for each instruction set that is worth it.
//!
//! The loop is plain Rust: each 64-bit word is split into halves that are added up as 64-bit numbers, which cannot overflow
//! below 16 GiB of data and which the compiler turns into vector code of whatever width it is allowed. AVX2 doubles the
//! baseline's speed; AVX-512 was measured and adds nothing to that.
#![allow(unsafe_code)] // Calling code compiled for an instruction set that was found at run time.

/// Below this length the baseline code is as fast as a call to a wider version.
#[cfg(target_arch = "x86_64")]
const WIDE_FROM: usize = 128;

/// The sum of `data` as words in the machine's byte order; folded to 16 bits it is the sum of big-endian 16-bit words,
/// byte-swapped on little-endian machines (RFC 1071, 2 (B)).
#[inline]
pub(super) fn sum_native(data: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if data.len() >= WIDE_FROM && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: `sum_avx2` needs AVX2, which the line above has found in this processor.
        return unsafe { sum_avx2(data) };
    }
    sum_plain(data)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(data: &[u8]) -> u64 {
    sum_plain(data)
}

#[inline(always)]
#[allow(clippy::inline_always)] // It has to take on the instruction set of the function that it is inlined into.
fn sum_plain(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    let (mut low, mut high) = (0, 0);
    for word in words {
        let word = u64::from_ne_bytes(*word);
        low += word & 0xffff_ffff;
        high += word >> 32;
    }
    low + high + sum_rest(rest)
}

/// The same for the up to seven octets behind the last whole word.
#[inline(always)]
#[allow(clippy::inline_always)] // As above.
fn sum_rest(rest: &[u8]) -> u64 {
    let mut total = 0;
    let (words, rest) = rest.as_chunks::<4>();
    if let [word] = words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<2>();
    if let [word] = words {
        total += u64::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn every_version_gives_the_same_sum() {
        let data: Vec<u8> = (0..5000_u32).map(|n| (n * 37 % 251) as u8).collect();
        for len in (0..700).chain([1500, 4096, 4999, 5000]) {
            let plain = sum_plain(&data[..len]);
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: AVX2 was found in this processor.
                assert_eq!(unsafe { sum_avx2(&data[..len]) }, plain, "{len}");
            }
        }
    }
}
