//! The port's thread: accepts a peer, serves it, accepts the next.
//!
//! `unsafe` is needed for `poll`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use super::message;
use super::session::{Reply, Session, SessionError};
use super::socket::Bound;
use super::wire::{Arrival, Wire, WireError};
use crate::descriptors::FileLimit;

/// The least time between two lines of log about one port.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait before trying again to accept, when that failed for want of descriptors or memory.
const RETRY_MS: i32 = 100;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the port is closed")]
    Stopped,
    #[error("the peer is gone")]
    Gone,
    #[error("the peer went in the middle of a message")]
    MidMessage,
    #[error("the peer took away memory that it had shared")]
    MemoryLost,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl End {
    /// The kind of refusal that it is; `None` for what is no refusal.
    const fn label(&self) -> Option<&'static str> {
        match self {
            Self::Stopped | Self::Gone => None,
            Self::MidMessage => Some("message_cut"),
            Self::MemoryLost => Some("memory_lost"),
            Self::Wire(error) => Some(error.label()),
            Self::Session(error) => Some(error.label()),
        }
    }
}

/// Serves peers until the port is closed.
pub(super) fn run(port: &Shared, bound: &Bound) {
    let mut log = Log::default();
    while !port.stopping.load(Ordering::Acquire) {
        wait(&[port.event.as_raw_fd(), bound.listener.as_raw_fd()], -1);
        let _ = port.event.read();
        match bound.listener.accept() {
            Ok((stream, _)) => log.ended(port, &serve(port, stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                let reason =
                    FileLimit::behind(&error).map_or_else(|| error.to_string(), |limit| limit.to_string());
                port.refuse("not_accepted", format!("a peer waits in vain: {reason}"));
                wait(&[port.event.as_raw_fd()], RETRY_MS);
            }
        }
    }
}

/// Serves one peer until it goes or has to go.
pub(super) fn serve(port: &Shared, stream: UnixStream) -> End {
    port.status.lock().connections += 1;
    port.hang_up.store(false, Ordering::Release);
    let end = converse(port, stream);
    if let Some(label) = end.label() {
        port.refuse(label, end.to_string());
    }
    end
}

fn converse(port: &Shared, stream: UnixStream) -> End {
    let mut wire = match Wire::new(stream) {
        Ok(wire) => wire,
        Err(error) => return End::Wire(WireError::Broken(error)),
    };
    let mut session = Session::new(port);
    loop {
        if port.stopping.load(Ordering::Acquire) {
            return End::Stopped;
        }
        if port.hang_up.load(Ordering::Acquire) {
            return End::MemoryLost;
        }
        match wire.read() {
            Ok(Arrival::Message(header, body, files)) => {
                if let Err(end) = answer(port, &mut wire, &mut session, header, &body, files) {
                    return end;
                }
            }
            Ok(Arrival::Pending) => {
                wait(&[port.event.as_raw_fd(), wire.as_raw_fd()], -1);
                let _ = port.event.read();
            }
            Ok(Arrival::Closed(false)) => return End::Gone,
            Ok(Arrival::Closed(true)) => return End::MidMessage,
            Err(error) => return End::Wire(error),
        }
    }
}

/// Does what a message asks for and answers it. A request that is refused ends the session, unless the peer asked
/// to be told how it went.
fn answer(
    port: &Shared,
    wire: &mut Wire,
    session: &mut Session<'_>,
    header: message::Header,
    body: &[u8],
    files: Vec<std::fs::File>,
) -> Result<(), End> {
    let result = message::decode(header.code, body, files)
        .map_err(SessionError::Message)
        .and_then(|request| session.handle(request));
    let wants_ack = header.wants_ack && session.acknowledges();
    match result {
        Ok(Some(Reply::Word(body))) => wire.reply(header.code, &body, None)?,
        Ok(Some(Reply::Inflight(body, file))) => wire.reply(header.code, &body, Some(&file))?,
        Ok(None) if wants_ack => wire.reply(header.code, &0u64.to_ne_bytes(), None)?,
        Ok(None) => {}
        Err(error) if wants_ack => {
            port.refuse(error.label(), error.to_string());
            wire.reply(header.code, &1u64.to_ne_bytes(), None)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Waits until one of the descriptors has something, or hung up.
fn wait(descriptors: &[RawFd], timeout_ms: i32) {
    let mut polled: arrayvec::ArrayVec<libc::pollfd, 2> = descriptors
        .iter()
        .take(2)
        .map(|fd| libc::pollfd {
            fd: *fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // SAFETY: the pointer and count are those of a local array.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) };
}

/// Lines about a port, but not more than one in a while.
#[derive(Default)]
struct Log {
    last: Option<Instant>,
    unsaid: u64,
}

impl Log {
    fn ended(&mut self, port: &Shared, end: &End) {
        if end.label().is_none() {
            tracing::debug!(port = %port.path.display(), "connection ended: {end}");
            return;
        }
        if self.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            self.unsaid += 1;
            return;
        }
        self.last = Some(Instant::now());
        let unsaid = std::mem::take(&mut self.unsaid);
        tracing::warn!(port = %port.path.display(), unsaid, "connection ended: {end}");
    }
}
