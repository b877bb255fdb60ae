//! Datagrams that a kernel cuts into IP fragments, between two taps of a switch with a rule on one of them; and headers that hide a datagram
//! from who reads only the first octets of a frame.
//!
//! For the former the switch and both hosts are in network namespaces of their own, which need root; without it the test says by name that
//! it is skipped.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::daemon::Daemon;
use support::netns::Namespace;
use support::peer::Peer;
use support::talk::{LIMIT, PORT, ROUNDS, Site, TALK, Talk, answer, ask, connect, wait_until};
use support::{enlight, host, netns, skip};

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
    site.daemon.cli(&["switch", "attribution", "full"]);
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
        // What the rule dropped aside, and with the datagram that ends them, each counts for its flow.
        let passed = 3 * PLACES.len() as u64 - attacks + 1;
        let lists = site.daemon.cli(&["stats", "--flows", "--port", "v0"]);
        for list in ["residence", "filter"] {
            let frames = frames_of(&lists[0][list], own);
            assert_eq!(frames, passed, "{lists:#}");
        }
    }
}

/// Frames that a list of flows has of UDP from a host.
fn frames_of(list: &Value, host: &str) -> u64 {
    let flows = list["flows"].as_array().expect("flows").iter();
    let udp = flows.filter(|flow| flow["flow"]["protocol"] == 17 && flow["flow"]["local"]["addr"] == host);
    udp.map(|flow| flow["frames"].as_u64().expect("a number")).sum()
}

/// A client behind a router that cuts its segments on their way to the switch.
fn behind_a_router() -> (Site, Namespace) {
    let site = Site::new();
    let client = Namespace::new();
    // 68 octets leave room for the headers of TCP, and for half of a request.
    site.client.host(format!(
        "ip link add r0 type veth peer name r1 netns {} && ip addr add 198.51.100.1/24 dev r0 && ip link set r0 up
         echo 1 >/proc/sys/net/ipv4/ip_forward; ip link set t0 mtu 68",
        client.number()
    ));
    client.host(
        "echo 1 >/proc/sys/net/ipv4/ip_no_pmtu_disc
         ip addr add 198.51.100.2/24 dev r1 && ip link set r1 up && ip route add default via 198.51.100.1",
    );
    site.server.host("ip route add 198.51.100.0/24 via 192.0.2.1");
    (site, client)
}

/// A client's segments that a router cuts on their way to the switch, with Nagle's algorithm and a receiver that delays its ACKs.
#[test]
fn what_a_router_cuts_is_diagnosed() {
    if let Some(reason) = netns::missing() {
        return skip("what_a_router_cuts_is_diagnosed", &reason);
    }
    let (site, client) = behind_a_router();
    site.daemon.cli(&["filter", "set", "v0", "inspect"]);
    let file = site.daemon.path("cut.pcapng");
    let path = file.display().to_string();
    let mut capture = site.daemon.command(&["capture", "v0", "-w", &path]);
    let mut capture = capture.stderr(Stdio::null()).spawn().expect("the CLI runs");
    wait_until(|| file.exists());
    let talk = Talk { nagle: true, ..TALK };
    let listener = site
        .server
        .run(|| TcpListener::bind(("192.0.2.2", PORT)).expect("an own address"));
    thread::scope(|scope| {
        let serving = scope.spawn(|| site.server.run(move || answer(&listener, talk)));
        client.run(move || ask(talk));
        serving.join().expect("the server's side");
    });
    thread::sleep(Duration::from_millis(100));
    host(&format!("kill -INT {}", capture.id()));
    capture.wait().expect("the capture ends");
    let output = Command::new(enlight())
        .args(["diagnose", &path, "--json"])
        .output()
        .expect("the CLI runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let notice = report["notices"][0].as_str().unwrap_or_default();
    let behind = notice
        .split_once("They make up ")
        .map_or("", |(_, behind)| behind);
    let made = behind.split(' ').next().and_then(|number| number.parse().ok());
    assert!(
        made >= Some(2 * ROUNDS) && notice.contains("and 0 of which"),
        "{report:#}"
    );
    let causes = report["causes"].as_array().expect("causes");
    assert!(
        causes.len() == 1 && causes[0]["cause"] == "nagle-delayed-ack",
        "{report:#}"
    );
    assert!(
        causes[0]["stalls"].as_u64() >= Some(ROUNDS as u64 / 2),
        "{report:#}"
    );
    // The watcher of the port takes them in as they come.
    let live = &site.daemon.port_stats("v0")["stall_causes"]["causes"];
    let named = live["nagle-delayed-ack"]["stalls"].as_u64();
    assert!(
        named >= Some(ROUNDS as u64 / 2) && live.as_object().is_some_and(|all| all.len() == 1),
        "{live:#}"
    );
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
