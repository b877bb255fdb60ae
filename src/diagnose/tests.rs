//! Captures that are odd, and what is said of them.

use introspection::diagnosis::{Cause, DiagnosisOptions};
use vswitch::pcapng::{self, Packet, Way};

use super::{Capture, CaptureError, Report, to_html, to_text};

const MS: u64 = 1_000_000;

/// A TCP segment from 192.0.2.`from` to the other of 1 and 2, cut to 60 octets.
fn segment(from: u8, seq: u32, ack: u32, len: u16) -> (Vec<u8>, u32) {
    let to = 3 - from;
    let total = 40 + len;
    let mut bytes = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0, 0x45, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, from, 192, 0, 2, to]);
    bytes.extend([0x10, from, 0x10, to]);
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([0x50, 0x10, 0xff, 0, 0, 0, 0, 0]);
    bytes.resize((usize::from(total) + 14).min(60), 0);
    (bytes, u32::from(total) + 14)
}

fn add(out: &mut Vec<u8>, interface: u32, time_ns: u64, (bytes, len): &(Vec<u8>, u32)) {
    let packet = Packet {
        interface,
        time_ns,
        bytes,
        len: *len,
        way: Way::Inbound,
        lost: 0,
        comment: None,
    };
    pcapng::packet(out, &packet);
}

/// Both sides of a filter that serialises: one request, six times.
fn both_sides() -> Vec<u8> {
    let mut out = Vec::new();
    pcapng::section(&mut out, "test");
    pcapng::interface(&mut out, "near", "", 0);
    pcapng::interface(&mut out, "far", "", 0);
    let (mut seq, mut answer, mut at) = (1, 1, 5 * MS);
    for _ in 0..6 {
        let (first, second) = (segment(1, seq, answer, 32), segment(1, seq + 32, answer, 32));
        let (ack, reply) = (segment(2, answer, seq + 32, 0), segment(2, answer, seq + 64, 100));
        add(&mut out, 0, at, &first);
        add(&mut out, 1, at, &first);
        add(&mut out, 0, at + 20_000, &second);
        at += 200 * MS;
        add(&mut out, 1, at, &ack);
        add(&mut out, 0, at, &ack);
        add(&mut out, 1, at, &second);
        at += 80_000;
        add(&mut out, 1, at, &reply);
        add(&mut out, 0, at, &reply);
        at += 50_000;
        (seq, answer) = (seq + 64, answer + 100);
    }
    out
}

/// What of an IPv4 packet's octets from `start` on goes in a fragment of `len`, cut to 60 octets like the others.
fn fragment((bytes, whole): &(Vec<u8>, u32), id: u16, start: u16, len: u16) -> (Vec<u8>, u32) {
    let more = u32::from(start) + u32::from(len) < whole - 34;
    let mut cut = bytes[..34].to_vec();
    cut[16..18].copy_from_slice(&(20 + len).to_be_bytes());
    cut[18..20].copy_from_slice(&id.to_be_bytes());
    cut[20..22].copy_from_slice(&((start / 8) | (u16::from(more) << 13)).to_be_bytes());
    let mut octets = bytes[34..].to_vec();
    octets.resize((whole - 34) as usize, 0);
    cut.extend(&octets[usize::from(start)..usize::from(start + len)]);
    let len = cut.len() as u32;
    cut.truncate(60);
    (cut, len)
}

/// A receiver that is late with an acknowledgement, six times, of a sender's segments that come in two fragments, the second one first.
#[test]
fn a_segment_in_fragments_counts_when_it_is_whole() {
    let mut out = Vec::new();
    pcapng::section(&mut out, "test");
    pcapng::interface(&mut out, "any", "", 0);
    let (mut seq, mut at) = (1, 5 * MS);
    for id in 0..6 {
        let whole = segment(1, seq, 1, 1_000);
        add(&mut out, 0, at, &fragment(&whole, id, 504, 516));
        add(&mut out, 0, at + 20_000, &fragment(&whole, id, 0, 504));
        at += 200 * MS;
        seq += 1_000;
        add(&mut out, 0, at, &segment(2, 1, seq, 0));
        at += 50_000;
    }
    // A datagram of UDP, and a segment of which a part is missing.
    let mut udp = segment(1, 0x0010_0010, 0, 1_000);
    udp.0[23] = 17;
    for (start, len) in [(0, 504), (504, 516)] {
        add(&mut out, 0, at, &fragment(&udp, 77, start, len));
    }
    add(&mut out, 0, at, &fragment(&segment(1, seq, 1, 1_000), 78, 0, 504));
    let report = report(&out);
    assert_eq!(
        (report.frames, report.tcp_frames, report.connections),
        (21, 12, 1)
    );
    let expected = "f<i>le: 15 frames are IP fragments. They make up 6 TCP segments, each of which counts as the frame that made it whole; \
                    1 datagrams of other protocols; and 1 of which not all came, which are left out";
    assert_eq!(report.notices, [expected]);
    let causes: Vec<_> = report
        .causes
        .iter()
        .map(|total| (total.cause, total.stalls))
        .collect();
    assert_eq!(causes, [(Cause::DelayedAck, 5)]);
    let finding = &report.flows[0].findings[0];
    let numbers: Vec<u64> = finding.evidence.iter().map(|exhibit| exhibit.frame).collect();
    assert_eq!(numbers, [2, 3, 5], "the frames that made the segments whole");
    assert_eq!(finding.gap_ns, 200 * MS - 20_000);
}

