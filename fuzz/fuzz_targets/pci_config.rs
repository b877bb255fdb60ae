//! Configuration space, base address registers and MSI-X tables that a hostile guest writes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| vmm::fuzzing::pci_config(octets));
