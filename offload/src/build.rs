//! Small frames that a switch or a filter sends on its own account.

use core::net::{IpAddr, Ipv4Addr};

use crate::checksum::{fold, internet, pseudo_header, sum};
use crate::view::{ArpView, EthernetView, Ipv4View, Ipv6View, TcpView, VlanView, ethertype, protocol};
use crate::{FrameMeta, IpMeta, MacAddr, TcpFlags, TcpMeta, VlanTag};

/// Hop limit of frames that are made here (the default of RFC 1700).
const TTL: u8 = 64;

/// Why a frame was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The caller's buffer is too short.
    #[error("a frame of {needed} octets does not fit into {available}")]
    Buffer {
        /// Octets of the frame.
        needed: usize,
        /// Octets of the buffer.
        available: usize,
    },
    /// The frame to be answered is no TCP segment.
    #[error("only a TCP segment can be reset")]
    NotTcp,
    /// The segment carries RST itself, which must never be answered (RFC 9293, 3.10.7).
    #[error("a reset is not answered with a reset")]
    IsReset,
    /// Metadata keeps one of two VLAN tags, so a frame with the same tags cannot be made.
    #[error("the frame has two VLAN tags")]
    TwoTags,
}

/// Octets of the longest frame that [`tcp_reset`] writes.
pub const MAX_RESET_LEN: usize = EthernetView::LEN + VlanView::LEN + Ipv6View::LEN + TcpView::MIN_LEN;

/// Octets of the longest frame that [`arp_reply`] writes.
pub const MAX_ARP_LEN: usize = EthernetView::LEN + VlanView::LEN + ArpView::LEN;

/// Which end of a connection a reset is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// The sender of the offending segment; the reset seems to come from the receiver.
    Sender,
    /// The receiver that the offending segment was meant for; the reset seems to come from the sender.
    Receiver,
}

/// Writes an ARP reply (RFC 826) from `sender` to `target` into `out` and returns its length.
pub fn arp_reply(
    vlan: Option<VlanTag>,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
    out: &mut [u8],
) -> Result<usize, BuildError> {
    let mut writer = Writer::new(out, ethernet_len(vlan) + ArpView::LEN)?;
    writer.ethernet(target.0, sender.0, vlan, ethertype::ARP);
    writer.put([0, 1]); // Ethernet
    writer.put(ethertype::IPV4.to_be_bytes());
    writer.put([6, 4, 0, 2]); // address lengths, reply
    writer.put(sender.0.0);
    writer.put(sender.1.octets());
    writer.put(target.0.0);
    writer.put(target.1.octets());
    Ok(writer.at)
}

/// Writes a complete RST frame that ends the connection of the TCP segment `offending` towards one end, into `out`, which
/// [`MAX_RESET_LEN`] octets always suffice for; returns the frame's length. The VLAN tag is kept.
///
/// The sender gets what its peer would answer if it had no such connection (RFC 9293, 3.5.2, group 1). The receiver
/// gets a segment in the offending one's place in the sequence, so it is exactly at the left edge of the window when
/// the offending segment was next in order (RFC 5961, 3.2) and has not been delivered.
pub fn tcp_reset(offending: &FrameMeta, to: ResetTo, out: &mut [u8]) -> Result<usize, BuildError> {
    let (Some(ip), Some(tcp)) = (offending.ip(), offending.tcp()) else {
        return Err(BuildError::NotTcp);
    };
    if tcp.flags.any(TcpFlags::RST) {
        return Err(BuildError::IsReset);
    }
    let ethernet_len = ethernet_len(offending.vlan);
    if usize::from(offending.network_offset) != ethernet_len {
        return Err(BuildError::TwoTags);
    }
    let ip_len = if ip.src.is_ipv4() {
        Ipv4View::MIN_LEN
    } else {
        Ipv6View::LEN
    };
    let mut writer = Writer::new(out, ethernet_len + ip_len + TcpView::MIN_LEN)?;
    let (src, dst) = match to {
        ResetTo::Sender => (offending.dst, offending.src),
        ResetTo::Receiver => (offending.src, offending.dst),
    };
    writer.ethernet(dst, src, offending.vlan, offending.ethertype);
    let (src, dst) = match to {
        ResetTo::Sender => (ip.dst, ip.src),
        ResetTo::Receiver => (ip.src, ip.dst),
    };
    writer.ip(src, dst, protocol::TCP, TcpView::MIN_LEN as u16);
    writer.reset_header(ip, tcp, to);
    Ok(writer.at)
}

const fn ethernet_len(vlan: Option<VlanTag>) -> usize {
    match vlan {
        Some(_) => EthernetView::LEN + VlanView::LEN,
        None => EthernetView::LEN,
    }
}

