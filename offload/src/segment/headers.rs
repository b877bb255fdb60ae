//! The headers that a segment repeats, and what differs in each.
//!
//! A header is summed once, without the fields that change; a segment adds its own values and its payload's sum, which comes
//! from copying it.

use crate::checksum::{fold, nonzero, pseudo_header, sum};
use crate::octets::put;
use crate::offloads::Cut;
use crate::view::{GreView, Ipv4View, Ipv6View, TcpView, UdpView};
use crate::{FrameMeta, IpMeta, Network, TcpFlags, Tunnel, TunnelKind};

/// One segment of several.
pub(super) struct Part {
    /// Its number, from 0.
    pub(super) index: usize,
    /// Payload octets in front of it.
    pub(super) passed: usize,
    /// Whether no other follows.
    pub(super) last: bool,
    /// Sum of its payload.
    pub(super) payload: u64,
    /// Where its payload starts.
    pub(super) payload_offset: usize,
}

/// An IP header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip {
    at: usize,
    /// Identification and the sum without the fields that change; `None` for IPv6.
    v4: Option<(u16, u64)>,
}

impl Ip {
    /// `None` when the header is not where `meta` says.
    pub(super) fn read(headers: &[u8], meta: &FrameMeta, ip: &IpMeta) -> Option<Self> {
        let at = usize::from(meta.network_offset);
        let header = headers.get(at..usize::from(ip.transport_offset))?;
        let v4 = if matches!(meta.network, Network::Ipv4(_)) {
            let view = Ipv4View::new(header).ok()?;
            let own = without([view.total_len(), view.id(), view.checksum()]);
            Some((view.id(), sum(header.get(..view.header_len())?) + own))
        } else {
            Ipv6View::new(header).ok()?;
            None
        };
        Some(Self { at, v4 })
    }

    /// Fails with the packet's length in a frame of `frame_len` octets when the header cannot tell it.
    pub(super) fn fits(&self, frame_len: usize) -> Result<(), usize> {
        let len = frame_len - self.at;
        let fixed = if self.v4.is_some() { 0 } else { Ipv6View::LEN };
        u16::try_from(len - fixed).map_or(Err(len), |_| Ok(()))
    }

    pub(super) fn patch(&self, out: &mut [u8], part: &Part) -> Option<()> {
        let len = out.len() - self.at;
        let header = out.get_mut(self.at..)?;
        let Some((id, sum)) = self.v4 else {
            return put(header, 4, ((len - Ipv6View::LEN) as u16).to_be_bytes());
        };
        let id = id.wrapping_add(part.index as u16);
        put(header, 2, (len as u16).to_be_bytes())?;
        put(header, 4, id.to_be_bytes())?;
        put(
            header,
            10,
            (!fold(sum + len as u64 + u64::from(id))).to_be_bytes(),
        )
    }
}

/// The header of the transport that is cut, and its sum without the fields that change but with the pseudo-header's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inner {
    at: usize,
    sum: u64,
    /// Sequence number, and data offset with flags; `None` for UDP.
    tcp: Option<(u32, [u8; 2])>,
}

impl Inner {
    /// `None` when the header is not where `cut` says.
    pub(super) fn read(headers: &[u8], cut: &Cut<'_>, is_tcp: bool) -> Option<Self> {
        let at = usize::from(cut.ip.transport_offset);
        let header = headers.get(at..)?;
        let (tcp, own) = if is_tcp {
            let view = TcpView::new(header).ok()?;
            let control = *header.get(12..)?.first_chunk()?;
            let seq = view.seq();
            let own = [
                (seq >> 16) as u16,
                seq as u16,
                u16::from_be_bytes(control),
                view.checksum(),
            ];
            (Some((seq, control)), without(own))
        } else {
            let view = UdpView::new(header).ok()?;
            (None, without([view.length(), view.checksum()]))
        };
        let pseudo = pseudo_header(cut.ip.src, cut.ip.dst, cut.ip.protocol, 0);
        let sum = sum(header) + own + pseudo;
        (header.len().is_multiple_of(2)).then_some(Self { at, sum, tcp })
    }

