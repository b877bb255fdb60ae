//! Switches that end while they have frames in hand, and front ends that keep the memory in which that is noted.

#[path = "vhost_user_common/mod.rs"]
mod common;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Guest, MODERN, PROTOCOL_FEATURES, Port, ask, eventually, octets, send_raw, words};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;
use vswitch::frame::Burst;
use vswitch::port::Backend;
use vswitch::port::vhost_user::VhostUserPort;
use vswitch::ring::feature;
use vswitch::ring::mock::Shape;

const PACKED: u64 = MODERN | feature::RING_PACKED;
const NOW: introspection::Instant = introspection::Instant(0);
const KINDS: [u64; 4] = [
    MODERN,
    MODERN | feature::IN_ORDER,
    PACKED,
    PACKED | feature::IN_ORDER,
];

/// A guest whose front end keeps the memory for chains in hand.
struct Keeper {
    guest: Guest,
    kept: (VhostUserInflight, File),
}

impl Keeper {
    fn attach(path: &Path, features: u64) -> Self {
        let mut guest = Guest::connect(path, 1, features);
        guest.share_memory();
        let kept = guest
            .frontend
            .get_inflight_fd(&VhostUserInflight::new(0, 0, 2, 64))
            .unwrap();
        assert_eq!((kept.0.num_queues, kept.0.queue_size), (2, 64));
        enable(&mut guest);
        guest.start();
        Self { guest, kept }
    }

    /// Attaches again. The positions that rings are said to have are those of the first time, and wrong.
    fn attach_again(&mut self, path: &Path) {
        self.guest.reconnect(path);
        let (description, file) = &self.kept;
        self.guest
            .frontend
            .set_inflight_fd(description, file.as_raw_fd())
            .unwrap();
        enable(&mut self.guest);
        self.guest.start();
    }
}

/// A ring that runs and is not enabled would give the frames in it back unsent.
fn enable(guest: &mut Guest) {
    for index in 0..2 {
        guest.frontend.set_vring_enable(index, true).unwrap();
    }
}

#[test]
fn frames_in_hand_when_a_session_ends_are_taken_again() {
    for features in KINDS {
        let port = Port::new(1);
        let mut keeper = Keeper::attach(&port.path, features);
        let mut burst = Burst::default();
        for turn in 0..30 {
            for n in 0..3 {
                keeper.guest.transmit(0, &octets(60, 3 * turn + n));
            }
            port.backend.take(0, NOW, &mut burst);
            assert_eq!(burst.frames().len(), 3);
            keeper.guest.frontend.set_owner().unwrap();
            keeper.attach_again(&port.path);
            // The worker completes frames of a session that is gone.
            port.backend.complete(0, &burst);
            burst.clear();
            assert!(keeper.guest.tx[0].driver.used().is_none());
            port.backend.take(0, NOW, &mut burst);
            for n in 0..3 {
                let frame = burst.outgoing(n, 0).unwrap();
                assert_eq!(frame.head, octets(60, 3 * turn + n as u8));
            }
            port.backend.complete(0, &burst);
            burst.clear();
            let returned = std::iter::from_fn(|| keeper.guest.tx[0].driver.used()).count();
            assert_eq!(returned, 3);
        }
        assert!(port.backend.status().refusals.is_empty());
    }
}

