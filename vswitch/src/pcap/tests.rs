//! Files that are as they should be, in all forms, and files that are not.

use proptest::prelude::*;

use super::*;
use crate::pcapng::{self, Packet, Way};

type Frame = (u64, Vec<u8>, u32);

fn read(file: &[u8]) -> (Vec<Frame>, Result<(), PcapError>) {
    let mut frames = Vec::new();
    let mut reader = match Reader::new(file) {
        Ok(reader) => reader,
        Err(error) => return (frames, Err(error)),
    };
    loop {
        match reader.next_record() {
            Ok(Some(record)) => frames.push((record.time_ns, record.octets.to_vec(), record.len)),
            Ok(None) => return (frames, Ok(())),
            Err(error) => return (frames, Err(error)),
        }
    }
}

/// A pcap file in either byte order, with either kind of fraction.
fn pcap(big: bool, magic: u32, frames: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let word = |value: u32| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut file = Vec::new();
    for value in [magic, 0, 0, 0, 65_535, 1] {
        file.extend(word(value));
    }
    for (seconds, fraction, octets) in frames {
        for value in [*seconds, *fraction, octets.len() as u32, octets.len() as u32] {
            file.extend(word(value));
        }
        file.extend(*octets);
    }
    file
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let word = |value: u32| match order {
        Order::Little => value.to_le_bytes(),
        Order::Big => value.to_be_bytes(),
    };
    let mut padded = body.to_vec();
    padded.resize(body.len().next_multiple_of(4), 0);
    let len = word(padded.len() as u32 + 12);
    [&word(kind)[..], &len, &padded, &len].concat()
}

/// A section, in big-endian order, with an interface of this resolution.
fn section(link: u16, resolution: u8) -> Vec<u8> {
    let mut header = 0x1a2b_3c4d_u32.to_be_bytes().to_vec();
    header.extend([0, 1, 0, 0]);
    header.extend([0xff; 8]);
    let mut interface = link.to_be_bytes().to_vec();
    interface.extend([0, 0, 0, 0, 0, 0]);
    interface.extend([0, 9, 0, 1, resolution, 0, 0, 0, 0, 0, 0, 0]);
    [
        block(Order::Big, 0x0a0d_0d0a, &header),
        block(Order::Big, 1, &interface),
    ]
    .concat()
}

fn enhanced(interface: u32, stamp: u64, octets: &[u8]) -> Vec<u8> {
    let len = (octets.len() as u32).to_be_bytes();
    let body = [
        &interface.to_be_bytes()[..],
        &stamp.to_be_bytes(),
        &len,
        &len,
        octets,
    ];
    block(Order::Big, 6, &body.concat())
}

#[test]
fn pcap_is_read_in_both_orders_and_resolutions() {
    let frames: [(u32, u32, &[u8]); 2] = [(1, 5, &[1, 2, 3]), (2, 7, &[])];
    for big in [false, true] {
        for (magic, unit) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            let (got, end) = read(&pcap(big, magic, &frames));
            end.unwrap();
            let expected = [
                (NANOSECONDS + 5 * unit, vec![1, 2, 3], 3),
                (2 * NANOSECONDS + 7 * unit, vec![], 0),
            ];
            assert_eq!(got, expected);
        }
    }
}

#[test]
fn pcapng_is_read_with_any_resolution_and_past_what_is_not_wanted() {
    let second = |resolution: u8, stamp: u64| {
        let file = [
            section(1, resolution),
            block(Order::Big, 5, &[7; 100]),
            enhanced(0, stamp, &[9; 15]),
            block(Order::Big, 3, &[&14_u32.to_be_bytes()[..], &[8; 14]].concat()),
        ];
        let (got, end) = read(&file.concat());
        end.unwrap();
        assert_eq!(got[0].1, [9; 15]);
        assert_eq!(
            got[1],
            (got[0].0, vec![8; 14], 14),
            "a simple block has the last time"
        );
        got[0].0
    };
    assert_eq!(second(6, 3_000_001), 3 * NANOSECONDS + 1000);
    assert_eq!(second(9, 3_000_000_001), 3 * NANOSECONDS + 1);
    assert_eq!(second(0x8a, 3 * 1024 + 512), 3 * NANOSECONDS + NANOSECONDS / 2);
    assert_eq!(
        second(0, u64::MAX),
        u64::MAX,
        "the far future is not beyond the end"
    );
    let mut files = section(1, 6);
    files.extend(section(113, 6));
    files.extend(enhanced(0, 0, &[1]));
    let mut reader = Reader::new(&files[..]).unwrap();
    assert_eq!(reader.next_record().unwrap(), None);
    assert_eq!(reader.foreign(), 1, "another section has other interfaces");
}

