//! Files given as captures to be replayed: pcap and pcapng.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vswitch::pcap::Reader;

fuzz_target!(|file: &[u8]| {
    let Ok(mut reader) = Reader::new(file) else { return };
    let mut octets = 0;
    while let Ok(Some(record)) = reader.next_record() {
        octets += record.octets.len();
    }
    assert!(octets <= file.len(), "no octet is read twice");
});