#[test]
fn sixteen_queue_pairs_have_chains_in_hand_at_once() {
    const PAIRS: u16 = 16;
    let port = Port::new(PAIRS);
    let mut guest = Guest::connect(&port.path, PAIRS.into(), PACKED | 1 << 22);
    guest.share_memory();
    let asked = VhostUserInflight::new(0, 0, 2 * PAIRS, 1024);
    let (description, file) = guest.frontend.get_inflight_fd(&asked).unwrap();
    guest.start();
    let mut bursts: Vec<_> = (0..PAIRS).map(|_| Burst::default()).collect();
    let frames = |pair: u16| 1 + pair % 5;
    for again in [false, true] {
        for (pair, burst) in (0..PAIRS).zip(&mut bursts) {
            let frame = |n: u16| octets(60, (16 * n + pair) as u8);
            for n in 0..if again { 0 } else { frames(pair) } {
                guest.transmit(pair.into(), &frame(n));
            }
            port.backend.take(pair, NOW, burst);
            assert_eq!(burst.frames().len(), usize::from(frames(pair)));
            for n in 0..frames(pair) {
                assert_eq!(burst.outgoing(n.into(), 0).unwrap().head, frame(n));
            }
        }
        if !again {
            guest.reconnect(&port.path);
            guest
                .frontend
                .set_inflight_fd(&description, file.as_raw_fd())
                .unwrap();
            (0..2 * usize::from(PAIRS)).for_each(|ring| guest.frontend.set_vring_enable(ring, true).unwrap());
            guest.start();
        }
        for (pair, burst) in (0..PAIRS).zip(&mut bursts) {
            port.backend.complete(pair, burst);
            burst.clear();
            let returned = std::iter::from_fn(|| guest.tx[usize::from(pair)].driver.used()).count();
            assert_eq!(returned, if again { usize::from(frames(pair)) } else { 0 });
        }
    }
    assert!(port.backend.status().refusals.is_empty());
}

#[test]
fn a_ring_that_was_stopped_goes_on_where_the_front_end_says() {
    for features in KINDS {
        let port = Port::new(1);
        let mut keeper = Keeper::attach(&port.path, features);
        keeper.guest.transmit(0, &octets(60, 1));
        let mut burst = Burst::default();
        port.backend.take(0, NOW, &mut burst);
        port.backend.complete(0, &burst);
        burst.clear();
        let base = keeper.guest.frontend.get_vring_base(1).unwrap() as u16;
        keeper.guest.transmit(0, &octets(60, 2));
        let mut setup = keeper.guest.tx[0].driver.setup();
        setup.base = base;
        keeper.guest.start_ring(1, &setup).unwrap();
        port.backend.take(0, NOW, &mut burst);
        assert_eq!(burst.frames().len(), 1);
        assert_eq!(burst.outgoing(0, 0).unwrap().head, octets(60, 2));
        port.backend.complete(0, &burst);
    }
}

#[test]
fn memory_for_smaller_queues_is_refused_with_the_ring() {
    let port = Port::new(1);
    let mut guest = Guest::connect(&port.path, 1, MODERN);
    guest.share_memory();
    guest
        .frontend
        .get_inflight_fd(&VhostUserInflight::new(0, 0, 2, 32))
        .unwrap();
    let setup = guest.tx[0].driver.setup();
    guest.start_ring(1, &setup).unwrap_err();
    assert_eq!(port.refusals("ring_untracked"), 1);
    drop(guest);
    port.assert_serves();
}

const CHILD: &str = "ENLIGHT_TEST_SWITCH_SOCKET";

/// Not a test of its own, but the switch of the next one, in a process that can be killed: it sends a guest's frames back.
#[test]
fn switch_in_a_process_of_its_own() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let port = VhostUserPort::listen(Path::new(&path), 1, 1500).unwrap();
    let mut burst = Burst::default();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        port.take(0, NOW, &mut burst);
        let frames: Vec<_> = (0..burst.frames().len())
            .map(|index| burst.outgoing(index, 0).unwrap())
            .collect();
        // Time to be killed in.
        let pause =
            || std::thread::park_timeout(Duration::from_micros(if frames.is_empty() { 10 } else { 100 }));
        pause();
        let mut done = 0;
        while done < frames.len() && port.status().up {
            done += port.deliver(&frames[done..]).accepted;
        }
        pause();
        port.complete(0, &burst);
        burst.clear();
    }
}

struct Switch(Child);

