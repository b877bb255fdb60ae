//! A vhost-user peer without a machine: the `vhost` crate's front end with a mock driver for its rings.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use vswitch::ring::mock::{MockGuest, MockQueue, Shape};
use vswitch::ring::{RingSetup, feature};

use super::frames::{self, ECHO_PORT, Host, Mac};

/// Features of a driver that may ask for every offload, and takes none.
pub const FEATURES: u64 =
    feature::VERSION_1 | feature::MRG_RXBUF | feature::INDIRECT_DESC | feature::EVENT_IDX | feature::REQUESTS;
/// Index of the ring on which the peer receives.
pub const RX: usize = 0;
/// Index of the ring on which it transmits.
pub const TX: usize = 1;
/// How long a peer waits for the switch, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

const PROTOCOL_FEATURES: u64 = 1 << 30;
const MEMORY: u64 = 0x80_0000;
const RX_ENTRIES: u16 = 256;
const RX_BUFFER: u32 = 2048;
const TX_ENTRIES: u16 = 64;
/// Room for the largest frame and its virtio-net header.
const TX_BUFFER: u64 = 0x1_1000;
const VNET: usize = 12;

/// A peer with running rings, one pair of them.
pub struct Peer {
    /// Its end of the socket.
    pub frontend: Frontend,
    /// Its memory.
    pub memory: Arc<MockGuest>,
    /// The ring on which it receives.
    pub rx: Ring,
    /// The ring on which it transmits.
    pub tx: Ring,
    /// Its addresses.
    pub host: Host,
    epoll: Epoll,
}

/// One ring with its doorbells.
pub struct Ring {
    /// The driver's side.
    pub driver: MockQueue,
    /// Rung by the peer.
    pub kick: EventFd,
    /// Rung by the switch.
    pub call: EventFd,
}

impl Ring {
    fn new(driver: MockQueue) -> Self {
        let event = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        Self {
            driver,
            kick: event(),
            call: event(),
        }
    }

    /// Rings, whether or not the switch wants to hear it.
    pub fn ring(&self) {
        self.kick.write(1).expect("an eventfd takes a number");
    }
}

impl Peer {
    /// Attaches to a port as host 192.0.2.`number`, with receive buffers posted.
    pub fn attach(socket: &Path, number: u8) -> Self {
        let mut peer = Self::connect(socket, number);
        peer.share_memory();
        peer.start();
        peer.refill();
        peer
    }

    /// Connects and agrees on features; shares nothing yet.
    pub fn connect(socket: &Path, number: u8) -> Self {
        let frontend = Frontend::connect(socket, 2).expect("the port's socket takes a connection");
        let memory = MockGuest::new(MEMORY);
        let queue = |entries, buffer| Ring::new(MockQueue::new(&memory, entries, buffer, FEATURES, 0));
        let (rx, tx) = (queue(RX_ENTRIES, RX_BUFFER.into()), queue(TX_ENTRIES, TX_BUFFER));
        let epoll = Epoll::new().expect("an epoll descriptor");
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll
            .ctl(ControlOperation::Add, rx.call.as_raw_fd(), event)
            .expect("the doorbell is watched");
        let host = Host {
            mac: [2, 0, 0, 0, 1, number],
            ip: Ipv4Addr::new(192, 0, 2, number),
        };
        let mut peer = Self {
            frontend,
            memory,
            rx,
            tx,
            host,
            epoll,
        };
        peer.negotiate().expect("the port agrees on features");
        peer
    }

    fn negotiate(&mut self) -> vhost::Result<()> {
        let frontend = &mut self.frontend;
        let offered = frontend.get_features()?;
        assert_eq!(FEATURES & !offered, 0, "all features are offered");
        frontend.get_protocol_features()?;
        frontend.set_protocol_features(VhostUserProtocolFeatures::REPLY_ACK)?;
        frontend.set_owner()?;
        frontend.set_features(FEATURES | PROTOCOL_FEATURES)?;
        // From here on every request is answered, so that what follows it comes after it.
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        Ok(())
    }

