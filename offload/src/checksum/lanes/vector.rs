//! The summing loop of three operations a vector, for vectors of any width.
#![allow(clippy::inline_always)] // Intrinsics become instructions only inside a version's own instruction set.
#![allow(unsafe_code)] // Loads and stores by raw pointers; intrinsics of instruction sets that were found at run time.

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64 as arch;

/// Words of 64 bits that are added up side by side.
///
/// # Safety
/// All methods need a processor with the vector's instruction set; `load` and `store` need `LEN` octets there, at
/// any alignment.
pub(super) trait Vector: Copy {
    /// Octets of a vector.
    const LEN: usize;

    unsafe fn zero() -> Self;
    unsafe fn load(src: *const u8) -> Self;
    unsafe fn store(self, dst: *mut u8);
    /// Sums modulo 2^64.
    unsafe fn add(self, other: Self) -> Self;
    /// The words' upper halves.
    unsafe fn high(self) -> Self;
    /// Given the exact sum of the upper halves, the sum of both halves of all words that were added up to this.
    unsafe fn total(self, high: Self) -> u64;
}

impl Vector for u64 {
    const LEN: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        0
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> Self {
        // SAFETY: the trait's promise.
        unsafe { src.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the trait's promise.
        unsafe { dst.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    #[inline(always)]
    unsafe fn high(self) -> Self {
        self >> 32
    }

    #[inline(always)]
    unsafe fn total(self, high: Self) -> u64 {
        self.wrapping_sub(high << 32) + high
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for arch::__m128i {
    const LEN: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: each x86-64 processor has SSE2. So below.
        unsafe { arch::_mm_setzero_si128() }
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> Self {
        // SAFETY: the trait's promise.
        unsafe { arch::_mm_loadu_si128(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the trait's promise.
        unsafe { arch::_mm_storeu_si128(dst.cast(), self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as in `zero`.
        unsafe { arch::_mm_add_epi64(self, other) }
    }

    #[inline(always)]
    unsafe fn high(self) -> Self {
        // SAFETY: as in `zero`.
        unsafe { arch::_mm_srli_epi64::<32>(self) }
    }

    #[inline(always)]
    unsafe fn total(self, high: Self) -> u64 {
        // SAFETY: as in `zero`.
        unsafe {
            let low = arch::_mm_sub_epi64(self, arch::_mm_slli_epi64::<32>(high));
            let sum = arch::_mm_add_epi64(low, high);
            let sum = arch::_mm_add_epi64(sum, arch::_mm_unpackhi_epi64(sum, sum));
            arch::_mm_cvtsi128_si64(sum) as u64
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for arch::__m256i {
    const LEN: usize = 32;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's promise: the processor has AVX2. So below.
        unsafe { arch::_mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> Self {
        // SAFETY: the trait's promise, about the octets too.
        unsafe { arch::_mm256_loadu_si256(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the trait's promise, about the octets too.
        unsafe { arch::_mm256_storeu_si256(dst.cast(), self) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as in `zero`.
        unsafe { arch::_mm256_add_epi64(self, other) }
    }

    #[inline(always)]
    unsafe fn high(self) -> Self {
        // SAFETY: as in `zero`.
        unsafe { arch::_mm256_srli_epi64::<32>(self) }
    }

    #[inline(always)]
    unsafe fn total(self, high: Self) -> u64 {
        // SAFETY: as in `zero`.
        unsafe {
            let low = arch::_mm256_sub_epi64(self, arch::_mm256_slli_epi64::<32>(high));
            let sum = arch::_mm256_add_epi64(low, high);
            let half = arch::_mm256_extracti128_si256::<1>(sum);
            let sum = arch::_mm_add_epi64(arch::_mm256_castsi256_si128(sum), half);
            arch::_mm_cvtsi128_si64(arch::_mm_add_epi64(sum, arch::_mm_unpackhi_epi64(sum, sum))) as u64
        }
    }
}

/// Sums `len` octets of `src` with vectors `V`, and copies them to `dst` if `COPY`.
///
/// # Safety
/// The processor must have the vector's instruction set, `src` must be readable for `len` octets and, if `COPY`, `dst` writable
/// and apart from `src`.
#[inline(always)]
pub(super) unsafe fn run<V: Vector, const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> u64 {
    let mut at = 0;
    // SAFETY: `len - at` octets are left of both, and each vector is taken only where that many are.
    unsafe {
        let (mut all, mut high) = ([V::zero(); 2], [V::zero(); 2]);
        while len - at >= 4 * V::LEN {
            for step in 0..4 {
                let words = take::<V, COPY>(dst, src, &mut at);
                all[step % 2] = all[step % 2].add(words);
                high[step % 2] = high[step % 2].add(words.high());
            }
        }
        while len - at >= V::LEN {
            let words = take::<V, COPY>(dst, src, &mut at);
            all[0] = all[0].add(words);
            high[0] = high[0].add(words.high());
        }
        let mut total = all[0].add(all[1]).total(high[0].add(high[1]));
        while len - at >= u64::LEN {
            let word = take::<u64, COPY>(dst, src, &mut at);
            total += (word & 0xffff_ffff) + (word >> 32);
        }
        total + last::<COPY>(dst, src, at, len)
    }
}

/// # Safety
/// That of [`run`], for the vector at `at`.
#[inline(always)]
unsafe fn take<V: Vector, const COPY: bool>(dst: *mut u8, src: *const u8, at: &mut usize) -> V {
    // SAFETY: the caller's promise.
    let words = unsafe { V::load(src.add(*at)) };
    if COPY {
        // SAFETY: the caller's promise.
        unsafe { words.store(dst.add(*at)) };
    }
    *at += V::LEN;
    words
}

/// The up to seven octets from `at` on.
///
/// # Safety
/// That of [`run`].
#[inline(always)]
unsafe fn last<const COPY: bool>(dst: *mut u8, src: *const u8, at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    for (offset, octet) in word.iter_mut().enumerate().take(len - at) {
        // SAFETY: `at + offset` is below `len`.
        unsafe {
            *octet = src.add(at + offset).read();
            if COPY {
                dst.add(at + offset).write(*octet);
            }
        }
    }
    let word = u64::from_ne_bytes(word);
    (word & 0xffff_ffff) + (word >> 32)
}
