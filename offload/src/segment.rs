//! Software segmentation of TCP and UDP frames (TSO, USO).

use crate::checksum;
use crate::offloads::Cut;
use crate::view::{Ipv4View, Ipv6View};
use crate::{FrameMeta, Gso, GsoKind, Network, TcpFlags};

/// Congestion window reduced (RFC 3168, 6.1.2).
const TCP_CWR: u8 = 0x80;

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
/// Each segment repeats the frame's headers with these changes: IPv4 total length, identification (counted up) and
/// header checksum; IPv6 payload length; TCP sequence number, FIN and PSH only in the last segment, CWR only in the
/// first; UDP length; a complete transport checksum. What the frame's own checksum field holds does not matter.
/// Octets behind the IP packet (Ethernet padding) are left out.
#[derive(Clone, Debug)]
pub struct Segmenter<'f> {
    headers: &'f [u8],
    payload: &'f [u8],
    size: usize,
    layout: Layout,
    index: usize,
    segments: usize,
}

/// Where the fields stand that differ from segment to segment.
#[derive(Clone, Copy, Debug)]
struct Layout {
    ipv4: bool,
    tcp: bool,
    network: usize,
    transport: usize,
    checksum: usize,
    /// The pseudo-header's sum without the length.
    pseudo: u64,
}

impl<'f> Segmenter<'f> {
    /// Segments that one frame may be cut into: 512 KiB of 256 octets each, or 96 KiB at Linux' smallest MSS of 48. It
    /// bounds the work that a hostile segment size can cause.
    pub const MAX_SEGMENTS: usize = 2048;

    /// Prepares to cut `frame`, whole and contiguous, of which `meta` was parsed.
    pub fn new(frame: &'f [u8], meta: &FrameMeta, gso: Gso) -> Result<Self, SegmentError> {
        let cut = Cut::of(meta, gso.kind).ok_or(SegmentError::Mismatch)?;
        let ip = cut.ip;
        let size = usize::from(gso.size);
        if size == 0 {
            return Err(SegmentError::Size);
        }
        let (headers, payload) = frame
            .get(..ip.end as usize)
            .and_then(|packet| packet.split_at_checked(usize::from(cut.payload_offset)))
            .ok_or(SegmentError::Truncated {
                end: ip.end,
                len: frame.len(),
            })?;
        let ipv4 = matches!(meta.network, Network::Ipv4(_));
        let layout = Layout {
            ipv4,
            tcp: gso.kind != GsoKind::Udp,
            network: usize::from(meta.network_offset),
            transport: usize::from(ip.transport_offset),
            checksum: usize::from(ip.transport_offset) + usize::from(cut.checksum_field),
            pseudo: checksum::pseudo_header(ip.src, ip.dst, ip.protocol, 0),
        };
        layout.check(headers)?;
        let longest = headers.len() + size.min(payload.len()) - layout.network;
        let fixed = if ipv4 { 0 } else { Ipv6View::LEN };
        if longest - fixed > usize::from(u16::MAX) {
            return Err(SegmentError::TooLong(longest));
        }
        let segments = payload.len().div_ceil(size).max(1);
        if segments > Self::MAX_SEGMENTS {
            return Err(SegmentError::TooMany(segments));
        }
        Ok(Self {
            headers,
            payload,
            size,
            layout,
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
        to_payload.copy_from_slice(payload);
        self.patch(out)?;
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

    /// Turns a copy of the frame's headers into the segment's own. `Layout::check` has seen that the fields exist.
    fn patch(&self, out: &mut [u8]) -> Option<()> {
        let Layout {
            network, transport, ..
        } = self.layout;
        let ip_len = out.len() - network;
        if self.layout.ipv4 {
            put(out, network + 2, (ip_len as u16).to_be_bytes())?;
            let id = u16::from_be_bytes(*out.get(network + 4..)?.first_chunk()?);
            put(out, network + 4, id.wrapping_add(self.index as u16).to_be_bytes())?;
            put(out, network + 10, [0, 0])?;
            let header_len = usize::from(out.get(network)? & 0x0f) * 4;
            let check = checksum::internet(out.get(network..network + header_len)?);
            put(out, network + 10, check.to_be_bytes())?;
        } else {
            put(out, network + 4, ((ip_len - Ipv6View::LEN) as u16).to_be_bytes())?;
        }
        let transport_len = out.len() - transport;
        if self.layout.tcp {
            self.patch_tcp(out)?;
        } else {
            put(out, transport + 4, (transport_len as u16).to_be_bytes())?;
        }
        put(out, self.layout.checksum, [0, 0])?;
        let sum = self.layout.pseudo + transport_len as u64 + checksum::sum(out.get(transport..)?);
        let mut check = !checksum::fold(sum);
        if !self.layout.tcp {
            check = checksum::nonzero(check);
        }
        put(out, self.layout.checksum, check.to_be_bytes())
    }

    fn patch_tcp(&self, out: &mut [u8]) -> Option<()> {
        let transport = self.layout.transport;
        let seq = u32::from_be_bytes(*out.get(transport + 4..)?.first_chunk()?);
        let passed = (self.index * self.size) as u32;
        put(out, transport + 4, seq.wrapping_add(passed).to_be_bytes())?;
        let flags = out.get_mut(transport + 13)?;
        if self.index > 0 {
            *flags &= !TCP_CWR;
        }
        if self.index + 1 < self.segments {
            *flags &= !(TcpFlags::FIN | TcpFlags::PSH);
        }
        Some(())
    }
}

impl Layout {
    /// Checks once that all fields to be written lie in the frame's headers, should `meta` be of another frame.
    fn check(&self, headers: &[u8]) -> Result<(), SegmentError> {
        let ip_len = if self.ipv4 {
            headers
                .get(self.network..self.transport)
                .and_then(|header| Ipv4View::new(header).ok())
                .map(|view| view.header_len())
        } else {
            Some(Ipv6View::LEN)
        };
        let fits = ip_len.is_some_and(|len| self.network + len <= self.transport)
            && self.checksum + 2 <= headers.len();
        if fits { Ok(()) } else { Err(SegmentError::Mismatch) }
    }
}

fn put<const N: usize>(out: &mut [u8], at: usize, octets: [u8; N]) -> Option<()> {
    *out.get_mut(at..)?.first_chunk_mut()? = octets;
    Some(())
}

#[cfg(test)]
mod tests;
