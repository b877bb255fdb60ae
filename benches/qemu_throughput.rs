//! Throughput between two Debian guests in QEMU: Enlight's switch and, in turn on the same machine, QEMU taps on a Linux
//! bridge.
//!
//!     cargo bench --bench qemu_throughput [-- PAIRS [SECONDS [VECTORS [BRIDGE_VECTORS]]]]
//!
//! `VECTORS` is the number of MSI-X vectors of each guest's NIC; 3 is QEMU's own choice for one queue pair, 0 gives a line interrupt.
//! QEMU 7.2 (Debian 12) crashes under TCG with vhost-user and MSI-X, so there it is 0 unless told otherwise; QEMU 10, which Debian 12 has in
//! its backports, does not. `BRIDGE_VECTORS` gives the bridge's guests another number.
//!
//! Needs root (the peer needs a bridge) and what `cargo xtask setup` installs. Prints each pair of slices and, for
//! both directions, the median of the ratios with the smallest and the largest.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use serde_json::Value;
use support::daemon::Daemon;
use support::guest::{Guest, Nic};
use support::host;
use support::image::image;

/// A namespace with a bridge and two taps; gone with this value.
struct Bridge(String);

impl Bridge {
    fn new() -> Self {
        let name = format!("enlight-bench-{}", std::process::id());
        host(&format!(
            "ip netns add {name}; ip -n {name} link add br0 type bridge; ip -n {name} link set br0 up
             for tap in t0 t1; do
               ip -n {name} tuntap add dev $tap mode tap vnet_hdr; ip -n {name} link set $tap master br0 up
             done"
        ));
        Self(name)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        host(&format!("ip netns del {}", self.0));
    }
}

/// Two guests that reach each other, the first one's address ending in 1 and the second one's in 2.
struct Pair {
    client: Guest,
    server: Guest,
}

impl Pair {
    /// Mbit/s and retransmissions of one slice.
    fn slice(&mut self, seconds: u64, reverse: bool) -> (f64, u64) {
        self.server.run("iperf3 -s -1 -D; sleep 1");
        let direction = if reverse { "-R" } else { "" };
        let command = format!("iperf3 -c 192.0.2.2 -t {seconds} -J {direction}");
        let (status, output) = self.client.try_run(&command, Duration::from_secs(seconds + 60));
        assert_eq!(status, "0", "{command}: {output}");
        let report: Value = serde_json::from_str(&output[output.find('{').expect("JSON")..]).expect("JSON");
        let rate = report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .expect("a rate");
        (
            rate / 1e6,
            report["end"]["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        )
    }
}

/// The first version of QEMU that is known not to crash under TCG with vhost-user and MSI-X.
const SOUND_MSIX: u32 = 10;

/// QEMU's major version, and what it calls itself.
fn qemu_version() -> (u32, String) {
    let output = host("qemu-system-x86_64 --version");
    let line = output.lines().next().unwrap_or_default().to_owned();
    let number = line
        .split_whitespace()
        .find_map(|word| word.split('.').next()?.parse().ok());
    (number.unwrap_or_default(), line)
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse().ok());
    let pairs: usize = numbers.next().unwrap_or(5) as usize;
    let seconds: u64 = numbers.next().unwrap_or(5);
    let qemu = qemu_version();
    let usual = if qemu.0 >= SOUND_MSIX { 3 } else { 0 };
    let vectors = numbers.next().unwrap_or(usual);
    let bridge_vectors = numbers.next().unwrap_or(vectors);
    let image = match image() {
        Ok(image) => image,
        Err(reason) => return println!("SKIPPED qemu_throughput: {reason}"),
    };
    let daemon = Daemon::start();
    let (v0, v1) = (daemon.vhost_port("v0"), daemon.vhost_port("v1"));
    let bridge = Bridge::new();
    let tap = |interface| Nic::Tap {
        netns: &bridge.0,
        interface,
        vectors: bridge_vectors,
    };
    let features = format!(",vectors={vectors}");
    let vhost = |socket| Nic::VhostUser {
        socket,
        features: &features,
    };
    let mut ours = Pair {
        client: Guest::start(&image, "switch 1", 1, vhost(v0.as_path())),
        server: Guest::start(&image, "switch 2", 2, vhost(v1.as_path())),
    };
    let mut peer = Pair {
        client: Guest::start(&image, "bridge 1", 1, tap("t0")),
        server: Guest::start(&image, "bridge 2", 2, tap("t1")),
    };
    println!(
        "{}; MSI-X vectors: {vectors} of the switch's guests, {bridge_vectors} of the bridge's",
        qemu.1
    );
    println!("Mbit/s (retransmissions), {seconds} s slices in turn");
    for (direction, reverse) in [("forward", false), ("reverse", true)] {
        let mut ratios = Vec::new();
        for _ in 0..pairs {
            let (mine, again) = ours.slice(seconds, reverse);
            let (theirs, their_again) = peer.slice(seconds, reverse);
            println!(
                "{direction}: enlight {mine:6.0} ({again})  bridge {theirs:6.0} ({their_again})  ratio {:.2}",
                mine / theirs
            );
            ratios.push(mine / theirs);
        }
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ratios.len() / 2];
        println!(
            "{direction}: ratio {median:.2} ({:.2} to {:.2}, {pairs} pairs)",
            ratios[0],
            ratios[ratios.len() - 1]
        );
    }
    drop((ours, peer));
}
