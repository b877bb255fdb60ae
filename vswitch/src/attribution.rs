//! Which frames a worker stamps, and what that costs.
//!
//! A frame that is not stamped costs attribution one branch a burst.

use std::hint::black_box;
use std::sync::OnceLock;

use introspection::flow::{Datagrams, FlowCost, FlowKey, TopFlows};
use introspection::stage::{Stage, StageHistograms, Stamps};
use introspection::{Direction, Instant};
use offload::FrameMeta;

use crate::clock;
use crate::control::Attribution;

/// Flows listed for each port, and for each filter.
pub(crate) const FLOWS: usize = 512;
/// Datagrams in IP fragments that are remembered for them.
const FRAGMENTED: usize = 256;
/// With [`Attribution::Auto`], a burst is stamped when so many times the last one's cost have passed.
const AUTO: u64 = 400;
/// Frames of such a burst that are stamped at most.
const OF_BURST: usize = 4;
/// Stamps of a burst that it would not need otherwise: parsed, copied, notified, and the end of recording.
const STAMPS: u64 = 4;

/// The flows that frames cost most for. An IP fragment counts for its datagram's, as soon as the first one was stamped.
#[derive(Debug)]
pub(crate) struct FlowCosts {
    list: TopFlows<FlowCost>,
    fragments: Datagrams<Direction>,
}

impl Default for FlowCosts {
    fn default() -> Self {
        Self {
            list: TopFlows::new(FLOWS),
            fragments: Datagrams::new(FRAGMENTED),
        }
    }
}

impl FlowCosts {
    /// Takes note of what a frame cost that goes `direction` and begins with `octets`.
    pub(crate) fn note(
        &mut self,
        now: Instant,
        direction: Direction,
        octets: &[u8],
        meta: &FrameMeta,
        cost: &FlowCost,
    ) {
        let flow = if meta.ip().is_some_and(|ip| ip.fragment) {
            let whole = self.fragments.headers(direction, now, octets, meta);
            whole.and_then(|meta| FlowKey::of(&meta, direction))
        } else {
            FlowKey::of(meta, direction)
        };
        self.list.note(flow, cost);
    }

    /// The list.
    pub(crate) const fn list(&self) -> &TopFlows<FlowCost> {
        &self.list
    }

    /// Forgets all; keeps the list's memory.
    pub(crate) fn reset(&mut self) {
        self.list.reset();
        self.fragments = Datagrams::new(FRAGMENTED);
    }
}

/// The packets of a burst that are stamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    None,
    All,
    /// The one at this place, and each one so many places behind it.
    Each {
        first: usize,
        step: usize,
    },
}

/// Chooses what a worker stamps.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    mode: Attribution,
    /// Frames before the next one to be stamped, of one in so many; or what takes turns within bursts.
    left: usize,
    /// When the next burst is to be stamped, of as many as are cheap.
    due: Instant,
    spent: u64,
}

impl Sampler {
    /// Chooses in this way from now on.
    pub(crate) fn set(&mut self, mode: Attribution) {
        if mode != self.mode {
            *self = Self {
                mode,
                spent: self.spent,
                ..Self::default()
            };
        }
    }

    /// What to stamp of a burst of so many frames.
    #[inline]
    pub(crate) fn pick(&mut self, now: Instant, frames: usize) -> Pick {
        match self.mode {
            Attribution::Off => Pick::None,
            Attribution::Full => Pick::All,
            Attribution::Auto if now < self.due => Pick::None,
            Attribution::Auto => {
                let step = frames.div_ceil(OF_BURST).max(1);
                self.left = self.left.wrapping_add(1);
                let first = self.left % step;
                Pick::Each { first, step }
            }
            Attribution::OneOf(_) if frames <= self.left => {
                self.left -= frames;
                Pick::None
            }
            Attribution::OneOf(step) => {
                let (first, step) = (self.left, step.get() as usize);
                let behind = frames - first - 1;
                self.left = step - 1 - behind % step;
                Pick::Each { first, step }
            }
        }
    }

