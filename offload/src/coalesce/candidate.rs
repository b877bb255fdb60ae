//! Judging whether a frame may be merged at all, and whether it goes on from another.

use super::undo::Part;
use super::{MAX_LEN, tcp_of};
use crate::checksum::{internet, verify_transport};
use crate::offloads::TCP_FIELD;
use crate::view::{Ipv4View, Ipv6View, TcpView};
use crate::{Checksum, FrameMeta, Network, Offloads, TcpFlags, TcpMeta};

/// Flags that a frame may have which is merged with others.
const MERGEABLE: u8 = TcpFlags::ACK | TcpFlags::PSH | TcpFlags::FIN | TcpFlags::ECE | TcpFlags::CWR;

/// A TCP segment that may be merged with its neighbours.
pub(super) struct Candidate<'a> {
    pub(super) frame: &'a [u8],
    pub(super) meta: &'a FrameMeta,
    pub(super) tcp: TcpMeta,
    pub(super) checksum: Checksum,
    pub(super) part: Part,
    /// Whether the identification may stay the same: IPv4 with DF; IPv6 has none.
    pub(super) has_free_id: bool,
    /// Whether PSH or FIN ends a merged frame here.
    pub(super) ends: bool,
}

impl<'a> Candidate<'a> {
    /// `None` for what must pass as it is, and for a `frame` that is not the one of `meta`.
    pub(super) fn read(frame: &'a [u8], meta: &'a FrameMeta, offloads: &Offloads) -> Option<Self> {
        let (ip, tcp) = tcp_of(meta)?;
        let flags = tcp.flags;
        let plain = flags.any(TcpFlags::ACK) && !flags.any(!MERGEABLE);
        let whole = frame.len() <= MAX_LEN && ip.end as usize == frame.len();
        if ip.fragment || !plain || !whole || tcp.payload_len == 0 || offloads.gso.is_some() {
            return None;
        }
        let network = usize::from(meta.network_offset);
        let transport = usize::from(ip.transport_offset);
        let header = frame.get(network..transport)?;
        let segment = TcpView::new(frame.get(transport..)?).ok()?;
        let payload_offset = transport + segment.header_len();
        let payload_len = frame.len().checked_sub(payload_offset)?;
        if payload_offset != usize::from(tcp.payload_offset) || payload_len != tcp.payload_len as usize {
            return None;
        }
        let (id, ip_checksum, has_free_id) = read_ip(meta, header, frame.len() - network)?;
        let verified = match offloads.checksum {
            Checksum::Valid => true,
            Checksum::Complete => verify_transport(frame, meta),
            Checksum::Partial { start, offset } => start == ip.transport_offset && offset == TCP_FIELD,
        };
        verified.then_some(Self {
            frame,
            meta,
            tcp: *tcp,
            checksum: offloads.checksum,
            part: Part {
                id,
                ip_checksum,
                tcp_checksum: segment.checksum(),
                flags: flags.0,
            },
            has_free_id,
            ends: flags.any(TcpFlags::PSH | TcpFlags::FIN),
        })
    }

    pub(super) fn payload(&self) -> &'a [u8] {
        self.frame
            .get(usize::from(self.tcp.payload_offset)..)
            .unwrap_or(&[])
    }

    /// Octets of payload, which fit an IP packet.
    pub(super) fn size(&self) -> u16 {
        self.tcp.payload_len as u16
    }

    /// Whether the headers equal those that `first` starts with, but for what may differ.
    pub(super) fn continues(&self, first: &[u8], first_meta: &FrameMeta) -> bool {
        self.equal(first, first_meta).unwrap_or(false)
    }

    fn equal(&self, first: &[u8], first_meta: &FrameMeta) -> Option<bool> {
        let network = usize::from(self.meta.network_offset);
        let end = usize::from(self.tcp.payload_offset);
        let (_, tcp) = tcp_of(first_meta)?;
        if first_meta.network_offset != self.meta.network_offset
            || tcp.payload_offset != self.tcp.payload_offset
        {
            return Some(false);
        }
        let transport = usize::from(self.meta.ip()?.transport_offset);
        let same = |from: usize, to: usize| Some(first.get(from..to)? == self.frame.get(from..to)?);
        let ip = if matches!(self.meta.network, Network::Ipv4(_)) {
            // Length, identification and checksum differ.
            same(network, network + 2)? && same(network + 6, network + 10)? && same(network + 12, transport)?
        } else {
            same(network, network + 4)? && same(network + 6, transport)?
        };
        // Sequence number, flags and checksum differ; of the flags, only PSH and FIN may be new and only CWR may be gone.
        let flags = (tcp.flags.0 ^ self.tcp.flags.0) & !(TcpFlags::CWR | TcpFlags::PSH | TcpFlags::FIN);
        Some(
            same(0, network)?
                && ip
                && flags == 0
                && !self.tcp.flags.any(TcpFlags::CWR)
                && same(transport, transport + 4)?
                && same(transport + 8, transport + 13)?
                && same(transport + 14, transport + 16)?
                && same(transport + 18, end)?,
        )
    }
}

/// Identification, header checksum and whether the identification means nothing; `None` for headers with options, of another
/// length than the packet's `len`, or with a wrong checksum.
fn read_ip(meta: &FrameMeta, header: &[u8], len: usize) -> Option<(u16, u16, bool)> {
    if matches!(meta.network, Network::Ipv4(_)) {
        let view = Ipv4View::new(header).ok()?;
        let plain = header.len() == Ipv4View::MIN_LEN && view.header_len() == Ipv4View::MIN_LEN;
        let right = usize::from(view.total_len()) == len && internet(header) == 0;
        (plain && right).then_some((view.id(), view.checksum(), view.dont_fragment()))
    } else {
        let view = Ipv6View::new(header).ok()?;
        let plain = header.len() == Ipv6View::LEN;
        (plain && usize::from(view.payload_len()) + Ipv6View::LEN == len).then_some((0, 0, true))
    }
}
