//! `enlight diagnose` on what two kernels' TCP did through two taps of a switch: small requests and answers with Nagle's
//! algorithm and without it, with quick acknowledgements and without them, by filter; and on what programs other than ours
//! captured.
//!
//! The switch and both hosts are in network namespaces of their own, which need root; without it the tests say by name that
//! they are skipped.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::netns::{self, Namespace};
use support::talk::{
    LIMIT, PORT, ROUNDS, Request, Site, TALK, Talk, answer, ask, connect, receive_bulk, send_bulk, wait_until,
};
use support::{enlight, host, program, skip};

/// Captures both sides of the client's filter while both ends do something.
fn capture(
    site: &Site,
    name: &str,
    client: impl FnOnce() + Send + 'static,
    server: impl FnOnce(TcpListener) + Send + 'static,
) -> PathBuf {
    let file = site.daemon.path(name);
    // An earlier capture's file would say too soon that this one has begun.
    let _ = std::fs::remove_file(&file);
    let path = file.display().to_string();
    let mut capture = site
        .daemon
        .command(&["capture", "v0", "-w", &path, "--both-sides", "--snap", "200"]);
    let mut capture = capture.stderr(Stdio::null()).spawn().expect("the CLI runs");
    // It makes the file when the switch has begun.
    wait_until(|| file.exists());
    site.talk(client, server);
    stop(&mut capture);
    file
}

fn converse(site: &Site, name: &str, talk: Talk) -> Value {
    let file = capture(
        site,
        name,
        move || ask(talk),
        move |listener| answer(&listener, talk),
    );
    diagnose(&[&file])
}

/// Ends a capture as Ctrl-C does.
fn stop(capture: &mut Child) {
    thread::sleep(Duration::from_millis(100));
    host(&format!("kill -INT {}", capture.id()));
    capture.wait().expect("the capture ends");
}

