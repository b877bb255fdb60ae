//! The summing loop, compiled once for each instruction set that is worth it.
//!
//! The loop is plain Rust: each 64-bit word is split into halves that are added up in 64-bit lanes, which cannot overflow
//! below 16 GiB of data and which a compiler turns into vector code of whatever width it is allowed.
#![allow(unsafe_code)] // Calling code compiled for an instruction set that was found at run time.

/// Octets per turn of the main loop: one AVX-512 register, two AVX2 registers.
const BLOCK: usize = 64;
const LANES: usize = BLOCK / 8;

/// Below this length the baseline code is as fast as a call to a wider version.
#[cfg(target_arch = "x86_64")]
const WIDE_FROM: usize = 256;

/// The sum of `data` as 32-bit words in the machine's byte order, the last word padded with zeros; folded to 16 bits
/// it is the byte-swapped (on little-endian machines) sum of big-endian 16-bit words (RFC 1071, 2 (B)).
#[inline]
pub(super) fn sum_native(data: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if data.len() >= WIDE_FROM {
        return sum_wide(data);
    }
    sum_plain(data)
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn sum_wide(data: &[u8]) -> u64 {
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: `sum_avx512` needs AVX-512F, which the line above has found in this processor.
        return unsafe { sum_avx512(data) };
    }
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: `sum_avx2` needs AVX2, which the line above has found in this processor.
        return unsafe { sum_avx2(data) };
    }
    sum_plain(data)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(data: &[u8]) -> u64 {
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
    let (blocks, rest) = data.as_chunks::<BLOCK>();
    let mut low = [0_u64; LANES];
    let mut high = [0_u64; LANES];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in words.iter().enumerate() {
            let word = u64::from_ne_bytes(*word);
            low[lane] += word & 0xffff_ffff;
            high[lane] += word >> 32;
        }
    }
    low.iter().sum::<u64>() + high.iter().sum::<u64>() + sum_rest(rest)
}

#[inline(always)]
#[allow(clippy::inline_always)] // As above.
fn sum_rest(rest: &[u8]) -> u64 {
    let (words, tail) = rest.as_chunks::<8>();
    let mut total = 0;
    for word in words {
        let word = u64::from_ne_bytes(*word);
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    let last = u64::from_ne_bytes(last);
    total + (last & 0xffff_ffff) + (last >> 32)
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
            if std::arch::is_x86_feature_detected!("avx512f") {
                // SAFETY: AVX-512F was found in this processor.
                assert_eq!(unsafe { sum_avx512(&data[..len]) }, plain, "{len}");
            }
        }
    }
}
