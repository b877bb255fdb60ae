//! What the fuzz targets call: one function each, which panics when a promise about hostile input is broken.

use std::sync::OnceLock;

use crate::devices::{block, fuzzing};
use crate::kernel::{self, LoadedKernel};
use crate::memory::{self, GuestRam};

/// Memory of the guest that kernels are loaded into.
const MEMORY: u64 = 4 << 20;

/// Loads `octets` as a kernel: formats, decompression, headers.
pub fn kernel(octets: &[u8]) {
    static RAM: OnceLock<GuestRam> = OnceLock::new();
    let ram = RAM.get_or_init(|| memory::allocate(MEMORY).expect("4 MiB"));
    match kernel::load_octets(octets, ram, MEMORY) {
        Ok(LoadedKernel { entry, end, .. }) => assert!((1 << 20..end).contains(&entry) && end <= MEMORY),
        Err(fault) => {
            let text = fault.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
        }
    }
}

/// Serves a disk's ring in guest memory that `octets` fill.
pub fn block_queue(octets: &[u8]) {
    block::fuzzing::queue(octets);
}

/// Opens `octets` as an image of a disk, and uses it.
pub fn disk_formats(octets: &[u8]) {
    block::fuzzing::formats(octets);
}

/// Accesses to PCI configuration space, and to the memory that it decodes.
pub fn pci_config(octets: &[u8]) {
    fuzzing::bus(octets);
}

/// Accesses to the registers of a virtio device.
pub fn virtio_registers(octets: &[u8]) {
    fuzzing::registers(octets);
}

/// Serves an entropy device's ring in guest memory that `octets` fill.
pub fn virtio_rng(octets: &[u8]) {
    fuzzing::rng(octets);
}

/// Serves a virtio console's rings in guest memory that `octets` fill.
pub fn virtio_console(octets: &[u8]) {
    fuzzing::console(octets);
}

/// Serves a network device's control ring in guest memory that `octets` fill.
pub fn net_control(octets: &[u8]) {
    fuzzing::control(octets);
}
