//! A guest and its VMM: the mock driver behind the `vhost` crate's front end, and raw messages for those who misbehave.
#![allow(dead_code)] // each test file uses a part of it

use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use vswitch::frame::Burst;
use vswitch::port::vhost_user::VhostUserPort;
use vswitch::port::{Backend, Waker};
use vswitch::ring::mock::{MockGuest, MockQueue, Shape};
use vswitch::ring::{RingSetup, feature};

pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// The switch's own protocol feature, and the request that it allows: a guest's control command.
pub(crate) const NET_CONTROL: u64 = 1 << 62;
pub(crate) const CONTROL: u32 = 0x454c_0001;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
pub(crate) const MODERN: u64 =
    feature::VERSION_1 | feature::MRG_RXBUF | feature::INDIRECT_DESC | feature::EVENT_IDX;
const QUEUE: u16 = 64;
const BUFFER: u64 = 0x1_1000;

/// A worker that notes what it is asked to watch.
#[derive(Debug, Default)]
pub(crate) struct TestWaker {
    pub(crate) watched: Mutex<Vec<RawFd>>,
    pub(crate) wakes: AtomicUsize,
}

impl Waker for TestWaker {
    fn watch(&self, _queue: u16, fd: RawFd) -> std::io::Result<()> {
        self.watched.lock().push(fd);
        Ok(())
    }
    fn watch_writable(&self, _queue: u16, _fd: RawFd, _on: bool) -> std::io::Result<()> {
        Ok(())
    }
    fn unwatch(&self, _queue: u16, fd: RawFd) {
        let mut watched = self.watched.lock();
        let at = watched
            .iter()
            .position(|other| *other == fd)
            .expect("only what is watched is unwatched");
        watched.remove(at);
    }
    fn wake(&self, _queue: u16) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
    }
}

/// A port with its worker.
pub(crate) struct Port {
    pub(crate) backend: Arc<VhostUserPort>,
    pub(crate) waker: Arc<TestWaker>,
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Port {
    pub(crate) fn new(queue_pairs: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port.sock");
        let backend = VhostUserPort::listen(&path, queue_pairs, 1500).unwrap();
        let waker = Arc::new(TestWaker::default());
        backend.attach(Arc::clone(&waker) as Arc<dyn Waker>);
        Self {
            backend,
            waker,
            path,
            _directory: directory,
        }
    }

    pub(crate) fn refusals(&self, kind: &str) -> u64 {
        self.backend.status().refusals.get(kind).copied().unwrap_or(0)
    }

    /// Waits until the port has counted a refusal of this kind.
    pub(crate) fn wait_refusal(&self, kind: &str) {
        eventually(|| self.refusals(kind) > 0, &format!("a refusal of kind {kind}"));
    }

    /// Shows that the port serves the next peer: one attaches, sends a frame and receives one.
    pub(crate) fn assert_serves(&self) {
        let mut guest = Guest::attach(&self.path, 1, MODERN);
        let frame = octets(200, 42);
        guest.transmit(0, &frame);
        let mut burst = Burst::default();
        self.backend.take(0, introspection::Instant(0), &mut burst);
        assert_eq!(burst.frames().len(), 1);
        guest.post(0, 4);
        let delivery = self.backend.deliver(&[burst.outgoing(0, 0).unwrap()]);
        assert_eq!((delivery.accepted, delivery.refusal), (1, None));
        self.backend.complete(0, &burst);
        assert_eq!(guest.received(0).unwrap(), frame);
    }
}

/// A guest whose VMM is attached to a port.
pub(crate) struct Guest {
    pub(crate) frontend: Frontend,
    /// The front end's, for messages that it does not know.
    pub(crate) socket: UnixStream,
    pub(crate) memory: Arc<MockGuest>,
    pub(crate) rx: Vec<Ring>,
    pub(crate) tx: Vec<Ring>,
    pub(crate) features: u64,
    passes_on: bool,
}

/// One ring with its doorbells.
pub(crate) struct Ring {
    pub(crate) driver: MockQueue,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
}

impl Guest {
    /// Attaches with all rings running and enabled.
    pub(crate) fn attach(path: &Path, queue_pairs: usize, features: u64) -> Self {
        let mut guest = Self::connect(path, queue_pairs, features);
        guest.share_memory();
        guest.start();
        guest
    }