#[test]
fn interfaces_are_counted_over_all_sections() {
    let mut file = Vec::new();
    for _ in 0..2 {
        pcapng::section(&mut file, "test");
        for _ in 0..2 {
            pcapng::interface(&mut file, "x", "", 0);
        }
        for interface in [1, 0] {
            let packet = Packet {
                interface,
                time_ns: 1,
                bytes: &[1; 14],
                len: 14,
                way: Way::Inbound,
                lost: 0,
                comment: None,
            };
            pcapng::packet(&mut file, &packet);
        }
    }
    let mut reader = Reader::new(&file[..]).expect("a capture");
    let mut interfaces = Vec::new();
    while let Some(record) = reader.next_record().expect("a good file") {
        interfaces.push(record.interface);
    }
    assert_eq!(interfaces, [1, 0, 3, 2]);
}

/// A link type, a packet of it, and the frame that it becomes.
type Linked = (u16, Vec<u8>, Vec<u8>, Option<Station>);

const PACKET: [u8; 5] = [0x45, 1, 2, 3, 4];
const SIX: [u8; 3] = [0x60, 1, 2];
/// Behind the type of a VLAN tag.
const TAGGED: [u8; 9] = [0x00, 0x05, 0x08, 0x00, 0x45, 1, 2, 3, 4];

/// A packet with each header that is read.
fn linked() -> Vec<Linked> {
    let with = |header: &[u8], packet: &[u8]| [header, packet].concat();
    let frame = |ethertype: u16, packet: &[u8]| [&[0; 12][..], &ethertype.to_be_bytes(), packet].concat();
    let plain = |link, header: &[u8], ethertype, packet: &[u8]| {
        (link, with(header, packet), frame(ethertype, packet), None)
    };
    let cooked = |kind: u8, ethertype: u16, packet: &[u8]| {
        let protocol = ethertype.to_be_bytes();
        let header = with(&[0, kind, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0], &protocol);
        let station = Station {
            interface: 0,
            outgoing: kind == 4,
        };
        (
            113,
            with(&header, packet),
            frame(ethertype, packet),
            Some(station),
        )
    };
    let cooked2 = |kind: u8, ethertype: u16, packet: &[u8]| {
        let rest = [0, 0, 0, 0, 0, 7, 0, 1, kind, 6, 2, 0, 0, 0, 0, 1, 0, 0];
        let header = with(&ethertype.to_be_bytes(), &rest);
        let station = Station {
            interface: 7,
            outgoing: kind == 4,
        };
        (
            276,
            with(&header, packet),
            frame(ethertype, packet),
            Some(station),
        )
    };
    vec![
        cooked(4, 0x0800, &PACKET),
        cooked(0, 0x8100, &TAGGED),
        cooked2(4, 0x86dd, &SIX),
        cooked2(1, 0x8100, &TAGGED),
        plain(101, &[], 0x0800, &PACKET),
        plain(101, &[], 0, &[0x10, 1]),
        plain(228, &[], 0x0800, &PACKET),
        plain(229, &[], 0x86dd, &SIX),
        plain(0, &[2, 0, 0, 0], 0x0800, &PACKET),
        plain(0, &[0, 0, 0, 30], 0x86dd, &SIX),
        plain(108, &[0, 0, 0, 2], 0x0800, &PACKET),
        plain(108, &[0, 0, 0, 99], 0, &PACKET),
    ]
}

#[test]
fn frames_of_other_links_get_an_ethernet_header() {
    for (link, packet, frame, station) in linked() {
        let mut classic = pcap(true, 0xa1b2_c3d4, &[(1, 5, &packet)]);
        classic[22..24].copy_from_slice(&link.to_be_bytes());
        let simple = block(
            Order::Big,
            3,
            &[&(packet.len() as u32).to_be_bytes(), &packet[..]].concat(),
        );
        let pcapng = [section(link, 6), enhanced(0, 1_000_005, &packet), simple].concat();
        for (file, count) in [(&classic, 1), (&pcapng, 2)] {
            let mut reader = Reader::any_link(&file[..]).expect("a capture");
            for _ in 0..count {
                let record = reader.next_record().unwrap().expect("a frame");
                assert_eq!(
                    (record.octets, record.len),
                    (&frame[..], frame.len() as u32),
                    "{link}"
                );
                assert_eq!((record.station, record.time_ns), (station, NANOSECONDS + 5000));
            }
            assert_eq!(reader.next_record().unwrap(), None);
            assert_eq!(reader.foreign(), 0);
        }
        let error = Reader::new(&classic[..]).expect_err("no Ethernet");
        assert!(
            error.to_string().contains(&format!("link type {link}")),
            "{error}"
        );
        let mut reader = Reader::new(&pcapng[..]).expect("a capture");
        assert_eq!(reader.next_record().unwrap(), None);
        assert_eq!(reader.foreign(), 2);
    }
}

