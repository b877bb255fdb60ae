//! TCP connections between the hosts, over which both ends send at once; what arrives is compared by digest.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::scene::{A, B, Scene};
use crate::support::frames::{Digest, Random};
use crate::support::netns::Namespace;

/// Bounds a test that went wrong.
const LIMIT: Duration = Duration::from_mins(1);

/// Datagrams of a flow.
const DATAGRAMS: u32 = 500;
/// Datagrams between pauses, in which queues run empty.
const RUN: u32 = 25;
const PAUSE: Duration = Duration::from_millis(10);
/// How long nothing comes before a flow is over.
const QUIET: Duration = Duration::from_secs(1);

/// What went one way, at both ends.
type Ends = (Digest, Digest);

/// Host B's addresses.
pub(crate) fn v4() -> IpAddr {
    Ipv4Addr::new(192, 0, 2, B).into()
}

/// Host B's addresses.
pub(crate) fn v6() -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, B.into()).into()
}

/// Sends `octets` each way over each of so many connections at once.
pub(crate) fn exchange(scene: &Scene, address: IpAddr, octets: usize, connections: u16) {
    let servers: Vec<_> = (0..connections)
        .map(|n| serve(&scene.b, address, 5000 + n, octets))
        .collect();
    let clients: Vec<_> = (0..connections)
        .map(|n| {
            start(&scene.a, move || {
                let stream = TcpStream::connect((address, 5000 + n)).expect("the server listens");
                both_ways(stream, octets, 2 * u64::from(n))
            })
        })
        .collect();
    for (server, client) in servers.iter().zip(&clients) {
        let (sent_b, got_b) = server.recv_timeout(LIMIT).expect("the server ends");
        let (sent_a, got_a) = client.recv_timeout(LIMIT).expect("the client ends");
        assert_eq!((sent_a, sent_b), (got_b, got_a), "what is sent arrives");
    }
}

/// Sends numbered datagrams both ways over each of so many flows at once. Some may be lost, where a socket's buffer is full;
/// none may overtake another of its flow.
pub(crate) fn numbered(scene: &Scene, flows: u16) {
    let socket = |namespace: &Namespace, own: u8, peer: u8, flow: u16| {
        let address = move |number| (Ipv4Addr::new(192, 0, 2, number), 6000 + flow);
        namespace.run(move || {
            let socket = UdpSocket::bind(address(own)).expect("an own address");
            socket.connect(address(peer)).expect("a route");
            socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
            socket
        })
    };
    let mut sockets = Vec::new();
    for flow in 0..flows {
        let ends = [(&scene.a, A, B), (&scene.b, B, A)]
            .map(|(namespace, own, peer)| (namespace, socket(namespace, own, peer, flow)));
        greet(&ends[0].1, &ends[1].1);
        sockets.extend(ends);
    }
    let receive = |(namespace, receiver): (&Namespace, UdpSocket)| {
        let sender = receiver.try_clone().expect("a second handle");
        start(namespace, move || {
            for number in 0..DATAGRAMS {
                // What does not fit is lost, as on any network.
                let _ = sender.send(&number.to_be_bytes());
                if number % RUN == 0 {
                    thread::sleep(PAUSE);
                }
            }
        });
        start(namespace, move || in_order(&receiver))
    };
    let ends: Vec<_> = sockets.into_iter().map(receive).collect();
    for end in ends {
        let received = end.recv_timeout(LIMIT).expect("the receiver ends");
        assert!(received > 0, "a flow was lost altogether");
    }
}

/// Lets a datagram pass each way. A kernel puts a flow into the queue of a tap that the flow's last frame from there came by, so one of
/// which none came yet moves with the first, and what waits in the old queue is overtaken.
fn greet(a: &UdpSocket, b: &UdpSocket) {
    for (from, to) in [(a, b), (b, a)] {
        from.send(&[]).expect("a greeting leaves");
        to.recv(&mut []).expect("a greeting comes");
    }
    for end in [a, b] {
        end.set_read_timeout(Some(QUIET)).expect("a timeout");
    }
}

/// Receives until it is quiet; how many came.
fn in_order(socket: &UdpSocket) -> usize {
    let (mut count, mut next, mut octets) = (0, 0, [0; 4]);
    while socket.recv(&mut octets).is_ok() {
        let number = u32::from_be_bytes(octets);
        assert!(number >= next, "number {number} comes after {}", next - 1);
        next = number + 1;
        count += 1;
    }
    count
}

fn serve(namespace: &Namespace, address: IpAddr, port: u16, octets: usize) -> Receiver<Ends> {
    let listener = namespace.run(move || TcpListener::bind((address, port)).expect("an own address"));
    start(namespace, move || {
        let (stream, _) = listener.accept().expect("the client connects");
        both_ways(stream, octets, 2 * u64::from(port) + 1)
    })
}

/// Does something in a thread of its own in a namespace.
fn start<T: Send + 'static>(namespace: &Namespace, work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (tell, told) = channel();
    namespace.run(move || {
        thread::spawn(move || tell.send(work()));
    });
    told
}

/// Sends and receives at once; digests of what was sent and what came.
fn both_ways(mut stream: TcpStream, octets: usize, seed: u64) -> Ends {
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream.set_write_timeout(Some(LIMIT)).expect("a timeout");
    let mut reader = stream.try_clone().expect("a second handle");
    let receiver = thread::spawn(move || {
        let (mut digest, mut buffer) = (Digest::default(), vec![0; 1 << 16]);
        while let read @ 1.. = reader.read(&mut buffer).expect("data or the end") {
            digest.add(&buffer[..read]);
        }
        digest
    });
    let (mut sent, mut random, mut left) = (Digest::default(), Random::new(seed), octets);
    while left > 0 {
        let chunk = random.octets(left.min(1 << 17));
        stream.write_all(&chunk).expect("the stream takes it");
        sent.add(&chunk);
        left -= chunk.len();
    }
    stream.shutdown(Shutdown::Write).expect("an open stream");
    (sent, receiver.join().expect("the reader ends"))
}
