//! Rings whose process ends while it has chains in hand, and that another one goes on with.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;

use offload::VnetHeader;
use proptest::prelude::*;

use super::{MODERN, PACKED, Side, framed, outgoing};
use crate::frame::{BURST, Burst, Outgoing};
use crate::ring::inflight::{Area, region_len};
use crate::ring::mock::Shape;
use crate::ring::{Ring, RingFault, feature};

const SIZE: u16 = 32;

/// A queue whose chains in hand are written down.
struct Tracked {
    side: Side,
    area: Area,
    file: File,
}

impl Tracked {
    fn new(features: u64, start: u16) -> Self {
        let side = Side::new(SIZE, 512, features, start);
        let (area, file) = Area::create(1, SIZE, 1).unwrap();
        let mut tracked = Self { side, area, file };
        tracked.track().unwrap();
        tracked
    }

    fn track(&mut self) -> Result<(), RingFault> {
        self.side.ring.track(self.area.region(0).unwrap())
    }

    /// Another process takes over, and is told a position that does not matter.
    fn restart(&mut self) {
        self.restart_at(self.side.driver.setup().base);
        self.track().unwrap();
    }

    fn restart_at(&mut self, base: u16) {
        let mut setup = self.side.driver.setup();
        setup.base = base;
        self.side.ring = Ring::new(self.side.driver.guest().memory(), &setup).unwrap();
    }

    fn send(&mut self, frames: std::ops::Range<u8>) {
        for seed in frames {
            let octets = framed(12, VnetHeader::default(), 60, seed);
            assert!(
                self.side
                    .driver
                    .send(&octets, Shape::Chain(1 + usize::from(seed % 2)))
            );
        }
    }

    /// The first octets of the frames of a burst, which is not completed.
    fn take(&mut self) -> Vec<u8> {
        let mut burst = Burst::default();
        self.side.ring.take(0, &mut burst);
        (0..burst.frames.len())
            .map(|index| outgoing(&burst, index).head[0])
            .collect()
    }

    fn returned(&mut self) -> usize {
        std::iter::from_fn(|| self.side.driver.used()).count()
    }

    /// What is written down, and the ring: to be put back.
    fn snapshot(&self) -> (Vec<u8>, Vec<u8>) {
        let mut log = vec![0; region_len(SIZE) as usize];
        self.file.read_exact_at(&mut log, 0).unwrap();
        (
            log,
            self.side
                .driver
                .guest()
                .read(self.side.driver.parts().0, 16 * usize::from(SIZE)),
        )
    }

    fn put_back(&self, log: &[u8], ring: &[u8]) {
        self.file.write_all_at(log, 0).unwrap();
        self.side.driver.guest().write(self.side.driver.parts().0, ring);
    }
}

fn formats() -> impl Iterator<Item = u64> {
    [MODERN, PACKED]
        .into_iter()
        .flat_map(|features| [features, features | feature::IN_ORDER])
}

#[test]
fn chains_in_hand_are_taken_again_and_returned_once() {
    for features in formats() {
        for start in [0, 25, 65_530] {
            let mut queue = Tracked::new(features, start);
            queue.send(0..10);
            assert_eq!(queue.take().len(), 10);
            queue.side.ring.complete();
            assert_eq!(queue.returned(), 10);
            for _ in 0..3 {
                queue.send(10..15);
                queue.restart();
                assert_eq!(queue.take(), [10, 11, 12, 13, 14]);
                queue.send(15..17);
                assert_eq!(queue.take(), [15, 16]);
                queue.restart();
                assert_eq!(queue.returned(), 0, "what was in hand is not given back unseen");
                assert_eq!(queue.take(), [10, 11, 12, 13, 14, 15, 16]);
                queue.side.ring.complete();
                assert_eq!(queue.returned(), 7);
                assert_eq!(queue.take(), []);
            }
            assert_eq!(queue.side.driver.free(), usize::from(SIZE));
            assert_eq!(queue.side.ring.fault(), None);
        }
    }
}

