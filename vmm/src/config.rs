//! What a virtual machine is made of, as its caller describes it.

use std::path::PathBuf;
use std::time::Duration;

use offload::MacAddr;

/// Everything that [`crate::Vm::new`] needs to know.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// What to boot.
    pub kernel: Kernel,
    /// An initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; an embedded kernel also gets ` tsc_khz=N`.
    pub cmdline: String,
    /// Guest memory in octets: a multiple of 4096, 1 MiB at least.
    pub memory: u64,
    /// Virtual processors, 1 at least.
    pub vcpus: u8,
    /// Network interfaces, in PCI slot order.
    pub nics: Vec<NicConfig>,
    /// Disks, in PCI slot order behind the interfaces: `/dev/vda` is the first.
    pub disks: Vec<DiskConfig>,
    /// What the console's input goes to.
    pub terminal: Terminal,
    /// Whether a guest's reset starts the guest again instead of ending the machine.
    pub reboot: bool,
    /// Whether the process gives up all that the machine does not need before the guest's first instruction. It then has
    /// one machine, made while it has one thread.
    pub sandbox: bool,
    /// Directories that the process has to remove files of its own from in the end; for the sandbox.
    pub removes_from: Vec<PathBuf>,
}

impl VmConfig {
    /// A machine with one processor, 256 MiB and nothing else, which boots `kernel` and ends when that resets.
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            initrd: None,
            cmdline: String::new(),
            memory: 256 << 20,
            vcpus: 1,
            nics: Vec::new(),
            disks: Vec::new(),
            terminal: Terminal::Serial,
            reboot: false,
            sandbox: false,
            removes_from: Vec::new(),
        }
    }
}

/// Where the guest reads what is typed. Both of its consoles print to the same place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Terminal {
    /// The 16550 at COM1: Linux' `ttyS0`.
    #[default]
    Serial,
    /// A virtio console, which exists only then: Linux' `hvc0`.
    Virtio,
}

/// One virtio-blk disk and the file that is its content.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// The image, or a block device.
    pub path: PathBuf,
    /// Refuse writes.
    pub read_only: bool,
    /// How the file holds the disk's sectors; `None`: as its name says, raw if that says nothing.
    pub format: Option<DiskFormat>,
}

/// How a file holds a disk's sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// One after the other.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// Microsoft's virtual hard disk, fixed or dynamic.
    Vhd,
}

/// Where the kernel image comes from.
#[derive(Clone, Debug)]
pub enum Kernel {
    /// A kernel file: ELF or bzImage, compressed or not.
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
    /// Offer packed rings if the back end has them and notes chains in hand. There is one queue pair then and no control
    /// queue.
    pub packed: bool,
}

/// The most queue pairs that one interface may have.
pub const MAX_QUEUE_PAIRS: u8 = 16;

/// The most interfaces that one machine may have.
pub const MAX_NICS: usize = 8;

/// The most disks that one machine may have.
pub const MAX_DISKS: usize = 8;
