//! Packet sockets: packet(7), and Documentation/networking/packet_mmap.rst for fanout.
//!
//! `unsafe` is for socket options and calls that neither `std` nor `rustix` has, and for receiving into memory that is
//! not initialized yet.
#![allow(unsafe_code)]

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use arrayvec::ArrayVec;
use offload::VnetHeader;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::frame::{BURST, Outgoing};
use crate::port::syscall::{self, check, piece, retry};
use crate::port::uplink::UplinkError;
use crate::port::uplink::link::Link;

/// Most pieces that frames of one call are sent from (`UIO_MAXIOV` for one frame), headers included.
const MAX_PIECES: usize = 1024;
/// Octets that the kernel may keep for a socket in each direction: some thousand frames.
const BUFFER: libc::c_int = 8 << 20;
/// Octets of a virtio-net header without `num_buffers`, as kernels before 6.7 have it.
const SHORT_HEADER: usize = 10;
/// `ETH_P_8021Q`: a tag whose kind the kernel does not tell.
const CUSTOMER_TAG: u16 = 0x8100;
/// Room for `struct tpacket_auxdata` as a control message, with some to spare.
const CONTROL: usize = 64;
/// How a fanout group deals out frames: by flow. Frames that the host sends are none of its business.
const FANOUT: u32 = libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;

/// A packet socket that is bound to an interface.
pub(super) struct Socket {
    fd: OwnedFd,
    header: usize,
}

/// What is known of a received frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) vnet: VnetHeader,
    /// The VLAN tag that the interface took out of the frame.
    pub(super) tag: Option<Tag>,
    /// The frame did not fit the buffer.
    pub(super) truncated: bool,
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// Its EtherType.
    pub(super) protocol: u16,
    /// Priority and VLAN.
    pub(super) control: u16,
}

/// A control message's room, aligned as `struct cmsghdr` is.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Opens so many sockets, to which the kernel deals out what the interface receives, flow by flow.
pub(super) fn open_group(link: &Link, queues: u16) -> Result<Vec<Socket>, UplinkError> {
    let mut sockets = Vec::<Socket>::with_capacity(usize::from(queues));
    let mut group = None;
    for _ in 0..queues.max(1) {
        let socket = Socket::open(link)?;
        if queues > 1 {
            group = Some(
                socket
                    .join(group)
                    .map_err(|error| link.refusal("several queues", error))?,
            );
        }
        sockets.push(socket);
    }
    if let Some(first) = sockets.first() {
        let promiscuous = first.set_promiscuous(link.index());
        promiscuous.map_err(|error| link.refusal("promiscuous mode", error))?;
    }
    for socket in &sockets {
        let admitted = socket.admit();
        admitted.map_err(|error| link.refusal("the removal of a filter", error))?;
    }
    Ok(sockets)
}

/// Whether this kernel takes large UDP from packet sockets: Linux 6.2.
pub(super) fn has_uso() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0_u32));
    (numbers.next(), numbers.next()) >= (Some(6), Some(2))
}

