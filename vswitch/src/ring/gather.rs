//! Reads the first octets of a chain's segments and leaves the others.
//!
//! `unsafe` is needed to copy out of guest memory.
#![allow(unsafe_code)]

use offload::VnetHeader;

use super::copy::copy;
use crate::frame::Segment;

/// Reads segments from their start, and shortens them by what was read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    segments: &'a mut [Segment],
    current: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(segments: &'a mut [Segment]) -> Self {
        Self { segments, current: 0 }
    }

    /// Fills `out` as far as the segments go.
    #[inline]
    pub(super) fn read(&mut self, out: &mut [u8]) {
        let mut out = out;
        while !out.is_empty() {
            let Some(segment) = self.segments.get_mut(self.current) else {
                return;
            };
            let len = (segment.len as usize).min(out.len());
            let (now, later) = out.split_at_mut(len);
            // SAFETY: a segment is a range of guest memory that the ring checked and keeps mapped; `len` is within both.
            // The guest may write meanwhile: any octets will do, they are judged after the copy.
            unsafe { copy(segment.ptr, now.as_mut_ptr(), len) };
            out = later;
            segment.ptr = segment.ptr.wrapping_add(len);
            segment.len -= len as u32;
            if segment.len == 0 {
                self.current += 1;
            }
        }
    }

    /// The virtio-net header, if the first segment has it in one piece. It goes by registers: what was just stored octet by
    /// octet could not be loaded again without waiting for the stores.
    #[inline]
    pub(super) fn header(&mut self, len: usize) -> Option<VnetHeader> {
        let segment = self.segments.get_mut(self.current)?;
        if len < VnetHeader::LEN || segment.len as usize <= len {
            return None;
        }
        // SAFETY: as for the copy above: the segment has more than these 12 octets. They may be read at any alignment.
        let (low, high) = unsafe {
            (
                segment.ptr.cast::<u64>().read_unaligned(),
                segment.ptr.add(8).cast::<u32>().read_unaligned(),
            )
        };
        segment.ptr = segment.ptr.wrapping_add(len);
        segment.len -= len as u32;
        let (low, high) = (u64::from_le(low), u32::from_le(high));
        // Without flags and a kind of segmentation the other fields mean nothing (virtio 1.2, 5.1.6.2).
        if low as u16 == 0 {
            return Some(VnetHeader::default());
        }
        Some(VnetHeader::from_words(low, high))
    }

    /// Leaves octets out, as far as the segments go.
    #[inline]
    pub(super) fn skip(&mut self, len: usize) {
        let mut left = len;
        while left > 0 {
            let Some(segment) = self.segments.get_mut(self.current) else {
                return;
            };
            let now = (segment.len as usize).min(left);
            segment.ptr = segment.ptr.wrapping_add(now);
            segment.len -= now as u32;
            left -= now;
            if segment.len == 0 {
                self.current += 1;
            }
        }
    }

    /// How many segments were read to their end.
    pub(super) fn finish(self) -> usize {
        self.current
    }
}

/// Fetches the first cache lines of `len` octets ahead, to be written; any address will do.
#[inline]
pub(super) fn prefetch_to_write(at: *const u8, len: u64) {
    prefetch_lines_to_write(at, 0..len.min(WRITTEN_AHEAD));
}

/// Fetches what [`prefetch_to_write`] leaves of `len` octets, up to most frames' whole.
#[inline]
pub(super) fn prefetch_rest_to_write(at: *const u8, len: u64) {
    prefetch_lines_to_write(at, WRITTEN_AHEAD..len.min(READ_AHEAD.into()));
}

#[inline]
fn prefetch_lines_to_write(at: *const u8, octets: core::ops::Range<u64>) {
    #[cfg(target_arch = "x86_64")]
    for line in octets.step_by(64) {
        let at = at.wrapping_add(line as usize);
        // SAFETY: a prefetch is a hint that never faults, whatever the address. Processors without the instruction take it for
        // one that does nothing (AMD64 manual, volume 3, PREFETCHW). It touches no register and no memory that Rust knows of.
        unsafe {
            std::arch::asm!("prefetchw [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, octets);
}

/// Octets of a buffer that are fetched ahead to be written; the processor sees by itself how it goes on.
const WRITTEN_AHEAD: u64 = 256;

/// Octets of a segment that are fetched while the frame before is copied: most frames' whole.
const READ_AHEAD: u32 = 1536;

/// Fetches the start of what a copy will read next. Left to the processor, which sees a pattern only after some lines of each frame, those
/// lines are waited for.
#[inline]
pub(crate) fn prefetch_tail(tail: &[Segment]) {
    let Some(first) = tail.first() else { return };
    for line in (0..first.len.min(READ_AHEAD)).step_by(64) {
        prefetch(first.ptr.wrapping_add(line as usize));
    }
}

/// Fetches a cache line ahead of its use; any address will do.
#[inline]
pub(super) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint that never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
