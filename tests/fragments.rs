//! Datagrams that a kernel cuts into IP fragments, between two taps of a switch with a rule on one of them; and headers that hide a datagram
//! from who reads only the first octets of a frame.
//!
//! For the former the switch and both hosts are in network namespaces of their own, which need root; without it the test says by name that
//! it is skipped.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};

use serde_json::Value;
use support::daemon::Daemon;
use support::peer::Peer;
use support::talk::{LIMIT, Site, connect, wait_until};
use support::{netns, skip};

const UDP_PORT: u16 = 5002;
const LEN: usize = 4000;
const PATTERN: &[u8] = b"attack";
/// Where the pattern stands: around the places where a kernel with an MTU of 1,500 cuts (1,472 and 2,952 with IPv4, 1,440 and 2,888 with
/// IPv6), in the middle of a fragment, and nowhere.
const PLACES: [Option<usize>; 9] = [
    None,
    Some(1472 - 3),
    None,
    Some(2952 - 1),
    Some(1440 - 5),
    Some(2888 - 3),
    Some(2000),
    None,
    None,
];

fn datagram(number: usize, place: Option<usize>) -> Vec<u8> {
    let mut octets = vec![b'0' + number as u8; LEN];
    if let Some(place) = place {
        octets[place..place + PATTERN.len()].copy_from_slice(PATTERN);
    }
    octets
}

/// Sends the datagrams when the server is ready, and one that ends them.
fn send(own: &str, to: &str) {
    let mut ready = connect(false);
    ready.read_exact(&mut [0]).expect("the server is ready");
    let socket = UdpSocket::bind((own, 0)).expect("an own address");
    for (number, place) in PLACES.into_iter().enumerate() {
        socket
            .send_to(&datagram(number, place), (to, UDP_PORT))
            .expect("the kernel takes it");
    }
    socket
        .send_to(b"end", (to, UDP_PORT))
        .expect("the kernel takes it");
}

/// The datagrams that came.
fn receive(listener: &TcpListener, own: &str) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind((own, UDP_PORT)).expect("an own address");
    socket.set_read_timeout(Some(LIMIT)).expect("a socket");
    let (mut client, _) = listener.accept().expect("the client connects");
    client.write_all(&[1]).expect("the stream takes it");
    let mut came = Vec::new();
    let mut buffer = [0; 2 * LEN];
    loop {
        let len = socket.recv(&mut buffer).expect("a datagram");
        if &buffer[..len] == b"end" {
            return came;
        }
        came.push(buffer[..len].to_vec());
    }
}

/// Has port v0 drop what has the pattern.
fn forbid(daemon: &Daemon) {
    let rules = daemon.path("rules.toml");
    let rule = "[[rule]]\nname = \"a\"\npattern = \"attack\"\naction = \"drop\"\n";
    std::fs::write(&rules, rule).expect("the directory is writable");
    let rules = rules.display().to_string();
    daemon.cli(&["filter", "set", "v0", "inspect", "--rules", &rules]);
}

/// What the filter of v0 has counted.
fn counters(daemon: &Daemon) -> Value {
    let filters = daemon.cli(&["filter", "show"]);
    let filters = filters.as_array().expect("filters");
    let filter = filters.iter().find(|filter| filter["port"] == "v0");
    filter.expect("the filter")["counters"].clone()
}

#[test]
fn what_a_kernel_cuts_is_judged_whole() {
    if let Some(reason) = netns::missing() {
        return skip("what_a_kernel_cuts_is_judged_whole", &reason);
    }
    let site = Site::new();
    for (host, tap, number) in [(&site.client, "t0", 1), (&site.server, "t1", 2)] {
        host.host(format!(
            "echo 0 >/proc/sys/net/ipv6/conf/{tap}/disable_ipv6; ip addr add 2001:db8::{number}/64 dev {tap} nodad"
        ));
    }
    forbid(&site.daemon);
    let attacks = PLACES.into_iter().flatten().count() as u64;
    for (rounds, [own, to]) in [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]]
        .into_iter()
        .enumerate()
    {
        site.talk(
            move || send(own, to),
            move |listener| {
                let expected: Vec<Vec<u8>> = PLACES
                    .into_iter()
                    .enumerate()
                    .filter(|(_, place)| place.is_none())
                    .map(|(number, place)| datagram(number, place))
                    .collect();
                assert_eq!(receive(&listener, to), expected);
            },
        );
        let counters = counters(&site.daemon);
        let rounds = rounds as u64 + 1;
        let [fragments, reassembled, dropped, unjudged] =
            ["fragments", "reassembled", "dropped", "failed_open"].map(|name| counters[name].as_u64());
        assert_eq!(reassembled, Some(PLACES.len() as u64 * rounds), "{counters:#}");
        assert_eq!(fragments, Some(3 * PLACES.len() as u64 * rounds), "{counters:#}");
        assert_eq!(
            (dropped, unjudged),
            (Some(attacks * rounds), Some(0)),
            "{counters:#}"
        );
    }
}

/// IPv6 with destination options of 256 octets before a datagram, whole and in two fragments whose own headers come as late.
#[test]
fn headers_that_go_on_for_long_hide_nothing() {
    const OPTIONS: u8 = 60;
    const UDP: u8 = 17;
    const FRAGMENT: u8 = 44;
    let daemon = Daemon::start();
    let socket = daemon.vhost_port("v0");
    forbid(&daemon);
    let mut peer = Peer::attach(&socket, 1);
    let datagram = [&[0x0f, 0xa0, 0, 53, 0, 25, 0, 0][..], b"here is an attack"].concat();
    let (head, tail) = datagram.split_at(16);
    let fragment = |place: u8, octets: &[u8]| [&[UDP, 0, 0, place, 0, 0, 0, 9], octets].concat();
    let packets = [
        (UDP, datagram.clone()),
        (FRAGMENT, fragment(1, head)),
        (FRAGMENT, fragment(16, tail)),
    ];
    for (next, octets) in packets {
        let mut options = vec![next, 31, 1, 252];
        options.resize(256, 0);
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((256 + octets.len() as u16).to_be_bytes());
        frame.extend([OPTIONS, 64]);
        for host in [1, 2] {
            frame.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        }
        frame.extend(options);
        frame.extend(octets);
        peer.send(&frame);
    }
    wait_until(|| counters(&daemon)["frames"].as_u64() >= Some(3));
    let counters = counters(&daemon);
    let [dropped, reassembled, unjudged] =
        ["dropped", "reassembled", "failed_open"].map(|name| counters[name].as_u64());
    assert_eq!(
        (dropped, reassembled, unjudged),
        (Some(2), Some(1), Some(0)),
        "{counters:#}"
    );
}
