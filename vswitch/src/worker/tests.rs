//! Bursts through the switch, without threads: backends are queues, and each round is asked for.

mod attribution;
mod filters;
mod frames;
mod idle;
mod lanes;
mod large;
mod level;
mod resets;
mod vm_queues;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use introspection::stage::Stage;
use introspection::{Action, Filter, FilterCounters, FrameRef, Instant, Needs, Profile};
use offload::VnetHeader;
use parking_lot::Mutex;
use proptest::prelude::*;

use self::frames::{mac, tcp, udp};
use super::burst::Carriage;
use crate::clock;
use crate::control::{
    Attribution, FilterConfig, PortConfig, PortKind, SwitchConfig, Uplink, VlanMode, WorkerConfig,
};
use crate::counters::DropReason;
use crate::egress;
use crate::frame::{BURST, Burst, Outgoing};
use crate::lane::LaneId;
use crate::port::{Backend, BackendStatus, Capabilities, Delivery, Refusal, Waker};
use crate::switch::{Port, Shared, filter};

type Taken = (VnetHeader, Vec<u8>);

/// A guest made of two queues.
#[derive(Default)]
struct Queues {
    sent: Mutex<VecDeque<Taken>>,
    /// What it sends stays in its memory, but for the headers.
    lends: AtomicBool,
    /// That memory.
    lent: Mutex<Vec<Vec<u8>>>,
    got: Mutex<Vec<Taken>>,
    can: Capabilities,
    /// Frames that it still takes.
    room: AtomicUsize,
    /// Queues beyond the first, which send nothing.
    spare: u16,
    level: level::Level,
}

impl Backend for Queues {
    fn attach(&self, _: Arc<dyn Waker>) {}

    fn queues(&self) -> u16 {
        1 + self.spare
    }

    fn take(&self, _: u16, _: Instant, burst: &mut Burst) {
        let mut sent = self.sent.lock();
        while let Some((vnet, frame)) = (burst.room() > 0).then(|| sent.pop_front()).flatten() {
            if self.lends.load(Ordering::Relaxed) {
                self.lent.lock().push(large::lend(burst, vnet, frame));
            } else {
                burst.push_owned(vnet, frame);
            }
        }
        self.level.looked(sent.is_empty());
    }

    fn complete(&self, _: u16, _: &Burst) {}

    fn capabilities(&self) -> Capabilities {
        self.can
    }

    fn deliver(&self, frames: &[Outgoing<'_>]) -> Delivery {
        for (accepted, frame) in frames.iter().enumerate() {
            if self.room.load(Ordering::Relaxed) == 0 {
                return Delivery {
                    accepted,
                    refusal: Some(Refusal::Full),
                };
            }
            self.room.fetch_sub(1, Ordering::Relaxed);
            assert_eq!(
                frame.len as usize,
                frame.head.len(),
                "these guests take private frames"
            );
            self.got.lock().push((frame.vnet, frame.head.to_vec()));
        }
        Delivery {
            accepted: frames.len(),
            refusal: None,
        }
    }

    fn notify(&self) {}

    fn arm(&self, _: u16, _: bool) -> bool {
        false
    }

    fn rings_reliably(&self) -> bool {
        true
    }

    fn is_drained(&self, _: u16) -> bool {
        self.level.is_drained()
    }

    fn disarm(&self, _: u16) {}
    fn woken(&self, _: u16) {}

    fn deadline(&self, _: u16, _: Instant) -> Option<Instant> {
        None
    }

    fn status(&self) -> BackendStatus {
        BackendStatus::default()
    }

    fn close(&self) {}
}

/// A switch whose rounds the test makes.
struct Bench {
    shared: Arc<Shared>,
    workers: Vec<Carriage>,
    guests: Vec<Arc<Queues>>,
}

const ALL: Capabilities = Capabilities {
    checksum: true,
    tso4: true,
    tso6: true,
    uso4: true,
    uso6: true,
    ecn: true,
};

impl Bench {
    fn new(workers: usize, ports: &[(VlanMode, Capabilities)]) -> Self {
        let config = SwitchConfig {
            workers: vec![WorkerConfig::default(); workers],
        };
        let shared = Arc::new(Shared::new(&config).expect("epoll works"));
        let workers = (0..workers)
            .map(|index| Carriage::new(Arc::clone(&shared), index))
            .collect();
        let mut bench = Self {
            shared,
            workers,
            guests: Vec::new(),
        };
        for (vlan, can) in ports {
            bench.add(vlan, *can, 0);
        }
        bench
    }

