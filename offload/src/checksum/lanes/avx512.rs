//! Summing with AVX-512: vectors of 64 octets, the last one masked.
//!
//! Short data takes the loop of three operations a vector that the parent module describes. Long data takes two: the top bit of each
//! 16-bit word is flipped, which makes it a signed word that is 0x8000 less, and `vpdpwssd` (VNNI) adds pairs of those to 32-bit sums. A
//! vector of 32 words thus counts 2^20 less than it should, which is added at the end. Long data is loaded from aligned addresses,
//! since a vector across two cache lines costs twice: the octets before the start are masked out (they count as 0), and a sum from an
//! odd address comes out byte-swapped (RFC 1071, 2 (B)).
//!
//! Also tried, GB/s at 1500 and 65,536 octets: whole 32-bit words added, and their top octets once more by `vpdpbusd` to find what ran
//! over, 115 and 117 (as many operations in the loop, but twice as many sums to join at its end); `vpdpbusd` twice, once for low and once
//! for high octets, 104 and 116; counting carries by comparison 98 and 115; trees of carry-save adders (`vpternlogq`) of four and eight
//! vectors 98 and 82, and 117; this 145 and 117, which reading alone reaches too at the latter (165 and 118).
#![allow(unsafe_code)] // Loads and stores by raw pointers.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_add_epi64, _mm512_dpwssd_epi32, _mm512_loadu_si512,
    _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_reduce_add_epi32, _mm512_reduce_add_epi64,
    _mm512_set1_epi16, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_storeu_si512,
    _mm512_sub_epi64, _mm512_xor_si512,
};

use crate::checksum::fold;

/// Octets of a vector.
const VECTOR: usize = 64;
/// From this length on, aligning and four pairs of accumulators pay.
const LONG: usize = 512;
/// Octets that one block may have, with the vector in front of it that aligning takes: fewer than 2048 vectors, each of which adds less
/// than 2^20 to the sum of all 32-bit sums, or takes no more from it.
const BLOCK: usize = 2040 * VECTOR;

/// # Safety
/// That of the parent's `Version`, with AVX-512 F, BW and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn run<const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> u64 {
    let mut cursor = Cursor::<COPY> { dst, src, left: len };
    // SAFETY: the caller's promises make the cursor's: `left` octets may be read and, if COPY, written.
    unsafe { if len < LONG { cursor.short() } else { cursor.long() } }
}

/// What is still to be summed. Where `COPY` holds, `dst` moves along with `src`; else it means nothing.
///
/// Each method relies on `left` octets behind `src` (and `dst`) being accessible, and keeps it so.
struct Cursor<const COPY: bool> {
    dst: *mut u8,
    src: *const u8,
    left: usize,
}

/// Sums of 64-bit words modulo 2^64 and of their upper halves.
#[derive(Clone, Copy)]
struct Halves {
    all: __m512i,
    high: __m512i,
}

/// Sums of 16-bit words less 0x8000 each.
#[derive(Clone, Copy)]
struct Words(__m512i);

