//! A TCP stream of the kernel's that looks at the clock now and then while it waits.
#![allow(unsafe_code)] // SIOCOUTQ and TCP_MAXSEG have no safe form.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use microguest::cmdline::Parameters;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::Failure;

/// How often a waiting end looks at the clock.
const LOOK: Duration = Duration::from_millis(100);
/// How long a server may take to appear.
const CONNECT_PATIENCE: Duration = Duration::from_mins(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How often an end that waits for its data to be acknowledged looks whether it was. Linux wakes nobody for that.
const ACK_PAUSE: Duration = Duration::from_micros(50);
/// How long the other end may take to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// One end of a connection.
pub(crate) struct Stream(TcpStream);

impl Stream {
    /// Connects, as soon as the server listens.
    pub(crate) fn connect(parameters: &Parameters) -> Result<Self, Failure> {
        let server = SocketAddr::from((parameters.peer, parameters.port));
        let deadline = Instant::now() + CONNECT_PATIENCE;
        loop {
            match TcpStream::connect_timeout(&server, CONNECT_TIMEOUT) {
                Ok(stream) => return Self::new(stream, parameters.nagle),
                Err(error) if Instant::now() >= deadline => {
                    return Err(format!("connecting to {server}: {error}"));
                }
                Err(_) => thread::sleep(CONNECT_PAUSE),
            }
        }
    }

    /// Takes an accepted or connected stream.
    pub(crate) fn new(stream: TcpStream, nagle: bool) -> Result<Self, Failure> {
        stream
            .set_nodelay(!nagle)
            .and_then(|()| stream.set_read_timeout(Some(LOOK)))
            .map_err(|error| format!("setting the connection up: {error}"))?;
        Ok(Self(stream))
    }

    /// Writes all of it.
    pub(crate) fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.0.write_all(octets).map_err(lost)
    }

    /// Reads what there is, one octet at least; 0 when the other end has closed. `tick` is called now and then and ends
    /// the wait when it returns false.
    pub(crate) fn read(
        &mut self,
        room: &mut [u8],
        tick: &mut dyn FnMut() -> bool,
    ) -> Result<Option<usize>, Failure> {
        loop {
            match self.0.read(room) {
                Ok(octets) => return Ok(Some(octets)),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(lost(error)),
            }
            if !tick() {
                return Ok(None);
            }
        }
    }

    /// Writes what there is room for; 0 when there is none.
    pub(super) fn try_write(&self, octets: &[u8]) -> Result<usize, Failure> {
        match send(&self.0, octets, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(written) => Ok(written),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(lost(error)),
        }
    }

    /// Reads what is there: 0 octets if nothing is, `None` when the other end has closed.
    pub(super) fn try_read(&self, room: &mut [u8]) -> Result<Option<usize>, Failure> {
        match recv(&self.0, room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Ok(None),
            Ok((octets, _)) => Ok(Some(octets)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Some(0)),
            Err(error) => Err(lost(error)),
        }
    }

    /// Waits until there is something to read, or, if `full`, room to write, but no longer than `limit`.
    pub(super) fn wait(&self, full: bool, limit: Duration) -> Result<(), Failure> {
        let wanted = if full {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        };
        let limit = Timespec {
            tv_sec: limit.as_secs().cast_signed(),
            tv_nsec: limit.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.0, wanted)], Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(lost(error)),
        }
    }

    /// Something that ends the connection from another thread.
    pub(crate) fn stopper(&self) -> io::Result<impl FnOnce() + Send + 'static> {
        let connection = self.0.try_clone()?;
        Ok(move || {
            // Fails only when the connection is gone already.
            let _ = connection.shutdown(Shutdown::Both);
        })
    }

    /// Fills `room`. False when `tick` ended the wait or the other end closed before the first octet.
    pub(crate) fn fill(&mut self, room: &mut [u8], tick: &mut dyn FnMut() -> bool) -> Result<bool, Failure> {
        let mut filled = 0;
        while filled < room.len() {
            let rest = room.get_mut(filled..).unwrap_or_default();
            match self.read(rest, tick)? {
                Some(0) if filled == 0 => return Ok(false),
                Some(0) => return Err("the connection was closed in the middle of a message".to_owned()),
                Some(octets) => filled += octets,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Waits until all that was written is acknowledged. False when the connection ended, or the other end has closed its
    /// direction.
    pub(crate) fn wait_for_acknowledgement(&self) -> Result<bool, Failure> {
        while self.unacknowledged().map_err(lost)? > 0 {
            if matches!(self.0.take_error(), Ok(Some(_)) | Err(_)) {
                return Ok(false);
            }
            thread::sleep(ACK_PAUSE);
        }
        Ok(!self.other_end_closed())
    }

    /// Payload of a full segment.
    pub(crate) fn segment(&self) -> Result<usize, Failure> {
        let mut size: libc::c_int = 0;
        let mut len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the descriptor is open as long as `self`; TCP_MAXSEG writes one int, and `len` says that there is room
        // for exactly one.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_MAXSEG,
                (&raw mut size).cast(),
                &raw mut len,
            )
        };
        if result < 0 {
            return Err(lost(io::Error::last_os_error()));
        }
        Ok(usize::try_from(size).unwrap_or(0).max(1))
    }

    /// Closes, and waits until the other end has.
    pub(crate) fn close(mut self) {
        let deadline = Instant::now() + CLOSE_PATIENCE;
        let mut rest = [0; 4096];
        if self.0.shutdown(Shutdown::Write).is_ok() {
            // What still arrives is not wanted, but must not fill the window.
            while Instant::now() < deadline
                && !matches!(
                    self.read(&mut rest, &mut || Instant::now() < deadline),
                    Ok(Some(0) | None) | Err(_)
                )
            {}
        }
    }

    fn other_end_closed(&self) -> bool {
        let mut octet = [0; 1];
        matches!(
            recv(&self.0, &mut octet, RecvFlags::PEEK | RecvFlags::DONTWAIT),
            Ok((0, _))
        )
    }

    /// Octets that were written and not acknowledged, sent or not.
    fn unacknowledged(&self) -> io::Result<libc::c_int> {
        let mut octets: libc::c_int = 0;
        // SAFETY: the descriptor is open as long as `self`, and SIOCOUTQ (the same number as TIOCOUTQ) writes one int.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(octets)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn lost(error: impl std::fmt::Display) -> Failure {
    format!("connection lost: {error}")
}