    fn add(&mut self, vlan: &VlanMode, can: Capabilities, spare: u16) {
        self.add_kind(vlan, can, spare, PortKind::Endpoint(String::new()));
    }

    fn add_uplink(&mut self) {
        self.add_kind(
            &VlanMode::Access(0),
            ALL,
            0,
            PortKind::Uplink(Uplink::new("eth9")),
        );
    }

    fn add_kind(&mut self, vlan: &VlanMode, can: Capabilities, spare: u16, kind: PortKind) {
        let slot = self.guests.len();
        let guest = Arc::new(Queues {
            can,
            room: AtomicUsize::new(usize::MAX),
            spare,
            ..Queues::default()
        });
        let config = PortConfig {
            vlan: vlan.clone(),
            ..PortConfig::new(format!("p{slot}"), kind)
        };
        let backend: Arc<dyn Backend> = Arc::clone(&guest) as _;
        let port = Arc::new(Port::new(slot, &config, backend, self.workers.len()));
        self.shared.publish(|slots| slots.push(Some(port)));
        let table = self.shared.table();
        for worker in &mut self.workers {
            worker.use_table(Arc::clone(&table));
        }
        self.guests.push(guest);
    }

    fn port(&self, index: usize) -> Arc<Port> {
        let table = self.shared.table();
        table.ports().nth(index).cloned().expect("the port exists")
    }

    fn send(&self, from: usize, frame: &[u8]) {
        self.send_with(from, VnetHeader::default(), frame);
    }

    fn send_with(&self, from: usize, vnet: VnetHeader, frame: &[u8]) {
        self.guests[from].sent.lock().push_back((vnet, frame.to_vec()));
    }

    /// Rounds of all workers until nothing moves.
    fn run(&mut self) {
        for _ in 0..100 {
            if !self.round() {
                return;
            }
        }
        panic!("the switch does not come to rest");
    }

    fn round(&mut self) -> bool {
        let table = self.shared.table();
        let now = clock::now();
        let mut busy = false;
        for (index, worker) in self.workers.iter_mut().enumerate() {
            for port in table.ports() {
                if port.home() == index {
                    busy |= worker.carry(port, LaneId::home(port.id), now, now, now) > 0;
                    busy |= port.has_backlog.load(Ordering::Relaxed) && egress::drain(port);
                }
                for lane in port.probe.outboxes() {
                    let mine = table.lane(lane).is_some_and(|lane| lane.owner() == index);
                    busy |= mine && worker.poll_probe(port, lane);
                }
            }
        }
        busy
    }

    fn attribution(&mut self, mode: Attribution) {
        self.shared.set_attribution(mode);
        let table = self.shared.table();
        for worker in &mut self.workers {
            worker.use_table(Arc::clone(&table));
        }
    }

    fn filter(&self, port: usize, profile: Profile) {
        let config = FilterConfig {
            profile,
            ..FilterConfig::default()
        };
        let filter = filter::make("p", &config, None).expect("a filter without rules");
        self.port(port).probe.set_filter(filter, config);
    }

    fn got(&self, port: usize) -> Vec<Vec<u8>> {
        self.guests[port]
            .got
            .lock()
            .drain(..)
            .map(|(_, frame)| frame)
            .collect()
    }

