//! Two hosts and a switch between them: host A behind the wire (a veth pair) of an uplink, host B on a tap.

use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::netns::{self, Namespace};
use crate::support::{host, program, skip};

/// The uplink's interface, in the switch's namespace.
pub(crate) const WIRE: &str = "u0";
/// Host A's end of the wire.
pub(crate) const A_LINK: &str = "a0";
/// Host B's tap.
pub(crate) const B_LINK: &str = "t0";
/// The last parts of the hosts' addresses.
pub(crate) const A: u8 = 1;
pub(crate) const B: u8 = 2;

/// Two workers, on one CPU: a veth pair reorders what is sent by several, host A included.
pub(crate) const TWO_WORKERS: &str = "[[worker]]\ncpu = 0\n[[worker]]\ncpu = 0\n";

/// The scene. Dropping it ends the switch and its networks.
pub(crate) struct Scene {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
    pub(crate) daemon: Daemon,
    pub(crate) switch: Namespace,
}

/// Whether a test has to be skipped; says so.
pub(crate) fn missing(test: &str) -> bool {
    let missing = netns::missing().or_else(|| {
        program("ping")
            .is_none()
            .then(|| "the program ping (iputils-ping) is not installed".to_owned())
    });
    if let Some(reason) = &missing {
        skip(test, reason);
    }
    missing.is_some()
}

impl Scene {
    /// The networks with the wire, its ends up, and a switch without ports. `pair` is what the veth pair is made with.
    pub(crate) fn new(config: &'static str, mtu: u32, pair: &str) -> Self {
        let (a, b, switch) = (Namespace::new(), Namespace::new(), Namespace::new());
        let number = a.number();
        switch.host(format!(
            "ip link add {WIRE} mtu {mtu} {pair} type veth peer name {A_LINK} mtu {mtu} {pair} netns {number}
             ip link set {WIRE} up"
        ));
        a.host(format!("ip link set {A_LINK} up"));
        let daemon = switch.run(|| Daemon::configured(config));
        Self { a, b, daemon, switch }
    }

    /// Adds host B's tap.
    pub(crate) fn add_tap(&self, options: &[&str]) {
        let add = ["port", "add", "tap", "--tap", B_LINK];
        self.daemon.cli(&[&add, options].concat());
        let number = self.b.number();
        self.switch.host(format!("ip link set {B_LINK} netns {number}"));
        self.b.host(format!("ip link set {B_LINK} up"));
    }

    /// Adds the uplink; what the CLI says of it.
    pub(crate) fn add_uplink(&self, options: &[&str]) -> Value {
        let add = ["port", "add", "wire", "--uplink", WIRE];
        self.daemon.cli(&[&add, options].concat())
    }

    /// Has the hosts' windows small enough for all queues to hold what is under way.
    pub(crate) fn small_windows(&self) {
        for namespace in [&self.a, &self.b] {
            namespace.host("sysctl -q -w net.ipv4.tcp_rmem='4096 65536 65536'");
        }
    }

    /// Gives both hosts their addresses, on these interfaces.
    pub(crate) fn address(&self, a_link: &str, b_link: &str) {
        for (namespace, link, number) in [(&self.a, a_link, A), (&self.b, b_link, B)] {
            namespace.host(format!(
                "echo 0 >/proc/sys/net/ipv6/conf/{link}/disable_ipv6
                 ip addr add 192.0.2.{number}/24 dev {link}
                 ip addr add 2001:db8::{number}/64 dev {link} nodad"
            ));
        }
    }

    /// Host A pings host B, over IPv4 and IPv6.
    pub(crate) fn ping(&self) {
        for address in [format!("192.0.2.{B}"), format!("2001:db8::{B}")] {
            // One by one: of several, ping waits for the last one's answer for two round trips only.
            for _ in 0..5 {
                let said = self.a.host(format!("ping -c 1 -W 10 {address}"));
                assert!(said.contains("1 received"), "{said}");
            }
        }
    }

    /// Waits until the hosts reach each other again: kernels take their time to notice a carrier that is back.
    pub(crate) fn reunite(&self) {
        let try_each = format!("ping -c 1 -W 1 192.0.2.{B} && ping -c 1 -W 1 2001:db8::{B} && break");
        self.a
            .host(format!("for n in $(seq 30); do {try_each} || sleep 0.1; done"));
        self.ping();
    }

    /// A port as `port list` has it.
    pub(crate) fn port(&self, name: &str) -> Value {
        let ports = self.daemon.cli(&["port", "list"]);
        let ports = ports.as_array().expect("ports");
        let port = ports.iter().find(|port| port["name"] == name);
        port.cloned().expect("the port")
    }

    /// No port dropped anything, but for what the hosts' kernels send to nobody.
    pub(crate) fn nothing_dropped(&self) {
        for name in ["wire", "tap"] {
            let stats = self.daemon.port_stats(name);
            let mut dropped = stats["tx_dropped"].as_object().expect("drops").clone();
            dropped.extend(stats["rx_dropped"].as_object().expect("drops").clone());
            assert!(dropped.is_empty(), "{name}: {dropped:?}");
        }
    }

    /// Neither did the wire lose anything on its way in.
    pub(crate) fn nothing_missed(&self) {
        self.nothing_dropped();
        let port = self.port("wire");
        assert_eq!(port["peer"]["refusals"], serde_json::json!({}), "{port}");
    }

    /// A counter of a port.
    pub(crate) fn count(&self, port: &str, counter: &str) -> u64 {
        let stats = self.daemon.port_stats(port);
        stats[counter].as_u64().expect("a counter")
    }
}

/// Sets an interface of a namespace up or down.
pub(crate) fn set(namespace: &Namespace, link: &str, state: &str) {
    let command = format!("ip link set {link} {state}");
    namespace.run(move || host(&command));
}
