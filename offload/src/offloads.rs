//! Judging and writing virtio-net headers.

use crate::view::{EthernetView, ExtensionKind, ethertype, protocol};
use crate::{Checksum, FrameMeta, Gso, GsoKind, IpMeta, Network, Offloads, Segmenter, Transport, VnetHeader};

/// Where TCP's checksum stands in its header (RFC 9293, 3.1).
pub(crate) const TCP_FIELD: u16 = 16;
/// Where UDP's checksum stands in its header (RFC 768).
const UDP_FIELD: u16 = 6;
/// Where the checksum stands in an ICMP message (RFC 792).
const ICMP_FIELD: u16 = 2;

/// Why a virtio-net header does not fit its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// The checksum's range or field lies outside of the frame.
    #[error("checksum from {start} at +{offset} is outside of the frame")]
    ChecksumRange {
        /// `csum_start`.
        start: u16,
        /// `csum_offset`.
        offset: u16,
    },
    /// The checksum would be written over a header field, or into TCP payload.
    #[error("checksum from {start} at +{offset} is no checksum field")]
    ChecksumPlace {
        /// `csum_start`.
        start: u16,
        /// `csum_offset`.
        offset: u16,
    },
    /// A `gso_type` that is not negotiated or does not exist.
    #[error("unknown GSO type {0:#04x}")]
    UnknownGso(u8),
    /// Segments without payload.
    #[error("GSO with a segment size of 0")]
    GsoSize,
    /// More segments than [`Segmenter::MAX_SEGMENTS`].
    #[error("GSO into {0} segments")]
    GsoSegments(u32),
    /// The frame is not what the GSO type cuts.
    #[error("GSO type does not match the frame's headers")]
    GsoMismatch,
    /// GSO without the partial checksum of the transport that is to be cut.
    #[error("GSO without a partial transport checksum")]
    GsoWithoutChecksum,
}

impl Offloads {
    /// Whether nothing is to be done, and nobody vouches for the checksum: the default.
    #[inline]
    pub const fn are_none(&self) -> bool {
        matches!(self.checksum, Checksum::Complete) && self.gso.is_none()
    }

    /// Reads what a sender's header asks for, checked against the frame's own headers, since a sender may be hostile.
    ///
    /// A partial checksum may stand in the transport's own checksum field; further inside the payload of UDP or of a
    /// protocol that is not parsed, where tunnels have their inner headers; nowhere else. So completing it never
    /// changes what [`crate::parse`] said of the frame. `hdr_len`, a hint, is ignored, as are unknown flags. A frame that is
    /// not longer than one segment goes without GSO, as Linux takes it. `DATA_VALID` is believed.
    pub fn from_header(header: &VnetHeader, meta: &FrameMeta) -> Result<Self, OffloadError> {
        let checksum = if header.flags & VnetHeader::NEEDS_CSUM != 0 {
            check_place(header.csum_start, header.csum_offset, meta)?
        } else if header.flags & VnetHeader::DATA_VALID != 0 {
            Checksum::Valid
        } else {
            Checksum::Complete
        };
        if header.gso_type == VnetHeader::GSO_NONE {
            return Ok(Self { checksum, gso: None });
        }
        let gso = read_gso(header)?;
        let cut = Cut::of(meta, gso.kind).ok_or(OffloadError::GsoMismatch)?;
        if checksum != cut.checksum() {
            return Err(OffloadError::GsoWithoutChecksum);
        }
        let segments = cut.payload_len().div_ceil(gso.size.into());
        if segments as usize > Segmenter::MAX_SEGMENTS {
            return Err(OffloadError::GsoSegments(segments));
        }
        let gso = (segments > 1).then_some(gso);
        Ok(Self { checksum, gso })
    }

    /// The header that tells a receiver what is left to do; `num_buffers` is 0, for the caller to set.
    pub fn to_header(&self, meta: &FrameMeta) -> VnetHeader {
        let mut header = VnetHeader::default();
        let mut checksum = self.checksum;
        if let Some((gso, cut)) = self.gso.and_then(|gso| Some((gso, Cut::of(meta, gso.kind)?))) {
            header.gso_type = match gso.kind {
                GsoKind::Tcp4 => VnetHeader::GSO_TCPV4,
                GsoKind::Tcp6 => VnetHeader::GSO_TCPV6,
                GsoKind::Udp => VnetHeader::GSO_UDP_L4,
            };
            if gso.ecn && gso.kind != GsoKind::Udp {
                header.gso_type |= VnetHeader::GSO_ECN;
            }
            header.gso_size = gso.size;
            header.hdr_len = cut.payload_offset;
            checksum = cut.checksum();
        }
        match checksum {
            Checksum::Complete => {}
            Checksum::Valid => header.flags = VnetHeader::DATA_VALID,
            Checksum::Partial { start, offset } => {
                header.flags = VnetHeader::NEEDS_CSUM;
                header.csum_start = start;
                header.csum_offset = offset;
            }
        }
        header
    }

