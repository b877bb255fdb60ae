//! TCP between two endpoints of a running switch, watched over the control socket: counters, metrics, captures, and
//! filters that are toggled meanwhile.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant as Clock};

use enlight::config::Config;
use enlight::daemon::Daemon;
use introspection::Instant;
use serde_json::Value;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{IpAddress, IpEndpoint};
use vswitch::control::{PortConfig, PortKind};
use vswitch::port::endpoint::{Application, ECHO_PORT, Host};

/// Octets of a socket's buffer.
const BUFFER: usize = 64 << 10;
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Octets in a row that look like no other position's: a prime number.
const PATTERN: u64 = 251;

/// Sends octets to the other endpoint's echo service and checks what comes back, until told to stop.
struct Dialer {
    shared: Arc<Shared>,
    socket: Option<SocketHandle>,
    sent: u64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Octets that came back as they were sent.
    echoed: AtomicU64,
    wrong: AtomicU64,
}

impl Application for Dialer {
    fn start(&mut self, host: &mut Host<'_>) {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        self.socket = Some(host.sockets.add(Socket::new(buffer(), buffer())));
    }

    fn poll(&mut self, now: Instant, host: &mut Host<'_>) -> Option<Instant> {
        let socket = host.sockets.get_mut::<Socket<'_>>(self.socket?);
        if !socket.is_open() && self.sent == 0 {
            let peer = IpEndpoint::new(IpAddress::v4(192, 0, 2, 2), ECHO_PORT);
            socket
                .connect(host.context, peer, 40_000)
                .expect("a fresh socket connects");
        }
        let echoed = self.shared.echoed.load(Ordering::Relaxed);
        let right = |position: u64, octets: &[u8]| {
            let wanted = (position..).map(|position| (position % PATTERN) as u8);
            octets
                .iter()
                .copied()
                .zip(wanted)
                .all(|(octet, wanted)| octet == wanted)
        };
        while socket.can_recv() {
            let at = self.shared.echoed.load(Ordering::Relaxed);
            let octets = socket.recv(|octets| (octets.len(), right(at, octets).then_some(octets.len())));
            match octets {
                Ok(Some(octets)) => _ = self.shared.echoed.fetch_add(octets as u64, Ordering::Relaxed),
                _ => _ = self.shared.wrong.fetch_add(1, Ordering::Relaxed),
            }
        }
        while socket.can_send()
            && !self.shared.stop.load(Ordering::Relaxed)
            && self.sent < echoed + BUFFER as u64
        {
            let chunk: Vec<u8> = (self.sent..self.sent + 1000)
                .map(|position| (position % PATTERN) as u8)
                .collect();
            let Ok(sent) = socket.send_slice(&chunk) else {
                break;
            };
            self.sent += sent as u64;
            if sent < chunk.len() {
                break;
            }
        }
        Some(now.after(Duration::from_millis(1)))
    }
}

/// A switch with an endpoint that talks to another one.
struct Fixture {
    dir: tempfile::TempDir,
    daemon: Daemon,
    shared: Arc<Shared>,
}

