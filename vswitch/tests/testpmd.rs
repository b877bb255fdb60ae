//! DPDK's virtio driver on both sides of a switch: split and packed rings, in order and not, merged buffers and not, one
//! queue pair and many. `dpdk-testpmd` counts what it sends and receives, and so does the switch.

#[path = "vhost_user_common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Guest, MODERN, eventually};
use parking_lot::Mutex;
use vswitch::Switch;
use vswitch::control::{PortConfig, PortKind, SwitchConfig, WorkerConfig};
use vswitch::counters::CounterSnapshot;
use vswitch::ring::feature;

/// Frames that have to pass in each direction.
const FRAMES: u64 = 50_000;
/// The MAC addresses of testpmd's ports; its flows' sources and destinations.
const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
/// Flows between a test's guest and testpmd, frames of each, and how many may be on their way.
const FLOWS: u16 = 256;
const NUMBERS: u16 = 100;
const ON_THEIR_WAY: u64 = 256;

/// A switch with two ports.
struct Scene {
    switch: Switch,
    paths: [PathBuf; 2],
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new(queues: [u16; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let workers = vec![WorkerConfig::default()];
        let switch = Switch::start(&SwitchConfig { workers }).unwrap();
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        for (path, queues) in paths.iter().zip(queues) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let kind = PortKind::VhostUser(path.clone());
            switch
                .add_port(PortConfig {
                    queues,
                    ..PortConfig::new(name, kind)
                })
                .unwrap();
        }
        Self {
            switch,
            paths,
            _directory: directory,
        }
    }

    fn counters(&self) -> [CounterSnapshot; 2] {
        let stats = self.switch.stats();
        ["a", "b"].map(|name| {
            let port = stats.ports.iter().find(|port| port.name == name);
            port.expect("the port's statistics").counters.clone()
        })
    }

    fn is_up(&self) -> bool {
        self.switch.ports().iter().all(|port| port.peer.up)
    }

    fn assert_no_refusals(&self) {
        for port in self.switch.ports() {
            assert!(port.peer.refusals.is_empty(), "{:?}", port.peer);
        }
    }
}

