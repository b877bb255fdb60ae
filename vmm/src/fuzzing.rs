//! What the fuzz targets call: one function each, which panics when a promise about hostile input is broken.

use std::sync::OnceLock;

use crate::devices::block;
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