impl Socket {
    /// A socket that sends by the interface, and to which nothing comes until [`Socket::admit`].
    fn open(link: &Link) -> Result<Self, UplinkError> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None).map_err(|error| {
            if matches!(error, rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) {
                UplinkError::Denied {
                    name: link.name().to_owned(),
                    what: "a packet socket",
                    capability: "CAP_NET_RAW",
                    grant: "cap_net_raw",
                }
            } else {
                link.refusal("a packet socket", error.into())
            }
        })?;
        let mut socket = Self {
            fd,
            header: VnetHeader::LEN,
        };
        socket
            .shut()
            .map_err(|error| link.refusal("a socket filter", error))?;
        socket
            .set_headers()
            .map_err(|error| link.refusal("virtio-net headers on a packet socket", error))?;
        for (what, option) in [
            ("to tell of VLAN tags", libc::PACKET_AUXDATA),
            ("to leave out what the host sends", libc::PACKET_IGNORE_OUTGOING),
        ] {
            let set = socket.set(libc::SOL_PACKET, option, &1_i32);
            set.map_err(|error| link.refusal(what, error))?;
        }
        socket.enlarge();
        socket
            .bind(link.index())
            .map_err(|error| link.refusal("to bind a packet socket", error))?;
        Ok(socket)
    }

    /// Has a virtio-net header before each frame, with `num_buffers` if the kernel can do that.
    fn set_headers(&mut self) -> io::Result<()> {
        let full = libc::c_int::from(VnetHeader::LEN as u8);
        if self
            .set(libc::SOL_PACKET, libc::PACKET_VNET_HDR_SZ, &full)
            .is_ok()
        {
            return Ok(());
        }
        self.header = SHORT_HEADER;
        self.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1_i32)
    }

    /// Asks for larger buffers; with less privilege the system's limit is what there is.
    fn enlarge(&self) {
        for (forced, modest) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if self.set(libc::SOL_SOCKET, forced, &BUFFER).is_err() {
                let _ = self.set(libc::SOL_SOCKET, modest, &BUFFER);
            }
        }
    }

    /// Lets nothing in: a group's sockets would see frames twice while it is put together.
    fn shut(&self) -> io::Result<()> {
        let mut program = [libc::sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: 0,
        }];
        let filter = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_mut_ptr(),
        };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
    }

    /// Lets frames in.
    fn admit(&self) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0_i32)
    }

    fn bind(&self, index: u32) -> io::Result<()> {
        // SAFETY: sockaddr_ll is a C structure of integers; all zeroes are a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the address is a valid sockaddr_ll of the length given, which outlives the call.
        check(unsafe {
            libc::bind(
                self.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })
    }

    fn set_promiscuous(&self, index: u32) -> io::Result<()> {
        let request = libc::packet_mreq {
            mr_ifindex: index.cast_signed(),
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    /// Joins a fanout group, or makes one; its number.
    fn join(&self, group: Option<u16>) -> io::Result<u16> {
        let (group, flags) = match group {
            Some(group) => (group, FANOUT),
            None => (0, FANOUT | libc::PACKET_FANOUT_FLAG_UNIQUEID),
        };
        self.set(
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            &(flags << 16 | u32::from(group)),
        )?;
        let made: u32 = self.get(libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        Ok(made as u16)
    }

    /// Receives as many frames as there are, at most one for each buffer. Each fills a buffer, from the first on; the
    /// buffers' capacity is what bounds a frame.
    pub(super) fn receive(&self, buffers: &mut [Vec<u8>]) -> io::Result<ArrayVec<Received, BURST>> {
        let mut headers = [[0_u8; VnetHeader::LEN]; BURST];
        let mut controls = [Control([0; CONTROL]); BURST];
        let mut pieces = ArrayVec::<[libc::iovec; 2], BURST>::new();
        for (header, buffer) in headers.iter_mut().zip(buffers.iter_mut()) {
            buffer.clear();
            pieces.push([
                piece(header.as_mut_ptr(), self.header),
                piece(buffer.as_mut_ptr(), buffer.capacity()),
            ]);
        }
        let mut messages = ArrayVec::<libc::mmsghdr, BURST>::new();
        for (pieces, control) in pieces.iter_mut().zip(controls.iter_mut()) {
            let mut message = message(pieces);
            message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL as _;
            messages.push(message);
        }
        let count = retry(|| {
            // SAFETY: each message names two pieces, an array of `headers` and the whole allocation of a buffer, and
            // an array of `controls` for its control messages. All of them are borrowed mutably by this function and
            // outlive the call; no timeout is given.
            unsafe {
                libc::recvmmsg(
                    self.as_raw_fd(),
                    messages.as_mut_ptr(),
                    messages.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            }
        })?;
        let mut received = ArrayVec::new();
        for (((message, header), control), buffer) in messages
            .iter()
            .zip(&headers)
            .zip(&controls)
            .zip(buffers)
            .take(count)
        {
            let len = (message.msg_len as usize)
                .saturating_sub(self.header)
                .min(buffer.capacity());
            // SAFETY: the kernel filled the message's first piece and, after it, `len` octets of this buffer, which
            // has that capacity.
            unsafe { buffer.set_len(len) };
            received.push(Received {
                vnet: VnetHeader::from_bytes(header),
                tag: tag_of(control.0.get(..message.msg_hdr.msg_controllen).unwrap_or(&[])),
                truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            });
        }
        Ok(received)
    }

    /// Sends frames, in order, as many as are taken; an error is about the first.
    pub(super) fn send(&self, frames: &[Outgoing<'_>]) -> io::Result<usize> {
        let mut headers = ArrayVec::<[u8; VnetHeader::LEN], BURST>::new();
        let mut pieces = ArrayVec::<libc::iovec, MAX_PIECES>::new();
        let mut counts = ArrayVec::<usize, BURST>::new();
        for frame in frames.iter().take(BURST) {
            let count = 2 + frame.tail.len();
            if count > pieces.remaining_capacity() {
                break;
            }
            let vnet = VnetHeader {
                num_buffers: 0,
                ..frame.vnet
            };
            headers.push(vnet.to_bytes());
            counts.push(count);
            pieces.push(piece(std::ptr::null_mut(), self.header));
            pieces.push(piece(frame.head.as_ptr().cast_mut(), frame.head.len()));
            for segment in frame.tail {
                pieces.push(piece(segment.ptr.cast_mut(), segment.len as usize));
            }
        }
        if counts.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut messages = ArrayVec::<libc::mmsghdr, BURST>::new();
        let mut rest = pieces.as_mut_slice();
        for (count, header) in counts.iter().zip(headers.iter_mut()) {
            let (own, others) = rest.split_at_mut(*count);
            if let Some(first) = own.first_mut() {
                first.iov_base = header.as_mut_ptr().cast();
            }
            messages.push(message(own));
            rest = others;
        }
        retry(|| {
            // SAFETY: each message names pieces that outlive the call: an array of `headers`, a borrowed slice, and
            // segments of guest memory. The kernel only reads them, and checks them itself: a range that the guest
            // took away makes the call fail with EFAULT instead of raising SIGBUS.
            unsafe {
                libc::sendmmsg(
                    self.as_raw_fd(),
                    messages.as_mut_ptr(),
                    messages.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            }
        })
    }

    /// Whether receiving would bring a frame or an error.
    pub(super) fn is_ready(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `poll` is one valid pollfd that outlives the call, which does not wait.
        unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
    }

    /// Frames that found the socket's buffer full since the last call.
    pub(super) fn missed(&self) -> u64 {
        #[derive(Clone, Copy)]
        #[repr(C)]
        struct Statistics {
            packets: u32,
            drops: u32,
        }
        self.get::<Statistics>(libc::SOL_PACKET, libc::PACKET_STATISTICS)
            .map_or(0, |statistics| statistics.drops.into())
    }

    /// Closes the socket at once, although the descriptor stays open.
    pub(super) fn release(&self) -> io::Result<()> {
        syscall::release(self)
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: the kernel reads `size_of::<T>()` octets of a value that is borrowed during the call; a filter's program,
        // the only value with a pointer in it, lives in its caller's frame.
        check(unsafe {
            libc::setsockopt(
                self.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        })
    }

    /// Reads an option that is made of integers.
    fn get<T: Copy>(&self, level: libc::c_int, option: libc::c_int) -> io::Result<T> {
        // SAFETY: `T` is one of two types of integers, for which all zeroes are a valid value.
        let mut value: T = unsafe { std::mem::zeroed() };
        let mut len = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` octets to `value` and the length to `len`; both are local.
        check(unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                level,
                option,
                (&raw mut value).cast(),
                &raw mut len,
            )
        })?;
        Ok(value)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The tag that a frame's control messages tell of: one `cmsghdr` with a `tpacket_auxdata`.
fn tag_of(control: &[u8]) -> Option<Tag> {
    const DATA: usize = size_of::<libc::cmsghdr>();
    let int = |at: usize| Some(i32::from_ne_bytes(*control.get(at..)?.first_chunk()?));
    let level = int(offset_of!(libc::cmsghdr, cmsg_level))?;
    let kind = int(offset_of!(libc::cmsghdr, cmsg_type))?;
    if (level, kind) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    let short = |at: usize| Some(u16::from_ne_bytes(*control.get(DATA + at..)?.first_chunk()?));
    let status = int(DATA + offset_of!(libc::tpacket_auxdata, tp_status))?.cast_unsigned();
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let protocol = if status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
        short(offset_of!(libc::tpacket_auxdata, tp_vlan_tpid))?
    } else {
        CUSTOMER_TAG
    };
    Some(Tag {
        protocol,
        control: short(offset_of!(libc::tpacket_auxdata, tp_vlan_tci))?,
    })
}

fn message(pieces: &mut [libc::iovec]) -> libc::mmsghdr {
    // SAFETY: mmsghdr is a C structure of integers and pointers; all zeroes are a valid value.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = pieces.as_mut_ptr();
    message.msg_hdr.msg_iovlen = pieces.len() as _;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(level: i32, kind: i32, status: u32, tci: u16, tpid: u16) -> Vec<u8> {
        let mut octets = vec![0; size_of::<libc::cmsghdr>() + size_of::<libc::tpacket_auxdata>()];
        let mut put = |at: usize, value: &[u8]| octets[at..at + value.len()].copy_from_slice(value);
        put(offset_of!(libc::cmsghdr, cmsg_level), &level.to_ne_bytes());
        put(offset_of!(libc::cmsghdr, cmsg_type), &kind.to_ne_bytes());
        let data = size_of::<libc::cmsghdr>();
        put(data, &status.to_ne_bytes());
        put(
            data + offset_of!(libc::tpacket_auxdata, tp_vlan_tci),
            &tci.to_ne_bytes(),
        );
        put(
            data + offset_of!(libc::tpacket_auxdata, tp_vlan_tpid),
            &tpid.to_ne_bytes(),
        );
        octets
    }

    #[test]
    fn tags_are_read_from_where_the_kernel_tells_of_them() {
        let (level, kind) = (libc::SOL_PACKET, libc::PACKET_AUXDATA);
        let both = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        let tag = |protocol| {
            Some(Tag {
                protocol,
                control: 0x6007,
            })
        };
        assert_eq!(tag_of(&control(level, kind, both, 0x6007, 0x88a8)), tag(0x88a8));
        let old = libc::TP_STATUS_VLAN_VALID;
        assert_eq!(tag_of(&control(level, kind, old, 0x6007, 0)), tag(CUSTOMER_TAG));
        assert_eq!(tag_of(&control(level, kind, 1, 0x6007, 0x8100)), None);
        assert_eq!(tag_of(&control(libc::SOL_SOCKET, kind, both, 1, 1)), None);
        let whole = control(level, kind, both, 1, 0x8100);
        for len in 0..whole.len() - 2 {
            assert_eq!(tag_of(&whole[..len]), None, "{len} octets");
        }
    }
}
