//! Why a tap could not be opened.

use std::io;

/// Why a tap could not be opened: the interface, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No interface can have this name.
    #[error(
        "\"{name}\" is no interface name; use 1 to 15 printable characters without \"/\", \":\", \"%\" and spaces"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// `/dev/net/tun` does not open.
    #[error(
        "tap {name}: cannot open /dev/net/tun ({source}); load the module (modprobe tun) or give the container this device"
    )]
    NoTunDevice {
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The process may not make the tap, or not use that one.
    #[error(
        "tap {name}: not permitted; run as root (it takes CAP_NET_ADMIN), or make the interface for this user \
         first: ip tuntap add dev {name} mode tap user $USER"
    )]
    Denied {
        /// The interface.
        name: String,
    },
    /// Another program has the tap open.
    #[error("tap {name}: another program has the interface open; stop it or choose another name")]
    Busy {
        /// The interface.
        name: String,
    },
    /// An interface of that name exists and is something else.
    #[error(
        "tap {name}: an interface of this name exists and is no single-queue tap; choose another name, or remove \
         it: ip link del {name}"
    )]
    NotTap {
        /// The interface.
        name: String,
    },
    /// An interface of that name exists and takes one descriptor only, or is no tap.
    #[error(
        "tap {name}: an interface of this name exists and is no tap with several queues; give the port queues = 1, or make \
         the interface anew: ip tuntap add dev {name} mode tap multi_queue"
    )]
    NotMultiQueue {
        /// The interface.
        name: String,
    },
    /// Other programs have queues of the tap, and there are no more.
    #[error(
        "tap {name}: the interface has no more queues; stop the other programs that use it, or give the port fewer"
    )]
    TooManyQueues {
        /// The interface.
        name: String,
    },
    /// The kernel's taps have no virtio-net header as the switch needs it.
    #[error("tap {name}: the kernel refuses {what} ({source}); Linux 4.0 or later is needed")]
    Kernel {
        /// The interface.
        name: String,
        /// What it refuses.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The interface's MTU could not be set.
    #[error(
        "tap {name}: cannot set the MTU to {mtu} ({source}); choose 68 to 65521, or set it first: ip link set {name} mtu {mtu}"
    )]
    Mtu {
        /// The interface.
        name: String,
        /// The MTU in octets.
        mtu: u16,
        /// Why.
        source: io::Error,
    },
    /// The interface could not be brought up.
    #[error("tap {name}: cannot bring the interface up ({source}); do it first: ip link set {name} up")]
    Up {
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
}
