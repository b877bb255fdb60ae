use super::*;
use crate::{Network, parse};

/// Ethernet and IPv4 around `protocol`.
fn outer(protocol: u8, octets: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(((20 + octets.len()) as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend(octets);
    frame
}

fn udp(port: u16, octets: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x12, 0x34];
    datagram.extend(port.to_be_bytes());
    datagram.extend(((8 + octets.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(octets);
    outer(17, &datagram)
}

fn packet() -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 3, 192, 0, 2, 4,
    ];
    packet.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0, 9, 0, 0, 0, 0]);
    packet
}

fn ethernet() -> Vec<u8> {
    let mut frame = vec![6; 12];
    frame.extend([0x81, 0, 0, 7, 8, 0]);
    frame.extend(packet());
    frame
}

fn find(frame: &[u8]) -> Option<Tunnel> {
    parse_inner(frame, &parse(frame, frame.len()).expect("whole frame"))
}

#[test]
fn vxlan() {
    let frame = udp(
        4789,
        &[&[8, 0, 0, 0, 0x12, 0x34, 0x56, 0][..], &ethernet()].concat(),
    );
    let tunnel = find(&frame).expect("VXLAN");
    assert_eq!((tunnel.kind, tunnel.offset), (TunnelKind::Vxlan, 42));
    assert_eq!(tunnel.id, Some(0x12_3456));
    let inner = tunnel.inner;
    assert_eq!(inner.frame_len as usize, frame.len());
    assert_eq!(inner.dst.0, [6; 6]);
    assert_eq!(inner.vlan.map(crate::VlanTag::id), Some(7));
    assert_eq!(inner.network_offset, 42 + 8 + 18);
    assert_eq!(
        inner.tcp().map(|tcp| (tcp.src_port, tcp.payload_offset)),
        Some((80, 68 + 40))
    );
    let mut without_vni = frame.clone();
    without_vni[42] = 0;
    assert_eq!(find(&without_vni), None);
    let mut fragment = frame;
    fragment[20] = 0x20;
    assert_eq!(find(&fragment), None);
}

#[test]
fn geneve_with_options_around_a_packet() {
    let header = [2, 0x40, 8, 0, 0, 0, 9, 0, 1, 2, 3, 0, 1, 2, 3, 0];
    let frame = udp(6081, &[&header[..], &packet()].concat());
    let tunnel = find(&frame).expect("Geneve");
    assert_eq!((tunnel.kind, tunnel.id), (TunnelKind::Geneve, Some(9)));
    assert_eq!((tunnel.inner.dst.0, tunnel.inner.vlan), ([2; 6], None));
    assert_eq!(tunnel.inner.network_offset, 42 + 16);
    assert!(tunnel.inner.tcp().is_some());
    for (at, value) in [(42, 0x42), (42, 3 | 0x3f), (43, 0x80), (44, 9)] {
        let mut broken = frame.clone();
        broken[at] = value;
        assert_eq!(find(&broken), None, "{at}");
    }
}

#[test]
fn gre_with_all_fields() {
    let gre = [
        0xb0, 0, 0x65, 0x58, 0xaa, 0xbb, 0, 0, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5,
    ];
    let frame = outer(47, &[&gre[..], &ethernet()].concat());
    let tunnel = find(&frame).expect("GRE");
    assert_eq!((tunnel.kind, tunnel.offset), (TunnelKind::Gre, 34));
    assert_eq!(tunnel.id, Some(0x1234_5678));
    assert_eq!(tunnel.inner.network_offset, 34 + 16 + 18);
    let view = GreView::new(&frame[34..]).expect("GRE");
    assert_eq!(
        (view.checksum_offset(), view.sequence_offset()),
        (Some(4), Some(12))
    );
    assert_eq!(view.sequence(), Some(5));
    for (at, value) in [(34, 0xf0), (35, 1)] {
        let mut other = frame.clone();
        other[at] = value;
        assert_eq!(find(&other), None, "routing or another version");
    }
}

#[test]
fn gre_fields_stand_behind_each_other() {
    let offsets = |flags| {
        let octets = [flags, 0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        let view = GreView::new(&octets).expect("GRE");
        (
            view.header_len(),
            view.checksum_offset(),
            view.key(),
            view.sequence(),
        )
    };
    assert_eq!(offsets(0), (4, None, None, None));
    assert_eq!(offsets(0x10), (8, None, None, Some(1)));
    assert_eq!(offsets(0x20), (8, None, Some(1), None));
    assert_eq!(offsets(0x30), (12, None, Some(1), Some(2)));
    assert_eq!(offsets(0x90), (12, Some(4), None, Some(2)));
    assert_eq!(offsets(0xb0), (16, Some(4), Some(2), Some(3)));
}

#[test]
fn what_is_no_tunnel_has_no_inside() {
    assert_eq!(find(&udp(53, &[8, 0, 0, 0, 0, 0, 1, 0, 1])), None);
    assert_eq!(find(&outer(6, &[0; 20])), None);
    assert_eq!(find(&outer(47, &[0x80, 0, 8])), None);
    assert_eq!(find(&outer(47, &[0, 0, 8, 6])), None, "ARP without Ethernet");
    let frame = udp(4789, &[&[8, 0, 0, 0, 0, 0, 1, 0][..], &ethernet()].concat());
    for len in 14..frame.len() {
        let meta = parse(&frame[..len], frame.len()).expect("a prefix");
        let inner = parse_inner(&frame[..len], &meta);
        assert!(len >= 50 + 14 || inner.is_none(), "{len}");
        assert!(inner.is_none_or(|tunnel| len >= 108 || tunnel.inner.tcp().is_none()));
    }
    let broken = udp(4789, &[&[8, 0, 0, 0, 0, 0, 1, 0][..], &[9; 30]].concat());
    assert!(find(&broken).is_some_and(|tunnel| tunnel.inner.network == Network::Other));
}