/// A running testpmd that takes commands.
struct Testpmd {
    child: Child,
    commands: ChildStdin,
    ports: usize,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Testpmd {
    /// Starts one with a virtio-user device for each socket.
    fn start(sockets: &[&Path], device: &str, options: &[&str]) -> Self {
        // What it answers must not wait in its buffer for more.
        let mut command = Command::new("stdbuf");
        command
            .args(["-oL", "dpdk-testpmd"])
            .args(["--lcores", "0@0,1@0", "--no-pci", "--no-huge", "--no-shconf"])
            .args(["-m", "256", "--single-file-segments", "--no-telemetry"]);
        for (index, (socket, mac)) in sockets.iter().zip(MACS).enumerate() {
            let device = format!(
                "net_virtio_user{index},mac={mac},path={},{device}",
                socket.display()
            );
            command.args(["--vdev", &device]);
        }
        command
            .args(["--", "-i", "--nb-cores=1", "--total-num-mbufs=16384"])
            .args(options);
        for (index, mac) in MACS.iter().rev().enumerate().take(sockets.len()) {
            command.arg(format!("--eth-peer={index},{mac}"));
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("testpmd starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .for_each(|line| kept.lock().push(line));
        });
        let commands = child.stdin.take().expect("its input");
        Self {
            child,
            commands,
            ports: sockets.len(),
            lines,
        }
    }

    fn say(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap_or_else(|error| {
            panic!("testpmd is gone ({error}): {:#?}", self.lines.lock());
        });
    }

    /// What its ports have received and sent, as it says when asked.
    fn counts(&mut self) -> Vec<(u64, u64)> {
        self.lines.lock().clear();
        self.say("show port stats all");
        let start = Instant::now();
        loop {
            let lines = self.lines.lock();
            let first = lines
                .iter()
                .position(|line| line.contains("NIC statistics for port 0"));
            let values = |name: &str| -> Vec<u64> {
                let value = |line: &String| {
                    let rest = line.trim_start().strip_prefix(name)?;
                    rest.split_whitespace().next()?.parse().ok()
                };
                let statistics = lines.iter().skip(first.unwrap_or(usize::MAX));
                statistics.filter_map(value).collect()
            };
            // The rates come after the counts.
            if values("Tx-pps:").len() == self.ports {
                return values("RX-packets:")
                    .into_iter()
                    .zip(values("TX-packets:"))
                    .collect();
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{lines:#?}");
            drop(lines);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether testpmd is there; says what is left out if not.
fn has_testpmd(test: &str) -> bool {
    let found = Command::new("dpdk-testpmd")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("SKIPPED {test}: dpdk-testpmd is not installed (Debian's package dpdk-dev)");
    }
    found
}

/// Lets frames circle between testpmd's two ports until enough have passed, and counts them on both sides.
fn circle(device: &str) {
    let scene = Scene::new([1, 1]);
    let device = format!("queues=1,queue_size=256,{device}");
    let sockets = [scene.paths[0].as_path(), scene.paths[1].as_path()];
    let mut testpmd = Testpmd::start(&sockets, &device, &[]);
    eventually(|| scene.is_up(), "testpmd's rings");
    testpmd.say("set fwd io");
    testpmd.say("start tx_first 4");
    eventually(
        || scene.counters().iter().all(|port| port.tx_frames >= FRAMES),
        "enough frames",
    );
    testpmd.say("stop");
    // What is still in rings is received and not sent on.
    testpmd.say("set fwd rxonly");
    testpmd.say("start");
    let start = Instant::now();
    loop {
        let [a, b] = scene.counters();
        let counted = [(a.rx_frames, a.tx_frames), (b.rx_frames, b.tx_frames)];
        if testpmd.counts() == counted && a.tx_frames == b.rx_frames && b.tx_frames == a.rx_frames {
            println!("{device}: {counted:?} frames received and sent");
            assert!(a.tx_dropped.is_empty() && a.rx_dropped.is_empty(), "{a:?}");
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{device}: {counted:?} against {:?}, {a:?}",
            testpmd.counts()
        );
    }
    for port in scene.switch.ports() {
        let packed = port.peer.features & feature::RING_PACKED != 0;
        assert_eq!(packed, device.contains("packed_vq=1"));
    }
    scene.assert_no_refusals();
}

/// Frame `number` of a flow from the test's guest to testpmd: UDP over IPv4, both without checksums.
fn frame(flow: u16, number: u16) -> Vec<u8> {
    let mut octets = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    octets.extend([
        0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ]);
    octets.extend((1024 + flow).to_be_bytes());
    octets.extend([0, 7, 0, 12, 0, 0]);
    octets.extend(flow.to_be_bytes());
    octets.extend(number.to_be_bytes());
    octets.resize(60, 0);
    octets
}

/// Sends numbered frames of many flows to a testpmd with 8 queue pairs, as many as DPDK 22.11 can have, which sends them back from the queue where
/// they arrived, and sees whether each flow comes back whole and in order.
fn echo_flows(device: &str) {
    let scene = Scene::new([1, 8]);
    let device = format!("queues=8,queue_size=256,{device}");
    let options = ["--rxq=8", "--txq=8", "--port-topology=loop", "--no-flush-rx"];
    let mut testpmd = Testpmd::start(&[&scene.paths[1]], &device, &options);
    let mut guest = Guest::attach(&scene.paths[0], 1, MODERN);
    guest.post(0, 64);
    eventually(|| scene.is_up(), "testpmd's rings");
    testpmd.say("set fwd macswap");
    testpmd.say("start");
    // It sets its device up twice: only now do rings stay.
    let starts = |line: &String| line.contains("macswap packet forwarding");
    eventually(|| testpmd.lines.lock().iter().any(starts), "testpmd's start");
    let mut sent: u64 = 0;
    let mut next = [0; FLOWS as usize];
    let mut received: u64 = 0;
    let all = u64::from(FLOWS) * u64::from(NUMBERS);
    let start = Instant::now();
    while received < all {
        assert!(start.elapsed() < Duration::from_secs(15), "{received} of {sent}");
        if sent < all && sent - received < ON_THEIR_WAY && guest.tx[0].driver.free() >= 2 {
            let (flow, number) = ((sent % u64::from(FLOWS)) as u16, (sent / u64::from(FLOWS)) as u16);
            guest.transmit(0, &frame(flow, number));
            sent += 1;
        }
        while guest.tx[0].driver.used().is_some() {}
        while let Some(octets) = guest.received(0) {
            let word = |at: usize| u16::from_be_bytes([octets[at], octets[at + 1]]);
            let flow = word(42);
            assert_eq!(
                word(44),
                next[usize::from(flow)],
                "flow {flow}, in order and whole"
            );
            next[usize::from(flow)] += 1;
            received += 1;
            guest.post(0, 1);
            if guest.rx[0].driver.must_kick() {
                guest.rx[0].kick.write(1).unwrap();
            }
        }
    }
    let queues = scene.switch.stats().queues;
    let used = queues
        .iter()
        .filter(|queue| queue.port == "b" && queue.frames > 0);
    assert_eq!(used.count(), 8, "{queues:?}");
    println!("{device}: {received} frames of {FLOWS} flows came back in order");
    scene.assert_no_refusals();
}

#[test]
fn flows_keep_their_order_over_8_queue_pairs() {
    if !has_testpmd("flows_keep_their_order_over_8_queue_pairs") {
        return;
    }
    for device in [
        "packed_vq=0,mrg_rxbuf=1,in_order=0",
        "packed_vq=1,mrg_rxbuf=1,in_order=1",
    ] {
        echo_flows(device);
    }
}

#[test]
fn frames_circle_between_split_rings() {
    if !has_testpmd("frames_circle_between_split_rings") {
        return;
    }
    for device in ["mrg_rxbuf=1,in_order=0", "mrg_rxbuf=0,in_order=1"] {
        circle(&format!("packed_vq=0,{device}"));
    }
}

#[test]
fn frames_circle_between_packed_rings() {
    if !has_testpmd("frames_circle_between_packed_rings") {
        return;
    }
    for device in [
        "mrg_rxbuf=1,in_order=0",
        "mrg_rxbuf=0,in_order=1",
        "mrg_rxbuf=1,in_order=1,vectorized=1",
    ] {
        circle(&format!("packed_vq=1,{device}"));
    }
}
