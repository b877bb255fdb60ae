//! The client's end: connects, runs the phases, closes.

use smoltcp::iface::Context;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::IpAddress;

use super::exchange::{Failure, RecordReader, Requester};
use super::open::OpenLoop;
use super::phases::Phases;
use super::stream::Writer;
use super::{Activity, Sink};
use crate::cmdline::{Parameters, Workload};
use crate::report::Line;

/// How long a server may take to appear.
const CONNECT_TIMEOUT: u64 = 60_000_000_000;
/// How long to wait after a refused connection.
const CONNECT_RETRY: u64 = 20_000_000;
/// How long the server may take to close.
const CLOSE_TIMEOUT: u64 = 2_000_000_000;

/// The client's end of a workload.
#[derive(Debug)]
pub struct Client {
    parameters: Parameters,
    phases: Phases,
    state: ClientState,
    exchange: Exchange,
    local_port: u16,
}

#[derive(Clone, Copy, Debug)]
enum ClientState {
    Connecting { give_up: Option<u64>, retry: u64 },
    Running,
    Closing { give_up: u64 },
    Over { failed: bool },
}

#[derive(Debug)]
enum Exchange {
    Request(Requester),
    Open(OpenLoop),
    Records(RecordReader),
    /// The writer, whether a phase ends with the current block, and when the last block was complete.
    Stream(Writer, bool, Option<u64>),
}

impl Client {
    /// A client that connects when first polled, from a port that `seed` chooses.
    pub fn new(parameters: &Parameters, seed: u64) -> Self {
        let size = parameters.size as usize;
        let gap = u64::from(parameters.gap_us) * 1000;
        let exchange = match parameters.workload {
            Workload::Rr if parameters.rate > 0 => Exchange::Open(OpenLoop::new(parameters)),
            Workload::Rr | Workload::Wwr => {
                Exchange::Request(Requester::new(size, parameters.workload == Workload::Wwr, gap))
            }
            Workload::Records => Exchange::Records(RecordReader::new(size)),
            Workload::Stream => Exchange::Stream(Writer::default(), false, None),
        };
        Self {
            parameters: *parameters,
            phases: Phases::new(parameters),
            state: ClientState::Connecting {
                give_up: None,
                retry: 0,
            },
            exchange,
            local_port: 0xc000 | (seed as u16 & 0x3fff),
        }
    }

    /// Goes on as far as the socket allows.
    pub fn poll(
        &mut self,
        context: &mut Context,
        socket: &mut Socket<'_>,
        now: u64,
        sink: Sink<'_>,
    ) -> Activity {
        let result = match self.state {
            ClientState::Connecting { give_up, retry } => {
                self.connect(context, socket, now, (give_up, retry), sink)
            }
            ClientState::Running => self.run(socket, now, sink),
            ClientState::Closing { give_up } => {
                self.finish_closing(socket, now, give_up, sink);
                Ok(Activity::Idle)
            }
            ClientState::Over { .. } => Ok(Activity::Idle),
        };
        result.unwrap_or_else(|failure| {
            sink(&Line::Error(failure));
            socket.abort();
            self.state = ClientState::Over { failed: true };
            Activity::Idle
        })
    }

    /// When to poll again at the latest, should nothing arrive.
    pub fn deadline(&self) -> Option<u64> {
        match self.state {
            ClientState::Connecting { retry, .. } => Some(retry),
            ClientState::Running => {
                let pause = match &self.exchange {
                    Exchange::Request(requester) => requester.deadline(),
                    Exchange::Open(open) => open.deadline(self.phases.end()),
                    _ => None,
                };
                self.phases.deadline().into_iter().chain(pause).min()
            }
            ClientState::Closing { give_up } => Some(give_up),
            ClientState::Over { .. } => None,
        }
    }

    /// Whether a phase waits for [`go`](Self::go).
    pub fn wants_go(&self) -> bool {
        self.phases.wants_go()
    }

    /// Starts the phase that waits.
    pub fn go(&mut self, now: u64, sink: Sink<'_>) {
        self.phases.go(now, sink);
    }

    /// Whether everything is done and reported, or has failed.
    pub fn is_over(&self) -> bool {
        matches!(self.state, ClientState::Over { .. })
    }

    /// Whether it ended with an error.
    pub fn has_failed(&self) -> bool {
        matches!(self.state, ClientState::Over { failed: true })
    }

