//! A switch with an attacker's port and bystanders whose traffic flows all the while.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::bystander::Bystander;
use super::daemon::Daemon;
use super::peer::{PATIENCE, assert_serves};

/// The endpoint that the bystander talks to.
pub const BYSTANDERS_ENDPOINT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The endpoint that attackers talk to, so that they and the bystanders do not share a queue.
pub const ATTACKERS_ENDPOINT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The attacker's port.
pub const PORT: &str = "attacked";
/// The last part of the attacker's address.
pub const ATTACKER: u8 = 66;
/// Octets of private memory that the daemon may take beyond what it had, whatever comes: a full backlog and some.
const GROWTH: u64 = 48 << 20;

/// The scene of an attack.
pub struct Scene {
    // Dropped first: a failed test ends the traffic before the switch that carries it.
    bystander: Bystander,
    /// The switch.
    pub daemon: Daemon,
    /// The socket of the attacker's port.
    pub socket: PathBuf,
    memory: u64,
}

impl Scene {
    /// Starts everything, with traffic between the bystanders.
    pub fn start() -> Self {
        let mut daemon = Daemon::start();
        for (name, address) in [("e0", BYSTANDERS_ENDPOINT), ("e1", ATTACKERS_ENDPOINT)] {
            daemon.cli(&["port", "add", name, "--endpoint", &format!("{address}/24")]);
        }
        let socket = daemon.vhost_port(PORT);
        let bystander = Bystander::start(&daemon.vhost_port("bystander"), 10, BYSTANDERS_ENDPOINT);
        bystander.progress(100);
        let memory = private_memory(daemon.child().id());
        Self {
            bystander,
            daemon,
            socket,
            memory,
        }
    }

    /// What the switch says of the attacker's peer.
    pub fn peer(&self) -> Value {
        let ports = self.daemon.cli(&["port", "list"]);
        let port = ports
            .as_array()
            .and_then(|ports| ports.iter().find(|port| port["name"] == PORT));
        port.map(|port| port["peer"].clone())
            .expect("the attacker's port is there")
    }

    /// Refusals of one kind so far.
    pub fn refusals(&self, kind: &str) -> u64 {
        self.peer()["refusals"][kind].as_u64().unwrap_or(0)
    }

    /// Refusals of all kinds so far.
    pub fn all_refusals(&self) -> u64 {
        let peer = self.peer();
        let refusals = peer["refusals"].as_object().expect("refusals by kind");
        refusals.values().filter_map(Value::as_u64).sum()
    }

    /// Has somebody do something that must count as one or more refusals of a kind, and be told in a line.
    pub fn refuses(&mut self, kind: &str, attack: impl FnOnce(&Self)) {
        let before = self.refusals(kind);
        attack(self);
        self.wait(&format!("a refusal of kind {kind}"), |scene| {
            scene.refusals(kind) > before
        });
        let error = self.peer()["last_error"]
            .as_str()
            .map(str::to_owned)
            .unwrap_or_default();
        assert!(
            !error.is_empty() && !error.contains('\n'),
            "{kind}: {error:?} is no line"
        );
        self.recovers();
    }

    /// Waits for something that the switch is about to do.
    pub fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < PATIENCE, "{what} did not come: {}", self.peer());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Shows that nobody suffered: the daemon runs, the attacked port serves the next peer, and traffic flows.
    pub fn recovers(&mut self) {
        self.alive();
        assert_serves(&self.socket, ATTACKER, ATTACKERS_ENDPOINT);
        self.flows();
    }

    /// Shows that the bystanders' traffic flows.
    pub fn flows(&self) {
        self.bystander.progress(20);
    }

    /// Shows that the daemon runs, and has not grown.
    pub fn alive(&mut self) {
        let child = self.daemon.child();
        assert!(
            child.try_wait().expect("the daemon is our child").is_none(),
            "the daemon has ended"
        );
        let grown = private_memory(child.id()).saturating_sub(self.memory);
        assert!(grown < GROWTH, "the daemon has grown by {} MiB", grown >> 20);
    }

    /// Ends the traffic and shows that none of it was lost.
    pub fn finish(mut self) {
        self.recovers();
        self.bystander.finish();
        for name in ["bystander", "e0"] {
            let stats = self.daemon.port_stats(name);
            for side in ["tx_dropped", "rx_dropped"] {
                let dropped = stats[side].as_object().expect("drops by reason");
                assert!(dropped.is_empty(), "{name} {side}: {dropped:?}");
            }
        }
    }
}

/// Octets of memory that a process has for itself, files and what guests share left out.
fn private_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the daemon's status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .expect("its memory");
    let kib = line
        .trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .expect("a number");
    kib << 10
}
