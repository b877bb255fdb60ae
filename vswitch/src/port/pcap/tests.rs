//! A file is replayed into a switch and recorded from it.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Switch;
use crate::control::{PortConfig, PortKind, Replay, ReplaySpeed, SwitchConfig};
use crate::pcap::Reader;
use crate::pcapng::{self, Packet, Way};

const LIMIT: Duration = Duration::from_secs(20);

/// Broadcast frames of a made-up protocol, each with its number.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend_from_slice(&number.to_be_bytes());
    frame.resize(len.max(18), number as u8);
    frame
}

/// A file of these frames, so many nanoseconds apart; a longer length than there are octets says that a frame was cut.
fn write(file: &Path, gap: u64, frames: &[(Vec<u8>, u32)]) {
    let mut out = Vec::new();
    pcapng::section(&mut out, "test");
    pcapng::interface(&mut out, "v0", "", 0);
    for (time, (bytes, len)) in (0..).zip(frames) {
        pcapng::packet(
            &mut out,
            &Packet {
                interface: 0,
                time_ns: 1_700_000_000_000_000_000 + time * gap,
                bytes,
                len: *len,
                way: Way::Inbound,
                lost: 0,
                comment: None,
            },
        );
    }
    std::fs::write(file, out).expect("a temporary file");
}

fn read(file: &Path) -> Vec<Vec<u8>> {
    let octets = std::fs::read(file).expect("the recorded file");
    let mut reader = Reader::new(&octets[..]).expect("a capture");
    let mut frames = Vec::new();
    while let Some(record) = reader.next_record().expect("a whole capture") {
        frames.push(record.octets.to_vec());
    }
    frames
}

/// Replays a file to its end into a switch with a port that records; what was recorded, and the replaying port's state.
fn through(replay: Replay, dir: &Path) -> (Vec<Vec<u8>>, crate::control::PortInfo) {
    let record = dir.join("record.pcapng");
    let switch = Switch::start(&SwitchConfig::default()).expect("a switch");
    let add = |name: &str, kind| switch.add_port(PortConfig::new(name, kind)).expect("a port");
    add("log", PortKind::PcapRecord(record.clone()));
    add("old", PortKind::PcapReplay(replay));
    let start = Instant::now();
    let info = loop {
        let info = switch.ports().pop().expect("the port");
        if !info.peer.up {
            break info;
        }
        assert!(start.elapsed() < LIMIT, "{info:?}");
        std::thread::sleep(Duration::from_millis(2));
    };
    // Its frames are delivered when it has no more, and written when the recording port is gone.
    switch.shutdown();
    drop(switch);
    (read(&record), info)
}

#[test]
fn what_is_replayed_is_recorded_octet_by_octet_and_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("replay.pcapng");
    let frames: Vec<Vec<u8>> = (0..2000)
        .map(|number| frame(number, 60 + number as usize % 1400))
        .collect();
    let whole: Vec<_> = frames
        .iter()
        .map(|frame| (frame.clone(), frame.len() as u32))
        .collect();
    write(&file, 1000, &whole);
    let replay = Replay {
        speed: ReplaySpeed::Times(10),
        loops: 3,
        ..Replay::new(&file)
    };
    let (recorded, info) = through(replay, dir.path());
    assert_eq!(recorded.len(), 6000);
    for round in recorded.chunks(2000) {
        assert!(round == frames, "the octets or their order changed");
    }
    let served = info.peer.served.expect("how it is served");
    assert_eq!(served, "at its end: 6000 frames sent, round 3 of 3");
}

#[test]
fn frames_that_cannot_be_sent_are_counted_and_passed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("replay.pcapng");
    let good = frame(1, 60);
    write(
        &file,
        1_000_000,
        &[
            (good.clone(), 1500),
            (vec![1; 13], 13),
            (good.clone(), 60),
            (vec![1; 70_000], 70_000),
        ],
    );
    // And then it ends in the middle of a block.
    let mut octets = std::fs::read(&file).expect("the file");
    octets.extend([6, 0, 0, 0, 40]);
    std::fs::write(&file, octets).expect("the file");
    let replay = Replay {
        speed: ReplaySpeed::Max,
        loops: 0,
        ..Replay::new(&file)
    };
    let (recorded, info) = through(replay, dir.path());
    assert_eq!(recorded, [good]);
    assert_eq!(info.peer.refusals["frame_cut"], 1);
    assert_eq!(info.peer.refusals["frame_length"], 2);
    let error = info.peer.last_error.expect("an error");
    assert!(error.contains("in the middle of a record"), "{error}");
}

#[test]
fn files_that_will_not_do_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let switch = Switch::start(&SwitchConfig::default()).expect("a switch");
    let refused = |kind| {
        let error = switch.add_port(PortConfig::new("x", kind)).expect_err("refused");
        error.to_string()
    };
    let absent = dir.path().join("absent.pcap");
    let said = refused(PortKind::PcapReplay(Replay::new(&absent)));
    assert!(
        said.contains("absent.pcap") && said.contains("No such file"),
        "{said}"
    );
    let text = dir.path().join("text");
    std::fs::write(&text, "no capture").expect("a file");
    let said = refused(PortKind::PcapReplay(Replay::new(&text)));
    assert!(said.contains("neither pcap nor pcapng"), "{said}");
    let said = refused(PortKind::PcapRecord(dir.path().join("no/such/dir.pcapng")));
    assert!(
        said.contains("a directory that the switch may write to"),
        "{said}"
    );
}