    /// Shares its memory.
    pub fn share_memory(&mut self) {
        let spec = self.memory.region();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: spec.guest,
            memory_size: spec.size,
            userspace_addr: spec.user,
            mmap_offset: spec.offset,
            mmap_handle: self.memory.file().as_raw_fd(),
        };
        self.frontend
            .set_mem_table(&[region])
            .expect("the port maps the memory");
    }

    fn start(&mut self) {
        for index in [RX, TX] {
            let setup = self.ring(index).driver.setup();
            self.start_ring(index, &setup)
                .expect("the ring is where the peer says");
        }
        for index in [RX, TX] {
            self.frontend
                .set_vring_enable(index, true)
                .expect("the ring is enabled");
        }
    }

    fn ring(&self, index: usize) -> &Ring {
        if index == RX { &self.rx } else { &self.tx }
    }

    /// Says where a ring is and starts it.
    pub fn start_ring(&mut self, index: usize, setup: &RingSetup) -> vhost::Result<()> {
        let config = VringConfigData {
            queue_max_size: setup.size,
            queue_size: setup.size,
            flags: 0,
            desc_table_addr: setup.addresses.descriptors,
            used_ring_addr: setup.addresses.used,
            avail_ring_addr: setup.addresses.available,
            log_addr: None,
        };
        self.frontend.set_vring_num(index, setup.size)?;
        self.frontend.set_vring_base(index, setup.base)?;
        self.frontend.set_vring_addr(index, &config)?;
        let ring = if index == RX { &self.rx } else { &self.tx };
        self.frontend.set_vring_call(index, &ring.call)?;
        self.frontend.set_vring_kick(index, &ring.kick)
    }

    /// Makes all free receive buffers available.
    pub fn refill(&mut self) {
        while self.rx.driver.post(RX_BUFFER, Shape::Chain(1)) {}
        if self.rx.driver.must_kick() {
            self.rx.ring();
        }
    }

    /// Sends a frame that asks for no offload.
    pub fn send(&mut self, frame: &[u8]) {
        self.send_with(&[0; VNET], frame);
    }

    /// Sends a frame behind any virtio-net header.
    pub fn send_with(&mut self, vnet: &[u8; VNET], frame: &[u8]) {
        let octets = [&vnet[..], frame].concat();
        let end = Instant::now() + PATIENCE;
        loop {
            while self.tx.driver.used().is_some() {}
            if self.tx.driver.send(&octets, Shape::Chain(2)) {
                break;
            }
            assert!(Instant::now() < end, "the switch takes no frames");
            std::thread::yield_now();
        }
        if self.tx.driver.must_kick() {
            self.tx.ring();
        }
    }

    /// The next frame that is there, without its header; its buffers are posted again.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let frame = self.rx.driver.receive(VNET)?;
        self.refill();
        Some(frame[VNET..].to_vec())
    }

    /// The next frame, waited for.
    pub fn receive_within(&mut self, limit: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + limit;
        loop {
            self.rx.driver.want_interrupts(true);
            if let Some(frame) = self.receive() {
                return Some(frame);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let mut events = [EpollEvent::default()];
            let _ = self.epoll.wait(left.as_millis() as i32 + 1, &mut events);
            let _ = self.rx.call.read();
        }
    }

    /// Asks for the MAC address of `ip`.
    pub fn resolve(&mut self, ip: Ipv4Addr) -> Host {
        self.send(&frames::arp_request(self.host, ip));
        loop {
            let frame = self
                .receive_within(PATIENCE)
                .expect("an answer to the ARP request");
            if let Some(host) = frames::arp_answer(&frame).filter(|host| host.ip == ip) {
                return host;
            }
        }
    }

    /// Has `payload` echoed by `to`.
    pub fn echo(&mut self, to: Host, port: u16, payload: &[u8]) {
        self.send(&frames::datagram((self.host, port), (to, ECHO_PORT), payload));
        let mac = self.host.mac;
        loop {
            let frame = self.receive_within(PATIENCE).expect("the datagram comes back");
            if let Some(echoed) = frames::echoed(&frame, mac, port) {
                assert_eq!(echoed, payload, "what comes back is what was sent");
                return;
            }
        }
    }
}

/// Shows that a port serves whoever keeps to the rules: one attaches as host 192.0.2.`number`, and `to` echoes what it
/// says. Returns the MAC address that it used.
pub fn assert_serves(socket: &Path, number: u8, to: Ipv4Addr) -> Mac {
    let mut peer = Peer::attach(socket, number);
    let to = peer.resolve(to);
    for len in [1, 200, 1472] {
        peer.echo(to, 20_000, &frames::Random::new(len as u64).octets(len));
    }
    peer.host.mac
}

/// Sends one message as it is, true or not; what the other side makes of it shows elsewhere.
pub fn send_raw(peer: &UnixStream, code: u32, flags: u32, body: &[u8], files: &[RawFd]) -> io::Result<usize> {
    let mut message: Vec<u8> = [code, flags, body.len() as u32]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    message.extend(body);
    peer.send_with_fds(&[message.as_slice()], files)
        .map_err(Into::into)
}

/// A body of 64-bit words.
pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
