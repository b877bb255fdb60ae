//! Files given as captures to be replayed or diagnosed: pcap and pcapng, of any link; and packets of any link by themselves.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use vswitch::pcap::{PcapError, Reader};

type Opened<'a> = Result<Reader<Cursor<&'a [u8]>>, PcapError>;

const LINKS: [u16; 8] = [0, 1, 101, 108, 113, 228, 229, 276];

fuzz_target!(|file: &[u8]| {
    read(file, Reader::new(Cursor::new(file)));
    read(file, Reader::any_link(Cursor::new(file)));
    if let [link, packet @ ..] = file {
        let file = packet_file(LINKS[usize::from(*link) % LINKS.len()], packet);
        read(&file, Reader::any_link(Cursor::new(&file)));
    }
});

/// A pcap file of one packet.
fn packet_file(link: u16, packet: &[u8]) -> Vec<u8> {
    let len = packet.len() as u32;
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, link.into(), 1, 2, len, len] {
        file.extend(u32::to_le_bytes(word));
    }
    file.extend(packet);
    file
}

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