    /// Octets of the longest frame that is left after segmentation, Ethernet header and tags included: what has to fit a
    /// receiver without GSO. Subtract `meta.network_offset` to compare with an MTU.
    pub fn max_segment_len(&self, meta: &FrameMeta) -> u32 {
        self.gso
            .and_then(|gso| Some((gso, Cut::of(meta, gso.kind)?)))
            .map_or(meta.frame_len, |(gso, cut)| {
                u32::from(cut.payload_offset) + cut.payload_len().min(u32::from(gso.size))
            })
    }
}

fn read_gso(header: &VnetHeader) -> Result<Gso, OffloadError> {
    let kind = match header.gso_type & !VnetHeader::GSO_ECN {
        VnetHeader::GSO_TCPV4 => GsoKind::Tcp4,
        VnetHeader::GSO_TCPV6 => GsoKind::Tcp6,
        VnetHeader::GSO_UDP_L4 => GsoKind::Udp,
        _ => return Err(OffloadError::UnknownGso(header.gso_type)),
    };
    if header.gso_size == 0 {
        return Err(OffloadError::GsoSize);
    }
    Ok(Gso {
        kind,
        size: header.gso_size,
        ecn: kind != GsoKind::Udp && header.gso_type & VnetHeader::GSO_ECN != 0,
    })
}

/// Checks where a partial checksum is to be taken and stored.
fn check_place(start: u16, offset: u16, meta: &FrameMeta) -> Result<Checksum, OffloadError> {
    let field_end = u32::from(start) + u32::from(offset) + 2;
    if field_end > meta.frame_len || usize::from(start) < EthernetView::LEN {
        return Err(OffloadError::ChecksumRange { start, offset });
    }
    let right = match meta.network {
        Network::Arp => false,
        Network::Other => start >= meta.network_offset && !is_parsed_network(meta.ethertype),
        Network::Ipv4(ip) | Network::Ipv6(ip) => {
            let own = |field| start == ip.transport_offset && offset == field;
            match ip.transport {
                Transport::Tcp(_) => own(TCP_FIELD),
                Transport::Udp(udp) => own(UDP_FIELD) || start >= udp.payload_offset,
                Transport::Icmp { .. } => own(ICMP_FIELD),
                Transport::Other => {
                    start >= ip.transport_offset && !ip.fragment && !is_parsed_transport(ip.protocol)
                }
            }
        }
    };
    if right {
        Ok(Checksum::Partial { start, offset })
    } else {
        Err(OffloadError::ChecksumPlace { start, offset })
    }
}

/// Whether a frame of this type that came out as [`Network::Other`] is malformed, so that changing it might mend it.
const fn is_parsed_network(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP) || ethertype::is_vlan(ethertype)
}

/// The same for packets that came out as [`Transport::Other`].
const fn is_parsed_transport(number: u8) -> bool {
    matches!(
        number,
        protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6
    ) || ExtensionKind::from_number(number).is_some()
}

/// Where a frame is cut into segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut<'m> {
    /// The frame's IP header.
    pub(crate) ip: &'m IpMeta,
    /// Octets of all headers, which each segment repeats.
    pub(crate) payload_offset: u16,
    /// Where the transport's checksum stands, from `ip.transport_offset`.
    pub(crate) checksum_field: u16,
}

impl<'m> Cut<'m> {
    /// `None` when the frame is not of that kind, or is itself a fragment.
    pub(crate) fn of(meta: &'m FrameMeta, kind: GsoKind) -> Option<Self> {
        let ip = match (&meta.network, kind) {
            (Network::Ipv4(ip), GsoKind::Tcp4 | GsoKind::Udp)
            | (Network::Ipv6(ip), GsoKind::Tcp6 | GsoKind::Udp)
                if !ip.fragment =>
            {
                ip
            }
            _ => return None,
        };
        let (payload_offset, checksum_field) = match (&ip.transport, kind) {
            (Transport::Tcp(tcp), GsoKind::Tcp4 | GsoKind::Tcp6) => (tcp.payload_offset, TCP_FIELD),
            (Transport::Udp(udp), GsoKind::Udp) => (udp.payload_offset, UDP_FIELD),
            _ => return None,
        };
        Some(Self {
            ip,
            payload_offset,
            checksum_field,
        })
    }

    /// Octets to be cut, to the packet's end: for UDP regardless of its length field.
    pub(crate) fn payload_len(&self) -> u32 {
        self.ip.end.saturating_sub(u32::from(self.payload_offset))
    }

    /// The partial checksum that goes with segmentation.
    fn checksum(&self) -> Checksum {
        Checksum::Partial {
            start: self.ip.transport_offset,
            offset: self.checksum_field,
        }
    }
}

#[cfg(test)]
mod tests;
