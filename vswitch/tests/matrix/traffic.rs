//! What passes: TCP and UDP between two kernels, or a kernel and an endpoint, compared octet by octet.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::cell::Family;
use super::station::Station;
use super::system::{extend, segment, widen};

/// Octets that TCP carries in each direction.
const TCP_OCTETS: usize = 384 << 10;
/// Datagrams of one large UDP send.
const SEGMENTS: usize = 9;
/// Nobody waits so long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(5);

const PORT: u16 = 5000;
/// The endpoint's echo service (RFC 862).
const ECHO: u16 = 7;

type Outcome<T = ()> = Result<T, String>;

/// The address of host 1 or 2.
pub(crate) fn address(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => [192, 0, 2, host].into(),
        Family::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)].into(),
    }
}

/// TCP and UDP in both directions between host 1 and host 2, large UDP sends among it if these kernels can.
pub(crate) fn between_kernels(stations: [&Station; 2], family: Family, mtu: u16, large: bool) -> Outcome {
    let [host, guest] = stations;
    let at = [1, 2].map(|number| SocketAddr::new(address(family, number), PORT));
    let listener = told("listening", host.run(move || TcpListener::bind(at[0])))?;
    let client = told(
        "connecting",
        guest.run(move || TcpStream::connect_timeout(&at[0], PATIENCE)),
    )?;
    let (server, _) = told("accepting", listener.accept())?;
    both_ways(&server, &client)?;
    let bind = |station: &Station, own: SocketAddr, other: SocketAddr| {
        told("a UDP socket", station.run(move || udp_socket(own, other)))
    };
    let pair = [bind(host, at[0], at[1])?, bind(guest, at[1], at[0])?];
    let mut sends = sends(family, mtu);
    retain(&mut sends, |send| large || send.segment.is_none());
    for socket in &pair {
        send_all(socket, &sends)?;
    }
    pair.iter().try_for_each(|socket| receive_all(socket, &sends))
}

/// TCP and UDP from host 1 to the echo services of host 2 and back.
pub(crate) fn with_endpoint(host: &Station, family: Family, mtu: u16) -> Outcome {
    let own = SocketAddr::new(address(family, 1), PORT);
    let echo = SocketAddr::new(address(family, 2), ECHO);
    let stream = told(
        "connecting",
        host.run(move || TcpStream::connect_timeout(&echo, PATIENCE)),
    )?;
    let sent = octets(TCP_OCTETS, 3);
    let received = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&stream));
        told("sending TCP", send(&stream, &sent))?;
        receiver.join().map_err(|_| "the receiver died".to_owned())?
    })?;
    same(&received, &sent)?;
    // It neither makes nor reassembles fragments.
    let full = usize::from(mtu) - header_len(family);
    let mut sends = sends(family, mtu);
    retain(&mut sends, |send| {
        send.segment.is_none() && !send.extended && send.payload.len() <= full
    });
    let socket = told("a UDP socket", host.run(move || udp_socket(own, echo)))?;
    send_all(&socket, &sends)?;
    receive_all(&socket, &sends)
}

/// Both sides send and receive at once.
fn both_ways(server: &TcpStream, client: &TcpStream) -> Outcome {
    let sent = [octets(TCP_OCTETS, 1), octets(TCP_OCTETS, 2)];
    std::thread::scope(|scope| {
        let receivers = [client, server].map(|stream| scope.spawn(|| receive(stream)));
        let senders = [(server, &sent[0]), (client, &sent[1])]
            .map(|(stream, octets)| scope.spawn(|| send(stream, octets)));
        for sender in senders {
            told("sending TCP", sender.join().map_err(|_| "the sender died")?)?;
        }
        for (receiver, sent) in receivers.into_iter().zip(&sent) {
            same(&receiver.join().map_err(|_| "the receiver died")??, sent)?;
        }
        Ok(())
    })
}

fn send(mut stream: &TcpStream, octets: &[u8]) -> std::io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(octets)?;
    stream.shutdown(Shutdown::Write)
}

