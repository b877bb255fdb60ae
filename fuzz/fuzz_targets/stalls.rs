//! Captures given to `enlight diagnose`: files, and traces of frames with any numbers and times.
#![no_main]

use enlight::diagnose::{Capture, Report, to_html, to_text};
use introspection::diagnosis::DiagnosisOptions;
use libfuzzer_sys::fuzz_target;
use vswitch::pcapng::{self, Packet, Way};

/// A file of frames between two ends, from 12 octets each.
fn capture(seeds: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    pcapng::section(&mut out, "fuzz");
    pcapng::interface(&mut out, "near", "", 0);
    pcapng::interface(&mut out, "far", "", 0);
    let mut time_ns = 0_u64;
    for seed in seeds.chunks_exact(12) {
        let [way, flags, window, len, seq, _, ack, _, wait, _, far, _] = *seed else {
            continue;
        };
        time_ns += u64::from(wait) * 1_000_000;
        let (from, to) = (1 + (way & 1), 2 - (way & 1));
        let total = 40 + u16::from(len);
        let mut bytes = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0, 0x45, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, from, 192, 0, 2, to]);
        bytes.extend([
            0, from, 0, to, 0, 0, 0, seq, 0, 0, 0, ack, 0x50, flags, 0, window, 0, 0, 0, 0,
        ]);
        bytes.resize(usize::from(total) + 14, 0);
        let packet = Packet {
            interface: u32::from(far & 1),
            time_ns,
            bytes: &bytes,
            len: bytes.len() as u32,
            way: Way::Inbound,
            lost: 0,
            comment: None,
        };
        pcapng::packet(&mut out, &packet);
    }
    out
}

fuzz_target!(|data: &[u8]| {
    for file in [data, &capture(data)] {
        let mut read = Capture::new(DiagnosisOptions::default());
        if read.read("file", file, true).is_ok() {
            let report = Report::of(read);
            assert!(!to_text(&report).is_empty() && !to_html(&report).is_empty());
        }
    }
});
