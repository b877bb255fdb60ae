//! Checksums that a virtual interface's peer left to be filled in.
//!
//! The kernel of a veth's or a virtual NIC's other end sends frames whose TCP or UDP checksum is only begun, and says so
//! beside the frame; AF_XDP hands over the frame alone. What stands in the field then is the sum of the pseudo-header,
//! not complemented, which tells it: a finished checksum has that value in one frame of 65,536, and to finish it again gives
//! the same octets.

use offload::{Transport, VnetHeader, checksum};

/// The virtio-net header of a frame that begins so: asks for the checksum if it is only begun.
pub(super) fn header(head: &[u8], len: usize) -> VnetHeader {
    begun(head, len).unwrap_or_default()
}

fn begun(head: &[u8], len: usize) -> Option<VnetHeader> {
    let meta = offload::parse(head, len).ok()?;
    let ip = meta.ip().filter(|ip| !ip.fragment)?;
    let field: u16 = match ip.transport {
        Transport::Tcp(_) => 16,
        Transport::Udp(_) => 6,
        _ => return None,
    };
    let start = ip.transport_offset;
    let octets = ip.end.checked_sub(u32::from(start))?;
    let stands = head.get(usize::from(start + field)..)?.first_chunk().copied()?;
    let sum = checksum::fold(checksum::pseudo_header(ip.src, ip.dst, ip.protocol, octets));
    (u16::from_be_bytes(stands) == sum).then_some(VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        csum_start: start,
        csum_offset: field,
        ..VnetHeader::default()
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn frames() -> [(Vec<u8>, usize, u16); 4] {
        let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let four = || ethernet().ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
        let six = |last| {
            let mut address = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            address[15] = last;
            address
        };
        let six = || ethernet().ipv6(six(1), six(2), 64);
        let payload = b"an odd payload!";
        let mut out = [const { Vec::new() }; 4];
        let [a, b, c, d] = &mut out;
        four().tcp(1, 2, 3, 4).write(a, payload).unwrap();
        four().udp(1, 2).write(b, payload).unwrap();
        six().tcp(1, 2, 3, 4).write(c, payload).unwrap();
        six().udp(1, 2).write(d, payload).unwrap();
        let [a, b, c, d] = out;
        [(a, 34, 16), (b, 34, 6), (c, 54, 16), (d, 54, 6)]
    }

    #[test]
    fn a_begun_checksum_is_told_from_a_finished_one() {
        for (whole, start, field) in frames() {
            assert_eq!(header(&whole, whole.len()), VnetHeader::default());
            let mut begun = whole.clone();
            let meta = offload::parse(&whole, whole.len()).unwrap();
            let ip = meta.ip().unwrap();
            let sum = checksum::pseudo_header(ip.src, ip.dst, ip.protocol, (whole.len() - start) as u32);
            begun[start + usize::from(field)..][..2].copy_from_slice(&checksum::fold(sum).to_be_bytes());
            let vnet = header(&begun, begun.len());
            assert_eq!(
                (vnet.flags, vnet.csum_start, vnet.csum_offset),
                (VnetHeader::NEEDS_CSUM, start as u16, field)
            );
            checksum::finish_partial(&mut begun, vnet.csum_start, vnet.csum_offset).unwrap();
            assert_eq!(begun, whole);
        }
    }

    #[test]
    fn what_is_cut_off_is_left_alone() {
        for (whole, ..) in frames() {
            for len in 0..whole.len() {
                header(&whole[..len], len);
            }
        }
    }
}
