//! AF_XDP sockets: frames' memory (UMEM), rings, binding to a queue, and wake-ups.
//!
//! `unsafe` is for the UMEM's memory and for a send without data, which `rustix` cannot express for this family.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpDesc, XdpOptionsFlags, XdpRingOffset, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::frame::{HEADER_COPY, Outgoing, Segment};
use crate::port::syscall::{self, check};

use super::ring::{Consumer, Mapping, Producer};

/// Octets of a chunk, which holds one frame: a page, as drivers want it.
pub(super) const CHUNK: usize = 4096;
/// Entries of each ring, and chunks for each direction.
pub(super) const ENTRIES: u32 = 2048;

/// A socket of one queue of an interface, not bound yet, and its rings.
pub(super) struct Parts {
    pub(super) socket: Socket,
    pub(super) umem: Umem,
    pub(super) fill: Producer<u64>,
    pub(super) receive: Consumer<XdpDesc>,
    pub(super) transmit: Producer<XdpDesc>,
    pub(super) completion: Consumer<u64>,
}

/// The socket itself.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

/// The memory that frames are in: chunks for receiving first, then as many for transmitting.
///
/// A chunk belongs to the kernel from when its address is put into the fill or transmit ring until it comes back by the
/// receive or completion ring, and to the switch otherwise.
#[derive(Debug)]
pub(super) struct Umem(Mapping);

impl Parts {
    /// Makes a socket with memory and rings.
    pub(super) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)?;
        let umem = Umem(Mapping::anonymous(2 * ENTRIES as usize * CHUNK)?);
        let registration = XdpUmemReg {
            addr: umem.0.as_ptr() as u64,
            len: umem.0.len() as u64,
            chunk_size: CHUNK as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        sockopt::set_xdp_umem_reg(&fd, registration)?;
        sockopt::set_xdp_umem_fill_ring_size(&fd, ENTRIES)?;
        sockopt::set_xdp_umem_completion_ring_size(&fd, ENTRIES)?;
        sockopt::set_xdp_rx_ring_size(&fd, ENTRIES)?;
        sockopt::set_xdp_tx_ring_size(&fd, ENTRIES)?;
        let at = sockopt::xdp_mmap_offsets(&fd)?;
        let odd = || io::Error::other("rings that do not fit their memory");
        let map = |ring: &XdpRingOffset, offset, entry: usize| {
            let entries = usize::try_from(ring.desc).map_err(io::Error::other)?;
            Mapping::of_socket(&fd, offset, entries + ENTRIES as usize * entry).map(Arc::new)
        };
        let address = size_of::<u64>();
        let descriptor = size_of::<XdpDesc>();
        let fill = map(&at.fr, XDP_UMEM_PGOFF_FILL_RING, address)?;
        let completion = map(&at.cr, XDP_UMEM_PGOFF_COMPLETION_RING, address)?;
        let receive = map(&at.rx, XDP_PGOFF_RX_RING, descriptor)?;
        let transmit = map(&at.tx, XDP_PGOFF_TX_RING, descriptor)?;
        Ok(Self {
            fill: Producer::new(fill, &at.fr, ENTRIES).ok_or_else(odd)?,
            receive: Consumer::new(receive, &at.rx, ENTRIES).ok_or_else(odd)?,
            transmit: Producer::new(transmit, &at.tx, ENTRIES).ok_or_else(odd)?,
            completion: Consumer::new(completion, &at.cr, ENTRIES).ok_or_else(odd)?,
            socket: Socket(fd),
            umem,
        })
    }
}

impl Socket {
    /// Binds the socket to a queue. Frames are copied in and out of the UMEM where the driver cannot use it; `copy` says
    /// not to try.
    pub(super) fn bind(&self, interface: u32, queue: u32, copy: bool) -> io::Result<()> {
        let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        flags.set(SocketAddrXdpFlags::XDP_COPY, copy);
        bind(&self.0, &SocketAddrXdp::new(flags, interface, queue))?;
        Ok(())
    }

