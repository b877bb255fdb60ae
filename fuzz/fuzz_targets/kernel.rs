//! Files that are given as kernels: every format, compression and header.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| vmm::fuzzing::kernel(octets));
