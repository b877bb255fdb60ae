//! What the standard library does not have: taps, packet sockets, a few socket options, poll.
//!
//! `unsafe` is for these system calls.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use offload::VnetHeader;
use vswitch::port::Capabilities;

/// Room for the largest frame and its header.
pub(crate) const LARGEST: usize = 0x1_1000;

/// `PACKET_AUXDATA`, `PACKET_VNET_HDR` (linux/if_packet.h) and `UDP_SEGMENT` (linux/udp.h).
const PACKET_AUXDATA: libc::c_int = 8;
const PACKET_VNET_HDR: libc::c_int = 15;
const UDP_SEGMENT: libc::c_int = 103;

/// A tap of which this process is the wire.
pub(crate) struct Tap(File);

impl Tap {
    /// Makes a tap in the calling thread's namespace whose kernel may leave to others what `offloads` says.
    pub(crate) fn make(name: &str, offloads: Capabilities) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        // SAFETY: ifreq is a C structure of integers and arrays of them; all zeroes are a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        let fd = file.as_raw_fd();
        let size = libc::c_int::from(VnetHeader::LEN as u8);
        let one: libc::c_int = 1;
        // SAFETY: the first request takes a pointer to an ifreq, the next two one to an int, all of which live through the
        // calls; the last takes its argument by value.
        unsafe {
            check(libc::ioctl(fd, libc::TUNSETIFF, &raw mut request))?;
            check(libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const size))?;
            check(libc::ioctl(fd, libc::TUNSETVNETLE, &raw const one))?;
            check(libc::ioctl(
                fd,
                libc::TUNSETOFFLOAD,
                libc::c_ulong::from(tun_flags(offloads)),
            ))?;
        }
        Ok(Self(file))
    }

    /// Reads a frame with its header; `None` when there is none.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.0.read(buffer).ok()
    }

    /// Writes a frame with its header.
    pub(crate) fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write(frame).map(drop)
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// `TUN_F_*` (linux/if_tun.h).
fn tun_flags(offloads: Capabilities) -> libc::c_uint {
    let bit = |on: bool, bit| if on { bit } else { 0 };
    bit(offloads.checksum, libc::TUN_F_CSUM)
        | bit(offloads.tso4, libc::TUN_F_TSO4)
        | bit(offloads.tso6, libc::TUN_F_TSO6)
        | bit(offloads.ecn, libc::TUN_F_TSO_ECN)
        | bit(offloads.uso4, libc::TUN_F_USO4 | libc::TUN_F_USO6)
}

/// A socket that sees what an interface receives, with virtio-net headers.
pub(crate) struct PacketSocket(OwnedFd);

/// A frame that it saw.
pub(crate) struct Sight {
    pub(crate) vnet: VnetHeader,
    /// The tag that the kernel has taken out.
    pub(crate) vlan: Option<u16>,
    pub(crate) frame: Vec<u8>,
}

impl PacketSocket {
    /// Listens to an interface of the calling thread's namespace.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let name = std::ffi::CString::new(interface)?;
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket() takes no pointers, if_nametoindex() a C string that lives through the call; the descriptor that
        // socket() returned is owned by nobody else.
        let (socket, index) = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            let fd = libc::socket(libc::AF_PACKET, kind, 0);
            check(fd)?;
            (OwnedFd::from_raw_fd(fd), libc::if_nametoindex(name.as_ptr()))
        };
        let fd = socket.as_raw_fd();
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
        set_option(fd, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        set_option(fd, libc::SOL_PACKET, PACKET_AUXDATA, 1)?;
        set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        // SAFETY: sockaddr_ll is integers and an array of them, for which all zeroes are a valid value; it lives through
        // the call, which is given its length.
        unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as libc::c_ushort;
            address.sll_protocol = protocol;
            address.sll_ifindex = index.cast_signed();
            let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            check(libc::bind(fd, (&raw const address).cast(), len))?;
        }
        Ok(Self(socket))
    }

    /// The next frame that it saw.
    pub(crate) fn next(&self) -> Option<Sight> {
        const HEADER: usize = 10;
        let mut buffer = vec![0_u8; LARGEST];
        let mut control = [0_u64; 16];
        let mut piece = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: `message` names one buffer and one control area with their lengths, both of which live through the call;
        // the control messages are walked with the C library's macros, and an auxdata message holds that structure.
        let (len, vlan) = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut piece;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            let len = usize::try_from(libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0)).ok()?;
            (len, stripped_tag(&message))
        };
        let header = buffer.get(..HEADER)?;
        let mut vnet = [0; VnetHeader::LEN];
        vnet[..HEADER].copy_from_slice(header);
        Some(Sight {
            vnet: VnetHeader::from_bytes(&vnet),
            vlan,
            frame: buffer.get(HEADER..len)?.to_vec(),
        })
    }

    /// Frames that found no room in the socket.
    pub(crate) fn missed(&self) -> u32 {
        let mut stats = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut len = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: the structure has the length that is given and lives through the call.
        let result = unsafe {
            let stats = (&raw mut stats).cast();
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                stats,
                &raw mut len,
            )
        };
        check(result).expect("a packet socket counts");
        stats.tp_drops
    }
}

/// The VLAN that a packet socket's auxiliary data tells of.
///
/// # Safety
/// `message` was filled by `recvmsg` and its control area is still there.
unsafe fn stripped_tag(message: &libc::msghdr) -> Option<u16> {
    // SAFETY: the caller's promise; the header is null or lies in the control area.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        if header.is_null()
            || (*header).cmsg_level != libc::SOL_PACKET
            || (*header).cmsg_type != PACKET_AUXDATA
        {
            return None;
        }
        let aux: libc::tpacket_auxdata = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
        (aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(aux.tp_vlan_tci & 0x0fff)
    }
}

/// Has a UDP socket cut what it sends into datagrams of `size` octets; 0 ends that.
pub(crate) fn segment(socket: &impl AsRawFd, size: u16) -> io::Result<()> {
    set_option(socket.as_raw_fd(), libc::SOL_UDP, UDP_SEGMENT, size.into())
}

/// Has a socket send IPv4 options (RFC 791, 3.1: no operation) or destination options (RFC 8200, 4.6: padding), or not.
pub(crate) fn extend(socket: &impl AsRawFd, v6: bool, on: bool) -> io::Result<()> {
    const V4: &[u8] = &[1; 4];
    const V6: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    let (level, name, options) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, V6)
    } else {
        (libc::IPPROTO_IP, libc::IP_OPTIONS, V4)
    };
    let len = if on { options.len() } else { 0 };
    // SAFETY: the option's value has that length at least and lives through the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            options.as_ptr().cast(),
            len as libc::socklen_t,
        )
    })
}

/// Gives a socket room for everything that a test sends.
pub(crate) fn widen(socket: &impl AsRawFd) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 8 << 20)
}

/// Waits until one of the descriptors is readable.
pub(crate) fn wait_readable(fds: &[RawFd]) {
    let mut polls: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: *fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // SAFETY: a valid array of that many pollfds, which outlives the call.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) };
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option's value is an int of that length and lives through the call.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