fn receive(mut stream: &TcpStream) -> Outcome<Vec<u8>> {
    told("a timeout", stream.set_read_timeout(Some(PATIENCE)))?;
    let mut received = Vec::with_capacity(TCP_OCTETS);
    match stream.read_to_end(&mut received) {
        Ok(_) => Ok(received),
        Err(error) => Err(format!("TCP stopped after {} octets: {error}", received.len())),
    }
}

fn same(received: &[u8], sent: &[u8]) -> Outcome {
    if received == sent {
        return Ok(());
    }
    let place = received.iter().zip(sent).position(|(a, b)| a != b);
    let (received, sent) = (received.len(), sent.len());
    Err(format!(
        "{received} octets came of {sent}, the first wrong one at {place:?}"
    ))
}

/// One call to send: a datagram, or several at once.
struct Send {
    payload: Vec<u8>,
    segment: Option<u16>,
    /// With IPv4 options, or an IPv6 extension header.
    extended: bool,
}

impl Send {
    fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.payload
            .chunks(self.segment.map_or(self.payload.len(), usize::from))
    }
}

/// Small ones, one that fills the MTU, fragments, and large sends that end in a full and in a short segment; then some
/// with longer IP headers.
fn sends(family: Family, mtu: u16) -> Vec<Send> {
    let full = usize::from(mtu) - header_len(family);
    let single = |len: usize| (len, None, false);
    let extended = |len: usize| (len, None, true);
    let large = |len: usize, segment: usize, extended: bool| (len, Some(segment as u16), extended);
    let long = full.min(7000);
    let all = [
        single(4),
        single(5),
        single(18),
        single(512),
        single(full),
        single(full + 1),
        single(3 * full),
        single(20_000),
        large(SEGMENTS * 1000, 1000, false),
        large(SEGMENTS * long + 77, long, false),
        single(5),
        extended(100),
        extended(full - 8),
        extended(2 * full),
        large(SEGMENTS * 1000 + 33, 1000, true),
        single(4),
    ];
    let send = |(len, segment, extended): (usize, Option<u16>, bool)| Send {
        payload: octets(len, len as u64),
        segment,
        extended,
    };
    all.into_iter().map(send).collect()
}

/// Leaves some out, and counts the rest anew.
fn retain(sends: &mut Vec<Send>, wanted: impl Fn(&Send) -> bool) {
    sends.retain(wanted);
    let mut counter = 0_u32;
    for send in sends {
        let step = send.segment.map_or(send.payload.len(), usize::from);
        for datagram in send.payload.chunks_mut(step) {
            datagram[..4].copy_from_slice(&counter.to_be_bytes());
            counter += 1;
        }
    }
}

fn header_len(family: Family) -> usize {
    8 + if family == Family::V4 { 20 } else { 40 }
}

fn udp_socket(own: SocketAddr, other: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(own)?;
    socket.connect(other)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    widen(&socket)?;
    Ok(socket)
}

fn send_all(socket: &UdpSocket, sends: &[Send]) -> Outcome {
    for send in sends {
        told(
            "longer IP headers",
            extend(
                socket,
                socket.local_addr().is_ok_and(|own| own.is_ipv6()),
                send.extended,
            ),
        )?;
        told("a segment's size", segment(socket, send.segment.unwrap_or(0)))?;
        told("sending UDP", socket.send(&send.payload))?;
    }
    Ok(())
}

fn receive_all(socket: &UdpSocket, sends: &[Send]) -> Outcome {
    let mut buffer = vec![0; 1 << 16];
    for (number, datagram) in sends.iter().flat_map(Send::datagrams).enumerate() {
        let len = told(
            &format!("datagram {number} of {} octets", datagram.len()),
            socket.recv(&mut buffer),
        )?;
        same(&buffer[..len], datagram).map_err(|what| format!("datagram {number}: {what}"))?;
    }
    Ok(())
}

/// Octets without a pattern, the same on every run (xorshift64*).
fn octets(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    let mut octets: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| word()).collect();
    octets.truncate(len);
    octets
}

fn told<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Outcome<T> {
    result.map_err(|error| format!("{what}: {error}"))
}
