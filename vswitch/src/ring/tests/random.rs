//! Random runs, and all states of small ones.

use std::collections::VecDeque;

use offload::VnetHeader;
use proptest::prelude::*;

use super::{MODERN, Side, carry, framed};
use crate::frame::{BURST, Burst, MAX_FRAME, Outgoing};
use crate::ring::mock::Shape;
use crate::ring::{feature, passed};

/// One step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Send {
        len: usize,
        pieces: usize,
        indirect: bool,
    },
    Post {
        len: u32,
        pieces: usize,
    },
    Carry,
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (14usize..6000, 1usize..8, any::<bool>())
            .prop_map(|(len, pieces, indirect)| Step::Send { len, pieces, indirect }),
        4 => (20u32..6100, 1usize..6).prop_map(|(len, pieces)| Step::Post { len, pieces }),
        2 => Just(Step::Carry),
        1 => Just(Step::Collect),
    ]
}

/// What a random run keeps track of.
struct Run {
    from: Side,
    to: Side,
    sent: VecDeque<Vec<u8>>,
    accepted: VecDeque<Vec<u8>>,
    seed: u8,
}

impl Run {
    fn new(features: u64, start: u16) -> Self {
        Self {
            from: Side::new(32, 6100, features, start),
            to: Side::new(64, 6100, features, start.wrapping_mul(7)),
            sent: VecDeque::new(),
            accepted: VecDeque::new(),
            seed: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Send {
                len,
                pieces,
                indirect,
            } => {
                let shape = if indirect {
                    Shape::Indirect(pieces)
                } else {
                    Shape::Chain(pieces)
                };
                self.seed = self.seed.wrapping_add(1);
                let octets = framed(12, VnetHeader::default(), len, self.seed);
                if self.from.driver.send(&octets, shape) {
                    self.sent.push_back(octets);
                }
            }
            Step::Post { len, pieces } => {
                self.to.driver.post(len, Shape::Chain(pieces));
            }
            Step::Carry => self.carry(),
            Step::Collect => self.collect(),
        }
    }

    /// A frame that is refused is lost here, and one after it may still come.
    fn carry(&mut self) {
        for result in carry(&mut self.from, &mut self.to) {
            let octets = self.sent.pop_front().expect("a frame that was sent");
            if result.is_ok() {
                self.accepted.push_back(octets);
            }
        }
        while self.from.driver.used().is_some() {}
    }

    fn collect(&mut self) {
        while let Some(got) = self.to.driver.receive(12) {
            let expected = self
                .accepted
                .pop_front()
                .expect("no frame more than were accepted");
            assert_eq!(got[12..], expected[12..], "whole and in order");
        }
        assert!(self.accepted.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_arrives_once_whole_and_in_order(
        steps in prop::collection::vec(step(), 1..120),
        start in prop_oneof![Just(0u16), 65_500u16..=65_535, any::<u16>()],
        events: bool,
        in_order: bool,
        packed: bool,
    ) {
        let with = |on: bool, feature: u64| if on { feature } else { 0 };
        let extra = with(events, feature::EVENT_IDX)
            | with(in_order, feature::IN_ORDER)
            | with(packed, feature::RING_PACKED);
        let mut run = Run::new(MODERN | extra, start);
        for step in &steps {
            run.step(step);
        }
        while !run.sent.is_empty() {
            run.carry();
        }
        run.collect();
        prop_assert_eq!(run.from.ring.fault(), None);
        prop_assert_eq!(run.to.ring.fault(), None);
        prop_assert_eq!(run.from.driver.free(), 32);
    }

    #[test]
    fn an_event_is_passed_exactly_when_it_was_stepped_over(event: u16, old: u16, steps in 0u16..1000) {
        let new = old.wrapping_add(steps);
        let stepped_over = (0..steps).any(|n| old.wrapping_add(n) == event);
        prop_assert_eq!(passed(event, new, old), stepped_over);
    }

    #[test]
    fn any_ring_contents_are_survived(
        octets in prop::collection::vec(any::<u8>(), 16 * 8 + 6 + 16),
        receive: bool,
        features: u64,
    ) {
        let mut side = Side::new(8, 512, features & !(feature::EVENT_IDX | feature::RING_PACKED), 0);
        let (descriptors, available, _) = side.driver.parts();
        side.ring_write(descriptors, &octets[..128]);
        side.ring_write(available, &octets[128..]);
        if receive {
            let frame = Outgoing { vnet: VnetHeader::default(), len: 60, flow_hash: 0, hash_report: offload::rss::HashReport::None, head: &[1; 60], tail: &[] };
            for _ in 0..10 {
                let _ = side.receive(&frame);
            }
        } else {
            let mut burst = Burst::default();
            side.ring.take(0, &mut burst);
            let total: u32 = burst.segments.iter().map(|segment| segment.len).sum();
            prop_assert!(total as usize <= BURST * (MAX_FRAME + 12));
            side.ring.complete();
        }
        side.ring.needs_notification();
    }
}

/// Walks all states of two small free-running indices: the driver's and ours, over the wrap.
#[test]
fn index_arithmetic_holds_in_every_state_around_the_wrap() {
    for start in [0u16, 1, 32_767, 32_768, 65_532, 65_533, 65_534, 65_535] {
        for ahead in 0..=9u16 {
            let mut side = Side::new(8, 64, MODERN, start);
            let (_, available, _) = side.driver.parts();
            for index in 0..8 {
                side.driver
                    .write_descriptor(index, side.driver.buffer(index), 30, 0, 0);
            }
            (0..8).for_each(|slot| side.driver.guest().store(available + 4 + 2 * slot, slot as u16));
            side.driver
                .guest()
                .store(available + 2, start.wrapping_add(ahead));
            let mut burst = Burst::default();
            let taken = side.ring.take(0, &mut burst);
            assert_eq!(
                taken,
                if ahead <= 8 { usize::from(ahead) } else { 0 },
                "{start} + {ahead}"
            );
            assert_eq!(side.ring.fault().is_some(), ahead > 8);
            let expected: Vec<u16> = (0..taken as u16).map(|n| start.wrapping_add(n) % 8).collect();
            let got: Vec<u16> = burst.frames().iter().map(|frame| frame.token).collect();
            assert_eq!(got, expected);
        }
    }
}