    pub(super) fn patch(&self, out: &mut [u8], part: &Part) -> Option<()> {
        let len = out.len() - self.at;
        let header = out.get_mut(self.at..)?;
        let sum = self.sum + len as u64 + part.payload;
        let Some((seq, [offset, flags])) = self.tcp else {
            put(header, 4, (len as u16).to_be_bytes())?;
            return put(header, 6, nonzero(!fold(sum + len as u64)).to_be_bytes());
        };
        let seq = seq.wrapping_add(part.passed as u32);
        let first_only = if part.index > 0 { TcpFlags::CWR } else { 0 };
        let last_only = if part.last {
            0
        } else {
            TcpFlags::FIN | TcpFlags::PSH
        };
        let control = [offset, flags & !first_only & !last_only];
        put(header, 4, seq.to_be_bytes())?;
        put(header, 12, control)?;
        let sum = sum + u64::from(seq) + u64::from(u16::from_be_bytes(control));
        put(header, 16, (!fold(sum)).to_be_bytes())
    }
}

/// The headers around a packet that is cut inside of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outer {
    ip: Ip,
    shell: Shell,
}

#[derive(Clone, Copy, Debug)]
enum Shell {
    /// UDP, with the pseudo-header's sum without the length unless the datagram goes without a checksum.
    Udp { at: usize, pseudo: Option<u64> },
    /// GRE, and where its optional fields stand in it.
    Gre {
        at: usize,
        checksum: Option<usize>,
        sequence: Option<(usize, u32)>,
    },
}

impl Outer {
    /// `None` when the headers are not where `meta` and `tunnel` say.
    pub(super) fn read(headers: &[u8], meta: &FrameMeta, tunnel: &Tunnel) -> Option<Self> {
        let outer = meta.ip().filter(|ip| !ip.fragment)?;
        let ip = Ip::read(headers, meta, outer)?;
        let at = usize::from(outer.transport_offset);
        let header = headers.get(at..)?;
        let behind = usize::from(tunnel.inner.network_offset);
        let (shell, end) = match tunnel.kind {
            TunnelKind::Vxlan | TunnelKind::Geneve => {
                let view = UdpView::new(header).ok()?;
                let pseudo = pseudo_header(outer.src, outer.dst, outer.protocol, 0);
                let pseudo = (view.checksum() != 0).then_some(pseudo);
                (Shell::Udp { at, pseudo }, at + UdpView::LEN)
            }
            TunnelKind::Gre => {
                let view = GreView::new(header).ok()?;
                let shell = Shell::Gre {
                    at,
                    checksum: view.checksum_offset(),
                    sequence: view.sequence_offset().zip(view.sequence()),
                };
                (shell, at + view.header_len())
            }
        };
        (end <= behind && header.len().is_multiple_of(2)).then_some(Self { ip, shell })
    }

    pub(super) fn fits(&self, frame_len: usize) -> Result<(), usize> {
        self.ip.fits(frame_len)
    }

    /// To be called when the headers inside are done, which the checksums cover.
    pub(super) fn patch(&self, out: &mut [u8], part: &Part) -> Option<()> {
        self.ip.patch(out, part)?;
        match self.shell {
            Shell::Udp { at, pseudo } => {
                let len = out.len() - at;
                put(out, at + 4, (len as u16).to_be_bytes())?;
                let Some(pseudo) = pseudo else { return Some(()) };
                let check = checksum_from(out, at, at + 6, part, pseudo + len as u64)?;
                put(out, at + 6, nonzero(check).to_be_bytes())
            }
            Shell::Gre {
                at,
                checksum,
                sequence,
            } => {
                if let Some((offset, sequence)) = sequence {
                    let sequence = sequence.wrapping_add(part.index as u32);
                    put(out, at + offset, sequence.to_be_bytes())?;
                }
                let Some(field) = checksum.map(|offset| at + offset) else {
                    return Some(());
                };
                let check = checksum_from(out, at, field, part, 0)?;
                put(out, field, check.to_be_bytes())
            }
        }
    }
}

/// The checksum of everything from `at` on, given what else it covers; `field` is where it will stand.
fn checksum_from(out: &mut [u8], at: usize, field: usize, part: &Part, more: u64) -> Option<u16> {
    put(out, field, [0, 0])?;
    let headers = sum(out.get(at..part.payload_offset)?);
    Some(!fold(headers + part.payload + more))
}

/// What added to a sum takes these words out of it, in ones' complement.
fn without<const N: usize>(words: [u16; N]) -> u64 {
    words.iter().map(|word| u64::from(!word)).sum()
}
