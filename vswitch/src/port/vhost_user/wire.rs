//! A connection's octets and files, one message at a time, without ever waiting.
//!
//! Files arrive with the octets that they were sent with, so no read goes past a message's end: else a file could
//! not be told from the next message's.
//!
//! `unsafe` is needed for `recvmsg`: the standard library receives no files.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use arrayvec::ArrayVec;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::message::{self, HEADER, Header, MAX_FILES, MessageError};
use crate::descriptors::FileLimit;

/// A peer's connection.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UnixStream,
    buffer: Vec<u8>,
    files: Vec<File>,
}

/// What a look at the connection brought.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A whole message.
    Message(Header, Vec<u8>, Vec<File>),
    /// A part of one, or nothing.
    Pending,
    /// The peer is gone. True if it went in the middle of a message.
    Closed(bool),
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("more than {MAX_FILES} files with one message")]
    TooManyFiles,
    #[error("the files of a message were lost: {0}")]
    FilesLost(FileLimit),
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error("the peer does not read its replies")]
    Unread,
}

impl WireError {
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Message(error) => error.label(),
            Self::TooManyFiles => "message_files",
            Self::FilesLost(_) => "open_files",
            Self::Broken(_) => "connection_broken",
            Self::Unread => "replies_unread",
        }
    }
}

/// Room for one control message with [`MAX_FILES`] descriptors, aligned as the kernel wants it.
const CONTROL_WORDS: usize = (16 + 4 * MAX_FILES).div_ceil(8) + 2;

