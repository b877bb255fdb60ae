//! What a merged frame was made of.

use crate::octets::put;
use crate::offloads::TCP_FIELD;
use crate::view::Ipv6View;
use crate::{Checksum, FrameMeta, Offloads, TcpFlags};

/// What one segment had of its own, besides its place in the sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// IPv4 identification; 0 in IPv6.
    pub(super) id: u16,
    /// IPv4 header checksum; 0 in IPv6.
    pub(super) ip_checksum: u16,
    /// The checksum field, as it was.
    pub(super) tcp_checksum: u16,
    /// TCP's flags.
    pub(super) flags: u8,
}

/// What the segments of a merged frame had of their own: 8 octets for each.
#[derive(Clone, Debug)]
pub struct Parts {
    list: [Part; Self::MAX],
    len: usize,
    size: u16,
    checksum: Checksum,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            list: [Part::default(); Self::MAX],
            len: 0,
            size: 0,
            checksum: Checksum::Complete,
        }
    }
}

impl Parts {
    /// Segments that one frame is merged from at the most: 45 of 1448 octets fill 64 KiB.
    pub const MAX: usize = 64;

    pub(super) fn first(size: u16, checksum: Checksum, part: Part) -> Self {
        let mut parts = Self {
            size,
            checksum,
            ..Self::default()
        };
        parts.push(part);
        parts
    }

    /// Segments.
    #[allow(clippy::len_without_is_empty)] // There is always one.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Octets of payload of each segment but the last, which may have fewer.
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// The checksum's state in each segment.
    pub const fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Gets the segments back out of `frame`, the merged frame of which `meta` tells. Another frame with these parts gives nonsense or
    /// nothing.
    pub fn undo<'a>(&'a self, frame: &'a [u8], meta: &FrameMeta) -> Option<Undo<'a>> {
        let (ip, tcp) = meta.ip().zip(meta.tcp())?;
        let (headers, payload) = frame.split_at_checked(usize::from(tcp.payload_offset))?;
        Some(Undo {
            headers,
            payload,
            parts: self,
            network: meta.network_offset.into(),
            transport: ip.transport_offset.into(),
            v4: ip.src.is_ipv4(),
            seq: tcp.seq,
            index: 0,
        })
    }

    pub(super) const fn is_full(&self) -> bool {
        self.len == Self::MAX
    }

    pub(super) fn push(&mut self, part: Part) {
        if let Some(place) = self.list.get_mut(self.len) {
            *place = part;
            self.len += 1;
        }
    }

    /// PSH and FIN of the last segment.
    pub(super) fn last_flags(&self) -> u8 {
        let last = self.used().last().map_or(0, |part| part.flags);
        last & (TcpFlags::PSH | TcpFlags::FIN)
    }

    /// Whether a segment with this state and identification may follow.
    pub(super) fn accept(&self, checksum: Checksum, next: Part, has_free_id: bool) -> bool {
        let id = match *self.used() {
            [first] => next.id == first.id.wrapping_add(1) || (has_free_id && next.id == first.id),
            [.., before, last] => next.id.wrapping_sub(last.id) == last.id.wrapping_sub(before.id),
            [] => false,
        };
        id && checksum == self.checksum
    }

    fn used(&self) -> &[Part] {
        self.list.get(..self.len).unwrap_or(&[])
    }
}

/// The segments that a frame was merged from, one buffer at a time, octet by octet as they came.
#[derive(Clone, Debug)]
pub struct Undo<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    parts: &'a Parts,
    network: usize,
    transport: usize,
    v4: bool,
    seq: u32,
    index: usize,
}

impl Undo<'_> {
    /// What is still to be done to each segment: what was to be done when it came.
    pub const fn offloads(&self) -> Offloads {
        Offloads {
            checksum: self.parts.checksum,
            gso: None,
        }
    }

    /// Octets of the next segment; `None` after the last.
    pub fn next_len(&self) -> Option<usize> {
        Some(self.headers.len() + self.next_payload()?.len())
    }

    /// Writes the next segment to the start of `out` and returns its length; `None` after the last, or when `out` is too short,
    /// and then the segment is still the next one.
    pub fn next_into(&mut self, out: &mut [u8]) -> Option<usize> {
        let part = *self.parts.used().get(self.index)?;
        let payload = self.next_payload()?;
        let out = out.get_mut(..self.headers.len() + payload.len())?;
        let (headers, rest) = out.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        rest.copy_from_slice(payload);
        self.restore(headers, payload.len(), part)?;
        self.index += 1;
        Some(out.len())
    }

    fn next_payload(&self) -> Option<&[u8]> {
        let size = usize::from(self.parts.size);
        let start = self.index * size;
        let end = (start + size).min(self.payload.len());
        self.payload
            .get(start..end)
            .filter(|_| self.index < self.parts.len)
    }

    fn restore(&self, headers: &mut [u8], payload_len: usize, part: Part) -> Option<()> {
        let packet = headers.len() + payload_len - self.network;
        let ip = headers.get_mut(self.network..)?;
        if self.v4 {
            put(ip, 2, (packet as u16).to_be_bytes())?;
            put(ip, 4, part.id.to_be_bytes())?;
            put(ip, 10, part.ip_checksum.to_be_bytes())?;
        } else {
            put(
                ip,
                4,
                (packet as u16).wrapping_sub(Ipv6View::LEN as u16).to_be_bytes(),
            )?;
        }
        let tcp = headers.get_mut(self.transport..)?;
        let passed = (self.index * usize::from(self.parts.size)) as u32;
        put(tcp, 4, self.seq.wrapping_add(passed).to_be_bytes())?;
        put(tcp, 13, [part.flags])?;
        put(tcp, TCP_FIELD.into(), part.tcp_checksum.to_be_bytes())
    }
}
