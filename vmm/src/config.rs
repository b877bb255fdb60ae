//! What a virtual machine is made of, as its caller describes it.

use std::path::PathBuf;
use std::time::Duration;

use offload::MacAddr;

/// Everything that [`crate::Vm::new`] needs to know.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// What to boot.
    pub kernel: Kernel,
    /// An initial RAM disk, handed over as the first PVH module.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; ` tsc_khz=N` is appended to it.
    pub cmdline: String,
    /// Guest memory in octets: a multiple of 4096, 1 MiB at least.
    pub memory: u64,
    /// Virtual processors, 1 at least.
    pub vcpus: u8,
    /// Network interfaces, in PCI slot order.
    pub nics: Vec<NicConfig>,
}

/// Where the kernel image comes from.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// An ELF file with a PVH note.
    File(PathBuf),
    /// An ELF image with a PVH note that is part of the program.
    Embedded(&'static [u8]),
}

/// One virtio-net interface and the vhost-user socket that serves it.
#[derive(Clone, Debug)]
pub struct NicConfig {
    /// The back end's listening socket.
    pub socket: PathBuf,
    /// The interface's address, offered to the guest.
    pub mac: MacAddr,
    /// Receive and transmit queue pairs, 1 to 16.
    pub queue_pairs: u8,
    /// The largest payload of a frame in octets that the guest should send, Ethernet header excluded.
    pub mtu: u16,
    /// How long to go on looking for a back end that vanished; zero stops the machine at once.
    pub reconnect: Duration,
}

/// The most queue pairs that one interface may have.
pub const MAX_QUEUE_PAIRS: u8 = 16;

/// The most interfaces that one machine may have.
pub const MAX_NICS: usize = 8;
