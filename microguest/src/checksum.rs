//! Transport checksums left to the device, both ways (virtio 1.2, 5.1.6.2 and 5.1.6.4).

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, checksum};

/// Octets of an Ethernet header.
const ETHERNET: usize = 14;

/// The transport checksum of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transport {
    /// Where the transport header starts in the frame.
    start: usize,
    /// Where the packet ends: a short frame is padded beyond.
    end: usize,
    /// Where the checksum is, from `start`.
    offset: usize,
    /// The sum of the pseudo-header.
    pseudo_header: u16,
    /// The sender computed none, which UDP allows over IPv4.
    absent: bool,
}

/// Stores the pseudo-header's sum in an IPv4 frame that carries TCP or UDP. Returns where the device has to start
/// summing and, from there, where the checksum goes; `None` for other frames, which stay as they are.
pub fn make_partial(frame: &mut [u8]) -> Option<(u16, u16)> {
    let transport = transport(frame)?;
    let at = transport.start + transport.offset;
    let field = frame.get_mut(at..at + 2)?;
    field.copy_from_slice(&transport.pseudo_header.to_be_bytes());
    Some((transport.start as u16, transport.offset as u16))
}

/// Whether the TCP or UDP checksum of an IPv4 frame is right. Other frames are none of this function's business: `true`.
pub fn is_valid(frame: &[u8]) -> bool {
    let Some(transport) = transport(frame) else {
        return true;
    };
    let Some(segment) = frame.get(transport.start..transport.end) else {
        return false;
    };
    let sum = checksum::combine(&[transport.pseudo_header, checksum::data(segment)]);
    transport.absent || sum == !0
}

fn transport(frame: &[u8]) -> Option<Transport> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    let protocol = packet.next_header();
    let offset = match protocol {
        IpProtocol::Tcp => 16,
        IpProtocol::Udp => 6,
        _ => return None,
    };
    if packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    let segment = packet.payload();
    let field = segment.get(offset..offset + 2)?;
    let start = ETHERNET + usize::from(packet.header_len());
    Some(Transport {
        start,
        end: start + segment.len(),
        offset,
        pseudo_header: checksum::pseudo_header(
            &IpAddress::Ipv4(packet.src_addr()),
            &IpAddress::Ipv4(packet.dst_addr()),
            protocol,
            segment.len() as u32,
        ),
        absent: protocol == IpProtocol::Udp && field == [0, 0],
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        EthernetAddress, EthernetRepr, Ipv4Address, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    };

    use super::*;

    /// A TCP frame with `payload` and a valid checksum.
    pub(crate) fn tcp_frame(payload: &[u8]) -> Vec<u8> {
        let tcp = TcpRepr {
            src_port: 1,
            dst_port: 2,
            control: TcpControl::Psh,
            seq_number: TcpSeqNumber(1),
            ack_number: Some(TcpSeqNumber(2)),
            window_len: 1000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        let ip = Ipv4Repr {
            src_addr: Ipv4Address::new(192, 0, 2, 1),
            dst_addr: Ipv4Address::new(192, 0, 2, 2),
            next_header: IpProtocol::Tcp,
            payload_len: tcp.buffer_len(),
            hop_limit: 64,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
            dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
            ethertype: EthernetProtocol::Ipv4,
        };
        let mut frame = vec![0; ETHERNET + 20 + tcp.buffer_len()];
        let capabilities = ChecksumCapabilities::default();
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &capabilities);
        let addresses = (IpAddress::Ipv4(ip.src_addr), IpAddress::Ipv4(ip.dst_addr));
        let mut segment = TcpPacket::new_unchecked(&mut frame[34..]);
        tcp.emit(&mut segment, &addresses.0, &addresses.1, &capabilities);
        frame
    }

    /// Completes a partial checksum as a device does.
    pub(crate) fn complete(frame: &mut [u8], start: u16, offset: u16) {
        let (start, at) = (usize::from(start), usize::from(start + offset));
        let sum = !checksum::data(&frame[start..]);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    #[test]
    fn padding_is_not_summed() {
        let mut frame = tcp_frame(b"");
        assert!(is_valid(&frame));
        frame.resize(60, 0xa5);
        assert!(is_valid(&frame));
        frame[40] ^= 1;
        assert!(!is_valid(&frame));
    }

    #[test]
    fn other_frames_stay_as_they_are() {
        let mut arp = [0_u8; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(make_partial(&mut arp), None);
        assert!(is_valid(&arp));
        let mut fragment = tcp_frame(b"x");
        fragment[20] = 0x20;
        assert_eq!(make_partial(&mut fragment), None);
    }

    proptest! {
        #[test]
        fn a_partial_checksum_completes_to_the_right_one(payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let right = tcp_frame(&payload);
            let mut frame = right.clone();
            let (start, offset) = make_partial(&mut frame).expect("TCP over IPv4");
            prop_assert_eq!((start, offset), (34, 16));
            complete(&mut frame, start, offset);
            prop_assert_eq!(frame, right);
        }

        #[test]
        fn any_frame_is_judged_without_panic(mut frame in prop::collection::vec(any::<u8>(), 0..100), ipv4: bool) {
            if ipv4 && frame.len() > 23 {
                frame[12..15].copy_from_slice(&[8, 0, 0x45]);
                frame[23] = 6;
            }
            is_valid(&frame);
            make_partial(&mut frame);
        }
    }
}
