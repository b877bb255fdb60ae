//! Two kernels that talk TCP over two taps of a switch.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::netns::Namespace;

/// The longest that anything may take.
pub const LIMIT: Duration = Duration::from_secs(20);
/// The server's port.
pub const PORT: u16 = 5001;
/// Octets of a full segment: 1,500, less the headers of IPv4 and TCP with time stamps.
const SEGMENT: usize = 1_448;
/// Requests of a conversation.
pub const ROUNDS: usize = 12;

/// Two hosts on taps of a switch.
pub struct Site {
    /// The client's host, on port v0.
    pub client: Namespace,
    /// The server's host, on port v1.
    pub server: Namespace,
    /// The switch.
    pub daemon: Daemon,
    _switch: Namespace,
}

/// How a client asks.
#[derive(Clone, Copy, PartialEq)]
pub enum Request {
    /// In one write.
    Whole,
    /// In two writes.
    Split,
    /// By a full segment with more to come (`MSG_MORE`), which no boundary of a message ends.
    Open,
}

/// What a client does.
#[derive(Clone, Copy)]
pub struct Talk {
    /// Whether Nagle's algorithm is on.
    pub nagle: bool,
    /// How it asks.
    pub request: Request,
    /// Whether the server acknowledges at once (`TCP_QUICKACK`).
    pub quick: bool,
    /// How long it waits after an answer.
    pub think: Duration,
}

/// Requests in two writes, without Nagle's algorithm.
pub const TALK: Talk = Talk {
    nagle: false,
    request: Request::Split,
    quick: false,
    think: Duration::ZERO,
};

impl Site {
    /// A client's host and a server's, on ports v0 and v1.
    pub fn new() -> Self {
        let (client, server, switch) = (Namespace::new(), Namespace::new(), Namespace::new());
        let daemon = switch.run(Daemon::start);
        for (namespace, port, tap, number) in [(&client, "v0", "t0", 1), (&server, "v1", "t1", 2)] {
            daemon.cli(&["port", "add", port, "--tap", tap]);
            let thread = namespace.number();
            switch.host(format!("ip link set {tap} netns {thread}"));
            namespace.host(format!(
                "ip addr add 192.0.2.{number}/24 dev {tap} && ip link set {tap} up"
            ));
        }
        Self {
            client,
            server,
            daemon,
            _switch: switch,
        }
    }

    /// Has both ends do something.
    pub fn talk(
        &self,
        client: impl FnOnce() + Send + 'static,
        server: impl FnOnce(TcpListener) + Send + 'static,
    ) {
        let listener = self
            .server
            .run(|| TcpListener::bind(("192.0.2.2", PORT)).expect("an own address"));
        thread::scope(|scope| {
            let serving = scope.spawn(|| self.server.run(move || server(listener)));
            self.client.run(client);
            serving.join().expect("the server's side");
        });
    }
}

/// Waits for something that is about to be.
pub fn wait_until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < LIMIT, "it takes too long");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A connection from the client.
pub fn connect(nagle: bool) -> TcpStream {
    let stream = TcpStream::connect(("192.0.2.2", PORT)).expect("the server takes a connection");
    stream.set_nodelay(!nagle).expect("a socket");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    stream
}

/// The client's side of a conversation.
pub fn ask(talk: Talk) {
    let mut stream = connect(talk.nagle);
    let mut answer = [0; 100];
    for _ in 0..ROUNDS {
        match talk.request {
            Request::Open => send_open(&stream),
            Request::Whole => stream.write_all(&[1; 64]).expect("the stream takes it"),
            Request::Split => {
                stream.write_all(&[1; 32]).expect("the stream takes it");
                thread::sleep(Duration::from_millis(1));
                stream.write_all(&[2; 32]).expect("the stream takes it");
            }
        }
        stream.read_exact(&mut answer).expect("the answer");
        thread::sleep(talk.think);
    }
}

/// The server's side.
pub fn answer(listener: &TcpListener, talk: Talk) {
    let (mut stream, _) = listener.accept().expect("the client connects");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let (octets, half) = match talk.request {
        Request::Open => (SEGMENT, SEGMENT),
        Request::Whole | Request::Split => (64, 32),
    };
    let mut request = vec![0; octets];
    for _ in 0..ROUNDS {
        for half in request.chunks_mut(half) {
            acknowledge(&stream, talk.quick);
            stream.read_exact(half).expect("a request");
        }
        stream.write_all(&[3; 100]).expect("the stream takes it");
    }
}

/// Sends a full segment and says that there is more to come.
#[allow(unsafe_code, reason = "the standard library has no MSG_MORE")]
fn send_open(stream: &TcpStream) {
    let octets = [1_u8; SEGMENT];
    // SAFETY: the descriptor is open while `stream` lives, and the kernel reads no more than the octets that are there.
    let sent = unsafe {
        libc::send(
            stream.as_raw_fd(),
            octets.as_ptr().cast(),
            octets.len(),
            libc::MSG_MORE,
        )
    };
    assert_eq!(sent, SEGMENT.cast_signed(), "{}", std::io::Error::last_os_error());
}

/// Leaves the mode of quick acknowledgements, or enters it.
#[allow(unsafe_code, reason = "the standard library has no TCP_QUICKACK")]
fn acknowledge(stream: &TcpStream, quick: bool) {
    let value = libc::c_int::from(quick);
    // SAFETY: the descriptor is open while `stream` lives, and the kernel reads the one int that the length names.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Sends 20 MB.
pub fn send_bulk() {
    let mut stream = connect(true);
    let octets = vec![7; 1 << 16];
    for _ in 0..300 {
        stream.write_all(&octets).expect("the stream takes it");
    }
}

/// Takes all that comes.
pub fn receive_bulk(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("the client connects");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let mut buffer = vec![0; 1 << 17];
    while stream.read(&mut buffer).expect("data or the end") > 0 {}
}
