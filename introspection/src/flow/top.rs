//! The flows that something cost most, in bounded memory.

use core::cmp::Reverse;
use core::hash::BuildHasher as _;
use std::hash::RandomState;

use serde::{Deserialize, Serialize};

use super::FlowKey;

/// Places for flows that share a hash; a flow that had more than one part of so many of all costs is never left out.
const WAYS: usize = 8;

/// What flows are ranked by.
pub trait Cost: Copy + Default {
    /// The rank: greater is more costly.
    fn rank(&self) -> u64;

    /// Adds what further frames cost.
    fn add(&mut self, more: &Self);
}

/// What frames of a flow cost. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCost {
    /// Frames.
    pub frames: u64,
    /// Their octets.
    pub octets: u64,
    /// Time that they took, all together: in the switch, or what a filter added.
    pub total_ns: u64,
    /// What of that filters took for judging.
    pub filter_ns: u64,
    /// What of that filters held them.
    pub hold_ns: u64,
    /// The longest that one took.
    pub longest_ns: u64,
}

impl Cost for FlowCost {
    fn rank(&self) -> u64 {
        self.total_ns
    }

    fn add(&mut self, more: &Self) {
        self.frames = self.frames.saturating_add(more.frames);
        self.octets = self.octets.saturating_add(more.octets);
        self.total_ns = self.total_ns.saturating_add(more.total_ns);
        self.filter_ns = self.filter_ns.saturating_add(more.filter_ns);
        self.hold_ns = self.hold_ns.saturating_add(more.hold_ns);
        self.longest_ns = self.longest_ns.max(more.longest_ns);
    }
}

/// A flow of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopFlow<C> {
    /// The flow, as the port sees it.
    pub flow: FlowKey,
    /// What its frames cost since it is in the list.
    #[serde(flatten)]
    pub cost: C,
    /// At most so much did earlier frames of it cost, in nanoseconds, for which there was no place.
    pub missed_ns: u64,
}

/// The flows that cost most time, and for how much.
///
/// It has a fixed number of places. A flow without one takes that of the least costly flow of those with which it shares a hash, and
/// its rank starts where that one's ended, as in the space-saving sketch (Metwally, Agrawal and El Abbadi, "Efficient
/// computation of frequent and top-k elements in data streams", 2005). So a flow's cost is at least what is listed, and at most
/// `missed_ns` more; and who makes up more than an eighth of all costs is listed. Places are chosen by a secret hash. The first note
/// takes the memory.
#[derive(Clone, Debug)]
pub struct TopFlows<C> {
    places: usize,
    sets: Vec<[Option<TopFlow<C>>; WAYS]>,
    hasher: RandomState,
    last: Option<(FlowKey, usize, usize)>,
    replaced: u64,
    other: C,
}

impl<C: Cost> TopFlows<C> {
    /// A list of at most `places` flows, rounded up to a power of two, 8 at least.
    pub fn new(places: usize) -> Self {
        Self {
            places: places.clamp(WAYS, 1 << 20).next_power_of_two(),
            sets: Vec::new(),
            hasher: RandomState::new(),
            last: None,
            replaced: 0,
            other: C::default(),
        }
    }

    /// Takes note of what frames cost; `None` for those that belong to no flow of TCP or UDP.
    pub fn note(&mut self, flow: Option<FlowKey>, cost: &C) {
        let Some(flow) = flow else {
            self.other.add(cost);
            return;
        };
        let (set, way) = self.place(flow);
        if let Some(Some(entry)) = self.sets.get_mut(set).and_then(|set| set.get_mut(way)) {
            entry.cost.add(cost);
        }
    }

    /// A flow's place, which it is given if it has none.
    fn place(&mut self, flow: FlowKey) -> (usize, usize) {
        if let Some((_, set, way)) = self.last.filter(|(last, ..)| *last == flow) {
            return (set, way);
        }
        if self.sets.is_empty() {
            self.sets.resize(self.places / WAYS, [None; WAYS]);
        }
        let hash = self.hasher.hash_one(flow) as usize;
        let index = hash & (self.sets.len() - 1);
        let Some(set) = self.sets.get_mut(index) else {
            return (index, 0);
        };
        let known = set.iter().position(|one| one.is_some_and(|one| one.flow == flow));
        let way = known.unwrap_or_else(|| {
            let (way, least) = least(set);
            self.replaced += u64::from(set.get(way).is_some_and(Option::is_some));
            if let Some(place) = set.get_mut(way) {
                *place = Some(TopFlow {
                    flow,
                    cost: C::default(),
                    missed_ns: least,
                });
            }
            way
        });
        self.last = Some((flow, index, way));
        (index, way)
    }