    /// Whether the driver uses the UMEM itself.
    pub(super) fn is_zero_copy(&self) -> bool {
        sockopt::xdp_options(&self.0)
            .is_ok_and(|options| options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    /// Tells the kernel of entries in the transmit ring. In copy mode it sends some of them before it returns.
    pub(super) fn kick_transmit(&self) -> io::Result<()> {
        // SAFETY: there is no data and no address: both pointers are null and both lengths 0.
        check(unsafe {
            libc::sendto(
                self.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        })
    }

    /// Tells the kernel of entries in the fill ring.
    pub(super) fn kick_fill(&self) -> io::Result<()> {
        // SAFETY: there is no buffer and no address: all pointers are null and the length is 0.
        check(unsafe {
            libc::recvfrom(
                self.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        })
    }

    /// Frames that the socket could not take, so far.
    pub(super) fn missed(&self) -> u64 {
        sockopt::xdp_statistics(&self.0).map_or(0, |statistics| {
            let full = statistics.rx_ring_full.unwrap_or(0);
            let empty = statistics.rx_fill_ring_empty_descs.unwrap_or(0);
            statistics.rx_dropped + full + empty
        })
    }

    /// Lets go of the descriptor; see `PacketPort::close`. Its rings stay mapped until the port is dropped, and the queue
    /// bound.
    pub(super) fn release(&self) -> io::Result<()> {
        syscall::release(self)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Umem {
    /// The addresses of the chunks to receive into.
    pub(super) fn receive_chunks() -> impl Iterator<Item = u64> {
        (0..u64::from(ENTRIES)).map(|chunk| chunk * CHUNK as u64)
    }

    /// The addresses of the chunks to transmit from.
    pub(super) fn transmit_chunks() -> impl Iterator<Item = u64> {
        (u64::from(ENTRIES)..2 * u64::from(ENTRIES)).map(|chunk| chunk * CHUNK as u64)
    }

    /// Copies a received frame's first octets, and tells how many they are and where the rest is; `None` when the kernel
    /// named what is no place in the memory.
    ///
    /// The rest stays as it is until the chunk is put into the fill ring again.
    pub(super) fn received(
        &self,
        descriptor: &XdpDesc,
        header: &mut [u8; HEADER_COPY],
    ) -> Option<(usize, Segment)> {
        let start = usize::try_from(descriptor.addr).ok()?;
        let len = descriptor.len as usize;
        if start.checked_add(len)? > self.0.len() {
            return None;
        }
        let copied = len.min(HEADER_COPY);
        // SAFETY: the whole range was just checked to be inside the mapping, and `header` is an array of its own with
        // room for what is copied.
        unsafe {
            let frame = self.0.as_ptr().add(start);
            std::ptr::copy_nonoverlapping(frame, header.as_mut_ptr(), copied);
            let rest = Segment {
                ptr: frame.add(copied),
                len: (len - copied) as u32,
            };
            Some((copied, rest))
        }
    }

    /// The chunk that a received frame lies in.
    pub(super) fn chunk_of(descriptor: &XdpDesc) -> u64 {
        descriptor.addr & !(CHUNK as u64 - 1)
    }

    /// Copies a frame into a chunk of the switch's; `None` when it does not fit.
    pub(super) fn write(&self, chunk: u64, frame: &Outgoing<'_>) -> Option<XdpDesc> {
        let start = usize::try_from(chunk).ok()?;
        let tail: usize = frame.tail.iter().map(|segment| segment.len as usize).sum();
        let len = frame.head.len().checked_add(tail)?;
        if len > CHUNK || start.checked_add(CHUNK)? > self.0.len() {
            return None;
        }
        // SAFETY: the chunk was just checked to be inside the mapping.
        let mut at = unsafe { self.0.as_ptr().add(start) };
        let head = Segment {
            ptr: frame.head.as_ptr(),
            len: frame.head.len() as u32,
        };
        for piece in std::iter::once(&head).chain(frame.tail) {
            let len = piece.len as usize;
            // SAFETY: all pieces together are no longer than the chunk, which is the switch's: its caller took the address
            // from the list of free ones, under the lock of the queue. A piece is a borrowed slice, or a segment
            // that its port checked and keeps mapped until the burst is complete; it is copied as raw memory, so
            // that it does not matter what a guest writes meanwhile. A chunk for transmitting overlaps neither.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.ptr, at, len);
                at = at.add(len);
            }
        }
        Some(XdpDesc {
            addr: chunk,
            len: len as u32,
            options: rustix::net::xdp::XdpDescOptions::empty(),
        })
    }
}
