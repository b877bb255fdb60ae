//! One client, from its first octet to its last. Nothing here waits.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use vmm_sys_util::epoll::EventSet;

use super::api::Failure;
use super::request::{Action, MAX_BODY, MAX_HEAD, Refusal, parse};

/// How long a request may take to arrive.
const READ_TIME: Duration = Duration::from_secs(5);
/// How long an answer may take to be taken.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// What is sent before a console's own octets.
pub(super) const CONSOLE_GREETING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: enlight-console\r\n\r\n";

/// A client.
pub(super) struct Connection {
    stream: UnixStream,
    state: State,
}

enum State {
    Reading {
        octets: Vec<u8>,
        until: Instant,
    },
    /// The machine will answer soon.
    Asking,
    /// The machine's end will be the answer.
    Waiting,
    Writing {
        octets: Vec<u8>,
        written: usize,
        until: Instant,
    },
}

/// What became of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on when there is something to read or write.
    Later,
    /// It asked for something.
    Asks(Action),
    /// It has its answer, or has broken the rules beyond answering.
    Over,
}

/// An answer: its status and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            state: State::Reading {
                octets: Vec::new(),
                until: now + READ_TIME,
            },
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// The stream once more, to become a console.
    pub(super) fn stream(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// What it waits for. That its other end is closed is always told.
    pub(super) fn interest(&self) -> EventSet {
        match self.state {
            State::Reading { .. } => EventSet::IN,
            State::Asking | State::Waiting => EventSet::empty(),
            State::Writing { .. } => EventSet::OUT,
        }
    }

    /// When it has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Reading { until, .. } | State::Writing { until, .. } => Some(until),
            State::Asking | State::Waiting => None,
        }
    }

    /// Whether it waits for the machine's end.
    pub(super) fn waits(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// From now on it waits for the machine's end.
    pub(super) fn wait(&mut self) {
        self.state = State::Waiting;
    }

    /// Reads or writes as much as is possible now.
    pub(super) fn advance(&mut self, now: Instant) -> Progress {
        match &mut self.state {
            State::Reading { octets, .. } => match read(&mut self.stream, octets) {
                Ok(None) => Progress::Later,
                Ok(Some(action)) => {
                    self.state = State::Asking;
                    Progress::Asks(action)
                }
                Err(Fault::Refused(refusal)) => self.answer(&refusal.into(), now),
                Err(Fault::Gone) => Progress::Over,
            },
            // An event without interest: the other end is closed.
            State::Asking | State::Waiting => Progress::Over,
            State::Writing { octets, written, .. } => write(&mut self.stream, octets, written),
        }
    }

    /// Sends an answer, as far as that is possible now.
    pub(super) fn answer(&mut self, answer: &Answer, now: Instant) -> Progress {
        self.state = State::Writing {
            octets: answer.octets(),
            written: 0,
            until: now + WRITE_TIME,
        };
        self.advance(now)
    }
}

enum Fault {
    Refused(Refusal),
    Gone,
}

/// Reads what is there; the request once it is complete.
fn read(stream: &mut UnixStream, octets: &mut Vec<u8>) -> Result<Option<Action>, Fault> {
    let mut buffer = [0; 2048];
    loop {
        let room = (MAX_HEAD + MAX_BODY)
            .saturating_sub(octets.len())
            .min(buffer.len());
        match stream.read(buffer.get_mut(..room).unwrap_or_default()) {
            // `parse` is content before there is no room.
            Ok(0) => return Err(Fault::Gone),
            Ok(len) => octets.extend(buffer.iter().take(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(Fault::Gone),
        }
        if let Some(action) = parse(octets).map_err(Fault::Refused)? {
            return Ok(Some(action));
        }
    }
}

fn write(stream: &mut UnixStream, octets: &[u8], written: &mut usize) -> Progress {
    while let Some(rest) = octets.get(*written..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(0) => return Progress::Over,
            Ok(len) => *written += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Later,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Progress::Over,
        }
    }
    // Fails only when the other end was faster.
    let _ = stream.shutdown(Shutdown::Write);
    Progress::Over
}

impl Answer {
    /// What was asked for.
    pub(super) fn good(content: &impl Serialize) -> Self {
        match serde_json::to_vec(content) {
            Ok(body) => Self { status: 200, body },
            Err(error) => Self::failure(500, format!("the answer is no JSON: {error}")),
        }
    }

    /// Why there is no such thing.
    pub(super) fn failure(status: u16, error: String) -> Self {
        // A structure of one text always is JSON.
        let body = serde_json::to_vec(&Failure { error }).unwrap_or_default();
        Self { status, body }
    }

    fn octets(&self) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.status,
            phrase(self.status),
            self.body.len()
        );
        [head.as_bytes(), &self.body].concat()
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::failure(refusal.status, refusal.message)
    }
}

/// A status in words (RFC 9110, section 15).
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::CONSOLE_PROTOCOL;
    use super::*;

    fn pair() -> (Connection, UnixStream, Instant) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let now = Instant::now();
        (Connection::new(ours, now).unwrap(), theirs, now)
    }

    #[test]
    fn a_request_may_come_in_pieces() {
        let (mut connection, mut theirs, now) = pair();
        for piece in ["GET /v1/", "info HTT", "P/1.1\r\nHost: x\r\n\r"] {
            theirs.write_all(piece.as_bytes()).unwrap();
            assert_eq!(connection.advance(now), Progress::Later);
            assert_eq!(connection.deadline(), Some(now + READ_TIME), "no piece buys time");
        }
        theirs.write_all(b"\n").unwrap();
        assert_eq!(connection.advance(now), Progress::Asks(Action::Info));
        assert_eq!(
            (connection.deadline(), connection.interest()),
            (None, EventSet::empty())
        );
        assert_eq!(connection.answer(&Answer::good(&7), now), Progress::Over);
        drop(connection);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n")
                && text.ends_with("Content-Length: 1\r\nConnection: close\r\n\r\n7"),
            "{text}"
        );
    }

    #[test]
    fn garbage_is_answered_and_silence_is_not() {
        let (mut connection, mut theirs, now) = pair();
        theirs.write_all(&vec![0; 20_000]).unwrap();
        assert_eq!(connection.advance(now), Progress::Over);
        drop(connection);
        let mut buffer = [0; 12];
        theirs.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"HTTP/1.1 400");

        let (mut connection, theirs, now) = pair();
        drop(theirs);
        assert_eq!(connection.advance(now), Progress::Over);
    }

    #[test]
    fn a_reader_that_sleeps_holds_nobody_up() {
        let (mut connection, theirs, now) = pair();
        let answer = Answer {
            status: 200,
            body: vec![b'x'; 4 << 20],
        };
        assert_eq!(connection.answer(&answer, now), Progress::Later);
        assert_eq!(
            (connection.deadline(), connection.interest()),
            (Some(now + WRITE_TIME), EventSet::OUT)
        );
        drop(theirs);
        assert_eq!(connection.advance(now), Progress::Over);
    }

    #[test]
    fn the_greeting_names_the_protocol() {
        assert!(CONSOLE_GREETING.contains(&format!("Upgrade: {CONSOLE_PROTOCOL}\r\n\r\n")));
    }
}