    /// Attaches as a peer that passes its guest's control commands on.
    pub(crate) fn attach_controlled(path: &Path, queue_pairs: usize, features: u64) -> Self {
        let mut guest = Self::make(path, queue_pairs, features, true);
        guest.share_memory();
        guest.start();
        guest
    }

    /// Connects and agrees on features.
    pub(crate) fn connect(path: &Path, queue_pairs: usize, features: u64) -> Self {
        Self::make(path, queue_pairs, features, false)
    }

    fn make(path: &Path, queue_pairs: usize, features: u64, passes_on: bool) -> Self {
        let (frontend, socket) = front_end(path, queue_pairs);
        let memory = MockGuest::new(queue_pairs as u64 * 0x100_0000);
        let ring = |_| Ring {
            driver: MockQueue::new(&memory, QUEUE, BUFFER, features, 0),
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
        };
        let (rx, tx) = (
            (0..queue_pairs).map(ring).collect(),
            (0..queue_pairs).map(ring).collect(),
        );
        let mut guest = Self {
            frontend,
            socket,
            memory,
            rx,
            tx,
            features,
            passes_on,
        };
        guest.negotiate();
        guest
    }

    /// Connects again, with the same memory and rings, which do not run yet.
    pub(crate) fn reconnect(&mut self, path: &Path) {
        (self.frontend, self.socket) = front_end(path, self.rx.len());
        self.negotiate();
        self.share_memory();
    }

    fn negotiate(&mut self) {
        let mut offered = self.frontend.get_features().unwrap();
        let protocol = self.frontend.get_protocol_features().unwrap();
        let several = self.rx.len() > 1;
        assert!(protocol.contains(VhostUserProtocolFeatures::REPLY_ACK));
        assert!(!several || protocol.contains(VhostUserProtocolFeatures::MQ));
        let mut wanted = VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::BACKEND_REQ;
        wanted.set(VhostUserProtocolFeatures::MQ, several);
        if self.passes_on {
            assert_ne!(self.ask(GET_PROTOCOL_FEATURES, &[]) & NET_CONTROL, 0);
            wanted |= VhostUserProtocolFeatures::from_bits_retain(NET_CONTROL);
        }
        self.frontend.set_protocol_features(wanted).unwrap();
        if self.passes_on {
            offered = self.frontend.get_features().unwrap();
        }
        assert_eq!(self.features & !offered, 0, "all features are offered");
        self.frontend.set_owner().unwrap();
        self.frontend
            .set_features(self.features | PROTOCOL_FEATURES)
            .unwrap();
        // From here on every request is answered, so that what follows it comes after it.
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        if several && self.passes_on {
            assert_eq!(self.ask(GET_QUEUE_NUM, &[]), self.rx.len() as u64, "pairs");
        } else if several {
            let rings = self.frontend.get_queue_num().unwrap();
            assert_eq!(rings, 2 * self.rx.len() as u64, "as Rust's front ends count");
        }
    }

    /// Sends a control command; whether it was carried out.
    pub(crate) fn control(&mut self, command: &[u8]) -> bool {
        self.ask(CONTROL, command) == 0
    }

