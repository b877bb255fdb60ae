//! The kernel's own TCP, UDP and ping through taps.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::Barrier;

use offload::MacAddr;

use super::*;
use crate::port::endpoint::{ECHO_PORT, EndpointPort};

const SIZE: usize = 16 << 20;

/// FNV-1a over eight octets at a time.
fn hash(state: u64, octets: &[u8]) -> u64 {
    octets.iter().fold(state, |state, octet| {
        (state ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Sends pseudo-random octets, reads as many from the other side; returns the hashes of both.
fn exchange(mut stream: TcpStream, seed: u64) -> (u64, u64) {
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let mut reader = stream.try_clone().expect("a second handle");
    let receiver = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        let mut digest = 0;
        loop {
            match reader.read(&mut buffer).expect("data or the end") {
                0 => return digest,
                n => digest = hash(digest, &buffer[..n]),
            }
        }
    });
    let mut state = seed;
    let mut digest = 0;
    let mut chunk = vec![0; 1 << 16];
    for _ in 0..SIZE / chunk.len() {
        for word in chunk.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            word.copy_from_slice(&state.to_le_bytes());
        }
        stream.write_all(&chunk).expect("the stream takes it");
        digest = hash(digest, &chunk);
    }
    stream.shutdown(Shutdown::Write).expect("an open stream");
    (digest, receiver.join().expect("the reader ends"))
}

/// TCP between two kernels' namespaces, both directions at once. Large sends pass whole.
fn kernel_to_kernel(addresses: [&'static str; 2]) -> Pumped {
    // A namespace, and the tap in it, must not end before the other side is done.
    let end = Barrier::new(2);
    thread::scope(|scope| {
        let (ports_tx, ports) = mpsc::channel();
        let (listening_tx, listening) = mpsc::channel();
        let (server_ports, end) = (ports_tx.clone(), &end);
        let server = scope.spawn(move || {
            enter_new_namespace();
            server_ports
                .send(open_with_address(addresses[0]))
                .expect("the pump");
            let listener = TcpListener::bind(host(addresses[0], 5000)).expect("an own address");
            listening_tx.send(()).expect("the client");
            let result = exchange(listener.accept().expect("a client").0, 1);
            end.wait();
            result
        });
        let client = scope.spawn(move || {
            enter_new_namespace();
            ports_tx.send(open_with_address(addresses[1])).expect("the pump");
            listening.recv().expect("the server");
            let result = exchange(
                TcpStream::connect(host(addresses[0], 5000)).expect("a connection"),
                2,
            );
            end.wait();
            result
        });
        let (a, b) = (ports.recv().expect("a port"), ports.recv().expect("a port"));
        let pumped = pump(
            [&*a, &*b],
            &[a.queues[0].device.as_raw_fd(), b.queues[0].device.as_raw_fd()],
            || server.is_finished() && client.is_finished(),
        );
        let (server, client) = (
            server.join().expect("the server"),
            client.join().expect("the client"),
        );
        assert_eq!(server.0, client.1, "what the server sent");
        assert_eq!(client.0, server.1, "what the client sent");
        pumped
    })
}

fn open_with_address(address: &str) -> Arc<TapPort> {
    let port = TapPort::open("tap0", 1500, 1).expect("a new tap");
    let nodad = if address.contains(':') { " nodad" } else { "" };
    ip(&format!("address add {address} dev tap0{nodad}"));
    port
}

fn host(cidr: &str, port: u16) -> (std::net::IpAddr, u16) {
    let address = cidr.split('/').next().expect("an address");
    (address.parse().expect("an address"), port)
}

#[test]
fn kernel_tcp_over_ipv4_passes_whole_in_both_directions() {
    if skip("kernel_tcp_over_ipv4_passes_whole_in_both_directions") {
        return;
    }
    check_offloads(&kernel_to_kernel(["192.0.2.1/24", "192.0.2.2/24"]));
}

#[test]
fn kernel_tcp_over_ipv6_passes_whole_in_both_directions() {
    if skip("kernel_tcp_over_ipv6_passes_whole_in_both_directions") {
        return;
    }
    check_offloads(&kernel_to_kernel(["2001:db8::1/64", "2001:db8::2/64"]));
}

fn check_offloads(pumped: &Pumped) {
    assert_eq!(pumped.refused, 0, "{pumped:?}");
    for way in 0..2 {
        assert!(pumped.large[way] > 0 && pumped.partial[way] > 0, "{pumped:?}");
        // Cut to the MTU there would be more than 11,000 data frames, and acknowledgements beside them.
        assert!(pumped.frames[way] < (SIZE / 1448) as u64, "{pumped:?}");
    }
}

#[test]
fn the_kernel_and_an_endpoint_talk() {
    if skip("the_kernel_and_an_endpoint_talk") {
        return;
    }
    in_namespace(|| {
        let tap = open_with_address("192.0.2.1/24");
        let mac = MacAddr([2, 0, 0, 0, 0, 2]);
        let endpoint = EndpointPort::new("192.0.2.2/24", mac, 1500, Vec::new()).expect("a good address");
        let udp = UdpSocket::bind("192.0.2.1:0").expect("an own address");
        udp.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let (done_tx, done) = mpsc::channel();
        thread::scope(|scope| {
            // A thread inherits its maker's namespace.
            scope.spawn(move || {
                udp.send_to(b"datagram", ("192.0.2.2", ECHO_PORT))
                    .expect("a route");
                let mut buffer = [0; 16];
                let (len, from) = udp.recv_from(&mut buffer).expect("an echo");
                assert_eq!((&buffer[..len], from.port()), (&b"datagram"[..], ECHO_PORT));

                let mut tcp = TcpStream::connect(("192.0.2.2", ECHO_PORT)).expect("a connection");
                tcp.set_read_timeout(Some(LIMIT)).expect("a timeout");
                for n in 0..100_u8 {
                    tcp.write_all(&[n; 100]).expect("an open stream");
                    let mut echo = [0; 100];
                    tcp.read_exact(&mut echo).expect("an echo");
                    assert_eq!(echo, [n; 100]);
                }
                ping("192.0.2.2");
                done_tx.send(()).expect("the pump");
            });
            let pumped = pump([&*tap, &*endpoint], &[tap.queues[0].device.as_raw_fd()], || {
                done.try_recv().is_ok()
            });
            assert_eq!(pumped.refused, 0, "{pumped:?}");
        });
        let counts = endpoint.services();
        assert_eq!(
            (counts.connections, counts.echoed_octets, counts.echoed_datagrams),
            (1, 10_000, 1)
        );
    });
}

fn ping(address: &str) {
    match Command::new("ping")
        .args(["-c", "3", "-i", "0.01", "-W", "5", address])
        .output()
    {
        Err(_) => eprintln!("skipped: ping in the_kernel_and_an_endpoint_talk (not installed)"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("3 received"), "{text}");
        }
    }
}
