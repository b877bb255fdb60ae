//! The Toeplitz hash: a carry-less multiplication of the input by a key.
//!
//! The hash is the exclusive or of 32-bit windows of the key, one for each bit of the input that is set, the window that
//! starts where the bit stands. For 32 bits of input these windows lie in 64 bits of key, and the whole sum is the middle of
//! the carry-less product of the input word and those 64 bits mirrored. So the key is mirrored once, word by word, and a
//! word of input then costs one `PCLMULQDQ`; a processor without it goes bit by bit.
#![allow(unsafe_code)] // Calling code compiled for an instruction set that was found at run time.

/// A key, prepared for hashing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toeplitz {
    /// Bits 32 n to 32 n + 63 of the key, the first one lowest.
    windows: [u64; WORDS],
}

/// 32-bit words of the longest input: two IPv6 addresses and two ports.
const WORDS: usize = 9;

impl Toeplitz {
    /// Octets of a key: what the longest input needs.
    pub const KEY_LEN: usize = 4 * (WORDS + 1);

    /// A key whose hashes are the same for both directions of a flow, because it repeats every 16 bits (S. Woo and K. Park,
    /// "Scalable TCP Session Monitoring with Symmetric Receive-side Scaling", 2012).
    pub const SYMMETRIC_KEY: [u8; Self::KEY_LEN] = {
        let mut key = [0x6d; Self::KEY_LEN];
        let mut at = 1;
        while at < Self::KEY_LEN {
            key[at] = 0x5a;
            at += 2;
        }
        key
    };

    /// Microsoft's key for "Verifying the RSS hash calculation": a good one where nobody asks for a certain one.
    pub const DEFAULT_KEY: [u8; Self::KEY_LEN] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    /// Prepares a key. Bits that a shorter one lacks are zero.
    pub const fn new(key: &[u8]) -> Self {
        let mut padded = [0; Self::KEY_LEN];
        let mut at = 0;
        while at < Self::KEY_LEN && at < key.len() {
            padded[at] = key[at];
            at += 1;
        }
        let mut windows = [0; WORDS];
        let mut word = 0;
        while word < WORDS {
            let mut octets = [0; 8];
            let mut at = 0;
            while at < 8 {
                octets[at] = padded[4 * word + at];
                at += 1;
            }
            windows[word] = u64::from_be_bytes(octets).reverse_bits();
            word += 1;
        }
        Self { windows }
    }

    /// The hash of an input given as big-endian words; what follows the ninth is ignored.
    #[inline]
    pub fn hash(&self, input: &[u32]) -> u32 {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("pclmulqdq") {
            // SAFETY: the function needs PCLMULQDQ, which the line above has found in this processor.
            return unsafe { self.hash_clmul(input) };
        }
        self.hash_bits(input)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "pclmulqdq")]
    fn hash_clmul(&self, input: &[u32]) -> u32 {
        use std::arch::x86_64::{_mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_xor_si128};
        let mut sum = _mm_cvtsi64_si128(0);
        for (word, window) in input.iter().zip(&self.windows) {
            let word = _mm_cvtsi64_si128(i64::from(*word));
            let window = _mm_cvtsi64_si128(window.cast_signed());
            sum = _mm_xor_si128(sum, _mm_clmulepi64_si128::<0>(word, window));
        }
        ((_mm_cvtsi128_si64(sum).cast_unsigned() >> 31) as u32).reverse_bits()
    }

    /// The definition, for processors without a carry-less multiplication.
    fn hash_bits(&self, input: &[u32]) -> u32 {
        let mut hash = 0;
        for (word, window) in input.iter().zip(&self.windows) {
            let key = window.reverse_bits();
            for bit in 0..32 {
                let set = word << bit >> 31;
                hash ^= (key << bit >> 32) as u32 & set.wrapping_neg();
            }
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_ways_of_hashing_agree(key: [u8; 40], input in prop::collection::vec(any::<u32>(), 0..12)) {
            let toeplitz = Toeplitz::new(&key);
            prop_assert_eq!(toeplitz.hash(&input), toeplitz.hash_bits(&input));
        }

        #[test]
        fn a_short_key_is_one_that_ends_in_zeroes(mut key: [u8; 40], len in 0..40_usize, input: [u32; 9]) {
            let short = Toeplitz::new(&key[..len]);
            key[len..].fill(0);
            prop_assert_eq!(short.hash(&input), Toeplitz::new(&key).hash(&input));
        }

        #[test]
        fn the_symmetric_key_makes_both_directions_one(src: u32, dst: u32, from: u16, to: u16) {
            let toeplitz = Toeplitz::new(&Toeplitz::SYMMETRIC_KEY);
            let ports = |first: u16, second: u16| u32::from(first) << 16 | u32::from(second);
            prop_assert_eq!(
                toeplitz.hash(&[src, dst, ports(from, to)]),
                toeplitz.hash(&[dst, src, ports(to, from)])
            );
        }
    }
}