    /// The `count` flows that cost most, the most costly first.
    pub fn top(&self, count: usize) -> Vec<TopFlow<C>> {
        let mut flows: Vec<TopFlow<C>> = self.sets.iter().flatten().flatten().copied().collect();
        flows.sort_unstable_by_key(|one| (Reverse(one.cost.rank()), one.flow));
        flows.truncate(count);
        flows
    }

    /// The cost of a flow, if it is listed.
    pub fn get(&self, flow: &FlowKey) -> Option<TopFlow<C>> {
        let hash = self.hasher.hash_one(flow) as usize;
        let set = self.sets.get(hash & self.sets.len().checked_sub(1)?)?;
        set.iter().flatten().find(|one| one.flow == *flow).copied()
    }

    /// Flows listed.
    pub fn len(&self) -> usize {
        self.sets.iter().flatten().flatten().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Times that a flow had to give its place to another.
    pub const fn replaced(&self) -> u64 {
        self.replaced
    }

    /// What frames cost that belong to no known flow of TCP or UDP.
    pub const fn other(&self) -> &C {
        &self.other
    }

    /// Forgets all; keeps the memory.
    pub fn reset(&mut self) {
        self.sets.iter_mut().for_each(|set| *set = [None; WAYS]);
        (self.last, self.replaced, self.other) = (None, 0, C::default());
    }
}

/// The place to be given away, and the rank of the flow that has it.
fn least<C: Cost>(set: &[Option<TopFlow<C>>; WAYS]) -> (usize, u64) {
    let rank = |place: &Option<TopFlow<C>>| {
        place.map_or(0, |one| one.cost.rank().saturating_add(one.missed_ns).max(1))
    };
    let ranks = set.iter().map(rank).enumerate();
    ranks.min_by_key(|(_, rank)| *rank).unwrap_or((0, 0))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    fn cost(total_ns: u64) -> FlowCost {
        FlowCost {
            frames: 1,
            octets: 100,
            total_ns,
            filter_ns: total_ns / 4,
            hold_ns: total_ns / 2,
            longest_ns: total_ns,
        }
    }

    #[test]
    fn the_most_costly_flow_is_first() {
        let mut flows = TopFlows::new(64);
        assert!(flows.is_empty());
        for _ in 0..3 {
            flows.note(Some(FlowKey::sample(1)), &cost(10));
        }
        flows.note(Some(FlowKey::sample(2)), &cost(25));
        flows.note(None, &cost(1_000));
        let top = flows.top(9);
        assert_eq!(
            top.iter().map(|one| one.flow).collect::<Vec<_>>(),
            [FlowKey::sample(1), FlowKey::sample(2)]
        );
        assert_eq!(top[0].cost.frames, 3);
        assert_eq!((top[0].cost.total_ns, top[0].cost.longest_ns), (30, 10));
        assert_eq!(flows.get(&FlowKey::sample(2)), Some(top[1]));
        assert_eq!((flows.other().total_ns, flows.replaced()), (1_000, 0));
        flows.reset();
        assert_eq!((flows.len(), flows.other().frames), (0, 0));
    }

    proptest! {
        #[test]
        fn costs_are_bounded_and_great_ones_are_listed(
            notes in proptest::collection::vec((0u16..300, 0u64..1 << 40), 1..2_000),
            places in 1usize..64,
        ) {
            let mut flows = TopFlows::new(places);
            let mut truth: HashMap<FlowKey, FlowCost> = HashMap::new();
            for (number, ns) in notes {
                flows.note(Some(FlowKey::sample(number)), &cost(ns));
                truth.entry(FlowKey::sample(number)).or_default().add(&cost(ns));
            }
            prop_assert!(flows.len() <= places.clamp(WAYS, 1 << 20).next_power_of_two());
            for one in flows.top(usize::MAX) {
                let whole = truth[&one.flow];
                prop_assert!(one.cost.total_ns <= whole.total_ns);
                prop_assert!(whole.total_ns <= one.cost.total_ns.saturating_add(one.missed_ns));
                prop_assert!(one.cost.frames <= whole.frames);
            }
            let all: u64 = truth.values().map(|cost| cost.total_ns).sum();
            for (flow, cost) in &truth {
                prop_assert!(cost.total_ns <= all / WAYS as u64 + 2_000 || flows.get(flow).is_some());
            }
            if flows.replaced() == 0 {
                prop_assert_eq!(flows.len(), truth.len());
            }
        }
    }
}
