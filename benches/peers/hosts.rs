//! Two hosts, each a network namespace with the kernel's TCP.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::netns::Namespace;

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(20);

/// Two hosts that are not connected yet, and a network for what is to be between them.
pub(crate) struct Hosts {
    client: Namespace,
    server: Namespace,
    pub(crate) between: Namespace,
}

/// One end of a connection; it waits for nothing for ever.
pub(crate) struct End(TcpStream);

impl Hosts {
    pub(crate) fn new() -> Self {
        Self {
            client: Namespace::new(),
            server: Namespace::new(),
            between: Namespace::new(),
        }
    }

    /// Gives each host one of these interfaces of the network between them, with an address.
    pub(crate) fn take(&self, interfaces: [&str; 2], offloads: bool) {
        let hosts = [(&self.client, CLIENT), (&self.server, SERVER)];
        for ((host, address), name) in hosts.into_iter().zip(interfaces) {
            self.between
                .host(format!("ip link set {name} netns {}", host.number()));
            if !offloads {
                host.host(format!("ethtool -K {name} tx off tso off gso off gro off"));
            }
            host.host(format!(
                "ip addr add {address}/24 dev {name} && ip link set {name} up"
            ));
        }
    }

    /// A connection from the client to the server, without Nagle's algorithm.
    pub(crate) fn connect(&self) -> Result<(End, End), String> {
        let listener = self
            .server
            .run(|| TcpListener::bind((SERVER, 0)))
            .map_err(|error| format!("listening: {error}"))?;
        let port = listener
            .local_addr()
            .map_err(|error| format!("the listener's address: {error}"))?
            .port();
        let client = self
            .client
            .run(move || TcpStream::connect_timeout(&(SERVER, port).into(), LIMIT))
            .map_err(|error| format!("connecting: {error}"))?;
        let (server, _) = listener.accept().map_err(|error| format!("accepting: {error}"))?;
        Ok((End::new(client)?, End::new(server)?))
    }
}

impl End {
    fn new(stream: TcpStream) -> Result<Self, String> {
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(LIMIT)))
            .and_then(|()| stream.set_write_timeout(Some(LIMIT)))
            .map_err(|error| format!("setting a socket up: {error}"))?;
        Ok(Self(stream))
    }

    pub(crate) fn write_all(&mut self, octets: &[u8]) -> Result<(), String> {
        self.0
            .write_all(octets)
            .map_err(|error| format!("sending: {error}"))
    }

    pub(crate) fn read_exact(&mut self, room: &mut [u8]) -> Result<(), String> {
        self.0
            .read_exact(room)
            .map_err(|error| format!("receiving: {error}"))
    }

    /// How many octets came; 0 at the end.
    pub(crate) fn read(&mut self, room: &mut [u8]) -> Result<usize, String> {
        self.0.read(room).map_err(|error| format!("receiving: {error}"))
    }

    /// Sends no more.
    pub(crate) fn end(&self) -> Result<(), String> {
        self.0
            .shutdown(Shutdown::Write)
            .map_err(|error| format!("ending: {error}"))
    }

    /// Whether anything comes so soon.
    pub(crate) fn hears_within(&mut self, limit: Duration) -> Result<bool, String> {
        self.0
            .set_read_timeout(Some(limit))
            .map_err(|error| format!("setting a socket up: {error}"))?;
        Ok(self.0.read(&mut [0]).is_ok_and(|octets| octets > 0))
    }
}