#[test]
fn receive_buffers_are_neither_lost_nor_filled_twice() {
    for features in formats() {
        let mut queue = Tracked::new(features, 7);
        for turn in 0..40 {
            assert!(queue.side.driver.post(512, Shape::Chain(1)));
            assert!(queue.side.driver.post(512, Shape::Chain(1)));
            for n in 0..2 {
                let head = [turn * 2 + n; 60];
                let frame = Outgoing {
                    vnet: VnetHeader::default(),
                    len: 60,
                    flow_hash: 0,
                    hash_report: offload::rss::HashReport::None,
                    head: &head,
                    tail: &[],
                };
                queue.side.receive(&frame).unwrap();
                queue.restart();
                assert_eq!(queue.side.driver.receive(12).unwrap()[12..], head);
            }
        }
        assert_eq!(queue.returned(), 0);
        assert_eq!(queue.side.driver.free(), usize::from(SIZE));
    }
}

/// The process ends between any two of the steps that return a batch.
#[test]
fn a_packed_batch_that_was_being_returned_is_returned_once() {
    for in_order in [0, feature::IN_ORDER] {
        let mut queue = Tracked::new(PACKED | in_order, 28);
        queue.send(0..5);
        queue.take();
        let (log_before, ring_before) = queue.snapshot();
        queue.side.ring.complete();
        let (log_after, ring_after) = queue.snapshot();
        let mut log_amid = log_after.clone();
        for old in [18..20, 21..22] {
            log_amid[old.clone()].copy_from_slice(&log_before[old]);
        }
        for (log, ring, left) in [
            (&log_before, &ring_before, 5),
            (&log_amid, &ring_before, 5),
            (&log_amid, &ring_after, 0),
            (&log_after, &ring_after, 0),
        ] {
            queue.put_back(log, ring);
            queue.restart();
            assert_eq!(queue.take().len(), left);
        }
        // The driver, which goes on meanwhile, fills the whole ring.
        queue.put_back(&log_amid, &ring_after);
        assert_eq!(queue.returned(), 5);
        for seed in 0..SIZE as u8 {
            let octets = framed(12, VnetHeader::default(), 60, seed);
            assert!(queue.side.driver.send(&octets, Shape::Chain(1)));
        }
        queue.restart();
        assert_eq!(queue.take(), (0..SIZE as u8).collect::<Vec<_>>());
        queue.side.ring.complete();
        assert_eq!(queue.returned(), usize::from(SIZE));
    }
}

#[test]
fn a_ring_that_was_stopped_goes_on_where_the_front_end_says() {
    for features in formats() {
        let mut queue = Tracked::new(features, 3);
        queue.send(0..4);
        queue.take();
        queue.side.ring.complete();
        queue.send(4..6);
        queue.take();
        let base = queue.side.ring.base();
        queue.side.ring.untrack();
        queue.restart_at(base);
        queue.track().unwrap();
        assert_eq!(queue.take(), [4, 5]);
        queue.side.ring.complete();
        assert_eq!(queue.returned(), 6);
    }
}

