//! Writes octets into a chain's segments, one after the other.
//!
//! `unsafe` is needed to copy between the memories of two guests.
#![allow(unsafe_code)]

use offload::VnetHeader;

use super::chain::Single;
use super::copy::copy;
use super::gather;
use crate::frame::Segment;

/// Buffers that a frame is going to be copied into.
#[derive(Debug, Default)]
pub(super) struct Plan(pub(super) Vec<Segment>);

// SAFETY: segments are addresses in memory that is mapped for the whole process, so the thread does not matter; a plan is
// made and used within one call, while its ring keeps that memory mapped.
unsafe impl Send for Plan {}

/// The buffers of a burst, each of which holds a whole frame.
#[derive(Debug, Default)]
pub(super) struct Buffers(pub(super) Vec<Single>);

// SAFETY: as for a plan.
unsafe impl Send for Buffers {}

/// A virtio-net header on its way to a driver.
#[derive(Clone, Copy, Debug)]
pub(super) enum Header<'a> {
    /// The usual 12 octets, see [`VnetHeader::to_words`]; what was just stored octet by octet is loaded only after a wait.
    Words(u64, u32),
    /// Any others.
    Octets(&'a [u8]),
}

/// Whether the usual header of a buffer ends where a cache line does, so that no octets of the frame are in its line.
#[inline]
fn has_own_line(buffer: *const u8) -> bool {
    (buffer as usize + VnetHeader::LEN).is_multiple_of(64)
}

/// Fetches ahead the lines of a buffer that [`fill`] will write `need` octets to, a header of `header_len` among them; any
/// address will do.
#[inline]
pub(super) fn prefetch(buffer: *const u8, header_len: usize, need: u64) {
    let own = header_len == VnetHeader::LEN && has_own_line(buffer);
    let unwritten = if own { VnetHeader::LEN } else { 0 };
    if own {
        gather::prefetch(buffer);
    }
    gather::prefetch_to_write(buffer.wrapping_add(unwritten), need - unwritten as u64);
}

/// Fills one segment from its start: a header, private octets, and the first octets of a sender's segments, `left` of
/// which follow.
///
/// `segment` comes from walking a chain of writable buffers in memory that stays mapped meanwhile; it has room for
/// all of that, or what there is no room for is left out.
#[allow(clippy::inline_always)] // A call for each small frame costs as much as its copy.
#[inline(always)]
pub(super) fn fill(segment: Segment, header: Header<'_>, head: &[u8], tail: &[Segment], left: usize) {
    let mut at = 0;
    if let Header::Words(low, high) = header
        && segment.len as usize >= VnetHeader::LEN
    {
        // SAFETY: as for the copy in `Writer`; the segment has these 12 octets, which may be at any alignment. What is read may
        // change meanwhile: a guest that writes there loses its own frame's header.
        unsafe {
            let to = segment.ptr.cast_mut();
            let (low, high) = (low.to_le(), high.to_le());
            let is_there = has_own_line(to)
                && to.cast::<u64>().read_unaligned() == low
                && to.add(8).cast::<u32>().read_unaligned() == high;
            if !is_there {
                to.cast::<u64>().write_unaligned(low);
                to.add(8).cast::<u32>().write_unaligned(high);
            }
        }
        at = VnetHeader::LEN;
    }
    let mut put = |from: *const u8, len: usize| {
        let len = len.min(segment.len as usize - at);
        // SAFETY: as for the copy in `Writer`; `at + len` stays within the segment.
        unsafe { copy(from, segment.ptr.cast_mut().add(at), len) };
        at += len;
    };
    if let Header::Octets(octets) = header {
        put(octets.as_ptr(), octets.len());
    }
    put(head.as_ptr(), head.len());
    let mut left = left;
    for segment in tail {
        let len = (segment.len as usize).min(left);
        put(segment.ptr, len);
        left -= len;
    }
}

/// Fills segments of writable guest memory from their start.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    /// What is left; the first one was written up to `offset`.
    segments: &'a [Segment],
    offset: usize,
}

impl<'a> Writer<'a> {
    /// `segments` come from walking a chain of writable buffers in memory that stays mapped meanwhile.
    pub(super) fn new(segments: &'a [Segment]) -> Self {
        Self { segments, offset: 0 }
    }

    /// Writes private octets, as far as there is room.
    pub(super) fn write(&mut self, octets: &[u8]) {
        self.copy(octets.as_ptr(), octets.len());
    }

    /// Copies the first `len` octets of a sender's segment, as far as there is room.
    pub(super) fn write_segment(&mut self, segment: Segment, len: usize) {
        self.copy(segment.ptr, len.min(segment.len as usize));
    }

    #[inline]
    fn copy(&mut self, from: *const u8, len: usize) {
        let mut from = from;
        let mut left = len;
        while left > 0 {
            let Some(segment) = self.segments.first() else {
                return;
            };
            let room = segment.len as usize - self.offset;
            let now = room.min(left);
            // SAFETY: the destination is a buffer that the ring found in its guest's mapped memory and writable, and
            // `now` stays within it. The source is a private slice, or a segment of the sender's memory, which its
            // port keeps mapped until the burst is completed. Guests may write either meanwhile, or share memory so
            // that the two overlap: hence a copy with memmove's semantics, of octets that nobody borrows.
            unsafe { copy(from, segment.ptr.cast_mut().add(self.offset), now) };
            from = from.wrapping_add(now);
            left -= now;
            self.offset += now;
            if now == room {
                self.segments = &self.segments[1..];
                self.offset = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_written_wherever_its_buffer_is_and_whatever_was_there() {
        let vnet = VnetHeader {
            gso_size: 1448,
            num_buffers: 1,
            ..VnetHeader::default()
        };
        let frame: Vec<u8> = (1..=60).collect();
        let expected = [&vnet.to_bytes()[..], &frame].concat();
        let (low, high) = vnet.to_words();
        for offset in 0..64 {
            let half = [&expected[..8], &[0xff; 64]].concat();
            for before in [expected.clone(), half, vec![0xff; 72], vec![0; 72]] {
                let mut memory = vec![0xaa_u8; 256];
                let start = memory.as_ptr().align_offset(64) + offset;
                memory[start..start + 72].copy_from_slice(&before);
                let segment = Segment {
                    ptr: memory.as_mut_ptr().wrapping_add(start),
                    len: 72,
                };
                prefetch(segment.ptr, VnetHeader::LEN, 72);
                fill(segment, Header::Words(low, high), &frame, &[], 0);
                assert_eq!(memory[start..start + 72], expected, "{offset}");
                assert!(
                    memory[..start]
                        .iter()
                        .chain(&memory[start + 72..])
                        .all(|octet| *octet == 0xaa)
                );
            }
        }
    }
}