impl<const COPY: bool> Cursor<COPY> {
    /// # Safety
    /// A whole vector must be left.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn whole(&mut self) -> __m512i {
        // SAFETY: a vector's octets are left, and so is `src + VECTOR` at most one past their end.
        unsafe {
            let octets = _mm512_loadu_si512(self.src.cast());
            if COPY {
                _mm512_storeu_si512(self.dst.cast(), octets);
                self.dst = self.dst.add(VECTOR);
            }
            self.src = self.src.add(VECTOR);
            self.left -= VECTOR;
            octets
        }
    }

    /// # Safety
    /// 1 to 63 octets must be left.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn last(&mut self) -> __m512i {
        let mask = u64::MAX >> (VECTOR - self.left);
        self.left = 0;
        // SAFETY: the mask lets only the octets that are left be accessed.
        unsafe {
            let octets = _mm512_maskz_loadu_epi8(mask, self.src.cast());
            if COPY {
                _mm512_mask_storeu_epi8(self.dst.cast(), mask, octets);
            }
            octets
        }
    }

    /// # Safety
    /// The cursor's own.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn short(&mut self) -> u64 {
        let mut sums = [Halves::new(); 2];
        // SAFETY: each vector was seen to be left before it is taken.
        unsafe {
            while self.left >= 2 * VECTOR {
                sums[0].add(self.whole());
                sums[1].add(self.whole());
            }
            if self.left >= VECTOR {
                sums[0].add(self.whole());
            }
            if self.left > 0 {
                sums[1].add(self.last());
            }
        }
        let [first, second] = sums;
        let all = _mm512_add_epi64(first.all, second.all);
        let high = _mm512_add_epi64(first.high, second.high);
        let low = _mm512_sub_epi64(all, _mm512_slli_epi64::<32>(high));
        _mm512_reduce_add_epi64(_mm512_add_epi64(low, high)) as u64
    }

    /// # Safety
    /// The cursor's own; LONG octets must be left.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn long(&mut self) -> u64 {
        let odd = !COPY && self.src.addr() & 1 == 1;
        let mut sums = [Words::new(); 4];
        let mut start = self.src.addr();
        if !COPY {
            start -= start % VECTOR;
            // SAFETY: more than a vector is left.
            unsafe { self.align(&mut sums[3]) };
        }
        let mut total = 0;
        while self.left > BLOCK {
            // SAFETY: more octets are left than are taken.
            unsafe { self.take(&mut sums, self.left - BLOCK) };
            total += Words::total(&sums, (self.src.addr() - start) / VECTOR);
            start = self.src.addr();
            sums = [Words::new(); 4];
        }
        let end = self.src.addr() + self.left;
        // SAFETY: the cursor's promise is this function's too.
        unsafe { self.take(&mut sums, 0) };
        total += Words::total(&sums, (end - start).div_ceil(VECTOR));
        if odd {
            u64::from(fold(total).swap_bytes())
        } else {
            total
        }
    }

    /// Goes on to the next aligned address.
    ///
    /// # Safety
    /// A whole vector must be left.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn align(&mut self, sums: &mut Words) {
        let before = self.src.addr() % VECTOR;
        if before > 0 {
            let start = self.src.wrapping_sub(before);
            // SAFETY: the mask hides the octets before `src`, and the others are fewer than a vector's.
            sums.add(unsafe { _mm512_maskz_loadu_epi8(u64::MAX << before, start.cast()) });
            self.src = start.wrapping_add(VECTOR);
            self.left -= VECTOR - before;
        }
    }

    /// Takes whole vectors until fewer than one is left besides `rest` octets, and then the last ones if that is 0.
    ///
    /// # Safety
    /// The cursor's own.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn take(&mut self, sums: &mut [Words; 4], rest: usize) {
        // SAFETY: each vector was seen to be left before it is taken.
        unsafe {
            while self.left - rest >= 4 * VECTOR {
                sums[0].add(self.whole());
                sums[1].add(self.whole());
                sums[2].add(self.whole());
                sums[3].add(self.whole());
            }
            if self.left - rest >= 2 * VECTOR {
                sums[0].add(self.whole());
                sums[1].add(self.whole());
            }
            if self.left - rest >= VECTOR {
                sums[2].add(self.whole());
            }
            if rest == 0 && self.left > 0 {
                sums[3].add(self.last());
            }
        }
    }
}

impl Halves {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            all: zero,
            high: zero,
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(&mut self, words: __m512i) {
        self.all = _mm512_add_epi64(self.all, words);
        self.high = _mm512_add_epi64(self.high, _mm512_srli_epi64::<32>(words));
    }
}

impl Words {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new() -> Self {
        Self(_mm512_setzero_si512())
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn add(&mut self, words: __m512i) {
        let signed = _mm512_xor_si512(words, _mm512_set1_epi16(i16::MIN));
        self.0 = _mm512_dpwssd_epi32(self.0, signed, _mm512_set1_epi16(1));
    }

    /// The sum of a block of so many vectors.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn total(sums: &[Self; 4], vectors: usize) -> u64 {
        let [a, b, c, d] = sums;
        let four = _mm512_add_epi32(_mm512_add_epi32(a.0, b.0), _mm512_add_epi32(c.0, d.0));
        let sum = i64::from(_mm512_reduce_add_epi32(four));
        ((vectors as u64) << 20).wrapping_add_signed(sum)
    }
}
