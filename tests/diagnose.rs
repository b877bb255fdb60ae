//! `enlight diagnose` on what two kernels' TCP did through two taps of a switch: small requests and answers with Nagle's
//! algorithm and without it, with quick acknowledgements and without them, by filter; and on what programs other than ours
//! captured.
//!
//! The switch and both hosts are in network namespaces of their own, which need root; without it the tests say by name that
//! they are skipped.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::daemon::Daemon;
use support::netns::{self, Namespace};
use support::{enlight, host, program, skip};

const LIMIT: Duration = Duration::from_secs(20);
const PORT: u16 = 5001;
/// Octets of a full segment: 1,500, less the headers of IPv4 and TCP with time stamps.
const SEGMENT: usize = 1_448;
/// Requests of a conversation.
const ROUNDS: usize = 12;

/// Two hosts on taps of a switch.
struct Site {
    client: Namespace,
    server: Namespace,
    daemon: Daemon,
    _switch: Namespace,
}

/// How a client asks.
#[derive(Clone, Copy, PartialEq)]
enum Request {
    /// In one write.
    Whole,
    /// In two writes.
    Split,
    /// By a full segment with more to come (`MSG_MORE`), which no boundary of a message ends.
    Open,
}

/// What a client does.
#[derive(Clone, Copy)]
struct Talk {
    nagle: bool,
    request: Request,
    /// Whether the server acknowledges at once (`TCP_QUICKACK`).
    quick: bool,
    think: Duration,
}

const TALK: Talk = Talk {
    nagle: false,
    request: Request::Split,
    quick: false,
    think: Duration::ZERO,
};

impl Site {
    fn new() -> Self {
        let (client, server, switch) = (Namespace::new(), Namespace::new(), Namespace::new());
        let daemon = switch.run(Daemon::start);
        for (namespace, port, tap, number) in [(&client, "v0", "t0", 1), (&server, "v1", "t1", 2)] {
            daemon.cli(&["port", "add", port, "--tap", tap]);
            let thread = namespace.number();
            switch.host(format!("ip link set {tap} netns {thread}"));
            namespace.host(format!(
                "ip addr add 192.0.2.{number}/24 dev {tap} && ip link set {tap} up"
            ));
        }
        Self {
            client,
            server,
            daemon,
            _switch: switch,
        }
    }

    /// Captures both sides of the client's filter while both ends do something.
    fn capture(
        &self,
        name: &str,
        client: impl FnOnce() + Send + 'static,
        server: impl FnOnce(TcpListener) + Send + 'static,
    ) -> PathBuf {
        let file = self.daemon.path(name);
        let path = file.display().to_string();
        let mut capture =
            self.daemon
                .command(&["capture", "v0", "-w", &path, "--both-sides", "--snap", "200"]);
        let mut capture = capture.stderr(Stdio::null()).spawn().expect("the CLI runs");
        // It makes the file when the switch has begun.
        wait_until(|| file.exists());
        self.talk(client, server);
        stop(&mut capture);
        file
    }

    fn talk(
        &self,
        client: impl FnOnce() + Send + 'static,
        server: impl FnOnce(TcpListener) + Send + 'static,
    ) {
        let listener = self
            .server
            .run(|| TcpListener::bind(("192.0.2.2", PORT)).expect("an own address"));
        thread::scope(|scope| {
            let serving = scope.spawn(|| self.server.run(move || server(listener)));
            self.client.run(client);
            serving.join().expect("the server's side");
        });
    }

    fn converse(&self, name: &str, talk: Talk) -> Value {
        let file = self.capture(name, move || ask(talk), move |listener| answer(&listener, talk));
        diagnose(&[&file])
    }
}

fn wait_until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < LIMIT, "it takes too long");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a capture as Ctrl-C does.
fn stop(capture: &mut Child) {
    thread::sleep(Duration::from_millis(100));
    host(&format!("kill -INT {}", capture.id()));
    capture.wait().expect("the capture ends");
}

