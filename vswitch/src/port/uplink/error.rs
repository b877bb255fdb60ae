//! Why an uplink could not be opened.

use std::io;

use super::xdp::XdpError;

/// Why an uplink could not be opened: the interface, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// There is no such interface.
    #[error("uplink {name}: there is no such interface in the switch's network namespace; it has {there}")]
    NoSuchInterface {
        /// The name.
        name: String,
        /// Names that exist.
        there: String,
    },
    /// It does not carry Ethernet frames between hosts.
    #[error("uplink {name}: it is no Ethernet interface; an uplink needs one that has a MAC address")]
    NotEthernet {
        /// The interface.
        name: String,
    },
    /// It is down.
    #[error("uplink {name}: the interface is down; bring it up first: ip link set {name} up")]
    Down {
        /// The interface.
        name: String,
    },
    /// Its MTU is smaller than the port's.
    #[error(
        "uplink {name}: the interface's MTU is {has} and the port's {mtu}; raise it (ip link set {name} mtu {mtu}) or \
         give the port mtu {has}"
    )]
    Mtu {
        /// The interface.
        name: String,
        /// The port's MTU in octets.
        mtu: u16,
        /// The interface's.
        has: u32,
    },
    /// The process lacks a capability.
    #[error(
        "uplink {name}: not permitted; {what} takes {capability}: run as root, or give it to the program: \
         setcap {grant}+ep $(command -v enlight)"
    )]
    Denied {
        /// The interface.
        name: String,
        /// What was not permitted.
        what: &'static str,
        /// The capabilities that it takes.
        capability: &'static str,
        /// The same as setcap(8) has them.
        grant: &'static str,
    },
    /// AF_XDP was asked for and cannot be had.
    #[error(
        "uplink {name}: AF_XDP does not work here: {reason}; uplink-mode af-packet works with every interface"
    )]
    NoXdp {
        /// The interface.
        name: String,
        /// Why.
        #[source]
        reason: XdpError,
    },
    /// The kernel refused something.
    #[error("uplink {name}: the kernel refuses {what} ({source}); Linux 6.0 or later is needed")]
    Kernel {
        /// The interface.
        name: String,
        /// What it refuses.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl UplinkError {
    pub(super) fn kernel(name: &str, what: &'static str, source: io::Error) -> Self {
        Self::Kernel {
            name: name.to_owned(),
            what,
            source,
        }
    }
}