    fn drops(&self, port: usize) -> Vec<DropReason> {
        let counters = self.port(port).counters.snapshot();
        counters
            .tx_dropped
            .into_keys()
            .chain(counters.rx_dropped.into_keys())
            .collect()
    }
}

fn access(vlan: u16) -> (VlanMode, Capabilities) {
    (VlanMode::Access(vlan), ALL)
}

#[test]
fn floods_what_is_unknown_and_learns() {
    let mut bench = Bench::new(1, &[access(0), access(0), access(0)]);
    bench.send(0, &udp(1, 2, b"first"));
    bench.run();
    assert_eq!(
        (bench.got(1).len(), bench.got(2).len()),
        (1, 1),
        "the destination is unknown"
    );
    bench.send(1, &udp(2, 1, b"answer"));
    bench.run();
    assert_eq!(
        (bench.got(0).len(), bench.got(2).len()),
        (1, 0),
        "host 1 was learned"
    );
    bench.send(0, &udp(1, 2, b"second"));
    bench.run();
    assert_eq!(
        (bench.got(1), bench.got(2).len()),
        (vec![udp(1, 2, b"second")], 0)
    );
    bench.send(0, &udp(3, 1, b"to itself"));
    bench.run();
    assert_eq!(bench.drops(0), [DropReason::SamePort]);
}

#[test]
fn drops_what_breaks_the_rules() {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    bench.send(0, &[0; 5]);
    let mut from_group = udp(1, 2, b"");
    from_group[6] = 0x01;
    bench.send(0, &from_group);
    let gso = VnetHeader {
        flags: 1,
        gso_type: 1,
        gso_size: 100,
        csum_start: 34,
        csum_offset: 6,
        ..VnetHeader::default()
    };
    bench.send_with(0, gso, &udp(1, 2, b"not TCP"));
    let mut tags = udp(1, 2, b"")[..12].to_vec();
    (0..300).for_each(|_| tags.extend([0x81, 0, 0, 1]));
    bench.send_with(0, gso, &tags);
    bench.run();
    assert_eq!(
        bench.drops(0),
        [
            DropReason::BadLength,
            DropReason::BadOffload,
            DropReason::BadSource,
            DropReason::Vlan
        ]
    );
    assert!(bench.got(1).is_empty());
}

#[test]
fn keeps_vlans_apart_and_tags_for_trunks() {
    let trunk = (VlanMode::Trunk(vec![10, 20]), ALL);
    let mut bench = Bench::new(1, &[access(10), access(20), trunk, access(10)]);
    bench.send(0, &udp(1, 9, b"hello"));
    bench.run();
    assert!(bench.got(1).is_empty(), "another VLAN");
    assert_eq!(bench.got(3), [udp(1, 9, b"hello")]);
    let tagged = bench.got(2).remove(0);
    assert_eq!(tagged[12..16], [0x81, 0x00, 0x00, 10]);
    assert_eq!(tagged[16..], udp(1, 9, b"hello")[12..]);
    bench.send(2, &tagged);
    bench.run();
    let untagged = bench.got(3).remove(0);
    assert_eq!(untagged, udp(1, 9, b"hello"));
    bench.send(0, &tagged);
    bench.run();
    assert_eq!(
        bench.drops(0),
        [DropReason::Vlan],
        "an access port takes no tagged frame"
    );
}

#[test]
fn keeps_frames_for_a_full_receiver_in_order() {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    bench.guests[1].room.store(3, Ordering::Relaxed);
    let frames: Vec<_> = (0..100_u8).map(|n| udp(1, 2, &[n])).collect();
    for frame in &frames {
        bench.send(0, frame);
    }
    bench.run();
    assert_eq!(bench.got(1), frames[..3]);
    assert_eq!(bench.port(1).counters.snapshot().backlogged, 97);
    bench.guests[1].room.store(usize::MAX, Ordering::Relaxed);
    bench.send(0, &udp(1, 2, b"last"));
    bench.run();
    let got = bench.got(1);
    assert_eq!(got[..97], frames[3..]);
    assert_eq!(got[97..], [udp(1, 2, b"last")]);
}

#[test]
fn a_receiver_that_takes_nothing_costs_bounded_memory() {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    bench.guests[1].room.store(0, Ordering::Relaxed);
    for _ in 0..400 {
        for _ in 0..BURST {
            bench.send(0, &udp(1, 2, &[0; 1000]));
        }
        bench.round();
    }
    assert!(egress::backlog_len(&bench.port(1)) <= 8192);
    assert_eq!(bench.drops(1), [DropReason::ReceiverFull]);
}

#[test]
fn a_backlog_wakes_the_receivers_worker_once() {
    let mut bench = Bench::new(2, &[access(0), access(0)]);
    let owner = Arc::clone(&bench.shared.workers[1]);
    bench.send(1, &udp(2, 1, b"learn me"));
    bench.run();
    owner.was_woken();
    bench.send(0, &udp(1, 2, b"there is room"));
    bench.run();
    assert!(!owner.was_woken(), "nothing is left for it to do");
    bench.guests[1].room.store(0, Ordering::Relaxed);
    for first in [true, false] {
        bench.send(0, &udp(1, 2, b"no room"));
        bench.run();
        assert_eq!(
            owner.was_woken(),
            first,
            "it has to ask for room before it sleeps"
        );
    }
    assert_eq!(egress::backlog_len(&bench.port(1)), 2);
}

#[test]
fn a_backlog_does_not_wake_the_senders_own_worker() {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    bench.shared.workers[0].was_woken();
    bench.guests[1].room.store(0, Ordering::Relaxed);
    bench.send(0, &udp(1, 2, b"no room"));
    bench.run();
    assert_eq!(egress::backlog_len(&bench.port(1)), 1);
    assert!(!bench.shared.workers[0].was_woken());
}

#[test]
fn a_held_frame_wakes_the_worker_that_minds_its_deadline() {
    let mut bench = Bench::new(2, &[access(0), access(0)]);
    bench.filter(1, Profile::Hold);
    let owner = Arc::clone(&bench.shared.workers[1]);
    owner.was_woken();
    assert_eq!(bench.port(1).probe.deadline(), None);
    for (seq, first) in [(0, true), (4, false)] {
        bench.send(0, &tcp(1, 2, seq, b"abcd"));
        bench.run();
        assert_eq!(
            owner.was_woken(),
            first,
            "the first one's deadline stays the next"
        );
    }
    assert!(bench.got(1).is_empty(), "both are held");
    assert!(bench.port(1).probe.deadline().is_some());
}

#[test]
fn a_filter_that_is_off_again_leaves_nothing_in_the_path() {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    let port = bench.port(0);
    bench.filter(0, Profile::Inspect);
    bench.send(0, &tcp(1, 2, 0, b"x"));
    bench.run();
    assert!(port.probe.is_active());
    bench.filter(0, Profile::Off);
    assert!(!port.probe.is_active());
    port.probe.watch(true);
    bench.filter(0, Profile::Inspect);
    bench.filter(0, Profile::Off);
    assert!(port.probe.is_active(), "somebody asked for the watcher by itself");
    port.probe.watch(false);
    assert!(!port.probe.is_active());
}

#[test]
fn stages_sum_to_the_residence_time() {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    bench.attribution(Attribution::Full);
    bench.filter(0, Profile::Inspect);
    for n in 0..50 {
        bench.send(0, &tcp(1, 2, n, b"x"));
        bench.run();
    }
    let summary = bench.port(0).stages.lock().summary();
    let sum: f64 = Stage::ALL
        .iter()
        .map(|stage| summary.stages.get(*stage).mean)
        .sum();
    assert_eq!(summary.residence.count, 50);
    assert!(
        (sum - summary.residence.mean).abs() < 0.01,
        "{sum} against {}",
        summary.residence.mean
    );
}

/// A filter that breaks its contract: it says nothing of any frame.
struct Silent;

impl Filter for Silent {
    fn profile(&self) -> Profile {
        Profile::Inspect
    }

