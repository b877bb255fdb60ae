//! One end of a workload on a network of its own: smoltcp interface, socket and state machine.
//!
//! Frames are taken one at a time, each followed by the application and by what the stack wants to send: a receiver
//! that acknowledges every second segment then does so however many segments are waiting, as a kernel does.

use alloc::boxed::Box;
use alloc::vec;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use crate::cmdline::{Parameters, Role};
use crate::workload::{Activity, Client, Server, Sink};

/// Octets of each socket buffer, and so the largest TCP window: with a quarter of it the ends of a stream waited for each other
/// more often than they worked.
const SOCKET_BUFFER: usize = 1024 * 1024;
/// Rounds of one step: what was sent is announced to the device at least this often.
const ROUNDS: usize = 32;
/// A connection whose data is not acknowledged for so long is given up.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Octets of Ethernet, and of IPv4 and TCP without options.
const ETHERNET_HEADER: usize = 14;
const TCP_IP_HEADERS: usize = 40;

/// A network device that learns of transmitted frames in batches.
pub trait Link: Device {
    /// Announces the frames that were transmitted since the last call.
    fn flush(&mut self) {}
}

/// A client or a server with its own network stack.
pub struct Station {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    end: End,
}

/// What a station does.
enum End {
    Client(Box<Client>),
    Server(Server),
}

impl Station {
    /// A station with the address `mac` on `link`. `seed` makes its sequence numbers and ports differ from others'.
    pub fn new(parameters: &Parameters, link: &mut impl Link, mac: [u8; 6], seed: u64) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = seed;
        let mut interface = Interface::new(config, link, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // There is room: the list was empty.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(parameters.ip), parameters.prefix));
        });
        let mut sockets = SocketSet::new(vec![]);
        let socket = sockets.add(socket(parameters));
        let frame = link.capabilities().max_transmission_unit;
        let mss = frame.saturating_sub(ETHERNET_HEADER + TCP_IP_HEADERS);
        let end = match parameters.role {
            Role::Client => End::Client(Box::new(Client::new(parameters, seed))),
            Role::Server => End::Server(Server::new(parameters, mss)),
        };
        Self {
            interface,
            sockets,
            socket,
            end,
        }
    }

    /// Takes waiting frames, lets the application act, transmits. Returns when to call again at the latest, in
    /// nanoseconds on `clock`, should no frame arrive; a time that has passed says that there is more to do.
    pub fn step(&mut self, clock: &dyn Fn() -> u64, link: &mut impl Link, sink: Sink<'_>) -> Option<u64> {
        self.interface.poll_maintenance(instant(clock()));
        let mut busy = true;
        for _ in 0..ROUNDS {
            busy = self.receive(instant(clock()), link);
            busy |= self.act(clock(), sink) == Activity::Busy;
            busy |= self.transmit(instant(clock()), link);
            if !busy {
                break;
            }
        }
        link.flush();
        if busy {
            return Some(0);
        }
        let stack = self.interface.poll_at(instant(clock()), &self.sockets);
        let stack = stack.map(|at| at.total_micros().max(0) as u64 * 1000);
        let application = match &self.end {
            End::Client(client) => client.deadline(),
            End::Server(_) => None,
        };
        stack.into_iter().chain(application).min()
    }

    /// Whether a phase waits for [`go`](Self::go).
    pub fn wants_go(&self) -> bool {
        matches!(&self.end, End::Client(client) if client.wants_go())
    }

    /// Starts the phase that waits.
    pub fn go(&mut self, now: u64, sink: Sink<'_>) {
        if let End::Client(client) = &mut self.end {
            client.go(now, sink);
        }
    }

    /// Whether a client has ended; a server never does.
    pub fn is_over(&self) -> bool {
        matches!(&self.end, End::Client(client) if client.is_over())
    }

    /// Whether a client has ended with an error.
    pub fn has_failed(&self) -> bool {
        matches!(&self.end, End::Client(client) if client.has_failed())
    }

    fn receive(&mut self, now: Instant, link: &mut impl Link) -> bool {
        let result = self.interface.poll_ingress_single(now, link, &mut self.sockets);
        result != PollIngressSingleResult::None
    }

    fn act(&mut self, now: u64, sink: Sink<'_>) -> Activity {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        match &mut self.end {
            End::Client(client) => client.poll(self.interface.context(), socket, now, sink),
            End::Server(server) => server.poll(socket, sink),
        }
    }

    fn transmit(&mut self, now: Instant, link: &mut impl Link) -> bool {
        let mut sent = false;
        while self.interface.poll_egress(now, link, &mut self.sockets) == PollResult::SocketStateChanged {
            sent = true;
        }
        sent
    }
}

fn socket(parameters: &Parameters) -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; SOCKET_BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(parameters.nagle);
    let delay = u64::from(parameters.ack_delay_ms);
    socket.set_ack_delay((delay > 0).then(|| Duration::from_millis(delay)));
    socket.set_timeout(Some(ACK_TIMEOUT));
    socket
}

fn instant(nanoseconds: u64) -> Instant {
    Instant::from_micros((nanoseconds / 1000).cast_signed())
}