fn connect(nagle: bool) -> TcpStream {
    let stream = TcpStream::connect(("192.0.2.2", PORT)).expect("the server takes a connection");
    stream.set_nodelay(!nagle).expect("a socket");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    stream
}

fn ask(talk: Talk) {
    let mut stream = connect(talk.nagle);
    let mut answer = [0; 100];
    for _ in 0..ROUNDS {
        match talk.request {
            Request::Open => send_open(&stream),
            Request::Whole => stream.write_all(&[1; 64]).expect("the stream takes it"),
            Request::Split => {
                stream.write_all(&[1; 32]).expect("the stream takes it");
                thread::sleep(Duration::from_millis(1));
                stream.write_all(&[2; 32]).expect("the stream takes it");
            }
        }
        stream.read_exact(&mut answer).expect("the answer");
        thread::sleep(talk.think);
    }
}

fn answer(listener: &TcpListener, talk: Talk) {
    let (mut stream, _) = listener.accept().expect("the client connects");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let (octets, half) = match talk.request {
        Request::Open => (SEGMENT, SEGMENT),
        Request::Whole | Request::Split => (64, 32),
    };
    let mut request = vec![0; octets];
    for _ in 0..ROUNDS {
        for half in request.chunks_mut(half) {
            acknowledge(&stream, talk.quick);
            stream.read_exact(half).expect("a request");
        }
        stream.write_all(&[3; 100]).expect("the stream takes it");
    }
}

/// Sends a full segment and says that there is more to come.
#[allow(unsafe_code, reason = "the standard library has no MSG_MORE")]
fn send_open(stream: &TcpStream) {
    let octets = [1_u8; SEGMENT];
    // SAFETY: the descriptor is open while `stream` lives, and the kernel reads no more than the octets that are there.
    let sent = unsafe {
        libc::send(
            stream.as_raw_fd(),
            octets.as_ptr().cast(),
            octets.len(),
            libc::MSG_MORE,
        )
    };
    assert_eq!(sent, SEGMENT.cast_signed(), "{}", std::io::Error::last_os_error());
}

/// Leaves the mode of quick acknowledgements, or enters it.
#[allow(unsafe_code, reason = "the standard library has no TCP_QUICKACK")]
fn acknowledge(stream: &TcpStream, quick: bool) {
    let value = libc::c_int::from(quick);
    // SAFETY: the descriptor is open while `stream` lives, and the kernel reads the one int that the length names.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
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
        let report = site.converse("nagle.pcapng", nagle);
        let (named, others) = stalls(&report, "nagle-delayed-ack");
        assert!(named >= ROUNDS as u64 / 2 && others == 0, "{profile}: {report:#}");
        let finding = &report["flows"][0]["findings"][0];
        assert!(finding["gap_ns"].as_u64() > Some(30_000_000), "{finding:#}");
        for talk in [TALK, Talk { quick: true, ..nagle }] {
            let report = site.converse("quick.pcapng", talk);
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
    let report = site.converse("serialize.pcapng", TALK);
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
    let report = site.converse(
        "hold.pcapng",
        Talk {
            request: Request::Open,
            ..TALK
        },
    );
    let (named, others) = stalls(&report, "filter-hold");
    assert!(named >= ROUNDS as u64 / 2 && others == 0, "{report:#}");
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
        let report = site.converse("typing.pcapng", typing);
        assert_eq!(report["causes"], serde_json::json!([]), "{profile}: {report:#}");
        let bulk = site.capture("bulk.pcapng", send_bulk, |listener| receive_bulk(&listener));
        let report = diagnose(&[&bulk]);
        assert!(report["tcp_frames"].as_u64() > Some(100), "{report:#}");
        assert_eq!(report["causes"], serde_json::json!([]), "{profile}: {report:#}");
    }
}

fn send_bulk() {
    let mut stream = connect(true);
    let octets = vec![7; 1 << 16];
    for _ in 0..300 {
        stream.write_all(&octets).expect("the stream takes it");
    }
}

fn receive_bulk(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("the client connects");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let mut buffer = vec![0; 1 << 17];
    while stream.read(&mut buffer).expect("data or the end") > 0 {}
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