    /// A burst's stamps were recorded from `begun` on.
    pub(crate) fn recorded(&mut self, begun: Instant) {
        let done = clock::now();
        let cost = done.since(begun) + STAMPS * Prices::get().stamp as u64;
        self.due = Instant(done.0.saturating_add(cost.saturating_mul(AUTO)));
        self.spent += cost;
    }

    /// What recording cost since the last call, in nanoseconds.
    pub(crate) fn take_spent(&mut self) -> u64 {
        std::mem::take(&mut self.spent)
    }
}

/// What the parts of attribution cost on this machine, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prices {
    pub(crate) stamp: f64,
    pub(crate) record: f64,
    pub(crate) flow: f64,
}

impl Prices {
    /// They are measured once, for less than a millisecond.
    pub(crate) fn get() -> &'static Self {
        static PRICES: OnceLock<Prices> = OnceLock::new();
        PRICES.get_or_init(Self::measure)
    }

    fn measure() -> Self {
        let stamps = Stamps {
            start: Instant(0),
            ends: std::array::from_fn(|stage| Instant(1 << (6 + stage))),
        };
        debug_assert_eq!(stamps.ends.len(), Stage::ALL.len());
        let mut stages = StageHistograms::new();
        let mut flows = TopFlows::new(FLOWS);
        let cost = FlowCost {
            frames: 1,
            ..FlowCost::default()
        };
        Self {
            stamp: price(|_| {
                black_box(clock::now());
            }),
            record: price(|_| stages.record(black_box(&stamps), 1)),
            flow: price(|turn| flows.note(Some(FlowKey::sample(turn)), black_box(&cost))),
        }
    }
}

/// What something takes, by the fastest of some rounds.
fn price(mut work: impl FnMut(u16)) -> f64 {
    const TURNS: u16 = 200;
    let mut round = || {
        let begun = clock::now();
        (0..TURNS).for_each(&mut work);
        clock::now().since(begun)
    };
    let best = (0..5).map(|_| round()).min().unwrap_or(0);
    best as f64 / f64::from(TURNS)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_frame_of_so_many_is_stamped_however_they_come(
            bursts in proptest::collection::vec(1usize..33, 1..200), step in 1u32..100,
        ) {
            let mut sampler = Sampler::default();
            sampler.set(Attribution::OneOf(NonZeroU32::new(step).expect("1 at least")));
            let mut before = 0;
            let mut picked = Vec::new();
            for frames in bursts {
                if let Pick::Each { first, step } = sampler.pick(Instant(1), frames) {
                    picked.extend((first..frames).step_by(step).map(|place| before + place));
                }
                before += frames;
            }
            let all: Vec<usize> = (0..before).step_by(step as usize).collect();
            prop_assert_eq!(picked, all);
        }
    }

    #[test]
    fn bursts_are_stamped_as_long_as_that_is_cheap() {
        let mut sampler = Sampler::default();
        let at = Instant(5_000);
        assert_eq!(sampler.pick(at, 1), Pick::Each { first: 0, step: 1 });
        assert_eq!(
            sampler.pick(at, 4),
            Pick::Each { first: 0, step: 1 },
            "nothing was recorded"
        );
        let firsts = [0; 8].map(|_| sampler.pick(at, 32));
        assert!(
            (0..8).all(|first| firsts.contains(&Pick::Each { first, step: 8 })),
            "{firsts:?}"
        );
        let begun = clock::now();
        sampler.recorded(begun);
        let cost = sampler.take_spent();
        let due = sampler.due;
        assert!(due.since(begun) >= cost * AUTO);
        assert_eq!(sampler.pick(Instant(due.0 - 1), 7), Pick::None);
        assert_ne!(sampler.pick(due, 7), Pick::None);
        sampler.set(Attribution::Off);
        assert_eq!(sampler.pick(due, 7), Pick::None);
        sampler.set(Attribution::Full);
        assert_eq!(sampler.pick(Instant(0), 7), Pick::All);
    }
}