impl Wire {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            buffer: Vec::new(),
            files: Vec::new(),
        })
    }

    /// Reads what is there of the present message.
    pub(super) fn read(&mut self) -> Result<Arrival, WireError> {
        let want = match self.buffer.first_chunk::<HEADER>() {
            None => HEADER,
            Some(raw) => HEADER + Header::decode(raw)?.size,
        };
        if self.buffer.len() < want {
            match self.fill(want) {
                Ok(0) => return Ok(Arrival::Closed(!self.buffer.is_empty())),
                Ok(_) => {}
                Err(WireError::Broken(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Arrival::Pending);
                }
                Err(error) => return Err(error),
            }
        }
        let Some(raw) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(Arrival::Pending);
        };
        let header = Header::decode(raw)?;
        if self.buffer.len() < HEADER + header.size {
            return Ok(Arrival::Pending);
        }
        let body = self.buffer.split_off(HEADER);
        self.buffer.clear();
        Ok(Arrival::Message(header, body, std::mem::take(&mut self.files)))
    }

    /// Answers a message, with a file if need be. The answers that a peer leaves unread fill its socket, and then it has
    /// to go.
    pub(super) fn reply(&mut self, code: u32, body: &[u8], file: Option<&File>) -> Result<(), WireError> {
        let octets = message::reply(code, body);
        let files: ArrayVec<_, 1> = file.map(AsFd::as_fd).into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&files));
        }
        match sendmsg(
            &self.socket,
            &[IoSlice::new(&octets)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(sent) if sent == octets.len() => Ok(()),
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Err(WireError::Unread),
            Err(error) => Err(WireError::Broken(error.into())),
        }
    }

    /// Reads until the buffer holds `want` octets, at most; returns how many came.
    fn fill(&mut self, want: usize) -> Result<usize, WireError> {
        let have = self.buffer.len();
        self.buffer.resize(want, 0);
        let result = receive(self.socket.as_raw_fd(), &mut self.buffer[have..], &mut self.files);
        let came = result.as_ref().map_or(0, |came| *came);
        self.buffer.truncate(have + came);
        result
    }
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// One `recvmsg` into `octets`; files are appended to `files`.
fn receive(socket: RawFd, octets: &mut [u8], files: &mut Vec<File>) -> Result<usize, WireError> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec {
        iov_base: octets.as_mut_ptr().cast(),
        iov_len: octets.len(),
    };
    // SAFETY: `msghdr` is plain data for which zeroes are valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: all pointers in `header` lead to locals and to `octets`, with their lengths, and outlive the call.
    let came = unsafe {
        libc::recvmsg(
            socket,
            &raw mut header,
            libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT,
        )
    };
    let Ok(came) = usize::try_from(came) else {
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted {
            return Err(WireError::Broken(io::ErrorKind::WouldBlock.into()));
        }
        return Err(WireError::Broken(error));
    };
    // SAFETY: the kernel filled in `msg_control` and `msg_controllen`, which is what the macros walk by.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !next.is_null() {
        // SAFETY: `next` is a control message that the kernel wrote into `control`.
        let message = unsafe { next.read_unaligned() };
        if message.cmsg_level == libc::SOL_SOCKET && message.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: computes a constant.
            let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = message.cmsg_len.saturating_sub(overhead) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: an SCM_RIGHTS message holds `count` descriptors, which are now this process's and nobody's.
                let file = unsafe {
                    let place: *const RawFd = libc::CMSG_DATA(next).cast();
                    File::from_raw_fd(place.add(index).read_unaligned())
                };
                files.push(file);
            }
        }
        // SAFETY: as for the first one.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    let truncated = header.msg_flags & libc::MSG_CTRUNC != 0;
    // There was room for more, so they were not cut off by that.
    if truncated && files.len() < MAX_FILES {
        return Err(WireError::FilesLost(FileLimit::now()));
    }
    if truncated || files.len() > MAX_FILES {
        return Err(WireError::TooManyFiles);
    }
    Ok(came)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use vmm_sys_util::sock_ctrl_msg::ScmSocket;

    use super::*;

    fn pair() -> (UnixStream, Wire) {
        let (peer, ours) = UnixStream::pair().unwrap();
        (peer, Wire::new(ours).unwrap())
    }

    fn octets(code: u32, body: &[u8]) -> Vec<u8> {
        let words = [code, 1, body.len() as u32];
        words
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .chain(body.iter().copied())
            .collect()
    }

    #[test]
    fn a_message_in_pieces_is_put_together() {
        let (mut peer, mut wire) = pair();
        let sent = octets(2, &[1, 2, 3, 4, 5, 6, 7, 8]);
        for octet in &sent[..sent.len() - 1] {
            peer.write_all(&[*octet]).unwrap();
            assert!(matches!(wire.read(), Ok(Arrival::Pending)));
            assert!(matches!(wire.read(), Ok(Arrival::Pending)));
        }
        peer.write_all(&sent[sent.len() - 1..]).unwrap();
        let Ok(Arrival::Message(header, body, files)) = wire.read() else {
            panic!("a message")
        };
        assert_eq!(
            (header.code, body, files.len()),
            (2, vec![1, 2, 3, 4, 5, 6, 7, 8], 0)
        );
    }

    #[test]
    fn files_stay_with_their_message() {
        let (peer, mut wire) = pair();
        let null = File::open("/dev/null").unwrap();
        peer.send_with_fds(&[octets(1, &[]).as_slice()], &[]).unwrap();
        peer.send_with_fds(
            &[octets(5, &[0; 8]).as_slice()],
            &[null.as_raw_fd(), null.as_raw_fd()],
        )
        .unwrap();
        peer.send_with_fds(&[octets(3, &[]).as_slice()], &[]).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            if let Arrival::Message(header, _, files) = wire.read().unwrap() {
                seen.push((header.code, files.len()));
            }
        }
        assert_eq!(seen, [(1, 0), (5, 2), (3, 0)]);
    }

    #[test]
    fn the_end_of_a_connection_says_whether_it_was_in_the_middle() {
        let (peer, mut wire) = pair();
        drop(peer);
        assert!(matches!(wire.read(), Ok(Arrival::Closed(false))));
        let (mut peer, mut wire) = pair();
        peer.write_all(&octets(2, &[0; 8])[..15]).unwrap();
        drop(peer);
        assert!(matches!(wire.read(), Ok(Arrival::Pending)));
        assert!(matches!(wire.read(), Ok(Arrival::Pending)));
        assert!(matches!(wire.read(), Ok(Arrival::Closed(true))));
    }

    #[test]
    fn garbage_and_too_many_files_end_it() {
        let (mut peer, mut wire) = pair();
        peer.write_all(&[0xff; 64]).unwrap();
        assert!(matches!(
            wire.read(),
            Err(WireError::Message(MessageError::Flags(u32::MAX)))
        ));
        let (peer, mut wire) = pair();
        let null = File::open("/dev/null").unwrap();
        peer.send_with_fds(&[octets(5, &[]).as_slice()], &[null.as_raw_fd(); 64])
            .unwrap();
        assert!(matches!(wire.read(), Err(WireError::TooManyFiles)));
    }

    #[test]
    fn a_peer_that_reads_no_replies_is_found_out() {
        let (mut peer, mut wire) = pair();
        let refused = (0..100_000).find_map(|_| wire.reply(1, &[0; 8], None).err());
        assert!(matches!(refused, Some(WireError::Unread)));
        let mut first = [0; 20];
        peer.read_exact(&mut first).unwrap();
        assert_eq!(first, message::reply(1, &[0; 8])[..]);
    }
}