fn diagnose(files: &[&Path]) -> Value {
    let output = Command::new(enlight())
        .arg("diagnose")
        .args(files)
        .arg("--json")
        .output()
        .expect("the CLI runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// How many stalls of a cause there are, and of others.
fn stalls(report: &Value, cause: &str) -> (u64, u64) {
    let causes = report["causes"].as_array().expect("causes");
    let count = |of: &Value| of["stalls"].as_u64().expect("a number");
    let named = causes.iter().filter(|of| of["cause"] == cause).map(count).sum();
    (named, causes.iter().map(count).sum::<u64>() - named)
}

fn missing(test: &str) -> bool {
    let missing = netns::missing();
    if let Some(reason) = &missing {
        skip(test, reason);
    }
    missing.is_some()
}

#[test]
fn small_writes_of_two_kernels() {
    if missing("small_writes_of_two_kernels") {
        return;
    }
    let site = Site::new();
    let nagle = Talk { nagle: true, ..TALK };
    for profile in ["off", "inspect"] {
        site.daemon.cli(&["filter", "set", "v0", profile]);
        let report = converse(&site, "nagle.pcapng", nagle);
        let (named, others) = stalls(&report, "nagle-delayed-ack");
        assert!(named >= ROUNDS as u64 / 2 && others == 0, "{profile}: {report:#}");
        let finding = &report["flows"][0]["findings"][0];
        assert!(finding["gap_ns"].as_u64() > Some(30_000_000), "{finding:#}");
        for talk in [TALK, Talk { quick: true, ..TALK }, Talk { quick: true, ..nagle }] {
            let report = converse(&site, "quick.pcapng", talk);
            assert_eq!(report["causes"], serde_json::json!([]), "{profile}: {report:#}");
        }
    }
}

#[test]
fn filters_are_named() {
    if missing("filters_are_named") {
        return;
    }
    let site = Site::new();
    site.daemon.cli(&["filter", "set", "v0", "serialize"]);
    let report = converse(&site, "serialize.pcapng", TALK);
    let (named, others) = stalls(&report, "filter-serialised");
    assert!(named >= ROUNDS as u64 / 2 && others == 0, "{report:#}");
    let cost = &report["filter"];
    assert_eq!(cost["stalls"].as_u64(), Some(named), "{cost:#}");
    assert!(
        cost["ms_without"].as_f64() < cost["ms"].as_f64().map(|ms| ms / 2.0),
        "{cost:#}"
    );
    site.daemon
        .cli(&["filter", "set", "v0", "hold", "--deadline", "60"]);
    let report = converse(
        &site,
        "hold.pcapng",
        Talk {
            request: Request::Open,
            ..TALK
        },
    );
    let (named, others) = stalls(&report, "filter-hold");
    assert!(named >= ROUNDS as u64 / 2 && others == 0, "{report:#}");
}

/// A busy machine keeps a host from reading or answering now and then, which is a stall that is nobody else's: what is said has to be right
/// once, since what is said wrongly of the path is said each time.
fn says(mut attempt: impl FnMut() -> Value, is_right: impl Fn(&Value) -> bool) {
    let mut report = Value::Null;
    for _ in 0..4 {
        report = attempt();
        if is_right(&report) {
            return;
        }
    }
    panic!("{report:#}");
}

fn nothing(report: &Value) -> bool {
    report["causes"] == serde_json::json!([])
}

/// Acknowledgements that `thin-acks` keeps, and full segments that `coalesce` keeps, hold their senders up; small writes, which
/// `coalesce` lets go at once, do not, nor does bulk.
#[test]
fn thinning_and_merging_are_named() {
    if missing("thinning_and_merging_are_named") {
        return;
    }
    let site = Site::new();
    let set = |filter: &str| {
        let words: Vec<&str> = ["filter", "set", "v0"]
            .into_iter()
            .chain(filter.split(' '))
            .collect();
        site.daemon.cli(&words);
    };
    let nagle = Talk {
        nagle: true,
        quick: true,
        ..TALK
    };
    let open = Talk {
        request: Request::Open,
        ..TALK
    };
    for (filter, talk) in [
        ("thin-acks:rx --ratio 4 --deadline 60", nagle),
        ("coalesce:tx --deadline 60", open),
    ] {
        set(filter);
        says(
            || converse(&site, "held.pcapng", talk),
            |report| {
                let (named, others) = stalls(report, "filter-hold");
                named >= ROUNDS as u64 / 2 && others == 0
            },
        );
    }
    let quick = Talk { quick: true, ..TALK };
    says(|| converse(&site, "small.pcapng", quick), nothing);
    for filter in ["thin-acks", "coalesce"] {
        set(filter);
        let bulk = || {
            let file = capture(&site, "bulk.pcapng", send_bulk, |listener| {
                receive_bulk(&listener);
            });
            let report = diagnose(&[&file]);
            assert!(report["tcp_frames"].as_u64() > Some(100), "{report:#}");
            report
        };
        says(bulk, nothing);
    }
}

/// Why the kernel does not send with this queueing discipline on the client's interface; nothing if it does.
fn shape(site: &Site, discipline: &str) -> Option<String> {
    let command = format!("tc qdisc replace dev t0 root {discipline} 2>&1 || true");
    let error = site.client.host(command);
    (!error.is_empty()).then(|| format!("tc qdisc {discipline}: {}", error.trim()))
}

/// Sends 8 MB. How many segments were sent again, how many reached the server out of order, and what is said of it.
fn bulk_over(site: &Site, name: &str) -> (u64, u64, Value) {
    let counters = || {
        let again = || netns::counter("snmp", "Tcp", "RetransSegs");
        let gaps = || netns::counter("netstat", "TcpExt", "TCPOFOQueue");
        (site.client.run(again), site.server.run(gaps))
    };
    let before = counters();
    let send = || {
        let octets = vec![7; 8_000_000];
        connect(true).write_all(&octets).expect("the stream takes it");
    };
    let file = capture(site, name, send, |listener| receive_bulk(&listener));
    let after = counters();
    let report = diagnose(&[&file]);
    assert_eq!(report["connections"], 1, "{report:#}");
    assert!(report["tcp_frames"].as_u64() > Some(100), "{report:#}");
    (after.0 - before.0, after.1 - before.1, report)
}

/// Nothing but losses is said of 8 MB over a link that is `lossy`, and nothing at all over one that is not.
fn only_losses(site: &Site, lossy: bool) {
    let attempt = || {
        let (again, gaps, report) = bulk_over(site, &format!("bulk-{lossy}.pcapng"));
        // Nothing is out of order where nothing is lost; a timer may send again all the same.
        assert_eq!(gaps > 0, lossy, "{gaps} segments out of order: {report:#}");
        assert!(again > 0 || !lossy, "{report:#}");
        report
    };
    says(attempt, |report| {
        let (losses, others) = stalls(report, "retransmission");
        others == 0 && (lossy || losses == 0)
    });
}

/// A link that is full all the time makes a connection slow, and does not make it stand still; only what it loses may do so.
#[test]
fn a_full_link_is_no_stall_and_its_losses_are_losses() {
    let test = "a_full_link_is_no_stall_and_its_losses_are_losses";
    if missing(test) {
        return;
    }
    if program("tc").is_none() {
        return skip(test, "the program tc (iproute2) is not installed");
    }
    let site = Site::new();
    // A queue that takes all that TCP ever gives it.
    if let Some(reason) = shape(&site, "tbf rate 40mbit burst 128k limit 16m") {
        return skip(test, &reason);
    }
    only_losses(&site, false);
    // Large sends do not fit: the queue cuts them, and drops some of the segments.
    assert_eq!(shape(&site, "tbf rate 20mbit burst 16k limit 30k"), None);
    only_losses(&site, true);
}

#[test]
fn what_is_no_stall() {
    if missing("what_is_no_stall") {
        return;
    }
    let site = Site::new();
    for profile in ["off", "inspect"] {
        site.daemon.cli(&["filter", "set", "v0", profile]);
        let typing = Talk {
            request: Request::Whole,
            think: Duration::from_millis(120),
            ..TALK
        };
        let report = converse(&site, "typing.pcapng", typing);
        assert_eq!(report["causes"], serde_json::json!([]), "{profile}: {report:#}");
        let bulk = capture(&site, "bulk.pcapng", send_bulk, |listener| {
            receive_bulk(&listener);
        });
        let report = diagnose(&[&bulk]);
        assert!(report["tcp_frames"].as_u64() > Some(100), "{report:#}");
        assert_eq!(report["causes"], serde_json::json!([]), "{profile}: {report:#}");
    }
}

/// What is lost behind the taps, by a rule on the server's port that is there only for the first attempt, is repeated by the
/// client's timer.
#[test]
fn loss_is_named() {
    if missing("loss_is_named") {
        return;
    }
    let site = Site::new();
    let rules = site.daemon.path("rules.toml");
    let rule = "[[rule]]\nname = \"loss\"\npattern = \"LOSE THIS\"\naction = \"drop\"\n";
    std::fs::write(&rules, rule).expect("the directory is writable");
    let rules = rules.display().to_string();
    let file = site.daemon.path("loss.pcapng");
    let path = file.display().to_string();
    let mut capture = site
        .daemon
        .command(&["capture", "v0", "-w", &path, "--both-sides"]);
    let mut capture = capture.stderr(Stdio::null()).spawn().expect("the CLI runs");
    wait_until(|| file.exists());
    let (lose, losing) = channel::<()>();
    let (tell, told) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(|| {
            site.talk(
                move || {
                    let mut stream = connect(false);
                    for () in losing {
                        stream.write_all(b"LOSE THIS").expect("the stream takes it");
                        tell.send(()).expect("the test listens");
                        stream.read_exact(&mut [0; 3]).expect("the answer");
                        tell.send(()).expect("the test listens");
                    }
                },
                |listener| {
                    let (mut stream, _) = listener.accept().expect("the client connects");
                    while stream.read_exact(&mut [0; 9]).is_ok() {
                        stream.write_all(b"got").expect("the stream takes it");
                    }
                },
            );
        });
        for _ in 0..3 {
            site.daemon
                .cli(&["filter", "set", "v1", "inspect", "--rules", &rules]);
            lose.send(()).expect("the client listens");
            told.recv_timeout(LIMIT).expect("it was sent");
            thread::sleep(Duration::from_millis(50));
            site.daemon.cli(&["filter", "off", "v1"]);
            told.recv_timeout(LIMIT).expect("the answer came");
        }
        drop(lose);
    });
    stop(&mut capture);
    let report = diagnose(&[&file]);
    let (named, others) = stalls(&report, "retransmission");
    assert!(named >= 3 && others == 0, "{report:#}");
}