    fn connect(
        &mut self,
        context: &mut Context,
        socket: &mut Socket<'_>,
        now: u64,
        (give_up, retry): (Option<u64>, u64),
        sink: Sink<'_>,
    ) -> Result<Activity, Failure> {
        if socket.state() == State::Established {
            sink(&Line::Connected);
            self.phases.start();
            if let Exchange::Open(open) = &mut self.exchange {
                open.start(now);
            }
            self.state = ClientState::Running;
            return Ok(Activity::Busy);
        }
        let give_up = give_up.unwrap_or(now + CONNECT_TIMEOUT);
        if now >= give_up {
            return Err("no connection to the server");
        }
        let mut retry = retry;
        let mut activity = Activity::Idle;
        if socket.state() == State::Closed && now >= retry {
            self.local_port = 0xc000 | (self.local_port.wrapping_add(1) & 0x3fff);
            let peer = (IpAddress::Ipv4(self.parameters.peer), self.parameters.port);
            socket
                .connect(context, peer, self.local_port)
                .map_err(|_| "the server's address cannot be reached")?;
            activity = Activity::Busy;
        }
        if now >= retry {
            retry = now + CONNECT_RETRY;
        }
        self.state = ClientState::Connecting {
            give_up: Some(give_up),
            retry,
        };
        Ok(activity)
    }

    fn run(&mut self, socket: &mut Socket<'_>, now: u64, sink: Sink<'_>) -> Result<Activity, Failure> {
        self.phases.tick(now, sink);
        if self.phases.is_over() {
            socket.close();
            self.state = ClientState::Closing {
                give_up: now + CLOSE_TIMEOUT,
            };
            return Ok(Activity::Busy);
        }
        let (activity, started) = match &mut self.exchange {
            Exchange::Request(requester) => requester.poll(socket, now)?,
            Exchange::Records(reader) => reader.poll(socket, now)?,
            Exchange::Open(_) => return self.open(socket, now, sink),
            Exchange::Stream(..) => return self.stream(socket, now, sink),
        };
        if let Some(started) = started {
            self.phases.transaction(started, now, sink);
        }
        Ok(activity)
    }

    fn open(&mut self, socket: &mut Socket<'_>, now: u64, sink: Sink<'_>) -> Result<Activity, Failure> {
        let Exchange::Open(open) = &mut self.exchange else {
            return Ok(Activity::Idle);
        };
        let mut sent = 0;
        if let Some(outgoing) = open.outgoing(now, self.phases.end()) {
            if let Some(due) = outgoing.begins {
                self.phases.begun(due, now);
            }
            sent = socket
                .send_slice(outgoing.octets)
                .map_err(|_| "connection lost")?;
            open.wrote(sent);
        }
        let read = socket
            .recv(|buffer| {
                let read = open.read(buffer);
                (read.map_or(0, |(taken, _)| taken), read)
            })
            .map_err(|_| "connection lost")?;
        let (taken, answered) = read?;
        if let Some(due) = answered {
            self.phases.transaction(due, now, sink);
        }
        if let Some(window) = self.phases.window()
            && open.is_settled(now, window.1)
        {
            let missed = open.end_phase(now, window);
            self.phases.finish_open(missed, now, sink);
            return Ok(Activity::Busy);
        }
        Ok(if sent > 0 || taken > 0 {
            Activity::Busy
        } else {
            Activity::Idle
        })
    }

    fn stream(&mut self, socket: &mut Socket<'_>, now: u64, sink: Sink<'_>) -> Result<Activity, Failure> {
        let Exchange::Stream(writer, last, completed) = &mut self.exchange else {
            return Ok(Activity::Idle);
        };
        if writer.position.at_boundary() {
            *last = self.phases.is_due(now);
        }
        let sent = writer.write(socket, *last).map_err(|_| "connection lost")?;
        if sent == 0 {
            return Ok(Activity::Idle);
        }
        if writer.position.at_boundary() {
            if let Some(started) = completed.replace(now) {
                self.phases.transaction(started, now, sink);
            }
            if *last {
                sink(&Line::Hash {
                    phase: Some(self.phases.number()),
                    octets: writer.position.octets,
                    sum: writer.position.hash.value(),
                });
                self.phases.finish(now, sink);
            }
        }
        Ok(Activity::Busy)
    }

    fn finish_closing(&mut self, socket: &mut Socket<'_>, now: u64, give_up: u64, sink: Sink<'_>) {
        // What still arrives is not wanted, but must not fill the window.
        let _ = socket.recv(|buffer| (buffer.len(), ()));
        let closed = matches!(socket.state(), State::Closed | State::TimeWait);
        if closed || now >= give_up {
            socket.abort();
            sink(&Line::Done);
            self.state = ClientState::Over { failed: false };
        }
    }
}