fn report(file: &[u8]) -> Report {
    let mut capture = Capture::new(DiagnosisOptions::default());
    capture.read("f<i>le", file, true).expect("a capture");
    Report::of(capture)
}

#[test]
fn two_interfaces_are_the_two_sides_of_a_filter() {
    let report = report(&both_sides());
    assert_eq!((report.frames, report.connections, report.stalls()), (48, 1, 6));
    assert_eq!(report.causes[0].cause, Cause::FilterSerialised);
    let finding = &report.flows[0].findings[0];
    let numbers: Vec<u64> = finding.evidence.iter().map(|exhibit| exhibit.frame).collect();
    assert_eq!(numbers, [2, 3, 4, 6]);
    assert_eq!(
        finding.explain(),
        "200 ms: the filter kept seq 33..65 of 192.0.2.1:4097 until 192.0.2.2:4098 acknowledged seq 1..33"
    );
    let cost = report.filter.expect("two taps");
    assert_eq!(cost.stalls, 6);
    assert!(cost.ms > 1_200.0 && cost.ms_without < 2.0, "{cost:?}");
    let text = to_text(&report);
    assert!(text.contains("6 stalls, 1.20 s: filter-serialised"), "{text}");
    assert!(
        text.contains("inspect") && text.contains("takes for granted"),
        "{text}"
    );
    let page = to_html(&report);
    assert!(page.contains("<svg") && page.contains("f&lt;i&gt;le") && !page.contains("f<i>le"));
}

#[test]
fn a_file_cut_anywhere_is_read_so_far() {
    let whole = both_sides();
    let mut read = 0;
    for end in (0..whole.len()).step_by(7) {
        let mut capture = Capture::new(DiagnosisOptions::default());
        match capture.read("cut", &whole[..end], true) {
            Ok(()) => read += 1,
            Err(error) => assert!(error.to_string().contains("pcap"), "{error}"),
        }
        let _ = to_text(&Report::of(capture));
    }
    assert!(read > 100);
    let notices = report(&whole[..whole.len() - 3]).notices;
    assert!(
        notices[0].contains("ends in the middle of a record") && notices[0].contains("47 frames"),
        "{notices:?}"
    );
}

#[test]
fn what_cannot_be_read_is_said_with_a_remedy() {
    let mut capture = Capture::new(DiagnosisOptions::default());
    let mut wireless = vec![
        0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0,
    ];
    wireless.extend(105_u32.to_le_bytes());
    for (file, word) in [
        (&b"hello, world"[..], "neither pcap nor pcapng"),
        (&wireless, "link type 105"),
    ] {
        let error = capture.read("x", file, true).expect_err("no Ethernet");
        assert!(matches!(error, CaptureError::Format { .. }));
        let line = error.to_string();
        assert!(
            line.contains(word) && line.contains("tcpdump") && !line.contains('\n'),
            "{line}"
        );
    }
    let error = capture
        .read_file("/no/such/file".as_ref(), true)
        .expect_err("no file");
    assert!(error.to_string().starts_with("opening /no/such/file"), "{error}");
    // A frame that says to be of 3 GiB.
    let mut absurd = wireless;
    absurd[20] = 1;
    absurd.extend([0; 8]);
    absurd.extend(u32::MAX.to_le_bytes());
    absurd.extend(3_000_000_000_u32.to_le_bytes());
    let notices = report(&absurd).notices;
    assert!(notices[0].contains("more than a mebioctet"), "{notices:?}");
}