    /// Sends a request that is answered with a number.
    fn ask(&mut self, request: u32, body: &[u8]) -> u64 {
        send_raw(&self.socket, request, 1, body, &[]);
        let mut answer = [0; 20];
        self.socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..12], *words32(&[request, 5, 8]));
        u64::from_ne_bytes(answer[12..].try_into().unwrap())
    }

    pub(crate) fn region(&self) -> VhostUserMemoryRegionInfo {
        region(&self.memory)
    }

    pub(crate) fn share_memory(&mut self) {
        self.frontend.set_mem_table(&[self.region()]).unwrap();
    }

    pub(crate) fn start(&mut self) {
        for pair in 0..self.rx.len() {
            let setup = self.rx[pair].driver.setup();
            self.start_ring(2 * pair, &setup).unwrap();
            let setup = self.tx[pair].driver.setup();
            self.start_ring(2 * pair + 1, &setup).unwrap();
        }
        for index in 0..2 * self.rx.len() {
            self.frontend.set_vring_enable(index, true).unwrap();
        }
    }

    pub(crate) fn start_ring(&mut self, index: usize, setup: &RingSetup) -> vhost::Result<()> {
        let pair = index / 2;
        let ring = if index.is_multiple_of(2) {
            &self.rx[pair]
        } else {
            &self.tx[pair]
        };
        self.frontend.set_vring_num(index, setup.size)?;
        self.frontend.set_vring_base(index, setup.base)?;
        self.frontend.set_vring_addr(index, &config(setup))?;
        self.frontend.set_vring_call(index, &ring.call)?;
        self.frontend.set_vring_kick(index, &ring.kick)
    }

    /// Sends a frame; rings if the port wants to hear of it. Returns whether it did.
    pub(crate) fn transmit(&mut self, pair: usize, frame: &[u8]) -> bool {
        let mut octets = vec![0; self.header_len()];
        let ring = &mut self.tx[pair];
        octets.extend(frame);
        while ring.driver.used().is_some() {}
        assert!(ring.driver.send(&octets, Shape::Chain(2)));
        let kick = ring.driver.must_kick();
        if kick {
            ring.kick.write(1).unwrap();
        }
        kick
    }

    fn header_len(&self) -> usize {
        if self.features & feature::HASH_REPORT == 0 {
            12
        } else {
            20
        }
    }

    /// Posts receive buffers.
    pub(crate) fn post(&mut self, pair: usize, buffers: usize) {
        for _ in 0..buffers {
            assert!(self.rx[pair].driver.post(2048, Shape::Chain(1)));
        }
    }

    /// The next frame received, without its header.
    pub(crate) fn received(&mut self, pair: usize) -> Option<Vec<u8>> {
        self.received_with_header(pair).map(|(_, frame)| frame)
    }

    /// The next frame received, behind its header.
    pub(crate) fn received_with_header(&mut self, pair: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let header_len = self.header_len();
        let mut octets = self.rx[pair].driver.receive(header_len)?;
        let frame = octets.split_off(header_len);
        Some((octets, frame))
    }
}

fn front_end(path: &Path, queue_pairs: usize) -> (Frontend, UnixStream) {
    let socket = UnixStream::connect(path).unwrap();
    let copy = socket.try_clone().unwrap();
    (Frontend::from_stream(socket, 2 * queue_pairs as u64), copy)
}

/// The only region of a guest's memory, for the front end.
pub(crate) fn region(memory: &MockGuest) -> VhostUserMemoryRegionInfo {
    let spec = memory.region();
    VhostUserMemoryRegionInfo {
        guest_phys_addr: spec.guest,
        memory_size: spec.size,
        userspace_addr: spec.user,
        mmap_offset: spec.offset,
        mmap_handle: memory.file().as_raw_fd(),
    }
}

pub(crate) fn config(setup: &RingSetup) -> VringConfigData {
    VringConfigData {
        queue_max_size: setup.size,
        queue_size: setup.size,
        flags: 0,
        desc_table_addr: setup.addresses.descriptors,
        used_ring_addr: setup.addresses.used,
        avail_ring_addr: setup.addresses.available,
        log_addr: None,
    }
}

/// The answer to a request whose reply has a body of one word.
pub(crate) fn ask(peer: &mut UnixStream, code: u32) -> u64 {
    send_raw(peer, code, 1, &[], &[]);
    let mut reply = [0; 20];
    peer.read_exact(&mut reply).unwrap();
    u64::from_ne_bytes(*reply.last_chunk().unwrap())
}

/// A frame's octets.
pub(crate) fn octets(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|n| (n as u8).wrapping_mul(17).wrapping_add(seed))
        .collect()
}

/// Waits for something that another thread does.
pub(crate) fn eventually(condition: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Sends one message as it is, true or not.
pub(crate) fn send_raw(peer: &UnixStream, code: u32, flags: u32, body: &[u8], files: &[RawFd]) {
    let mut message = Vec::new();
    for word in [code, flags, body.len() as u32] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(body);
    peer.send_with_fds(&[message.as_slice()], files).unwrap();
}

/// A header of 32-bit words.
fn words32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A body of 64-bit words.
pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