#[test]
fn what_is_wrong_is_told() {
    let malformed = |file: Vec<u8>, words: &str| {
        let error = read(&file).1.expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
    };
    malformed(vec![], "neither pcap nor pcapng");
    malformed(b"GIF89a".to_vec(), "neither pcap nor pcapng");
    let mut wifi = pcap(false, 0xa1b2_c3d4, &[]);
    wifi[20] = 105;
    malformed(wifi.clone(), "link type 105");
    let error = Reader::any_link(&wifi[..]).expect_err("not read");
    assert!(
        error.to_string().contains("105, which is none of Ethernet (1)"),
        "{error}"
    );
    malformed(
        [section(1, 6), enhanced(1, 0, &[])].concat(),
        "interface that is not described",
    );
    malformed(section(1, 20), "impossible resolution");
    malformed(section(1, 0xc0), "impossible resolution");
    let mut long = [section(1, 6), enhanced(0, 0, &[1; 20])].concat();
    let at = section(1, 6).len();
    long[at + 8 + 12..][..4].copy_from_slice(&u32::MAX.to_be_bytes());
    malformed(long.clone(), "shorter than its frame");
    long[at + 4..at + 8].copy_from_slice(&0x4000_0000_u32.to_be_bytes());
    malformed(long, "more than a mebioctet");
    malformed(
        pcap(true, 0xa1b2_c3d4, &[])
            .into_iter()
            .chain([0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])
            .collect(),
        "more than a mebioctet",
    );
}

proptest! {
    /// What the switch writes it reads; a file that is cut off gives the frames before the cut.
    #[test]
    fn what_is_written_is_read(
        frames in proptest::collection::vec((any::<u64>(), proptest::collection::vec(any::<u8>(), 0..200)), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = Vec::new();
        pcapng::section(&mut file, "test");
        pcapng::interface(&mut file, "v0", "", 0);
        for (time_ns, octets) in &frames {
            pcapng::packet(&mut file, &Packet {
                interface: 0,
                time_ns: *time_ns,
                bytes: octets,
                len: octets.len() as u32,
                way: Way::Outbound,
                lost: 0,
                comment: Some("x"),
            });
        }
        let expected: Vec<Frame> = frames
            .iter()
            .map(|(time, octets)| (*time, octets.clone(), octets.len() as u32))
            .collect();
        let (got, end) = read(&file);
        prop_assert!(end.is_ok());
        prop_assert_eq!(&got, &expected);
        let (got, _) = read(&file[..cut.index(file.len())]);
        prop_assert_eq!(&got[..], &expected[..got.len()]);
    }

    /// Packets of any link, cut off anywhere, become frames that are no longer than they say.
    #[test]
    fn packets_of_any_link_are_survived(
        link in 0..linked().len(),
        octets in proptest::collection::vec(any::<u8>(), 0..60),
        kept in any::<prop::sample::Index>(),
        len in any::<u32>(),
    ) {
        let (link, good, ..) = &linked()[link];
        for packet in [&octets, good] {
            let packet = &packet[..kept.index(packet.len() + 1)];
            let mut file = pcap(true, 0xa1b2_c3d4, &[(1, 5, packet)]);
            file[22..24].copy_from_slice(&link.to_be_bytes());
            file[24 + 12..][..4].copy_from_slice(&len.to_be_bytes());
            let mut reader = Reader::any_link(&file[..]).expect("a capture");
            let record = reader.next_record().unwrap().expect("a frame");
            prop_assert!(record.octets.len() <= packet.len() + 14);
            prop_assert!(record.octets.is_empty() || record.octets.len() >= 14);
            let whole = (record.len as usize).max(record.octets.len());
            prop_assert_eq!(offload::parse(record.octets, whole).is_ok(), !record.octets.is_empty());
        }
    }

    /// Anything at all, and good files with anything in them, end somehow.
    #[test]
    fn garbage_is_survived(
        garbage in proptest::collection::vec(any::<u8>(), 0..300),
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let _ = read(&garbage);
        let good = [
            [section(1, 6), enhanced(0, 5, &[1; 40]), enhanced(0, 6, &[2; 9])].concat(),
            pcap(false, 0xa1b2_c3d4, &[(1, 2, &[3; 33]), (1, 3, &[4; 60])]),
        ];
        for mut file in good {
            for (place, octet) in &places {
                let at = place.index(file.len());
                file[at] = *octet;
            }
            let _ = read(&file);
        }
    }
}
