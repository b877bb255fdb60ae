//! The guest's network interface: found, given its address, brought up.
#![allow(unsafe_code)] // ioctl(2) has no safe form that takes a `struct ifreq`.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use microguest::cmdline::Parameters;
use microguest::report::Line;

use super::{Failure, console};

/// How long the interface may take to appear: drivers probe on their own time.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// The place of `VIRTIO_F_*` bits in sysfs, below an interface.
const FEATURES: &str = "device/features";

/// Brings the loopback interface and the NIC up, and tells of the NIC.
pub(super) fn bring_up(parameters: &Parameters) -> Result<(), Failure> {
    loopback_up().map_err(|error| format!("bringing lo up: {error}"))?;
    let name = wait_for_nic()
        .ok_or("no network interface appeared; does this kernel have virtio_net and virtio_pci?")?;
    set_up(&name, parameters)
        .map_err(|error| format!("setting {name} up with {}: {error}", parameters.ip))?;
    if let Some(mac) = mac_of(&name) {
        console::say(&Line::Link {
            mac,
            msix: Path::new("/sys/class/net")
                .join(&name)
                .join("device/../msi_irqs")
                .exists(),
            features: features_of(&name),
        });
    }
    Ok(())
}

/// Brings the loopback interface of the calling thread's network up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let interface = Interface {
        socket: &socket,
        name: "lo",
    };
    interface.up()
}

/// Gives an interface of the calling thread's network its address, and brings it up.
pub(crate) fn set_up(name: &str, parameters: &Parameters) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let interface = Interface {
        socket: &socket,
        name,
    };
    let mask = u32::MAX
        .checked_shl(32 - u32::from(parameters.prefix.min(32)))
        .unwrap_or(0);
    interface.set_address(libc::SIOCSIFADDR, parameters.ip)?;
    interface.set_address(libc::SIOCSIFNETMASK, Ipv4Addr::from_bits(mask))?;
    interface.up()
}

/// The first interface that is not the loopback.
fn wait_for_nic() -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut names: Vec<String> = fs::read_dir("/sys/class/net")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().join("device").exists())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        if let Some(name) = names.into_iter().next() {
            return Some(name);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

fn mac_of(name: &str) -> Option<[u8; 6]> {
    parse_mac(&fs::read_to_string(format!("/sys/class/net/{name}/address")).ok()?)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octets: Vec<u8> = text
        .trim()
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect::<Option<_>>()?;
    octets.try_into().ok()
}

/// Negotiated virtio feature bits; 0 for another kind of NIC.
fn features_of(name: &str) -> u64 {
    parse_features(&fs::read_to_string(format!("/sys/class/net/{name}/{FEATURES}")).unwrap_or_default())
}

/// sysfs has a digit for each bit, bit 0 first.
fn parse_features(digits: &str) -> u64 {
    let bits = digits.trim().bytes().take(64).enumerate();
    bits.filter(|(_, digit)| *digit == b'1')
        .fold(0, |features, (bit, _)| features | 1 << bit)
}

/// An interface by name.
struct Interface<'a> {
    /// Any socket: it tells the kernel which network namespace.
    socket: &'a UdpSocket,
    name: &'a str,
}

impl Interface<'_> {
    fn up(&self) -> io::Result<()> {
        let mut request = self.request()?;
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: the kernel has just filled the flags in.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as i16;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
    }

    fn set_address(&self, what: libc::Ioctl, address: Ipv4Addr) -> io::Result<()> {
        let mut request = self.request()?;
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: address.to_bits().to_be(),
            },
            sin_zero: [0; 8],
        };
        // SAFETY: sockaddr_in and sockaddr are plain data of 16 octets each, and sockaddr's fields take any octets.
        request.ifr_ifru.ifru_addr =
            unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
        self.ioctl(what, &mut request)
    }

    fn request(&self) -> io::Result<libc::ifreq> {
        // SAFETY: ifreq is plain data for which all zeros is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last octet stays zero: the name is a C string.
        if self.name.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (place, octet) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *place = libc::c_char::from_ne_bytes([octet]);
        }
        Ok(request)
    }

    fn ioctl(&self, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as the borrowed socket, and the SIOC[GS]IF requests used here read and
        // write one `struct ifreq`, which `request` is.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), what, request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysfs_is_read() {
        assert_eq!(parse_mac("02:00:ff:03:04:05\n"), Some([2, 0, 0xff, 3, 4, 5]));
        assert_eq!(parse_mac("02:00:ff:03:04"), None);
        assert_eq!(parse_mac(""), None);
        assert_eq!(parse_features("1100010\n"), 0b10_0011);
        assert_eq!(parse_features(&"1".repeat(80)), u64::MAX);
        assert_eq!(parse_features(""), 0);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let interface = |name| Interface {
            socket: &socket,
            name,
        };
        let error = interface("enlight-no").up().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        let error = interface("a-name-that-is-too-long").up().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