/// Sequence and acknowledgement numbers and flags of a reset.
fn reset_numbers(tcp: &TcpMeta, to: ResetTo) -> (u32, u32, u8) {
    let acks = tcp.flags.any(TcpFlags::ACK);
    match to {
        ResetTo::Sender if acks => (tcp.ack, 0, TcpFlags::RST),
        ResetTo::Sender => {
            let controls = u32::from(tcp.flags.any(TcpFlags::SYN)) + u32::from(tcp.flags.any(TcpFlags::FIN));
            let next = tcp.seq.wrapping_add(tcp.payload_len).wrapping_add(controls);
            (0, next, TcpFlags::RST | TcpFlags::ACK)
        }
        ResetTo::Receiver if acks => (tcp.seq, tcp.ack, TcpFlags::RST | TcpFlags::ACK),
        ResetTo::Receiver => (tcp.seq, 0, TcpFlags::RST),
    }
}

/// Writes headers one behind the other into a buffer whose length was checked.
struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl<'o> Writer<'o> {
    fn new(out: &'o mut [u8], needed: usize) -> Result<Self, BuildError> {
        let available = out.len();
        let out = out
            .get_mut(..needed)
            .ok_or(BuildError::Buffer { needed, available })?;
        Ok(Self { out, at: 0 })
    }

    fn put<const N: usize>(&mut self, octets: [u8; N]) {
        if let Some(to) = self.out.get_mut(self.at..self.at + N) {
            to.copy_from_slice(&octets);
            self.at += N;
        }
    }

    fn set(&mut self, at: usize, value: u16) {
        if let Some(to) = self.out.get_mut(at..at + 2) {
            to.copy_from_slice(&value.to_be_bytes());
        }
    }

    fn since(&self, start: usize) -> &[u8] {
        self.out.get(start..self.at).unwrap_or_default()
    }

    fn ethernet(&mut self, dst: MacAddr, src: MacAddr, vlan: Option<VlanTag>, ethertype: u16) {
        self.put(dst.0);
        self.put(src.0);
        if let Some(VlanTag(tag)) = vlan {
            self.put(ethertype::VLAN.to_be_bytes());
            self.put(tag.to_be_bytes());
        }
        self.put(ethertype.to_be_bytes());
    }

    fn ip(&mut self, src: IpAddr, dst: IpAddr, protocol: u8, len: u16) {
        let start = self.at;
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                self.put([0x45, 0]);
                self.put((Ipv4View::MIN_LEN as u16 + len).to_be_bytes());
                self.put([0, 0, 0x40, 0, TTL, protocol, 0, 0]); // don't fragment
                self.put(src.octets());
                self.put(dst.octets());
                let check = internet(self.since(start));
                self.set(start + 10, check);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                self.put([0x60, 0, 0, 0]);
                self.put(len.to_be_bytes());
                self.put([protocol, TTL]);
                self.put(src.octets());
                self.put(dst.octets());
            }
            // The metadata of one packet has addresses of one version.
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        }
    }

    fn reset_header(&mut self, ip: &IpMeta, tcp: &TcpMeta, to: ResetTo) {
        let start = self.at;
        let (seq, ack, flags) = reset_numbers(tcp, to);
        let (src, dst) = match to {
            ResetTo::Sender => (tcp.dst_port, tcp.src_port),
            ResetTo::Receiver => (tcp.src_port, tcp.dst_port),
        };
        self.put(src.to_be_bytes());
        self.put(dst.to_be_bytes());
        self.put(seq.to_be_bytes());
        self.put(ack.to_be_bytes());
        self.put([0x50, flags, 0, 0, 0, 0, 0, 0]); // five words; no window
        let header = self.since(start);
        let pseudo = pseudo_header(ip.src, ip.dst, protocol::TCP, header.len() as u32);
        let check = !fold(pseudo + sum(header));
        self.set(start + 16, check);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::verify_transport;
    use crate::view::{ArpOperation, ethertype};
    use crate::{Network, Transport, parse};

    const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn segment(v6: bool, vlan: Option<VlanTag>, flags: u8) -> FrameMeta {
        let (src, dst): (IpAddr, IpAddr) = if v6 {
            ([0xfd; 16].into(), [0xfe; 16].into())
        } else {
            ([192, 0, 2, 1].into(), [192, 0, 2, 2].into())
        };
        let transport_offset = ethernet_len(vlan) as u16 + if v6 { 40 } else { 20 };
        let ip = IpMeta {
            src,
            dst,
            protocol: 6,
            fragment: false,
            transport_offset,
            end: u32::from(transport_offset) + 120,
            transport: Transport::Tcp(TcpMeta {
                src_port: 1000,
                dst_port: 80,
                seq: u32::MAX - 49,
                ack: 7000,
                flags: TcpFlags(flags),
                window: 500,
                payload_offset: transport_offset + 20,
                payload_len: 100,
            }),
        };
        FrameMeta {
            frame_len: ip.end,
            dst: SERVER,
            src: CLIENT,
            vlan,
            ethertype: if v6 { ethertype::IPV6 } else { ethertype::IPV4 },
            network_offset: ethernet_len(vlan) as u16,
            network: if v6 { Network::Ipv6(ip) } else { Network::Ipv4(ip) },
        }
    }

    #[test]
    fn resets_for_both_ends_are_whole_frames() {
        for (v6, vlan) in [
            (false, None),
            (true, None),
            (false, Some(VlanTag(0x6005))),
            (true, Some(VlanTag(9))),
        ] {
            let offending = segment(v6, vlan, TcpFlags::ACK | TcpFlags::PSH);
            for (to, macs, ports, numbers) in [
                (ResetTo::Sender, (CLIENT, SERVER), (80, 1000), (7000, 0, 4)),
                (
                    ResetTo::Receiver,
                    (SERVER, CLIENT),
                    (1000, 80),
                    (u32::MAX - 49, 7000, 0x14),
                ),
            ] {
                let mut out = [0xee; MAX_RESET_LEN];
                let len = tcp_reset(&offending, to, &mut out).expect("it fits");
                let meta = parse(&out[..len], len).expect("whole frame");
                let tcp = meta.tcp().expect("TCP");
                assert_eq!((meta.dst, meta.src, meta.vlan), (macs.0, macs.1, vlan));
                assert_eq!((tcp.src_port, tcp.dst_port), ports);
                assert_eq!((tcp.seq, tcp.ack, tcp.flags.0), numbers);
                assert_eq!(tcp.payload_len, 0);
                assert!(verify_transport(&out[..len], &meta));
                if !v6 {
                    let ip = usize::from(meta.network_offset);
                    assert_eq!(internet(&out[ip..ip + 20]), 0);
                }
            }
        }
    }

    #[test]
    fn a_segment_without_ack_is_answered_by_its_end() {
        let mut out = [0; MAX_RESET_LEN];
        let syn = segment(false, None, TcpFlags::SYN);
        let len = tcp_reset(&syn, ResetTo::Sender, &mut out).expect("it fits");
        let meta = parse(&out[..len], len).expect("whole frame");
        let tcp = meta.tcp().expect("TCP");
        assert_eq!((tcp.seq, tcp.ack, tcp.flags.0), (0, 51, 0x14)); // 100 octets and SYN, past the wrap
    }

    #[test]
    fn refusals() {
        let mut out = [0; MAX_RESET_LEN];
        let reset = segment(false, None, TcpFlags::RST);
        assert_eq!(
            tcp_reset(&reset, ResetTo::Sender, &mut out),
            Err(BuildError::IsReset)
        );
        let mut other = segment(false, None, TcpFlags::ACK);
        other.network_offset = 22;
        assert_eq!(
            tcp_reset(&other, ResetTo::Sender, &mut out),
            Err(BuildError::TwoTags)
        );
        other.network = Network::Arp;
        assert_eq!(
            tcp_reset(&other, ResetTo::Sender, &mut out),
            Err(BuildError::NotTcp)
        );
        let short = BuildError::Buffer {
            needed: 54,
            available: 53,
        };
        let good = segment(false, None, TcpFlags::ACK);
        assert_eq!(tcp_reset(&good, ResetTo::Sender, &mut out[..53]), Err(short));
    }

    #[test]
    fn arp_replies_read_back() {
        let mut out = [0; MAX_ARP_LEN];
        let (ours, theirs) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 1));
        let len = arp_reply(Some(VlanTag(5)), (SERVER, ours), (CLIENT, theirs), &mut out).expect("it fits");
        let meta = parse(&out[..len], len).expect("whole frame");
        assert_eq!((len, meta.network), (46, Network::Arp));
        assert_eq!(
            (meta.dst, meta.src, meta.vlan),
            (CLIENT, SERVER, Some(VlanTag(5)))
        );
        let arp = ArpView::new(&out[18..len]).expect("ARP");
        assert_eq!(arp.operation(), ArpOperation::Reply);
        assert_eq!((arp.sender_mac(), arp.sender_ip()), (SERVER, ours));
        assert_eq!((arp.target_mac(), arp.target_ip()), (CLIENT, theirs));
    }
}
