//! Capture files as ports, by the command line: what is replayed into the switch is what was recorded from it.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::daemon::Daemon;
use vswitch::pcap::Reader;
use vswitch::pcapng::{self, Packet, Way};

const LIMIT: Duration = Duration::from_secs(20);
const FRAMES: u64 = 100;

fn write(file: &Path) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    pcapng::section(&mut out, "test");
    pcapng::interface(&mut out, "v0", "", 0);
    let mut frames = Vec::new();
    for number in 0..FRAMES {
        let bytes = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 0, 1, 0x88, 0xb5],
            &[number as u8; 50],
        ]
        .concat();
        pcapng::packet(
            &mut out,
            &Packet {
                interface: 0,
                time_ns: number * 1_000_000_000,
                bytes: &bytes,
                len: bytes.len() as u32,
                way: Way::Inbound,
                lost: 0,
                comment: None,
            },
        );
        frames.push(bytes);
    }
    std::fs::write(file, out).expect("a temporary file");
    frames
}

fn port(daemon: &Daemon, name: &str) -> Value {
    let ports = daemon.cli(&["port", "list"]);
    let ports = ports.as_array().expect("ports");
    ports
        .iter()
        .find(|port| port["name"] == name)
        .cloned()
        .expect("the port")
}

#[test]
fn a_file_is_replayed_and_recorded() {
    let daemon = Daemon::start();
    let (from, to) = (daemon.path("from.pcapng"), daemon.path("to.pcapng"));
    let frames = write(&from);
    let [source, sink] = [&from, &to].map(|path| path.display().to_string());
    daemon.cli(&["port", "add", "log", "--pcap-record", &sink]);
    daemon.cli(&[
        "port",
        "add",
        "old",
        "--pcap-replay",
        &source,
        "--pcap-speed",
        "max",
        "--pcap-loops",
        "2",
    ]);
    let start = Instant::now();
    while daemon.port_stats("log")["rx_frames"] != 2 * FRAMES {
        assert!(start.elapsed() < LIMIT, "{}", port(&daemon, "old"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let old = port(&daemon, "old");
    assert_eq!(old["peer"]["up"], false, "{old}");
    assert_eq!(
        old["peer"]["served"], "at its end: 200 frames sent, round 2 of 2",
        "{old}"
    );
    daemon.cli(&["port", "rm", "log"]);
    let octets = std::fs::read(&to).expect("the recorded file");
    let mut reader = Reader::new(&octets[..]).expect("a capture");
    for frame in frames.iter().chain(&frames) {
        let record = reader.next_record().expect("a good file").expect("a frame");
        assert_eq!(record.octets, frame);
    }
    assert!(reader.next_record().expect("a good file").is_none());
}
