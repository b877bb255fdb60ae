//! The guest that needs no disk and no download.

/// The micro-guest's image: an ELF file with a PVH entry point, for [`crate::Kernel::Embedded`].
///
/// It brings a virtio-net driver, a TCP/IP stack and the workloads of the laboratory, and is told what to do on the
/// kernel command line.
pub const MICROGUEST: &[u8] = include_bytes!(env!("MICROGUEST_IMAGE"));