impl Fixture {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config {
            control: Some(dir.path().join("c.sock")),
            ..Config::default()
        };
        let daemon = Daemon::start(config).expect("a switch");
        let endpoint = |name: &str, cidr: &str| PortConfig::new(name, PortKind::Endpoint(cidr.to_owned()));
        let shared = Arc::new(Shared::default());
        let dialer = Dialer {
            shared: Arc::clone(&shared),
            socket: None,
            sent: 0,
        };
        daemon
            .switch()
            .add_port(endpoint("server", "192.0.2.2/24"))
            .expect("a port");
        daemon
            .switch()
            .add_endpoint(endpoint("client", "192.0.2.1/24"), vec![Box::new(dialer)])
            .expect("a port");
        Self { dir, daemon, shared }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enlight"));
        command.args(args).env("ENLIGHT_CONTROL", self.daemon.control());
        command
    }

    fn cli(&self, args: &[&str]) -> Value {
        let output = self.command(args).arg("--json").output().expect("it runs");
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn echoed(&self) -> u64 {
        self.shared.echoed.load(Ordering::Relaxed)
    }

    /// Waits until so many more octets came back.
    fn wait_for(&self, more: u64) {
        let (start, wanted) = (Clock::now(), self.echoed() + more);
        while self.echoed() < wanted {
            assert!(
                start.elapsed() < PATIENCE,
                "{} of {wanted} octets came back",
                self.echoed()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(
            self.shared.wrong.load(Ordering::Relaxed),
            0,
            "octets came back changed"
        );
    }
}

fn wait(mut child: Child) {
    assert!(child.wait().expect("it ends").success());
}

fn drops(stats: &Value) -> u64 {
    let sum = |side: &Value| {
        side.as_object()
            .expect("reasons")
            .values()
            .filter_map(Value::as_u64)
            .sum::<u64>()
    };
    let ports = stats["ports"].as_array().expect("ports");
    ports
        .iter()
        .map(|port| sum(&port["tx_dropped"]) + sum(&port["rx_dropped"]))
        .sum()
}

#[test]
fn what_passes_is_counted() {
    let fixture = Fixture::start();
    fixture.wait_for(100_000);
    let stats = fixture.cli(&["stats"]);
    let port = |name: &str| {
        stats["ports"]
            .as_array()
            .and_then(|ports| ports.iter().find(|port| port["name"] == name))
            .cloned()
    };
    let (client, server) = (port("client").expect("a port"), port("server").expect("a port"));
    assert!(client["tx_octets"].as_u64() > Some(100_000), "{client}");
    assert!(server["tx_octets"].as_u64() > Some(100_000), "{server}");
    assert!(client["stages"]["frames"].as_u64() > Some(0), "{client}");
    assert_eq!(drops(&stats), 0, "{stats}");
    let learned = fixture.cli(&["port", "list"]);
    assert_eq!(learned[0]["macs"].as_array().map(Vec::len), Some(1));

    let mut stream =
        std::os::unix::net::UnixStream::connect(fixture.daemon.control()).expect("the switch listens");
    let mut page = String::new();
    std::io::Write::write_all(
        &mut stream,
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .expect("sent");
    std::io::Read::read_to_string(&mut stream, &mut page).expect("an answer");
    assert!(page.contains("text/plain; version=0.0.4"), "{page}");
    let frames = "enlight_port_frames_total{port=\"client\",direction=\"tx\"} ";
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(frames))
        .expect("the counter");
    assert!(value.parse::<u64>().expect("a number") >= client["tx_frames"].as_u64().expect("a number"));
    assert!(page.contains("reason=\"receiver_full\"}"), "{page}");
}

#[test]
fn toggling_a_filter_loses_and_changes_nothing() {
    let fixture = Fixture::start();
    fixture.wait_for(10_000);
    for round in 0..100 {
        let profile = ["inspect", "hold", "serialize"][round % 3];
        fixture.cli(&["filter", "set", "client", profile, "--deadline", "5"]);
        fixture.cli(&["filter", "off", "client"]);
    }
    fixture.wait_for(100_000);
    let stats = fixture.cli(&["stats"]);
    assert_eq!(drops(&stats), 0, "{stats}");
    let filters = fixture.cli(&["filter", "show"]);
    let client = filters
        .as_array()
        .and_then(|all| all.iter().find(|filter| filter["port"] == "client"));
    assert_eq!(client.expect("the port's filter")["changes"], 200);
}

/// Begins a capture and stops it as Ctrl-C does.
fn interrupted(fixture: &Fixture, cut: &str) {
    let endless = fixture
        .command(&["capture", "client", "-w", cut])
        .spawn()
        .expect("it starts");
    let start = Clock::now();
    while std::fs::metadata(cut).map_or(0, |file| file.len()) < 5_000 {
        assert!(start.elapsed() < PATIENCE, "nothing is captured");
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = Command::new("kill")
        .args(["-s", "INT", &endless.id().to_string()])
        .status();
    assert!(kill.expect("kill runs").success());
    wait(endless);
}

/// The interfaces of the frames of a file that Wireshark's filter finds.
fn read(file: &str, filter: &str) -> Vec<String> {
    let output = Command::new("tshark")
        .args([
            "-r",
            file,
            "-Y",
            filter,
            "-T",
            "fields",
            "-e",
            "frame.interface_name",
        ])
        .args(["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"])
        .output()
        .expect("tshark runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{filter}: {errors}");
    assert!(
        !errors.contains("cut short") && !errors.contains("damaged"),
        "{errors}"
    );
    let names = String::from_utf8_lossy(&output.stdout);
    names.lines().map(str::to_owned).collect()
}

#[test]
fn captures_hold_what_was_asked_for_and_wireshark_reads_them() {
    let fixture = Fixture::start();
    fixture.wait_for(10_000);
    let (one, both, cut) = (
        fixture.path("one.pcapng"),
        fixture.path("both.pcapng"),
        fixture.path("cut.pcapng"),
    );
    let [one, both, cut] = [one, both, cut].map(|path| path.display().to_string());
    let summary = fixture.cli(&["capture", "client", "-w", &one, "--count", "300"]);
    assert_eq!(summary["frames"], 300);
    fixture.cli(&["filter", "set", "client", "hold", "--deadline", "3"]);
    let summary = fixture.cli(&["capture", "client", "-w", &both, "--both-sides", "--count", "200"]);
    assert_eq!(summary["frames"], 200);
    interrupted(&fixture, &cut);

    if Command::new("tshark").arg("--version").output().is_err() {
        let test = "captures_hold_what_was_asked_for_and_wireshark_reads_them";
        println!("SKIPPED {test}: tshark is not installed: run `cargo xtask setup` as root");
        return;
    }
    assert_eq!(read(&one, "tcp").len(), 300);
    assert_eq!(read(&one, "tcp && frame.interface_name == \"client\"").len(), 300);
    for file in [&one, &both, &cut] {
        let bad = "tcp.checksum.status == \"Bad\" || ip.checksum.status == \"Bad\" || _ws.malformed";
        assert_eq!(read(file, bad), Vec::<String>::new(), "{file}");
    }
    let sides = read(&both, "tcp");
    assert_eq!(sides.len(), 200);
    for side in ["client (guest side)", "client (switch side)"] {
        assert!(
            sides.iter().filter(|name| *name == side).count() > 50,
            "{side}: {sides:?}"
        );
    }
    assert!(!read(&cut, "tcp").is_empty());
}
