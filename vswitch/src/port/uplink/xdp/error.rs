//! Why AF_XDP cannot serve an interface.

use std::io;

/// Why AF_XDP cannot serve an interface: the reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The port's MTU is too large.
    #[error("the port's MTU is {0} and it carries up to {max}", max = super::MAX_MTU)]
    Mtu(u16),
    /// The port's frames carry tags.
    #[error("the port is a trunk, and a NIC that takes tags out of frames loses them")]
    Trunk,
    /// The driver cannot use the socket's memory.
    #[error(
        "the driver cannot use its memory, so frames would be copied, without large sends: packet sockets are faster"
    )]
    Copied,
    /// The interface's MTU is too large.
    #[error(
        "the MTU of the interface, or of a veth's other end, is too large for a program in the driver; \
         ip link set IF mtu {max}", max = super::MAX_MTU
    )]
    LinkMtu,
    /// Frames of the queues left over would be lost.
    #[error(
        "the interface receives on {there} queues and the port has {asked}; make them the same: queues = {there}, or \
         ethtool -L IF combined {asked} (rx {asked} tx {asked} for a veth)"
    )]
    Queues {
        /// Queues of the interface.
        there: u32,
        /// Queues of the port.
        asked: u16,
    },
    /// The process lacks capabilities.
    #[error(
        "{what} is not permitted; it takes CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW: run as root, or \
         setcap cap_bpf,cap_net_admin,cap_net_raw+ep $(command -v enlight)"
    )]
    Denied {
        /// What is not permitted.
        what: &'static str,
    },
    /// Somebody else's program or socket is there.
    #[error(
        "{what}: something else has it; find it with ip link show and bpftool net, take a program off with ip link set IF xdp off"
    )]
    Busy {
        /// What is taken.
        what: &'static str,
    },
    /// The process may not lock so much memory.
    #[error(
        "its memory, 16 MiB a queue, cannot be locked; raise ulimit -l, or give the process CAP_IPC_LOCK"
    )]
    Memory,
    /// The kernel or the driver cannot do it.
    #[error("{what}: {source}")]
    Kernel {
        /// What it refuses.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl XdpError {
    /// What an error of the kernel's means.
    pub(super) fn of(what: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Denied { what },
            Some(libc::EBUSY | libc::EEXIST) => Self::Busy { what },
            Some(libc::ENOBUFS) => Self::Memory,
            Some(libc::ERANGE) => Self::LinkMtu,
            _ => Self::Kernel { what, source },
        }
    }
}