#[test]
fn what_is_written_down_has_the_fields_of_the_specification() {
    let field = |log: &[u8], at: usize| u16::from_ne_bytes([log[at], log[at + 1]]);
    let mut queue = Tracked::new(MODERN, 0);
    queue.send(0..3);
    queue.take();
    let (log, _) = queue.snapshot();
    assert_eq!([8, 10, 14].map(|at| field(&log, at)), [1, SIZE, 0]);
    let entries = || log[16..16 + 16 * usize::from(SIZE)].chunks(16);
    assert_eq!(entries().filter(|entry| entry[0] == 1).count(), 3);
    let mut counters: Vec<_> = entries()
        .filter(|entry| entry[0] == 1)
        .map(|entry| entry[8])
        .collect();
    counters.sort_unstable();
    assert_eq!(counters, [0, 1, 2]);
    queue.side.ring.complete();
    let (log, _) = queue.snapshot();
    assert_eq!(field(&log, 14), 3);
    assert!(log[16..].chunks(16).all(|entry| entry[0] == 0));

    let mut queue = Tracked::new(PACKED, 30);
    queue.send(0..3);
    queue.take();
    let (log, _) = queue.snapshot();
    assert_eq!(
        [8, 10, 12, 16, 18].map(|at| field(&log, at)),
        [1, SIZE, 2, 30, 30]
    );
    assert_eq!(log[20..22], [1, 1]);
    // The second chain has two descriptors, in the last slot and the first.
    let entry = |index: usize| &log[32 + 32 * index..64 + 32 * index];
    assert_eq!(entry(31)[0], 1);
    assert_eq!([2, 4, 6].map(|at| field(entry(31), at)), [0, 0, 2]);
    assert_eq!(u32::from_ne_bytes(*entry(30)[20..].first_chunk().unwrap()), 72);
    queue.side.ring.complete();
    let (log, _) = queue.snapshot();
    assert_eq!([12, 16, 18].map(|at| field(&log, at)), [2, 2, 2]);
    assert_eq!(log[20..22], [0, 0]);
}

#[test]
fn memory_for_smaller_queues_is_refused() {
    let mut side = Side::new(SIZE, 512, MODERN, 0);
    let (area, _file) = Area::create(1, SIZE - 1, 1).unwrap();
    let refused = side.ring.track(area.region(0).unwrap());
    assert_eq!(
        refused,
        Err(RingFault::Untracked {
            size: SIZE,
            entries: SIZE - 1
        })
    );
}

/// A step of a random run.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send(usize),
    Take,
    Complete,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..4).prop_map(Step::Send),
        3 => Just(Step::Take),
        2 => Just(Step::Complete),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn restarts_at_any_time_lose_no_buffer(
        steps in prop::collection::vec(step(), 1..150),
        start: u16,
        packed: bool,
        in_order: bool,
    ) {
        let features = if packed { PACKED } else { MODERN } | if in_order { feature::IN_ORDER } else { 0 };
        let mut queue = Tracked::new(features, start);
        let (mut seed, mut waiting, mut taken) = (0_u8, VecDeque::new(), 0);
        for step in steps.into_iter().chain([Step::Restart, Step::Take, Step::Complete]) {
            match step {
                Step::Send(pieces) => {
                    let octets = framed(12, VnetHeader::default(), 60, seed);
                    if queue.side.driver.send(&octets, Shape::Chain(pieces)) {
                        waiting.push_back(seed);
                        seed = seed.wrapping_add(1);
                    }
                }
                Step::Take => {
                    let frames = queue.take();
                    let expected: Vec<_> = waiting.iter().copied().skip(taken).take(BURST).collect();
                    prop_assert_eq!(&frames, &expected);
                    taken += frames.len();
                }
                Step::Complete => {
                    prop_assert_eq!(queue.side.ring.complete(), taken);
                    prop_assert_eq!(queue.returned(), taken);
                    waiting.drain(..taken);
                    taken = 0;
                }
                Step::Restart => {
                    queue.restart();
                    taken = 0;
                }
            }
        }
        prop_assert_eq!(waiting.len(), 0);
        prop_assert_eq!(queue.side.driver.free(), usize::from(SIZE));
    }

    #[test]
    fn any_memory_is_survived(
        octets in prop::collection::vec(any::<u8>(), region_len(SIZE) as usize),
        valid: bool,
        packed: bool,
        frames in 0u8..16,
    ) {
        let mut queue = Tracked::new(if packed { PACKED } else { MODERN }, 0);
        queue.send(0..frames);
        queue.file.write_all_at(&octets, 0).unwrap();
        if valid {
            queue.file.write_all_at(&[1, 0, SIZE as u8, 0], 8).unwrap();
        }
        queue.restart();
        for _ in 0..3 {
            prop_assert!(queue.take().len() <= BURST);
            queue.file.write_all_at(&octets, 0).unwrap();
            queue.side.ring.complete();
        }
        queue.side.ring.untrack();
    }
}
