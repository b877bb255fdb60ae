//! What the kernel says of an interface: netdevice(7) and ethtool's channels.
//!
//! `unsafe` is for ioctl(2), which fills C structures.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::UplinkError;

/// `ETHTOOL_GCHANNELS` (linux/ethtool.h).
const GET_CHANNELS: u32 = 0x3c;
/// Names in an error message.
const NAMED: usize = 16;

/// An interface, found by its name once and by its number from then on: it may be renamed.
#[derive(Debug)]
pub(super) struct Link {
    /// Any socket of the interface's namespace will do to ask about it.
    control: OwnedFd,
    name: String,
    index: u32,
}

/// How an interface stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    Up,
    /// Somebody set it down.
    Down,
    /// It was removed, or moved to another network namespace.
    Gone,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

impl Link {
    /// Finds an Ethernet interface in the calling thread's network namespace.
    pub(super) fn find(name: &str) -> Result<Self, UplinkError> {
        let interfaces = pnet_datalink::interfaces();
        let Some(found) = interfaces.iter().find(|interface| interface.name == name) else {
            let mut there: Vec<String> = interfaces.into_iter().map(|interface| interface.name).collect();
            there.truncate(NAMED);
            return Err(UplinkError::NoSuchInterface {
                name: name.to_owned(),
                there: there.join(", "),
            });
        };
        if found.is_loopback() || found.mac.is_none() {
            return Err(UplinkError::NotEthernet {
                name: name.to_owned(),
            });
        }
        let control = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        Ok(Self {
            control: control.map_err(|error| UplinkError::kernel(name, "a control socket", error.into()))?,
            name: name.to_owned(),
            index: found.index,
        })
    }

    /// Refuses an interface that is down or whose MTU is too small.
    pub(super) fn check(&self, mtu: u16) -> Result<(), UplinkError> {
        let name = || self.name.clone();
        if self.state() != LinkState::Up {
            return Err(UplinkError::Down { name: name() });
        }
        let has = self.mtu().map_err(|error| self.refusal("its MTU", error))?;
        if has < u32::from(mtu) {
            return Err(UplinkError::Mtu {
                name: name(),
                mtu,
                has,
            });
        }
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn state(&self) -> LinkState {
        let Ok(mut request) = self.request() else {
            return LinkState::Gone;
        };
        match self.ask(&mut request, libc::SIOCGIFFLAGS) {
            // SAFETY: the kernel filled the union's flags; it is plain integers in any case.
            Ok(()) if i32::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0 => LinkState::Up,
            Ok(()) => LinkState::Down,
            Err(_) => LinkState::Gone,
        }
    }

    /// Octets of the largest IP packet.
    fn mtu(&self) -> io::Result<u32> {
        let mut request = self.request()?;
        self.ask(&mut request, libc::SIOCGIFMTU)?;
        // SAFETY: the kernel filled the union's MTU; it is plain integers in any case.
        Ok(unsafe { request.ifr_ifru.ifru_mtu }.unsigned_abs())
    }

    /// Queues that the interface receives on; 1 if its driver does not say.
    pub(super) fn receive_queues(&self) -> u32 {
        let mut channels = Channels {
            command: GET_CHANNELS,
            ..Channels::default()
        };
        let asked = self.request().and_then(|mut request| {
            request.ifr_ifru.ifru_data = (&raw mut channels).cast();
            self.ask(&mut request, libc::SIOCETHTOOL)
        });
        match asked {
            Ok(()) => channels.receive.saturating_add(channels.combined).max(1),
            Err(_) => 1,
        }
    }

    pub(super) fn refusal(&self, what: &'static str, source: io::Error) -> UplinkError {
        UplinkError::kernel(&self.name, what, source)
    }

    /// A request that has the interface's present name.
    fn request(&self) -> io::Result<libc::ifreq> {
        // SAFETY: ifreq is a C structure of integers and pointers; all zeroes are a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_ifindex = self.index.cast_signed();
        self.ask(&mut request, libc::SIOCGIFNAME)?;
        Ok(request)
    }

    fn ask(&self, request: &mut libc::ifreq, what: libc::Ioctl) -> io::Result<()> {
        // SAFETY: every request that this is called with takes a pointer to a struct ifreq, which is borrowed mutably
        // during the call. SIOCETHTOOL follows the pointer in it, which its only caller has lead to a local
        // `ethtool_channels` that outlives the call.
        match unsafe { libc::ioctl(self.control.as_raw_fd(), what, std::ptr::from_mut(request)) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
