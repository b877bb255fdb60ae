//! Queues that move from worker to worker while they carry frames: nothing is lost, nothing is overtaken.

#[path = "vhost_user_common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Guest, MODERN, eventually};
use vswitch::Switch;
use vswitch::control::{ControlError, PortConfig, PortKind, QueueStats, SwitchConfig, Why, WorkerConfig};
use vswitch::ring::mock::Shape;

const QUEUES: u16 = 4;
const MULTIQUEUE: u64 = 1 << 22;
/// Frames of a flow that are on their way at most: all flows' together fit the receiver's backlog, so that none may be dropped.
const ON_THE_WAY: u32 = 1000;
/// A local experimental EtherType (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// A sender with several queues and a receiver on a switch with two workers. Each queue is a flow.
struct Scene {
    switch: Switch,
    sender: Guest,
    receiver: Guest,
    sent: [u32; QUEUES as usize],
    got: [u32; QUEUES as usize],
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch::start(&SwitchConfig {
            workers: vec![WorkerConfig::default(); 2],
        })
        .unwrap();
        let path = |name: &str| directory.path().join(name);
        for (name, queues) in [("sender", QUEUES), ("receiver", 1)] {
            switch
                .add_port(PortConfig {
                    queues,
                    ..PortConfig::new(name, PortKind::VhostUser(path(name)))
                })
                .unwrap();
        }
        let sender = Guest::attach(&path("sender"), QUEUES.into(), MODERN | MULTIQUEUE);
        let mut receiver = Guest::attach(&path("receiver"), 1, MODERN);
        receiver.post(0, 32);
        Self {
            switch,
            sender,
            receiver,
            sent: [0; QUEUES as usize],
            got: [0; QUEUES as usize],
            _directory: directory,
        }
    }

    /// Fills a queue with frames of its flow, numbered, as far as the receiver keeps up.
    fn fill(&mut self, queue: u16) {
        let flow = usize::from(queue);
        let ring = &mut self.sender.tx[flow];
        while ring.driver.used().is_some() {}
        while self.sent[flow] - self.got[flow] < ON_THE_WAY {
            let mut octets = vec![0; 12 + 1400];
            octets[12..18].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
            octets[18..24].copy_from_slice(&[2, 0, 0, 0, 0, queue as u8]);
            octets[24..26].copy_from_slice(&ETHERTYPE);
            octets[26] = queue as u8;
            octets[27..31].copy_from_slice(&self.sent[flow].to_be_bytes());
            if !ring.driver.send(&octets, Shape::Chain(2)) {
                break;
            }
            self.sent[flow] += 1;
        }
        if ring.driver.must_kick() {
            ring.kick.write(1).unwrap();
        }
    }

    /// Takes what arrived: of each flow the next frame, always.
    fn drain(&mut self) {
        let mut room = 0;
        while let Some(frame) = self.receiver.received(0) {
            let flow = usize::from(frame[14]);
            let number = u32::from_be_bytes(frame[15..19].try_into().unwrap());
            assert_eq!(
                number,
                self.got[flow],
                "queue {flow}: frames in order, none missing; {:?}",
                self.switch
                    .stats()
                    .ports
                    .iter()
                    .map(|port| &port.counters)
                    .collect::<Vec<_>>()
            );
            self.got[flow] += 1;
            room += 1;
        }
        self.receiver.post(0, room);
        if room > 0 && self.receiver.rx[0].driver.must_kick() {
            self.receiver.rx[0].kick.write(1).unwrap();
        }
    }

    /// Frames that were sent and did not arrive yet.
    fn waiting(&self) -> u32 {
        self.sent.iter().sum::<u32>() - self.got.iter().sum::<u32>()
    }

    fn drain_all(&mut self) {
        let start = Instant::now();
        while self.got != self.sent {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{:?} of {:?}",
                self.got,
                self.sent
            );
            self.drain();
        }
    }

    fn queues(&self) -> Vec<QueueStats> {
        let mut queues = self.switch.stats().queues;
        queues.retain(|queue| queue.port == "sender");
        queues
    }

    /// Keeps two queues busy until the placement has moved one of the sender's queues; returns what it moved.
    fn busy_until_moved(&mut self, busy: [u16; 2]) -> QueueStats {
        let moves = |queues: &[QueueStats]| queues.iter().map(|queue| queue.moves).sum::<u64>();
        let before = self.queues();
        let start = Instant::now();
        loop {
            for _ in 0..2000 {
                for queue in busy {
                    self.fill(queue);
                }
                // What waits for the receiver stays far below what the switch would drop.
                self.drain();
                while self.waiting() > 2000 {
                    self.drain();
                }
            }
            let now = self.queues();
            if moves(&now) > moves(&before) {
                let moved = now
                    .iter()
                    .zip(&before)
                    .find(|(now, before)| now.moves > before.moves);
                return moved.unwrap().0.clone();
            }
            assert!(
                start.elapsed() < Duration::from_mins(1),
                "nothing was moved: {now:?}"
            );
        }
    }
}

#[test]
fn queues_move_between_workers_without_loss_or_overtaking() {
    let mut scene = Scene::new();
    for round in 0..400_u16 {
        for queue in 0..QUEUES {
            scene.fill(queue);
        }
        let (queue, worker) = (round % QUEUES, usize::from(round / QUEUES) % 2);
        scene.switch.assign("sender", queue, worker).unwrap();
        scene.drain_all();
    }
    eventually(
        || scene.queues().iter().all(|queue| queue.worker == 1),
        "the last assignment",
    );
    let queues = scene.queues();
    assert!(
        queues.iter().all(|queue| queue.moves > 0 && queue.frames > 0),
        "{queues:?}"
    );
    assert!(scene.sent.iter().all(|sent| *sent > 1000), "{:?}", scene.sent);
}

#[test]
fn a_queue_is_assigned_only_to_what_exists() {
    let scene = Scene::new();
    for (port, queue, worker) in [("nobody", 0, 0), ("sender", QUEUES + 1, 0), ("sender", 0, 2)] {
        assert!(scene.switch.assign(port, queue, worker).is_err());
    }
    let error = scene.switch.assign("sender", 0, 2).unwrap_err();
    assert!(matches!(error, ControlError::OutOfRange { .. }), "{error}");
}

#[test]
fn load_that_shifts_moves_queues_and_reorders_nothing() {
    let mut scene = Scene::new();
    let mut busy = [0, 2];
    for _ in 0..2 {
        let placed = scene.queues();
        let worker = |queue: u16| placed[usize::from(queue)].worker;
        assert_eq!(worker(busy[0]), worker(busy[1]), "both on one worker");
        let moved = scene.busy_until_moved(busy);
        println!(
            "{busy:?} busy: queue {} runs on worker {}: {}",
            moved.queue, moved.worker, moved.why
        );
        assert!(
            busy.contains(&moved.queue) && matches!(moved.why, Why::Balanced { .. }),
            "{moved:?}"
        );
        // The load shifts to the other two queues, once they are together.
        scene.drain_all();
        busy = [1, 3];
        for queue in busy {
            scene.switch.assign("sender", queue, 1).unwrap();
        }
        eventually(
            || {
                busy.iter()
                    .all(|queue| scene.queues()[usize::from(*queue)].worker == 1)
            },
            "the other two to be together",
        );
    }
    scene.drain_all();
}
