//! The services that every endpoint offers: TCP echo and discard, UDP echo.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use introspection::Instant;
use serde::{Deserialize, Serialize};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Duration;

use super::{Application, Host};

/// The echo service's port, TCP and UDP (RFC 862).
pub const ECHO_PORT: u16 = 7;

/// The discard service's port, TCP (RFC 863).
pub const DISCARD_PORT: u16 = 9;

/// Connections of one TCP service at a time; others are refused until one ends.
pub const MAX_CONNECTIONS: usize = 16;

/// Octets of each socket buffer.
const BUFFER: usize = 64 * 1024;

/// Datagrams that wait for the UDP echo.
const DATAGRAMS: usize = 64;

/// A peer that is silent for so long is forgotten, so that it does not hold a connection for ever.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A datagram from a port below this one is not echoed: it may come from another echo service, and the two would
/// go on for ever.
const FIRST_CLIENT_PORT: u16 = 1024;

/// What an endpoint's services have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounts {
    /// TCP connections accepted.
    pub connections: u64,
    /// Octets sent back by the TCP echo.
    pub echoed_octets: u64,
    /// Octets discarded.
    pub discarded_octets: u64,
    /// Datagrams sent back.
    pub echoed_datagrams: u64,
    /// Datagrams that were not echoed, because of where they came from or went to.
    pub refused_datagrams: u64,
}

/// [`ServiceCounts`], while they grow.
#[derive(Debug, Default)]
pub(super) struct Counters {
    connections: AtomicU64,
    echoed_octets: AtomicU64,
    discarded_octets: AtomicU64,
    echoed_datagrams: AtomicU64,
    refused_datagrams: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self) -> ServiceCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServiceCounts {
            connections: read(&self.connections),
            echoed_octets: read(&self.echoed_octets),
            discarded_octets: read(&self.discarded_octets),
            echoed_datagrams: read(&self.echoed_datagrams),
            refused_datagrams: read(&self.refused_datagrams),
        }
    }
}

fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

/// All of them.
pub(super) fn standard(counters: &Arc<Counters>) -> Vec<Box<dyn Application>> {
    vec![
        Box::new(TcpService::new(ECHO_PORT, Treatment::Echo, counters.clone())),
        Box::new(TcpService::new(
            DISCARD_PORT,
            Treatment::Discard,
            counters.clone(),
        )),
        Box::new(UdpEcho {
            handle: None,
            counters: counters.clone(),
            scratch: Vec::new(),
        }),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Treatment {
    Echo,
    Discard,
}

/// A TCP service: a fixed number of sockets, each of which listens, serves and listens again.
struct TcpService {
    port: u16,
    treatment: Treatment,
    slots: Vec<Slot>,
    counters: Arc<Counters>,
    scratch: Vec<u8>,
}

struct Slot {
    handle: SocketHandle,
    /// Its connection was counted.
    counted: bool,
}

impl TcpService {
    fn new(port: u16, treatment: Treatment, counters: Arc<Counters>) -> Self {
        Self {
            port,
            treatment,
            slots: Vec::new(),
            counters,
            scratch: Vec::new(),
        }
    }
}

impl Application for TcpService {
    fn start(&mut self, host: &mut Host<'_>) {
        let send_buffer = match self.treatment {
            Treatment::Echo => {
                self.scratch = vec![0; BUFFER];
                BUFFER
            }
            Treatment::Discard => 64,
        };
        for _ in 0..MAX_CONNECTIONS {
            let receive = tcp::SocketBuffer::new(vec![0; BUFFER]);
            let mut socket = tcp::Socket::new(receive, tcp::SocketBuffer::new(vec![0; send_buffer]));
            socket.set_nagle_enabled(false);
            socket.set_timeout(Some(PEER_TIMEOUT));
            socket.set_keep_alive(Some(KEEP_ALIVE));
            self.slots.push(Slot {
                handle: host.sockets.add(socket),
                counted: false,
            });
        }
        self.poll(Instant::default(), host);
    }

    fn poll(&mut self, _now: Instant, host: &mut Host<'_>) -> Option<Instant> {
        for slot in &mut self.slots {
            let socket: &mut tcp::Socket<'_> = host.sockets.get_mut(slot.handle);
            match socket.state() {
                tcp::State::Closed | tcp::State::TimeWait => {
                    slot.counted = false;
                    socket.abort();
                    // The port is not 0 and the socket is closed, the two things that are asked of it.
                    let _ = socket.listen(self.port);
                }
                tcp::State::Listen | tcp::State::SynReceived => slot.counted = false,
                _ => {
                    if !std::mem::replace(&mut slot.counted, true) {
                        add(&self.counters.connections, 1);
                    }
                    serve(socket, self.treatment, &mut self.scratch, &self.counters);
                }
            }
        }
        None
    }
}

/// Moves what can be moved, and closes when the peer has and everything was moved.
fn serve(socket: &mut tcp::Socket<'_>, treatment: Treatment, scratch: &mut [u8], counters: &Counters) {
    match treatment {
        Treatment::Echo => add(&counters.echoed_octets, echo(socket, scratch)),
        Treatment::Discard => {
            while let Ok(n @ 1..) = socket.recv(|octets| (octets.len(), octets.len())) {
                add(&counters.discarded_octets, n);
            }
        }
    }
    if !socket.may_recv() && socket.recv_queue() == 0 {
        socket.close();
    }
}

/// Sends back as much as there is room for; returns how much that was.
fn echo(socket: &mut tcp::Socket<'_>, scratch: &mut [u8]) -> usize {
    let mut echoed = 0;
    while socket.can_send() && socket.can_recv() {
        let room = (socket.send_capacity() - socket.send_queue()).min(scratch.len());
        let Ok(n @ 1..) = socket.recv_slice(&mut scratch[..room]) else {
            break;
        };
        // All of it has room: that was asked before.
        let Ok(n @ 1..) = socket.send_slice(&scratch[..n]) else {
            break;
        };
        echoed += n;
    }
    echoed
}

/// Sends datagrams back to where they came from.
struct UdpEcho {
    handle: Option<SocketHandle>,
    counters: Arc<Counters>,
    scratch: Vec<u8>,
}

impl Application for UdpEcho {
    fn start(&mut self, host: &mut Host<'_>) {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; BUFFER]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        // The port is not 0 and the socket is new, the two things that are asked of it.
        let _ = socket.bind(ECHO_PORT);
        self.handle = Some(host.sockets.add(socket));
        self.scratch = vec![0; BUFFER];
    }

    fn poll(&mut self, _now: Instant, host: &mut Host<'_>) -> Option<Instant> {
        let socket: &mut udp::Socket<'_> = host.sockets.get_mut(self.handle?);
        while socket.can_recv() && socket.can_send() {
            let Ok((len, from)) = socket.recv_slice(&mut self.scratch) else {
                add(&self.counters.refused_datagrams, 1);
                continue;
            };
            let to_one_host = from.local_address.is_some_and(|address| address.is_unicast());
            if from.endpoint.port < FIRST_CLIENT_PORT || !to_one_host {
                add(&self.counters.refused_datagrams, 1);
                continue;
            }
            match socket.send_slice(&self.scratch[..len], from) {
                Ok(()) => add(&self.counters.echoed_datagrams, 1),
                Err(_) => add(&self.counters.refused_datagrams, 1),
            }
        }
        None
    }
}
