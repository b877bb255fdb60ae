//! Taps with several queues.

use std::net::UdpSocket;

use super::*;

/// A datagram to 192.0.2.1 from `source`, its checksum left out (RFC 768).
fn datagram(mac: [u8; 6], source: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], mac)
        .ipv4([192, 0, 2, 9], [192, 0, 2, 1], 64)
        .udp(source, 7000);
    builder.write(&mut frame, b"hello").expect("a vector takes it");
    frame
}

/// The destination ports of the datagrams that a queue has.
fn ports(port: &TapPort, queue: u16) -> Vec<u16> {
    let mut burst = Burst::default();
    let mut found = Vec::new();
    loop {
        port.take(queue, Instant(0), &mut burst);
        let frames = (0..burst.frames().len()).filter_map(|index| burst.outgoing(index, 0));
        let heads: Vec<Vec<u8>> = frames.map(|frame| frame.head.to_vec()).collect();
        burst.clear();
        if heads.is_empty() {
            return found;
        }
        let port_of = |head: &Vec<u8>| match offload::parse(head, head.len()).ok()?.ip()?.transport {
            offload::Transport::Udp(udp) => Some(udp.dst_port),
            _ => None,
        };
        found.extend(heads.iter().filter_map(port_of));
    }
}

#[test]
fn answers_come_back_by_the_queue_that_a_flow_went_in_by() {
    if skip("answers_come_back_by_the_queue_that_a_flow_went_in_by") {
        return;
    }
    in_namespace(|| {
        let port = TapPort::open("tap0", 1500, 2).expect("a new tap");
        ip("address add 192.0.2.1/24 dev tap0");
        ip("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev tap0");
        assert_eq!(port.queues(), 2);
        let socket = UdpSocket::bind("192.0.2.1:7000").expect("an own address");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mac = mac_of_tap();
        for round in 0..2 {
            for flow in 0..16_u16 {
                let octets = datagram(mac, 5000 + flow);
                let frame = Outgoing {
                    flow_hash: u32::from(flow),
                    ..outgoing(VnetHeader::default(), &octets)
                };
                assert_eq!(port.deliver(&[frame]).refusal, None);
                let mut buffer = [0; 16];
                let (len, from) = socket.recv_from(&mut buffer).expect("the datagram");
                assert_eq!((&buffer[..len], from.port()), (&b"hello"[..], 5000 + flow));
                socket.send_to(b"answer", from).expect("a route");
            }
            let came = [ports(&port, 0), ports(&port, 1)];
            assert_eq!(came[0].len() + came[1].len(), 16, "round {round}: {came:?}");
            for (queue, came) in came.iter().enumerate() {
                for port in came {
                    assert_eq!(usize::from(port - 5000) % 2, queue, "round {round}");
                }
            }
        }
    });
}

/// The MAC address of `tap0` in the calling thread's namespace.
fn mac_of_tap() -> [u8; 6] {
    let interfaces = pnet_datalink::interfaces();
    let tap = interfaces.iter().find(|interface| interface.name == "tap0");
    tap.and_then(|tap| tap.mac).expect("it has an address").octets()
}

#[test]
fn the_kind_of_an_existing_tap_is_told() {
    if skip("the_kind_of_an_existing_tap_is_told") {
        return;
    }
    in_namespace(|| {
        ip("tuntap add dev single mode tap");
        ip("tuntap add dev several mode tap multi_queue");
        assert!(TapPort::open("single", 1500, 1).is_ok());
        let error = TapPort::open("single", 1500, 2).err().expect("refused");
        assert!(matches!(error, TapError::NotMultiQueue { .. }), "{error}");
        assert!(error.to_string().contains("multi_queue"), "{error}");
        let error = TapPort::open("several", 1500, 1).err().expect("refused");
        assert!(matches!(error, TapError::NotTap { .. }), "{error}");
        let port = TapPort::open("several", 1500, 4).expect("a tap of that kind");
        let waker = Arc::new(NotingWaker::default());
        port.attach(Arc::<NotingWaker>::clone(&waker));
        assert_eq!(waker.noted(), ["watch"; 4]);
        ip("link del several");
        for queue in 0..4 {
            port.woken(queue);
        }
        assert_eq!(waker.noted(), ["unwatch"; 4]);
        assert!(!port.status().up);
    });
}

#[test]
fn a_queue_that_was_read_to_its_end_rings_for_what_comes() {
    if skip("a_queue_that_was_read_to_its_end_rings_for_what_comes") {
        return;
    }
    in_namespace(|| {
        let port = TapPort::open("tap0", 1500, 1).expect("a new tap");
        ip("address add 192.0.2.1/24 dev tap0");
        ip("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev tap0");
        let socket = UdpSocket::bind("192.0.2.1:7000").expect("an own address");
        assert!(!port.is_drained(0), "nobody has looked");
        ports(&port, 0);
        assert!(port.is_drained(0) && !port.arm(0, false));
        socket.send_to(b"hello", "192.0.2.9:5000").expect("a route");
        assert!(port.look(0).readable, "who sleeps on it wakes");
        assert_eq!(ports(&port, 0), [5000]);
        assert!(port.is_drained(0));
        // The next look tells of a removal, too.
        ip("link delete tap0");
        ports(&port, 0);
        assert!(!port.is_drained(0) && !port.status().up);
    });
}
