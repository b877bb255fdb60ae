//! Files that are given as qcow2 and VHD disks, opened and used.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| vmm::fuzzing::disk_formats(octets));
