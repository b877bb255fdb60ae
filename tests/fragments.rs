//! Datagrams that a kernel cuts into IP fragments, between two taps of a switch with a rule on one of them.
//!
//! The switch and both hosts are in network namespaces of their own, which need root; without it the test says by name that it is
//! skipped.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};

use support::talk::{LIMIT, Site, connect};
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
    let rules = site.daemon.path("rules.toml");
    let rule = "[[rule]]\nname = \"a\"\npattern = \"attack\"\naction = \"drop\"\n";
    std::fs::write(&rules, rule).expect("the directory is writable");
    let rules = rules.display().to_string();
    site.daemon
        .cli(&["filter", "set", "v0", "inspect", "--rules", &rules]);
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
        let filters = site.daemon.cli(&["filter", "show"]);
        let filters = filters.as_array().expect("filters");
        let filter = filters.iter().find(|filter| filter["port"] == "v0");
        let counters = &filter.expect("the filter")["counters"];
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
