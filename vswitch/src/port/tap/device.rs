//! A tap's file: opening, offloads, reading and writing (Linux, Documentation/networking/tuntap.rst).
//!
//! `unsafe` is for the system calls that `std` does not have, and for reading into memory that is not
//! initialized yet.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use arrayvec::ArrayVec;
use offload::VnetHeader;

use super::TapError;
use crate::frame::{MAX_FRAME, Segment};
use crate::port::Capabilities;
use crate::port::syscall::{self, check, piece, retry};

/// Most pieces that one frame is written from (`UIO_MAXIOV`), header and head included.
const MAX_PIECES: usize = 1024;

/// What the switch takes from the kernel.
const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

/// Since Linux 6.2, and only both together.
const USO: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// An open tap.
pub(super) struct Device {
    file: File,
    name: String,
    uso: bool,
    multi_queue: bool,
}

/// What poll(2) says of a tap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The interface is gone.
    pub(super) broken: bool,
}

impl Device {
    /// Opens a descriptor of the tap, one of several if it is `multi_queue`.
    pub(super) fn open(name: &str, mtu: u16, multi_queue: bool) -> Result<Self, TapError> {
        let mut request = Request::new(name).ok_or_else(|| TapError::Name {
            name: name.to_owned(),
        })?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|source| TapError::NoTunDevice {
                name: name.to_owned(),
                source,
            })?;
        let mut device = Self {
            file,
            name: name.to_owned(),
            uso: false,
            multi_queue,
        };
        device.join(&mut request)?;
        device.set_headers()?;
        request.configure(mtu)?;
        Ok(device)
    }

    /// Joins the interface, or makes it.
    fn join(&self, request: &mut Request) -> Result<(), TapError> {
        let several = if self.multi_queue {
            libc::IFF_MULTI_QUEUE
        } else {
            0
        };
        request.set_flags(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several);
        request
            .ioctl(self.as_raw_fd(), libc::TUNSETIFF)
            .map_err(|source| {
                let name = self.name.clone();
                match source.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => TapError::Denied { name },
                    Some(libc::EBUSY) => TapError::Busy { name },
                    Some(libc::EINVAL) if self.multi_queue => TapError::NotMultiQueue { name },
                    Some(libc::EINVAL) => TapError::NotTap { name },
                    Some(libc::E2BIG) => TapError::TooManyQueues { name },
                    _ => TapError::Kernel {
                        name,
                        what: "the interface",
                        source,
                    },
                }
            })
    }

    /// Agrees on the virtio-net header and on offloads.
    fn set_headers(&mut self) -> Result<(), TapError> {
        let refused = |what, source| TapError::Kernel {
            name: self.name.clone(),
            what,
            source,
        };
        self.set_int(libc::TUNSETVNETHDRSZ, libc::c_int::from(VnetHeader::LEN as u8))
            .map_err(|source| refused("virtio-net headers of 12 octets", source))?;
        self.set_int(libc::TUNSETVNETLE, 1)
            .map_err(|source| refused("little-endian virtio-net headers", source))?;
        self.uso = self.set_offloads(OFFLOADS | USO).is_ok();
        if !self.uso {
            self.set_offloads(OFFLOADS)
                .map_err(|source| refused("checksum and TCP offloads", source))?;
        }
        Ok(())
    }

    /// What the kernel takes. It has taken partial checksums and large TCP for as long as it has had virtio-net headers.
    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities {
            checksum: true,
            tso4: true,
            tso6: true,
            uso4: self.uso,
            uso6: self.uso,
            ecn: true,
        }
    }

    /// Reads one frame in place of what `frame` holds. `frame` stays empty when there is none.
    pub(super) fn read(&self, frame: &mut Vec<u8>) -> io::Result<VnetHeader> {
        let mut header = [0; VnetHeader::LEN];
        frame.clear();
        frame.reserve(MAX_FRAME);
        let pieces = [
            piece(header.as_mut_ptr(), header.len()),
            piece(frame.as_mut_ptr(), frame.capacity()),
        ];
        let read = retry(|| {
            // SAFETY: the first piece is the array `header`, the second the whole allocation of `frame`; both are
            // borrowed mutably by this function and outlive the call.
            unsafe {
                libc::readv(
                    self.as_raw_fd(),
                    pieces.as_ptr(),
                    libc::c_int::from(pieces.len() as u16),
                )
            }
        })?;
        let len = read
            .checked_sub(header.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .min(frame.capacity());
        // SAFETY: the kernel filled the first piece and `len` octets of the second, which has that capacity.
        unsafe { frame.set_len(len) };
        Ok(VnetHeader::from_bytes(&header))
    }

    /// Writes one frame.
    pub(super) fn write(&self, vnet: VnetHeader, head: &[u8], tail: &[Segment]) -> io::Result<()> {
        let header = vnet.to_bytes();
        let mut pieces = ArrayVec::<libc::iovec, MAX_PIECES>::new();
        pieces.push(piece(header.as_ptr().cast_mut(), header.len()));
        pieces.push(piece(head.as_ptr().cast_mut(), head.len()));
        for segment in tail {
            pieces
                .try_push(piece(segment.ptr.cast_mut(), segment.len as usize))
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        }
        let written = retry(|| {
            // SAFETY: `pieces` holds up to UIO_MAXIOV ranges: two borrowed slices that outlive the call, and segments of
            // guest memory. The kernel only reads them, and checks them itself: a range that the guest took away
            // makes the call fail with EFAULT instead of raising SIGBUS.
            unsafe {
                libc::writev(
                    self.as_raw_fd(),
                    pieces.as_ptr(),
                    libc::c_int::from(pieces.len() as u16),
                )
            }
        })?;
        // A tap takes a frame whole or not at all.
        let expected: usize = pieces.iter().map(|piece| piece.iov_len).sum();
        if written == expected {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Asks what can be done now.
    pub(super) fn readiness(&self) -> Readiness {
        let mut poll = libc::pollfd {
            fd: self.as_raw_fd(),
            events: libc::POLLIN | libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: `poll` is one valid pollfd that outlives the call, which does not wait.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        if ready <= 0 {
            return Readiness::default();
        }
        Readiness {
            readable: poll.revents & libc::POLLIN != 0,
            writable: poll.revents & libc::POLLOUT != 0,
            broken: poll.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0,
        }
    }

    /// Lets the interface go at once, although the descriptor stays open.
    pub(super) fn release(&self) -> io::Result<()> {
        syscall::release(self)
    }

    fn set_offloads(&self, offloads: libc::c_uint) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value and writes nothing of ours.
        check(unsafe {
            libc::ioctl(
                self.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                libc::c_ulong::from(offloads),
            )
        })
    }

    fn set_int(&self, request: libc::Ioctl, value: libc::c_int) -> io::Result<()> {
        // SAFETY: both requests that this is called with read one int through the pointer, which is valid during
        // the call.
        check(unsafe { libc::ioctl(self.as_raw_fd(), request, &raw const value) })
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// A `struct ifreq` for one interface.
struct Request {
    raw: libc::ifreq,
    name: String,
}

impl Request {
    /// `None` when no interface can have the name.
    fn new(name: &str) -> Option<Self> {
        let forbidden = |octet: u8| !octet.is_ascii_graphic() || matches!(octet, b'/' | b':' | b'%');
        if !(1..libc::IFNAMSIZ).contains(&name.len())
            || matches!(name, "." | "..")
            || name.bytes().any(forbidden)
        {
            return None;
        }
        // SAFETY: ifreq is a C structure of integers and arrays of them; all zeroes are a valid value.
        let mut raw: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in raw.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        Some(Self {
            raw,
            name: name.to_owned(),
        })
    }

    fn set_flags(&mut self, flags: libc::c_int) {
        self.raw.ifr_ifru.ifru_flags = flags as libc::c_short;
    }

    fn flags(&self) -> libc::c_int {
        // SAFETY: the union is plain integers, all of it initialized, so that any member may be read.
        libc::c_int::from(unsafe { self.raw.ifr_ifru.ifru_flags })
    }

    fn mtu(&self) -> libc::c_int {
        // SAFETY: the union is plain integers, all of it initialized, so that any member may be read.
        unsafe { self.raw.ifr_ifru.ifru_mtu }
    }

    /// Sets the MTU and brings the interface up, as far as that is not so already: a user who was given a tap
    /// may not change it, but need not.
    fn configure(&mut self, mtu: u16) -> Result<(), TapError> {
        let name = self.name.clone();
        let up = |source| TapError::Up {
            name: name.clone(),
            source,
        };
        let mtu_error = |source| TapError::Mtu {
            name: name.clone(),
            mtu,
            source,
        };
        let socket = control_socket().map_err(up)?;
        self.ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU)
            .map_err(mtu_error)?;
        if self.mtu() != libc::c_int::from(mtu) {
            self.raw.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
            self.ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU)
                .map_err(mtu_error)?;
        }
        self.ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS).map_err(up)?;
        let flags = self.flags();
        if flags & libc::IFF_UP == 0 {
            self.set_flags(flags | libc::IFF_UP);
            self.ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS).map_err(up)?;
        }
        Ok(())
    }

    fn ioctl(&mut self, fd: RawFd, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: every request that this is called with takes a pointer to a struct ifreq, which `raw` is; it is
        // borrowed mutably during the call.
        check(unsafe { libc::ioctl(fd, request, &raw mut self.raw) })
    }
}

/// A socket to ask about interfaces; any will do.
fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket() takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the descriptor was just made and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused_before_any_system_call() {
        for name in [
            "",
            ".",
            "..",
            "a b",
            "a/b",
            "a:1",
            "tap%d",
            "sixteen-letters!",
            "\u{e4}",
        ] {
            let error = Device::open(name, 1500, false).err().expect(name);
            assert!(matches!(error, TapError::Name { .. }), "{name}: {error}");
            assert!(error.to_string().contains("is no interface name"), "{error}");
        }
        assert!(Request::new("fifteen-letters").is_some());
    }
}
