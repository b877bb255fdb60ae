//! What runs on hosts: TCP transfers in both directions, and streams of numbered datagrams.

use smoltcp::iface::{Context, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{IpAddress, IpEndpoint};

/// Octets of each datagram; large sends have several.
pub(super) const USO_SIZE: u16 = 1000;
const BUFFER: usize = 64 << 10;

/// Something that runs on a host.
pub(super) enum Program {
    Tcp(Transfer),
    UdpSender(Sender),
    UdpReceiver(Receiver),
}

/// One side of a TCP connection: it sends what it has and expects something.
pub(super) struct Transfer {
    handle: SocketHandle,
    send: Vec<u8>,
    sent: usize,
    expect: Vec<u8>,
    received: usize,
}

pub(super) struct Sender {
    handle: SocketHandle,
    to: IpEndpoint,
    datagrams: u16,
    next: u16,
    /// Datagrams of one send.
    at_once: u16,
}

pub(super) struct Receiver {
    handle: SocketHandle,
    pub(super) received: u64,
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket
}

fn udp_socket(port: u16) -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; BUFFER]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).expect("a new socket");
    socket
}

impl Program {
    /// Waits for a connection.
    pub(super) fn listen(
        sockets: &mut SocketSet<'static>,
        port: u16,
        send: Vec<u8>,
        expect: Vec<u8>,
    ) -> Self {
        let mut socket = tcp_socket();
        socket.listen(port).expect("a new socket");
        Self::Tcp(Transfer::new(sockets.add(socket), send, expect))
    }

    /// Connects.
    pub(super) fn connect(
        (sockets, context): (&mut SocketSet<'static>, &mut Context),
        to: (IpAddress, u16),
        port: u16,
        send: Vec<u8>,
        expect: Vec<u8>,
    ) -> Self {
        let mut socket = tcp_socket();
        socket.connect(context, to, port).expect("a new socket");
        Self::Tcp(Transfer::new(sockets.add(socket), send, expect))
    }

    /// Sends datagrams, one at a time or large sends.
    pub(super) fn send(
        sockets: &mut SocketSet<'static>,
        to: (IpAddress, u16),
        port: u16,
        datagrams: u16,
        at_once: u16,
    ) -> Self {
        Self::UdpSender(Sender {
            handle: sockets.add(udp_socket(port)),
            to: to.into(),
            datagrams,
            next: 0,
            at_once,
        })
    }

    /// Receives datagrams.
    pub(super) fn receive(sockets: &mut SocketSet<'static>, port: u16) -> Self {
        Self::UdpReceiver(Receiver {
            handle: sockets.add(udp_socket(port)),
            received: 0,
        })
    }

    pub(super) fn run(&mut self, sockets: &mut SocketSet<'static>) {
        match self {
            Self::Tcp(transfer) => transfer.run(sockets.get_mut(transfer.handle)),
            Self::UdpSender(sender) => sender.run(sockets.get_mut(sender.handle)),
            Self::UdpReceiver(receiver) => receiver.run(sockets.get_mut(receiver.handle)),
        }
    }

    /// Whether it has more to send, without being asked.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self, Self::UdpSender(_)) && !self.is_done()
    }

    /// Whether it has sent all and received all that is promised to come.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Tcp(transfer) => transfer.received == transfer.expect.len(),
            Self::UdpSender(sender) => sender.next == sender.datagrams,
            Self::UdpReceiver(_) => true,
        }
    }
}

impl Transfer {
    fn new(handle: SocketHandle, send: Vec<u8>, expect: Vec<u8>) -> Self {
        Self {
            handle,
            send,
            sent: 0,
            expect,
            received: 0,
        }
    }

    fn run(&mut self, socket: &mut tcp::Socket<'_>) {
        if socket.may_send() {
            self.sent += socket.send_slice(&self.send[self.sent..]).unwrap_or(0);
        }
        while socket.can_recv() {
            let received = &mut self.received;
            let expect = &self.expect;
            let check = |octets: &mut [u8]| {
                let end = *received + octets.len();
                assert_eq!(Some(&*octets), expect.get(*received..end), "TCP content is wrong");
                *received = end;
                (octets.len(), ())
            };
            socket.recv(check).expect("a socket that can receive");
        }
    }
}

/// A datagram's content, by its number.
fn content(number: u16) -> Vec<u8> {
    let mut octets: Vec<u8> = (0..USO_SIZE)
        .map(|n| (n.wrapping_mul(number | 1) >> 3) as u8)
        .collect();
    octets[..2].copy_from_slice(&number.to_be_bytes());
    octets
}

impl Sender {
    fn run(&mut self, socket: &mut udp::Socket<'_>) {
        if self.next < self.datagrams && socket.can_send() {
            let end = (self.next + self.at_once).min(self.datagrams);
            let octets: Vec<u8> = (self.next..end).flat_map(content).collect();
            if socket.send_slice(&octets, self.to).is_ok() {
                self.next = end;
            }
        }
    }
}

impl Receiver {
    fn run(&mut self, socket: &mut udp::Socket<'_>) {
        while let Ok((octets, _)) = socket.recv() {
            let number = u16::from_be_bytes([octets[0], octets[1]]);
            assert!(octets == content(number), "datagram {number} is wrong");
            self.received += 1;
        }
    }
}
