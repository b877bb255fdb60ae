//! TCP between endpoints.

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use smoltcp::wire::{IpAddress, IpEndpoint};

use super::*;

/// What a client saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Report {
    sent: usize,
    sent_hash: u64,
    received: usize,
    received_hash: u64,
    established: bool,
    /// The connection is over.
    done: bool,
}

/// Sends octets, reads what comes back, and closes when it has as much as it expects.
struct Client {
    remote: IpEndpoint,
    local_port: u16,
    send: usize,
    expect: usize,
    /// Does not close before this is set.
    release: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    handle: Option<SocketHandle>,
}

impl Client {
    fn new(remote: &str, port: u16, send: usize, expect: usize) -> Self {
        let address: IpAddress = remote.parse::<std::net::IpAddr>().expect("an address").into();
        Self {
            remote: IpEndpoint::new(address, port),
            local_port: 50_000,
            send,
            expect,
            release: Arc::new(AtomicBool::new(true)),
            report: Arc::default(),
            handle: None,
        }
    }
}

/// FNV-1a.
fn hash(state: u64, octets: &[u8]) -> u64 {
    octets.iter().fold(state, |state, octet| {
        (state ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The octet at a place of the stream that every client sends.
fn octet(position: usize) -> u8 {
    ((position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl Application for Client {
    fn start(&mut self, host: &mut Host<'_>) {
        let buffer = || tcp::SocketBuffer::new(vec![0; 64 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket
            .connect(host.context, self.remote, self.local_port)
            .expect("a fresh socket");
        self.handle = Some(host.sockets.add(socket));
    }

    fn poll(&mut self, _now: Instant, host: &mut Host<'_>) -> Option<Instant> {
        let socket: &mut tcp::Socket<'_> = host.sockets.get_mut(self.handle?);
        let mut report = self.report.lock();
        report.established |= socket.state() == tcp::State::Established;
        while socket.can_send() && report.sent < self.send {
            let sent = report.sent;
            let chunk: Vec<u8> = (sent..self.send.min(sent + 4096)).map(octet).collect();
            let n = socket.send_slice(&chunk).expect("it can send");
            report.sent_hash = hash(report.sent_hash, &chunk[..n]);
            report.sent += n;
        }
        while socket.can_recv() {
            let received_hash = report.received_hash;
            let (n, digest) = socket
                .recv(|octets| (octets.len(), (octets.len(), hash(received_hash, octets))))
                .expect("it can receive");
            report.received += n;
            report.received_hash = digest;
        }
        if report.sent == self.send
            && report.received >= self.expect
            && self.release.load(Ordering::Relaxed)
            && report.established
        {
            socket.close();
        }
        report.done = matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait);
        None
    }
}

fn with_clients(cidr: &str, mtu: u16, clients: Vec<Client>) -> (Arc<EndpointPort>, Vec<Arc<Mutex<Report>>>) {
    let reports = clients.iter().map(|client| client.report.clone()).collect();
    let mut applications: Vec<Box<dyn Application>> = Vec::new();
    for client in clients {
        applications.push(Box::new(client));
    }
    (
        EndpointPort::new(cidr, MAC_B, mtu, applications).expect("a good address"),
        reports,
    )
}

fn echo_a_mebibyte(server: &str, client: &str, remote: &str, mtu: u16) {
    const SIZE: usize = 1 << 20;
    let server = EndpointPort::new(server, MAC_A, mtu, Vec::new()).expect("a good address");
    let (client, reports) = with_clients(client, mtu, vec![Client::new(remote, ECHO_PORT, SIZE, SIZE)]);
    let mut wire = Wire::new(server.clone(), client);
    wire.run(60_000, || reports[0].lock().done);
    let report = *reports[0].lock();
    assert_eq!((report.sent, report.received), (SIZE, SIZE));
    assert_eq!(report.sent_hash, report.received_hash);
    let counts = server.services();
    assert_eq!((counts.connections, counts.echoed_octets), (1, SIZE as u64));
    assert_eq!(server.status().connections, 1);
    let least = SIZE as u64 / u64::from(mtu);
    assert!(
        wire.frames[0] > least && wire.frames[1] > least,
        "{:?}",
        wire.frames
    );
}

#[test]
fn a_mebibyte_comes_back_over_ipv4() {
    echo_a_mebibyte("192.0.2.1/24", "192.0.2.2/24", "192.0.2.1", 1500);
}

#[test]
fn a_mebibyte_comes_back_over_ipv6() {
    echo_a_mebibyte("2001:db8::1/64", "2001:db8::2/64", "2001:db8::1", 1500);
}

#[test]
fn a_mebibyte_comes_back_in_jumbo_frames_and_in_tiny_ones() {
    echo_a_mebibyte("192.0.2.1/24", "192.0.2.2/24", "192.0.2.1", 9000);
    echo_a_mebibyte("192.0.2.1/24", "192.0.2.2/24", "192.0.2.1", 576);
}

#[test]
fn what_is_discarded_is_counted() {
    let server = endpoint("192.0.2.1/24", MAC_A);
    let client = Client::new("192.0.2.1", DISCARD_PORT, 300_000, 0);
    let (client, reports) = with_clients("192.0.2.2/24", 1500, vec![client]);
    Wire::new(server.clone(), client).run(60_000, || reports[0].lock().done);
    assert_eq!(server.services().discarded_octets, 300_000);
    assert_eq!(reports[0].lock().received, 0);
}

/// As many clients as there are connections, all at once, while another is refused; when they are gone, the next
/// ones are served.
#[test]
fn many_connections_are_served_and_the_port_listens_again() {
    let server = endpoint("192.0.2.1/24", MAC_A);
    for generation in 0..3 {
        serve_a_generation(&server, Instant(1_000_000_000 + generation * 3_600_000_000_000));
    }
    let counts = server.services();
    assert_eq!(counts.connections, 3 * MAX_CONNECTIONS as u64);
    assert_eq!(counts.echoed_octets, 3 * MAX_CONNECTIONS as u64 * 10_000);
}

fn serve_a_generation(server: &Arc<EndpointPort>, now: Instant) {
    let release = Arc::new(AtomicBool::new(false));
    let clients: Vec<Client> = (0..=MAX_CONNECTIONS)
        .map(|n| Client {
            local_port: 50_000 + n as u16,
            release: release.clone(),
            ..Client::new("192.0.2.1", ECHO_PORT, 10_000, 10_000)
        })
        .collect();
    let (client, reports) = with_clients("192.0.2.2/24", 1500, clients);
    let mut wire = Wire::new(server.clone(), client.clone());
    wire.now = now;
    let served = || {
        reports
            .iter()
            .filter(|report| report.lock().received == 10_000)
            .count()
    };
    let refused = || reports.iter().filter(|report| report.lock().done).count();
    wire.run(60_000, || served() == MAX_CONNECTIONS && refused() == 1);

    release.store(true, Ordering::Relaxed);
    client.poke();
    wire.run(60_000, || reports.iter().all(|report| report.lock().done));
    for report in reports.iter().map(|report| *report.lock()) {
        assert_eq!(
            report.received_hash,
            if report.established { report.sent_hash } else { 0 }
        );
    }
}

/// A peer that vanishes in the middle of a connection holds it for a while, not for ever.
#[test]
fn a_vanished_peer_is_forgotten() {
    let server = endpoint("192.0.2.1/24", MAC_A);
    let client = Client {
        release: Arc::new(AtomicBool::new(false)),
        ..Client::new("192.0.2.1", ECHO_PORT, 100, 100)
    };
    let (client, reports) = with_clients("192.0.2.2/24", 1500, vec![client]);
    let mut wire = Wire::new(server.clone(), client);
    wire.run(60_000, || reports[0].lock().received == 100);
    wire.ends[1].close();

    let mut now = wire.now;
    let end = Instant(now.0 + 200_000_000_000);
    let mut keep_alives = 0;
    while let Some(next) = server.deadline(0, now).filter(|at| *at < end) {
        now = next.max(Instant(now.0 + 1_000));
        keep_alives += take(&server, now)
            .iter()
            .filter(|frame| frame[12..14] == [8, 0])
            .count();
    }
    assert_eq!(server.deadline(0, now), None, "it waits for nothing any more");
    assert!(keep_alives > 0, "it asked first");
    serve_a_generation(&server, Instant(now.0 + 100_000_000_000));
}

/// Without anything to do, an endpoint asks for nothing.
#[test]
fn an_idle_endpoint_has_no_deadline() {
    let server = endpoint("192.0.2.1/24", MAC_A);
    take(&server, Instant(0));
    assert_eq!(server.deadline(0, Instant(0)), None);
    assert!(!server.arm(0, false));
}
