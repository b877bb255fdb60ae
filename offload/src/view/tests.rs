use core::net::Ipv4Addr;

use super::*;
use crate::MacAddr;

#[test]
fn tcp_options_one_by_one() {
    let mut octets = vec![0; 20];
    octets[12] = 0xb0; // 44 octets
    octets.extend([
        1, 2, 4, 0x05, 0xb4, 3, 3, 7, 4, 2, 8, 10, 0, 0, 1, 0, 0, 0, 0, 9, 30, 3, 5, 0,
    ]);
    let view = TcpView::new(&octets).expect("whole header");
    assert_eq!(view.header_len(), 44);
    let options: Vec<_> = view.options().collect();
    assert_eq!(
        options,
        [
            TcpOption::MaxSegmentSize(1460),
            TcpOption::WindowScale(7),
            TcpOption::SackPermitted,
            TcpOption::Timestamps { value: 256, echo: 9 },
            TcpOption::Other { kind: 30, data: &[5] },
        ]
    );
}

#[test]
fn malformed_tcp_options_end_the_list() {
    for tail in [[3, 1, 0, 0], [3, 0, 0, 0], [3, 9, 0, 0], [1, 1, 1, 3]] {
        let mut octets = vec![0; 20];
        octets[12] = 0x70;
        octets.extend([3, 3, 7, 1]);
        octets.extend(tail);
        let view = TcpView::new(&octets).expect("whole header");
        assert_eq!(view.options().collect::<Vec<_>>(), [TcpOption::WindowScale(7)]);
    }
}

#[test]
fn lengths_are_checked() {
    let mut ip = [0; 20];
    ip[0] = 0x44;
    let short = ViewError::HeaderLength {
        header: "IPv4",
        stated: 16,
    };
    assert_eq!(Ipv4View::new(&ip).err(), Some(short));
    ip[0] = 0x46;
    let cut = ViewError::Truncated {
        header: "IPv4",
        needed: 24,
        available: 20,
    };
    assert_eq!(Ipv4View::new(&ip).err(), Some(cut));
    ip[0] = 0x65;
    let version = ViewError::Version {
        expected: 4,
        found: 6,
    };
    assert_eq!(Ipv4View::new(&ip).err(), Some(version));
    assert!(UdpView::new(&[0; 7]).is_err());
    assert!(IcmpView::new(&[0; 3]).is_err());
    assert!(Ipv6View::new(&[0x60; 39]).is_err());
    assert!(VlanView::new(&[0; 3]).is_err());
}

#[test]
fn arp_fields() {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend([2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 9]);
    let view = ArpView::new(&packet).expect("whole packet");
    assert_eq!(view.operation(), ArpOperation::Request);
    assert_eq!(view.sender_mac(), MacAddr([2, 0, 0, 0, 0, 1]));
    assert_eq!(view.sender_ip(), Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(view.target_mac(), MacAddr::default());
    assert_eq!(view.target_ip(), Ipv4Addr::new(192, 0, 2, 9));
    packet[5] = 16;
    assert_eq!(ArpView::new(&packet).err(), Some(ViewError::ArpKind));
}

#[test]
fn icmp_echo_fields() {
    let view = IcmpView::new(&[8, 0, 0x12, 0x34, 0, 1, 0, 2]).expect("whole header");
    assert_eq!((view.kind(), view.code(), view.checksum()), (8, 0, 0x1234));
    assert_eq!(view.echo(), Some((1, 2)));
    assert_eq!(IcmpView::new(&[8, 0, 0, 0, 1]).ok().and_then(|v| v.echo()), None);
}