impl Switch {
    fn start(path: &Path) -> Self {
        let switch = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "switch_in_a_process_of_its_own"])
            .env(CHILD, path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually(|| UnixStream::connect(path).is_ok(), "the switch's socket");
        Self(switch)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends numbered frames, and looks at those that come back.
#[derive(Default)]
struct Traffic {
    sent: u32,
    next: u32,
    repeated: u32,
    returned: u32,
}

impl Traffic {
    /// Sends a frame, if there is room. There are as many receive buffers as places in the sender's ring.
    fn send(&mut self, guest: &mut Guest) -> bool {
        let mut octets = vec![0; 72];
        octets[68..].copy_from_slice(&self.sent.to_le_bytes());
        let fits = guest.tx[0]
            .driver
            .send(&octets, Shape::Chain(1 + self.sent as usize % 2));
        self.sent += u32::from(fits);
        fits
    }

    /// Looks at what came back, and posts buffers anew.
    fn collect(&mut self, guest: &mut Guest) {
        while guest.tx[0].driver.used().is_some() {
            self.returned += 1;
        }
        while let Some(frame) = guest.received(0) {
            assert_eq!(frame.len(), 60);
            let number = u32::from_le_bytes(*frame.last_chunk().unwrap());
            assert!(number <= self.next, "frame {} is lost: {number} came", self.next);
            if number == self.next {
                self.next += 1;
            } else {
                self.repeated += 1;
            }
        }
        while guest.rx[0].driver.free() > 0 {
            assert!(guest.rx[0].driver.post(2048, Shape::Chain(1)));
        }
    }
}

/// A switch is killed again and again while it carries frames: no buffer is lost, none comes back twice (which the mock
/// driver would refuse), and no frame is missing.
#[test]
fn a_switch_that_is_killed_leaves_nothing_behind() {
    for features in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port.sock");
        let mut switch = Switch::start(&path);
        let mut keeper = Keeper::attach(&path, features);
        let mut traffic = Traffic::default();
        for kill in 0..16_u32 {
            let goal = traffic.next + 300;
            let start = Instant::now();
            while traffic.next < goal {
                assert!(start.elapsed() < Duration::from_secs(20), "frames do not pass");
                traffic.collect(&mut keeper.guest);
                traffic.send(&mut keeper.guest);
            }
            while traffic.send(&mut keeper.guest) {}
            (0..100 * kill).for_each(|_| std::hint::spin_loop());
            drop(switch);
            switch = Switch::start(&path);
            keeper.attach_again(&path);
        }
        let start = Instant::now();
        while traffic.returned < traffic.sent || traffic.next < traffic.sent {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "buffers do not come back"
            );
            traffic.collect(&mut keeper.guest);
        }
        assert_eq!((traffic.returned, traffic.next), (traffic.sent, traffic.sent));
        assert_eq!(keeper.guest.tx[0].driver.free(), 64);
        println!(
            "{features:#x}: {} frames, {} came again",
            traffic.sent, traffic.repeated
        );
    }
}

#[test]
fn a_status_is_kept_and_features_that_contradict_each_other_are_not_ok() {
    const CSUM: u64 = 1;
    const TSO4: u64 = 1 << 11;
    let port = Port::new(1);
    let mut peer = UnixStream::connect(&port.path).unwrap();
    assert_eq!(ask(&mut peer, 40), 0);
    for (features, status) in [(CSUM | TSO4, 0xb), (TSO4, 0x3), (0, 0xb)] {
        send_raw(&peer, 2, 1, &words(&[features | PROTOCOL_FEATURES]), &[]);
        send_raw(&peer, 39, 1, &words(&[0xb]), &[]);
        assert_eq!(ask(&mut peer, 40), status, "features {features:#x}");
    }
}

#[test]
fn a_status_of_0_stops_all_rings() {
    let port = Port::new(1);
    let guest = Guest::attach(&port.path, 1, MODERN);
    assert!(port.backend.status().up);
    // The crate's front end does not know the message.
    send_raw(&guest.socket, 39, 1, &words(&[0]), &[]);
    eventually(|| !port.backend.status().up, "the stop");
    assert!(port.backend.status().refusals.is_empty());
}

#[test]
fn the_channel_for_requests_to_the_front_end_lasts_as_long_as_the_session() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, MODERN);
    let (ours, theirs) = UnixStream::pair().unwrap();
    guest.frontend.set_backend_request_fd(&theirs).unwrap();
    drop(theirs);
    ours.set_nonblocking(true).unwrap();
    let read = |socket: &UnixStream| std::io::Read::read(&mut &*socket, &mut [0; 1]);
    assert!(read(&ours).is_err(), "open, and nothing is asked for");
    drop(guest);
    eventually(|| matches!(read(&ours), Ok(0)), "the end of the channel");
}
