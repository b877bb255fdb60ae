//! Filters that are switched on and off and exchanged a hundred times while two kernels' TCP runs through the switch.
//!
//! The switch and both hosts are in network namespaces of their own, which need root; without it the test says by name that
//! it is skipped.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
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

/// What a port's filter is set to, one behind the other.
const ROTATION: [&[&str]; 8] = [
    &["set", "v0", "inspect"],
    &["set", "v0", "hold"],
    &["set", "v0", "inspect", "--rules", RULES],
    &["set", "v0", "coalesce"],
    &["set", "v0", "thin-acks"],
    &["set", "v0", "serialize"],
    &["set", "v0", "inspect,thin-acks:rx,coalesce:tx"],
    &["off", "v0"],
];
/// Stands for a file with a rule that matches nothing, so that everything is copied and read.
const RULES: &str = "RULES";
const ROTATIONS: usize = 16;

/// Streams take turns: each wants the processors for itself.
static TURN: Mutex<()> = Mutex::new(());

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

/// What is done to the switch while the stream runs, and what it says at the end.
#[derive(Clone, Copy)]
struct Plan {
    during: fn(&Daemon, &Shared),
    after: fn(&Daemon),
}

#[test]
fn a_stream_does_not_notice_a_filter_that_comes_and_goes() {
    let test = "a_stream_does_not_notice_a_filter_that_comes_and_goes";
    let plan = Plan {
        during: toggle,
        after: toggled,
    };
    let Some([sent, got]) = stream(test, plan) else {
        return;
    };
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

/// What `hold` and `thin-acks` do to acknowledgements may have a sender repeat itself; nothing comes before its turn all the same.
#[test]
fn a_stream_comes_whole_and_in_order_whatever_filters_take_turns() {
    let test = "a_stream_comes_whole_and_in_order_whatever_filters_take_turns";
    let plan = Plan {
        during: rotate,
        after: rotated,
    };
    let Some(ends) = stream(test, plan) else {
        return;
    };
    for end in ends {
        let early = end.trouble.iter().find(|(name, _)| *name == "TCPOFOQueue");
        assert_eq!(early, Some(&("TCPOFOQueue", 0)), "{:?}", end.trouble);
    }
}

/// Runs a stream over a switch: its sender and receiver, which have the same octets. Without namespaces says so, and nothing else.
fn stream(test: &str, plan: Plan) -> Option<[End; 2]> {
    if let Some(missing) = netns::missing() {
        skip(test, &missing);
        return None;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let shared = Shared::default();
    let (join, hosts) = channel();
    let (sent, got) = thread::scope(|scope| {
        let (shared, join) = (&shared, &join);
        let (listening, listens) = channel();
        let switch = scope.spawn(move || switch(shared, &hosts, plan));
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
    Some([sent, got])
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

/// The switch's side: gives each host its tap, then follows the plan.
fn switch(shared: &Shared, hosts: &Receiver<Message>, plan: Plan) {
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
    (plan.during)(&daemon, shared);
    shared.stop.store(true, Ordering::Relaxed);
    next();
    next();
    assert_eq!(done, 2);
    (plan.after)(&daemon);
}

/// Switches one filter on and off.
fn toggle(daemon: &Daemon, shared: &Shared) {
    for round in 0..TOGGLES {
        daemon.cli(&["filter", "set", "v0", "serialize"]);
        if round % 10 == 9 {
            // The filter is in the path, and lets the stream through.
            progress(shared);
            assert!(counter_of(daemon, "frames") > 0);
        }
        daemon.cli(&["filter", "off", "v0"]);
        if round % 10 == 9 {
            progress(shared);
        }
    }
}

fn toggled(daemon: &Daemon) {
    assert_eq!(changes(daemon), 2 * TOGGLES);
    for side in drops(daemon) {
        assert!(side.is_empty(), "{side:?}");
    }
}

/// Has all filters take turns. Each is in the path for some time in two of the rotations; in the others it goes as soon as it came.
fn rotate(daemon: &Daemon, shared: &Shared) {
    let rules = daemon.path("rules.toml");
    let rule = "[[rule]]\nname = 'none'\npattern = 'these are not random octets'\naction = 'drop'\n";
    std::fs::write(&rules, rule).expect("the daemon's directory");
    let rules = rules.display().to_string();
    for rotation in 0..ROTATIONS {
        for (index, words) in ROTATION.iter().enumerate() {
            let words = words
                .iter()
                .map(|word| if *word == RULES { &rules } else { *word });
            let command: Vec<&str> = ["filter"].into_iter().chain(words).collect();
            daemon.cli(&command);
            if rotation % ROTATION.len() != index {
                continue;
            }
            progress(shared);
            if command[1] == "set" {
                some(daemon, "frames");
            }
            if command[3..].contains(&"thin-acks") {
                some(daemon, "thinned");
            }
            if command.contains(&"--rules") {
                some(daemon, "inspected_octets");
            }
        }
    }
}

fn rotated(daemon: &Daemon) {
    assert_eq!(changes(daemon), (ROTATIONS * ROTATION.len()) as u64);
    let mut thinned = 0;
    for side in drops(daemon) {
        for (reason, count) in side {
            assert_eq!(reason, "filter_thinned");
            thinned += count;
        }
    }
    assert!(thinned > 0, "no acknowledgement was left out");
}

/// Waits until the filter has counted something.
fn some(daemon: &Daemon, name: &str) {
    let start = Instant::now();
    while counter_of(daemon, name) == 0 {
        assert!(start.elapsed() < LIMIT, "the filter has no {name}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn counter_of(daemon: &Daemon, name: &str) -> u64 {
    let filters = daemon.cli(&["filter", "show"]);
    let count = filters[0]["counters"][name].as_u64();
    count.unwrap_or_else(|| panic!("the filter counts {name}: {filters}"))
}

fn changes(daemon: &Daemon) -> u64 {
    let filters = daemon.cli(&["filter", "show"]);
    filters[0]["changes"].as_u64().expect("a number of changes")
}

/// What both ports dropped on both sides, by reason.
fn drops(daemon: &Daemon) -> Vec<Vec<(String, u64)>> {
    let mut drops = Vec::new();
    for port in ["v0", "v1"] {
        let stats = daemon.port_stats(port);
        for side in ["tx_dropped", "rx_dropped"] {
            let reasons = stats[side].as_object().expect("drops by reason");
            let reasons = reasons.iter().map(|(reason, count)| {
                let count = count.as_u64().expect("a count");
                (reason.clone(), count)
            });
            drops.push(reasons.collect());
        }
    }
    drops
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