    fn needs(&self) -> Needs {
        Needs::Headers
    }

    fn inspect(&mut self, _: Instant, _: &[FrameRef<'_>], _: &mut Vec<Action>) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn expire(&mut self, _: Instant, _: &mut Vec<Action>) {}

    fn drain(&mut self, _: &mut Vec<Action>) {}

    fn counters(&self) -> FilterCounters {
        FilterCounters::default()
    }
}

#[test]
fn frames_of_which_a_filter_says_nothing_go_on() {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    bench
        .port(0)
        .probe
        .set_filter(Some(Box::new(Silent)), FilterConfig::default());
    let frames: Vec<_> = (0..40_u8).map(|n| udp(1, 2, &[n])).collect();
    for frame in &frames {
        bench.send(0, frame);
    }
    bench.run();
    assert_eq!(bench.got(1), frames);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever filters come and go on either port, on one worker or two, every frame of a flow arrives, once and in
    /// the order in which it was sent.
    #[test]
    fn toggling_loses_and_reorders_nothing(
        workers in 1_usize..=2,
        steps in proptest::collection::vec((0_usize..2, 0_usize..7, 0_usize..40), 1..40),
    ) {
        let mut bench = Bench::new(workers, &[access(0), access(0)]);
        let mut next = [0_u32; 2];
        let mut got = [Vec::new(), Vec::new()];
        for (side, profile, frames) in steps {
            if let Some(profile) = Profile::ALL.get(profile) {
                bench.filter(side, *profile);
            }
            for _ in 0..frames {
                let (from, to) = if side == 0 { (1, 2) } else { (2, 1) };
                bench.send(side, &tcp(from, to, next[side], b"abcd"));
                next[side] += 4;
            }
            bench.round();
            got.iter_mut().enumerate().for_each(|(side, got)| got.extend(bench.got(side)));
        }
        bench.filter(0, Profile::Off);
        bench.run();
        bench.filter(1, Profile::Off);
        bench.run();
        for side in 0..2 {
            got[side].append(&mut bench.got(side));
            let sequence: Vec<u32> = got[side]
                .iter()
                .map(|frame| *offload::parse(frame, frame.len()).expect("a frame").tcp().expect("TCP"))
                .flat_map(|tcp| (tcp.seq..tcp.seq + tcp.payload_len).step_by(4))
                .collect();
            let sent: Vec<u32> = (0..next[1 - side]).step_by(4).collect();
            prop_assert_eq!(sequence, sent);
        }
    }
}
