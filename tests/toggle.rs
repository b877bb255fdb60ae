//! A filter that is switched on and off a hundred times while two kernels' TCP runs through the switch.
//!
//! The switch and both hosts are in network namespaces of their own, which need root; without it the test says by name that
//! it is skipped.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use support::daemon::Daemon;
use support::frames::{Digest, Random};
use support::netns::{self, counter};
use support::{host, skip};

const SENDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PORT: u16 = 5001;
const TOGGLES: u64 = 100;
const LIMIT: Duration = Duration::from_secs(20);

/// What the threads tell each other.
#[derive(Default)]
struct Shared {
    received: AtomicU64,
    stop: AtomicBool,
}

/// One end's view of the stream.
#[derive(Debug)]
struct End {
    octets: u64,
    digest: Digest,
    /// Counters of its kernel that stay 0 while nothing is lost or overtaken.
    trouble: Vec<(&'static str, u64)>,
}

#[test]
fn a_stream_does_not_notice_a_filter_that_comes_and_goes() {
    let test = "a_stream_does_not_notice_a_filter_that_comes_and_goes";
    if let Some(missing) = netns::missing() {
        return skip(test, &missing);
    }
    let shared = Shared::default();
    let (join, hosts) = channel();
    let (sent, got) = thread::scope(|scope| {
        let (shared, join) = (&shared, &join);
        let (listening, listens) = channel();
        let switch = scope.spawn(move || switch(shared, &hosts));
        let receiver =
            scope.spawn(move || in_namespace(RECEIVER, "t1", join, || receive(shared, &listening)));
        let sender = scope.spawn(move || {
            in_namespace(SENDER, "t0", join, || {
                listens.recv_timeout(LIMIT).expect("the receiver listens");
                send(shared)
            })
        });
        let (sent, got) = (sender.join(), receiver.join());
        switch.join().expect("the switch's side");
        (
            sent.expect("the sender's side"),
            got.expect("the receiver's side"),
        )
    });
    assert_eq!(
        (sent.octets, sent.digest),
        (got.octets, got.digest),
        "the octets arrive as they were sent"
    );
    assert!(sent.octets > 1 << 20, "{} octets", sent.octets);
    let trouble = sent
        .trouble
        .iter()
        .chain(&got.trouble)
        .filter(|(_, count)| *count > 0);
    assert_eq!(
        trouble.count(),
        0,
        "sender {:?}, receiver {:?}",
        sent.trouble,
        got.trouble
    );
}

/// What a host tells the switch's side.
enum Message {
    /// It wants a tap in its thread's namespace, and to hear when that is there.
    Join {
        tap: &'static str,
        thread: u32,
        ready: Sender<Stay>,
    },
    /// It is done, but stays until the receiver of its [`Stay`] is told to go.
    Done,
}

/// Held by the switch's side as long as a host has to keep its namespace, and its tap with it.
type Stay = Receiver<()>;

/// The switch's side: gives each host its tap, then toggles.
fn switch(shared: &Shared, hosts: &Receiver<Message>) {
    netns::enter();
    let daemon = Daemon::start();
    for (port, tap) in [("v0", "t0"), ("v1", "t1")] {
        daemon.cli(&["port", "add", port, "--tap", tap]);
    }
    let mut stays = Vec::new();
    let mut done = 0;
    let mut next = || match hosts.recv_timeout(LIMIT).expect("a host says something") {
        Message::Join { tap, thread, ready } => {
            host(&format!("ip link set {tap} netns {thread}"));
            let (stay, leave) = channel();
            stays.push(stay);
            ready.send(leave).expect("the host waits");
        }
        Message::Done => done += 1,
    };
    next();
    next();
    for round in 0..TOGGLES {
        daemon.cli(&["filter", "set", "v0", "serialize"]);
        if round % 10 == 9 {
            // The filter is in the path, and lets the stream through.
            progress(shared);
            let filters = daemon.cli(&["filter", "show"]);
            assert!(filters[0]["counters"]["frames"].as_u64() > Some(0), "{filters}");
        }
        daemon.cli(&["filter", "off", "v0"]);
        if round % 10 == 9 {
            progress(shared);
        }
    }
    shared.stop.store(true, Ordering::Relaxed);
    next();
    next();
    assert_eq!(done, 2);
    let filters = daemon.cli(&["filter", "show"]);
    assert_eq!(filters[0]["changes"].as_u64(), Some(2 * TOGGLES), "{filters}");
    for port in ["v0", "v1"] {
        let stats = daemon.port_stats(port);
        for side in ["tx_dropped", "rx_dropped"] {
            let dropped = stats[side].as_object().expect("drops by reason");
            assert!(dropped.is_empty(), "{port} {side}: {dropped:?}");
        }
    }
}

/// Waits until the receiver has more than now.
fn progress(shared: &Shared) {
    let (start, seen) = (Instant::now(), shared.received.load(Ordering::Relaxed));
    while shared.received.load(Ordering::Relaxed) == seen {
        assert!(
            start.elapsed() < LIMIT,
            "the stream stands still after {seen} octets"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Does something in a namespace with a tap of the switch that has an address.
fn in_namespace(
    address: Ipv4Addr,
    tap: &'static str,
    switch: &Sender<Message>,
    work: impl FnOnce() -> End,
) -> End {
    netns::enter();
    let (ready, given) = channel();
    switch
        .send(Message::Join {
            tap,
            thread: netns::thread_number(),
            ready,
        })
        .expect("the switch's side listens");
    let stay = given.recv_timeout(LIMIT).expect("the tap comes");
    host(&format!(
        "ip addr add {address}/24 dev {tap} && ip link set {tap} up"
    ));
    let end = work();
    switch.send(Message::Done).expect("the switch's side listens");
    // Ends when the switch's side does, be it by a panic.
    let _ = stay.recv_timeout(LIMIT);
    end
}

fn receive(shared: &Shared, listening: &Sender<()>) -> End {
    let listener = TcpListener::bind((RECEIVER, PORT)).expect("an own address");
    listening.send(()).expect("the sender waits");
    let (mut stream, _) = listener.accept().expect("the sender connects");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let (mut octets, mut digest, mut buffer) = (0, Digest::default(), vec![0; 1 << 16]);
    while let read @ 1.. = stream.read(&mut buffer).expect("data or the end") {
        octets += read as u64;
        digest.add(&buffer[..read]);
        shared.received.store(octets, Ordering::Relaxed);
    }
    End {
        octets,
        digest,
        trouble: trouble(),
    }
}

fn send(shared: &Shared) -> End {
    let mut stream = TcpStream::connect((RECEIVER, PORT)).expect("the receiver takes a connection");
    stream.set_write_timeout(Some(LIMIT)).expect("a timeout");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let (mut octets, mut digest, mut random) = (0, Digest::default(), Random::new(1));
    while !shared.stop.load(Ordering::Relaxed) {
        let len = 1 + random.below(1 << 16);
        let chunk = random.octets(len);
        stream.write_all(&chunk).expect("the stream takes it");
        octets += chunk.len() as u64;
        digest.add(&chunk);
    }
    stream.shutdown(Shutdown::Write).expect("an open stream");
    assert_eq!(stream.read(&mut [0]).expect("the receiver's end"), 0);
    End {
        octets,
        digest,
        trouble: trouble(),
    }
}

/// Retransmissions, timeouts and segments that came before their turn. A probe for a late acknowledgement (RFC 8985, 7.2) is
/// none: a filter that holds frames makes acknowledgements late. It may be new data, so that there are more of them than
/// segments sent again.
fn trouble() -> Vec<(&'static str, u64)> {
    let extended = |name| counter("netstat", "TcpExt", name);
    let again = counter("snmp", "Tcp", "RetransSegs").saturating_sub(extended("TCPLossProbes"));
    let names = [
        "TCPFastRetrans",
        "TCPSlowStartRetrans",
        "TCPTimeouts",
        "TCPLostRetransmit",
        "TCPOFOQueue",
    ];
    [("RetransSegs without probes", again)]
        .into_iter()
        .chain(names.map(|name| (name, extended(name))))
        .collect()
}
