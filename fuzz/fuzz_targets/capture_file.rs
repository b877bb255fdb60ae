//! Files given as captures to be replayed or diagnosed: pcap and pcapng, of any link.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use vswitch::pcap::{PcapError, Reader};

type Opened<'a> = Result<Reader<Cursor<&'a [u8]>>, PcapError>;

fuzz_target!(|file: &[u8]| {
    read(file, Reader::new(Cursor::new(file)));
    read(file, Reader::any_link(Cursor::new(file)));
});

fn read(file: &[u8], reader: Opened<'_>) {
    let Ok(mut reader) = reader else { return };
    let mut octets = 0;
    while let Ok(Some(record)) = reader.next_record() {
        octets += record.octets.len();
        if let Ok(meta) = offload::parse(record.octets, record.octets.len().max(record.len as usize)) {
            assert!(meta.ip().is_none_or(|ip| ip.end <= meta.frame_len));
        }
    }
    // A record has more octets beside its frame than an Ethernet header has.
    assert!(octets <= file.len(), "no octet is read twice");
}