#[test]
fn a_port_is_watched_live() {
    if missing("a_port_is_watched_live") {
        return;
    }
    let site = Site::new();
    site.daemon.cli(&["filter", "set", "v0", "serialize"]);
    let page = site.daemon.path("live.html");
    let html = page.display().to_string();
    let mut live = site.daemon.command(&[
        "diagnose",
        "--live",
        "v0",
        "--seconds",
        "5",
        "--json",
        "--html",
        &html,
    ]);
    let live = live.stdout(Stdio::piped()).spawn().expect("the CLI runs");
    thread::sleep(Duration::from_secs(1));
    site.talk(|| ask(TALK), |listener| answer(&listener, TALK));
    let output = live.wait_with_output().expect("it ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let (named, others) = stalls(&report, "filter-serialised");
    assert!(named >= ROUNDS as u64 / 2 && others == 0, "{report:#}");
    let page = std::fs::read_to_string(page).expect("the page");
    assert!(page.contains("<svg") && page.contains("filter-serialised"));
}

#[test]
fn captures_of_others_are_read() {
    let test = "captures_of_others_are_read";
    if missing(test) {
        return;
    }
    for name in ["tshark", "editcap"] {
        if program(name).is_none() {
            return skip(test, &format!("the program {name} (tshark) is not installed"));
        }
    }
    let site = Site::new();
    let talk = Talk { nagle: true, ..TALK };
    let file = site.daemon.path("tshark.pcapng");
    let path = file.display().to_string();
    let mut tshark = site.client.run(move || {
        let mut tshark = Command::new("tshark");
        tshark
            .args(["-q", "-i", "t0", "-w", &path])
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        tshark.spawn().expect("tshark runs")
    });
    wait_until(|| std::fs::metadata(&file).is_ok_and(|file| file.len() > 0));
    thread::sleep(Duration::from_millis(500));
    site.talk(move || ask(talk), move |listener| answer(&listener, talk));
    thread::sleep(Duration::from_secs(1));
    stop(&mut tshark);
    let (classic, cut) = (site.daemon.path("classic.pcap"), site.daemon.path("cut.pcap"));
    host(&format!(
        "editcap -F pcap -s 80 {} {}; head -c 3000 {2} >{3}",
        file.display(),
        classic.display(),
        classic.display(),
        cut.display()
    ));
    for file in [&file, &classic] {
        let (named, others) = stalls(&diagnose(&[file]), "nagle-delayed-ack");
        assert!(
            named >= ROUNDS as u64 / 2 && others == 0,
            "{}: {named}, {others}",
            file.display()
        );
    }
    let report = diagnose(&[&cut]);
    assert!(
        report["notices"][0]
            .as_str()
            .is_some_and(|notice| notice.contains("ends in the middle")),
        "{report:#}"
    );
    assert!(stalls(&report, "nagle-delayed-ack").0 > 0, "{report:#}");
}

/// What a capture of all interfaces by `program` says of a conversation with Nagle's algorithm between two hosts, the client's with the
/// commands `more`.
fn any_interface(more: &str, peer: &str, program: &str) -> Value {
    let (client, server) = (Namespace::new(), Namespace::new());
    client.host(format!(
        "ip link add t0 type veth peer name t1 netns {} && {more}",
        server.number()
    ));
    server.host(peer);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("any");
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec {program} -w {}", file.display())])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut capture = client.run(move || command.spawn().expect("a shell runs"));
    wait_until(|| std::fs::metadata(&file).is_ok_and(|file| file.len() > 0));
    thread::sleep(Duration::from_millis(500));
    let listener = server.run(|| TcpListener::bind(("192.0.2.2", PORT)).expect("an own address"));
    let talk = Talk { nagle: true, ..TALK };
    thread::scope(|scope| {
        let serving = scope.spawn(|| server.run(move || answer(&listener, talk)));
        client.run(move || ask(talk));
        serving.join().expect("the server's side");
    });
    thread::sleep(Duration::from_secs(1));
    stop(&mut capture);
    diagnose(&[&file])
}

/// `tcpdump -i any` and dumpcap write neither Ethernet headers nor, of old, which interface it was; a frame passes a bridge and the
/// interface below.
#[test]
fn captures_of_all_interfaces_are_read() {
    let test = "captures_of_all_interfaces_are_read";
    if missing(test) {
        return;
    }
    for name in ["tcpdump", "dumpcap"] {
        if program(name).is_none() {
            return skip(test, &format!("the program {name} is not installed"));
        }
    }
    let plain = [
        "ip addr add 192.0.2.1/24 dev t0; ip link set t0 up",
        "ip addr add 192.0.2.2/24 dev t1; ip link set t1 up",
    ];
    let bridge = "ip link add b0 type bridge; ip link set t0 master b0; ip link set t0 up; ip addr add 192.0.2.1/24 dev b0; ip link set b0 up";
    let [cooked, cooked2] =
        ["LINUX_SLL", "LINUX_SLL2"].map(|link| format!("tcpdump -U --immediate-mode -i any -y {link}"));
    for program in [&*cooked, &*cooked2, "dumpcap -q -i any", "dumpcap -q -P -i any"] {
        let [client, server] = plain;
        let report = any_interface(client, server, program);
        assert_eq!(report["connections"], 1, "{program}: {report:#}");
        assert_eq!(report["notices"], serde_json::json!([]), "{program}: {report:#}");
        let (named, others) = stalls(&report, "nagle-delayed-ack");
        assert!(named >= ROUNDS as u64 / 2 && others == 0, "{program}: {report:#}");
    }
    // Through a bridge each frame is there twice, and none is taken for a repetition. (Not all of them are there at all on every kernel.)
    let report = any_interface(bridge, plain[1], &cooked2);
    let notice = report["notices"][0].as_str().unwrap_or_default();
    assert!(notice.contains("met on another interface"), "{report:#}");
    assert_eq!(stalls(&report, "nagle-delayed-ack").1, 0, "{report:#}");
}
