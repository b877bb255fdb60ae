//! Client and server as endpoints inside the switch: the guest program's own state machines, over the same smoltcp, but
//! without machines around them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};
use introspection::Instant;
use microguest::cmdline::Parameters;
use microguest::report::Line;
use microguest::workload::{Activity, Client, Server};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Duration;
use vswitch::Switch;
use vswitch::control::{PortConfig, PortKind};
use vswitch::port::endpoint::{Application, Host};

use super::{Event, Guests, Orders, Role};
use crate::lab::report::GuestInfo;

/// Octets of a socket's buffer, each way: what the guest program's have.
const BUFFER: usize = 256 * 1024;
/// TCP payload of a full segment: an MTU of 1500 octets less the IPv4 and TCP headers.
const MSS: usize = 1460;
/// How often a client that waits for "go" looks for it, in nanoseconds.
const GO_POLL: u64 = 1_000_000;

/// Client and server inside the switch.
pub(crate) struct EndpointGuests<'a> {
    switch: &'a Switch,
    events: Receiver<(Role, Event)>,
    go: Arc<AtomicBool>,
}

impl<'a> EndpointGuests<'a> {
    /// Adds both ports; the client connects at once.
    pub(crate) fn start(switch: &'a Switch, orders: &Orders) -> Result<Self> {
        let (sender, events) = unbounded();
        let go = Arc::new(AtomicBool::new(false));
        for role in [Role::Server, Role::Client] {
            let program = Program::new(role, &orders.of(role), Arc::clone(&go), sender.clone());
            let config = PortConfig::new(role.name(), PortKind::Endpoint(format!("{}/24", role.ip())));
            switch
                .add_endpoint(config, vec![Box::new(program)])
                .with_context(|| format!("adding the endpoint {}", role.name()))?;
        }
        Ok(Self { switch, events, go })
    }
}

impl Guests for EndpointGuests<'_> {
    fn events(&self) -> &Receiver<(Role, Event)> {
        &self.events
    }

    fn go(&mut self) -> Result<()> {
        self.go.store(true, Ordering::Release);
        Ok(())
    }

    fn info(&self) -> Vec<GuestInfo> {
        [Role::Client, Role::Server]
            .map(|role| GuestInfo {
                name: role.name().to_owned(),
                ip: role.ip().to_string(),
                system: None,
                first_frame_ms: None,
                memory_mib: None,
                memory_overhead_kib: None,
            })
            .into()
    }

    fn stop(&mut self) {
        for role in [Role::Client, Role::Server] {
            // It is only missing when the switch is gone already.
            let _ = self.switch.remove_port(role.name());
        }
    }
}

/// One side's program in its endpoint.
struct Program {
    role: Role,
    side: Side,
    parameters: Parameters,
    socket: Option<SocketHandle>,
    go: Arc<AtomicBool>,
    sender: Sender<(Role, Event)>,
}

enum Side {
    Client(Box<Client>),
    Server(Server),
}

impl Program {
    fn new(role: Role, parameters: &Parameters, go: Arc<AtomicBool>, sender: Sender<(Role, Event)>) -> Self {
        let side = match role {
            Role::Client => Side::Client(Box::new(Client::new(parameters, u64::from(std::process::id())))),
            Role::Server => Side::Server(Server::new(parameters, MSS)),
        };
        Self {
            role,
            side,
            parameters: *parameters,
            socket: None,
            go,
            sender,
        }
    }
}

impl Application for Program {
    fn start(&mut self, host: &mut Host<'_>) {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(self.parameters.nagle);
        let delay = u64::from(self.parameters.ack_delay_ms);
        socket.set_ack_delay((delay > 0).then(|| Duration::from_millis(delay)));
        self.socket = Some(host.sockets.add(socket));
    }

    fn poll(&mut self, now: Instant, host: &mut Host<'_>) -> Option<Instant> {
        let socket = host.sockets.get_mut::<Socket<'_>>(self.socket?);
        let (role, sender) = (self.role, &self.sender);
        let mut sink = |line: &Line<'_>| {
            // Nobody listens any more when the lab is over.
            let _ = sender.send((role, Event::Line(line.to_string())));
        };
        match &mut self.side {
            Side::Server(server) => (server.poll(socket, &mut sink) == Activity::Busy).then_some(now),
            Side::Client(client) => {
                if client.wants_go() && self.go.swap(false, Ordering::AcqRel) {
                    client.go(now.0, &mut sink);
                }
                if client.poll(host.context, socket, now.0, &mut sink) == Activity::Busy {
                    return Some(now);
                }
                let look = client.wants_go().then_some(now.0 + GO_POLL);
                client.deadline().into_iter().chain(look).min().map(Instant)
            }
        }
    }
}
