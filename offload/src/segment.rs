//! Software segmentation of TCP and UDP frames (TSO, USO), inside of tunnels too.

mod headers;

use crate::checksum;
use crate::offloads::Cut;
use crate::{FrameMeta, Gso, GsoKind, Tunnel};
use headers::{Inner, Ip, Outer, Part};

/// Why a frame cannot be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The frame is not TCP or UDP over the IP version that was asked for, or is a fragment.
    #[error("the frame's headers do not match the kind of segmentation")]
    Mismatch,
    /// The frame ends before its headers say that it does.
    #[error("the packet ends at {end}, but the frame has {len} octets")]
    Truncated {
        /// Where the packet ends by its headers.
        end: u32,
        /// Octets of the frame.
        len: usize,
    },
    /// Segments without payload.
    #[error("segment size 0")]
    Size,
    /// A segment's IP length would not fit its 16-bit field.
    #[error("segments of {0} octets are too long for IP")]
    TooLong(usize),
    /// More segments than [`Segmenter::MAX_SEGMENTS`].
    #[error("{0} segments are too many")]
    TooMany(usize),
}

/// Cuts one frame into segments that fit a receiver without GSO, one buffer at a time.
///
/// Each segment repeats the frame's headers with these changes: IPv4 total length, identification and header checksum;
/// IPv6 payload length; TCP sequence number, FIN and PSH only in the last segment, CWR only in the first; UDP length; a
/// complete transport checksum. What the frame's own checksum field holds does not matter. Octets behind the IP packet
/// (Ethernet padding) are left out. Extension headers, VLAN tags and tunnels' options are repeated as they are.
///
/// Identifications count up, whether or not DF is set. Without DF they must differ; with it they mean nothing (RFC 6864, 4.1), and
/// counting is what Linux does with what it cuts for a sender, while it repeats them only where it merged packets that had one
/// identification.
#[derive(Clone, Debug)]
pub struct Segmenter<'f> {
    headers: &'f [u8],
    payload: &'f [u8],
    size: usize,
    ip: Ip,
    transport: Inner,
    outer: Option<Outer>,
    index: usize,
    segments: usize,
}

impl<'f> Segmenter<'f> {
    /// Segments that one frame may be cut into: 512 KiB of 256 octets each, or 96 KiB at Linux' smallest MSS of 48. It
    /// bounds the work that a hostile segment size can cause.
    pub const MAX_SEGMENTS: usize = 2048;

    /// Prepares to cut `frame`, whole and contiguous, of which `meta` was parsed.
    pub fn new(frame: &'f [u8], meta: &FrameMeta, gso: Gso) -> Result<Self, SegmentError> {
        Self::with_outer(frame, meta, gso, |_| Some(None))
    }

    /// Prepares to cut what is inside of a tunnel: `tunnel` was found by [`crate::parse_inner`] in `frame` and its `meta`, and
    /// `gso` is about the packet inside.
    ///
    /// The headers outside change like those inside. A UDP datagram without a checksum stays so; a GRE checksum is completed,
    /// and a GRE sequence number counts up, which asks the sender to go on from there.
    pub fn tunnel(
        frame: &'f [u8],
        meta: &FrameMeta,
        tunnel: &Tunnel,
        gso: Gso,
    ) -> Result<Self, SegmentError> {
        Self::with_outer(frame, &tunnel.inner, gso, |headers| {
            Outer::read(headers, meta, tunnel).map(Some)
        })
    }

    /// `meta` is that of the packet to be cut. `outer` reads what is around it and fails with `None`.
    fn with_outer(
        frame: &'f [u8],
        meta: &FrameMeta,
        gso: Gso,
        outer: impl FnOnce(&[u8]) -> Option<Option<Outer>>,
    ) -> Result<Self, SegmentError> {
        let cut = Cut::of(meta, gso.kind).ok_or(SegmentError::Mismatch)?;
        let size = usize::from(gso.size);
        if size == 0 {
            return Err(SegmentError::Size);
        }
        let (headers, payload) = frame
            .get(..cut.ip.end as usize)
            .and_then(|packet| packet.split_at_checked(usize::from(cut.payload_offset)))
            .ok_or(SegmentError::Truncated {
                end: cut.ip.end,
                len: frame.len(),
            })?;
        let ip = Ip::read(headers, meta, cut.ip).ok_or(SegmentError::Mismatch)?;
        let is_tcp = gso.kind != GsoKind::Udp;
        let transport = Inner::read(headers, &cut, is_tcp).ok_or(SegmentError::Mismatch)?;
        let outer = outer(headers).ok_or(SegmentError::Mismatch)?;
        let longest = headers.len() + size.min(payload.len());
        ip.fits(longest).map_err(SegmentError::TooLong)?;
        outer
            .map_or(Ok(()), |outer| outer.fits(longest))
            .map_err(SegmentError::TooLong)?;
        let segments = payload.len().div_ceil(size).max(1);
        if segments > Self::MAX_SEGMENTS {
            return Err(SegmentError::TooMany(segments));
        }
        Ok(Self {
            headers,
            payload,
            size,
            ip,
            transport,
            outer,
            index: 0,
            segments,
        })
    }

    /// Segments in all, at least 1.
    pub const fn segments(&self) -> usize {
        self.segments
    }

    /// Segments still to be written.
    pub const fn remaining(&self) -> usize {
        self.segments - self.index
    }

    /// Octets of the longest segment, all headers included.
    pub fn max_segment_len(&self) -> usize {
        self.headers.len() + self.size.min(self.payload.len())
    }

    /// Octets of the next segment; `None` after the last.
    pub fn next_len(&self) -> Option<usize> {
        self.next_payload()
            .map(|payload| self.headers.len() + payload.len())
    }

    /// Writes the next segment to the start of `out` and returns its length.
    ///
    /// `None` after the last one; also when `out` is too short, and then the segment is still the next one
    /// ([`Self::remaining`] tells the two apart).
    pub fn next_into(&mut self, out: &mut [u8]) -> Option<usize> {
        let payload = self.next_payload()?;
        let len = self.headers.len() + payload.len();
        let out = out.get_mut(..len)?;
        let (to_headers, to_payload) = out.split_at_mut(self.headers.len());
        to_headers.copy_from_slice(self.headers);
        let part = Part {
            index: self.index,
            passed: self.index * self.size,
            last: self.remaining() == 1,
            payload: checksum::copy_and_sum(to_payload, payload),
            payload_offset: self.headers.len(),
        };
        self.ip.patch(out, &part)?;
        self.transport.patch(out, &part)?;
        if let Some(outer) = &self.outer {
            outer.patch(out, &part)?;
        }
        self.index += 1;
        Some(len)
    }

    fn next_payload(&self) -> Option<&'f [u8]> {
        if self.index == self.segments {
            return None;
        }
        let start = self.index * self.size;
        let end = (start + self.size).min(self.payload.len());
        self.payload.get(start..end)
    }
}

#[cfg(test)]
mod tests;
