//! Control rings of a network device that a hostile driver writes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| vmm::fuzzing::net_control(octets));
