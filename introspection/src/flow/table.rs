//! A bounded table of flows.

use std::collections::HashMap;

use offload::FrameMeta;

use super::FlowKey;
use crate::{Direction, Instant};

const NONE: u32 = u32::MAX;
/// A flow moves to the young end of its list at most this often, so a busy flow costs no list work.
const TOUCH_NS: u64 = 1_000_000_000;
/// Idle flows that one insertion takes out at most.
const RECLAIM: usize = 2;

/// How much a flow has shown of itself; it decides how long the flow is kept and which goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Ended by FIN or RST.
    Closing = 0,
    /// Frames of one direction only: what a flood of SYNs or of forged addresses makes.
    OneWay = 1,
    /// Frames of both directions.
    TwoWay = 2,
}

impl Activity {
    const ALL: [Self; 3] = [Self::Closing, Self::OneWay, Self::TwoWay];

    /// Nanoseconds without a frame after which the flow is forgotten.
    const fn idle_ns(self) -> u64 {
        match self {
            Self::Closing => 10_000_000_000,
            Self::OneWay => 30_000_000_000,
            Self::TwoWay => 300_000_000_000,
        }
    }
}

/// Where a flow stands in its table. Right until the flow is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

/// A flow that had to go.
#[derive(Debug)]
pub struct Evicted<T> {
    /// Its name.
    pub key: FlowKey,
    /// What was kept for it.
    pub value: T,
}

#[derive(Debug)]
struct Entry<T> {
    key: FlowKey,
    value: Option<T>,
    activity: Activity,
    touched: Instant,
    older: u32,
    younger: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    oldest: u32,
    youngest: u32,
    len: usize,
}

/// Up to `cap` flows with something of type `T` each.
///
/// When it is full, the flow that was idle longest goes: first among those that are closing, then among one-way
/// flows while these fill more than an eighth of the table, then among all others. So a flood of SYNs displaces its own
/// flows and leaves established ones alone. Addresses are taken for all flows at once, so that a full table never stands still to
/// grow; the memory behind them grows with use.
#[derive(Debug)]
pub struct FlowTable<T> {
    cap: usize,
    index: HashMap<FlowKey, u32>,
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    lists: [List; 3],
    last: Option<(FlowKey, u32)>,
    evictions: u64,
}

impl<T> FlowTable<T> {
    /// A table of at most `cap` flows (at least 1, at most 2^24).
    pub fn new(cap: usize) -> Self {
        let empty = List {
            oldest: NONE,
            youngest: NONE,
            len: 0,
        };
        let cap = cap.clamp(1, 1 << 24);
        Self {
            cap,
            index: HashMap::with_capacity(cap),
            entries: Vec::with_capacity(cap),
            free: Vec::new(),
            lists: [empty; 3],
            last: None,
            evictions: 0,
        }
    }

    /// Flows in the table.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Flows that were evicted because the table was full.
    pub const fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Finds a flow. A burst is mostly one flow, so the last one is found without hashing.
    pub fn find(&mut self, key: &FlowKey) -> Option<Slot> {
        if let Some((last, at)) = &self.last
            && last == key
        {
            return Some(Slot(*at));
        }
        let at = *self.index.get(key)?;
        self.last = Some((*key, at));
        Some(Slot(at))
    }

    /// The flow that was found last, if a frame that goes `direction` is of it: then no name has to be made for the frame.
    pub fn last_if_of(&self, meta: &FrameMeta, direction: Direction) -> Option<(FlowKey, Slot)> {
        let (key, at) = self.last.as_ref()?;
        key.is_of(meta, direction).then_some((*key, Slot(*at)))
    }

    /// What is kept for a flow.
    pub fn get(&self, slot: Slot) -> Option<&T> {
        self.entries.get(slot.0 as usize)?.value.as_ref()
    }

    /// What is kept for a flow.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.entries.get_mut(slot.0 as usize)?.value.as_mut()
    }

    /// The name of the flow in `slot`.
    pub fn key(&self, slot: Slot) -> Option<&FlowKey> {
        self.entries.get(slot.0 as usize).map(|entry| &entry.key)
    }

    /// Adds a flow that [`FlowTable::find`] did not find. What has to go for it is given to `evicted`.
    pub fn insert(
        &mut self,
        now: Instant,
        key: FlowKey,
        value: T,
        mut evicted: impl FnMut(Evicted<T>),
    ) -> Slot {
        self.reclaim(now, RECLAIM, &mut evicted);
        if self.index.len() >= self.cap
            && let Some(flow) = self.evict_for_room()
        {
            evicted(flow);
        }
        let entry = Entry {
            key,
            value: Some(value),
            activity: Activity::OneWay,
            touched: now,
            older: NONE,
            younger: NONE,
        };
        let at = self.place(entry);
        self.index.insert(key, at);
        self.link(at, Activity::OneWay);
        self.last = Some((key, at));
        Slot(at)
    }

    /// Notes a frame of the flow in `slot`, and what the flow has become by it. A closing flow stays so.
    pub fn touch(&mut self, now: Instant, slot: Slot, activity: Activity) {
        let Some(entry) = self.entries.get_mut(slot.0 as usize) else {
            return;
        };
        let becomes = match entry.activity {
            Activity::Closing => Activity::Closing,
            Activity::TwoWay if activity == Activity::OneWay => Activity::TwoWay,
            _ => activity,
        };
        if becomes == entry.activity && now.since(entry.touched) < TOUCH_NS {
            return;
        }
        entry.touched = now;
        self.relink(slot.0, becomes);
    }

    /// Takes a closing flow back: its ends began a new connection.
    pub fn reopen(&mut self, now: Instant, slot: Slot) {
        if let Some(entry) = self.entries.get_mut(slot.0 as usize) {
            entry.touched = now;
            self.relink(slot.0, Activity::OneWay);
        }
    }

    /// Takes out up to `limit` flows that have been idle for too long.
    pub fn reclaim(&mut self, now: Instant, limit: usize, mut evicted: impl FnMut(Evicted<T>)) {
        let mut left = limit;
        for activity in Activity::ALL {
            while left > 0
                && let Some(oldest) = self.lists.get(activity as usize).map(|list| list.oldest)
                && let Some(entry) = self.entries.get(oldest as usize)
                && now.since(entry.touched) > activity.idle_ns()
                && let Some(flow) = self.remove(oldest)
            {
                left -= 1;
                evicted(flow);
            }
        }
    }

    fn evict_for_room(&mut self) -> Option<Evicted<T>> {
        let [closing, one_way, two_way] = &self.lists;
        let victim = if closing.len > 0 {
            closing.oldest
        } else if one_way.len * 8 > self.cap || two_way.len == 0 {
            one_way.oldest
        } else {
            two_way.oldest
        };
        self.evictions += 1;
        self.remove(victim)
    }

    fn place(&mut self, entry: Entry<T>) -> u32 {
        if let Some(at) = self.free.pop()
            && let Some(place) = self.entries.get_mut(at as usize)
        {
            *place = entry;
            return at;
        }
        self.entries.push(entry);
        self.entries.len() as u32 - 1
    }

    fn remove(&mut self, at: u32) -> Option<Evicted<T>> {
        let entry = self.entries.get_mut(at as usize)?;
        let key = entry.key;
        let value = entry.value.take()?;
        self.unlink(at);
        self.index.remove(&key);
        self.free.push(at);
        self.last = None;
        Some(Evicted { key, value })
    }

    fn relink(&mut self, at: u32, activity: Activity) {
        self.unlink(at);
        self.link(at, activity);
    }

    fn link(&mut self, at: u32, activity: Activity) {
        let Some(list) = self.lists.get_mut(activity as usize) else {
            return;
        };
        let before = list.youngest;
        list.youngest = at;
        list.len += 1;
        if before == NONE {
            list.oldest = at;
        }
        if let Some(entry) = self.entries.get_mut(at as usize) {
            entry.activity = activity;
            entry.older = before;
            entry.younger = NONE;
        }
        if let Some(entry) = self.entries.get_mut(before as usize) {
            entry.younger = at;
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(entry) = self.entries.get(at as usize) else {
            return;
        };
        let (older, younger, activity) = (entry.older, entry.younger, entry.activity);
        if let Some(entry) = self.entries.get_mut(older as usize) {
            entry.younger = younger;
        }
        if let Some(entry) = self.entries.get_mut(younger as usize) {
            entry.older = older;
        }
        if let Some(list) = self.lists.get_mut(activity as usize) {
            list.len -= 1;
            if list.oldest == at {
                list.oldest = younger;
            }
            if list.youngest == at {
                list.youngest = older;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction;
    use crate::testing::Segment;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(port: u16) -> FlowKey {
        FlowKey::of(&Segment::tx().port(port).meta(), Direction::Tx).expect("TCP")
    }

    fn add(table: &mut FlowTable<u16>, now: u64, port: u16) -> Vec<u16> {
        let mut gone = Vec::new();
        table.insert(Instant(now), key(port), port, |flow| gone.push(flow.value));
        gone
    }

    #[test]
    fn a_flood_displaces_itself_and_not_established_flows() {
        let mut table = FlowTable::new(64);
        for port in 0..40 {
            assert!(add(&mut table, 0, port).is_empty());
            let slot = table.find(&key(port)).expect("there");
            table.touch(Instant(1), slot, Activity::TwoWay);
        }
        for port in 1000..20_000 {
            let gone = add(&mut table, 2, port);
            assert!(gone.iter().all(|port| *port >= 1000));
            assert!(table.len() <= 64);
        }
        assert!((0..40).all(|port| table.find(&key(port)).is_some()));
        assert_eq!(table.entries.len(), 64);
        assert_eq!(table.evictions(), 19_000 - 24);
    }

    #[test]
    fn closing_flows_go_first_and_stay_closing() {
        let mut table = FlowTable::new(3);
        for port in 0..3 {
            add(&mut table, u64::from(port), port);
        }
        let slot = table.find(&key(2)).expect("there");
        table.touch(Instant(5), slot, Activity::Closing);
        table.touch(Instant(6), slot, Activity::TwoWay);
        assert_eq!(add(&mut table, 7, 9), [2]);
        assert_eq!(add(&mut table, 8, 10), [0]);
    }

    #[test]
    fn the_flow_that_was_idle_longest_goes() {
        let mut table = FlowTable::new(2);
        add(&mut table, 0, 0);
        add(&mut table, 0, 1);
        let slot = table.find(&key(0)).expect("there");
        table.touch(Instant(2 * SECOND), slot, Activity::OneWay);
        assert_eq!(add(&mut table, 2 * SECOND, 2), [1]);
    }

    #[test]
    fn idle_flows_are_forgotten_by_their_class() {
        let mut table = FlowTable::new(100);
        for port in 0..3 {
            add(&mut table, 0, port);
        }
        let (closing, two_way) = (table.find(&key(0)), table.find(&key(1)));
        table.touch(Instant(0), closing.expect("there"), Activity::Closing);
        table.touch(Instant(0), two_way.expect("there"), Activity::TwoWay);
        for (seconds, expected) in [(10, vec![]), (11, vec![0]), (31, vec![2]), (301, vec![1])] {
            let mut gone = Vec::new();
            table.reclaim(Instant(seconds * SECOND), 10, |flow| gone.push(flow.value));
            assert_eq!(gone, expected, "after {seconds} s");
        }
        assert!(table.is_empty());
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_map(steps in proptest::collection::vec((0u16..40, 0u8..4, 0u64..20), 1..400)) {
            let mut table = FlowTable::new(16);
            let mut model = std::collections::BTreeMap::new();
            let mut now = 0;
            for (port, step, wait) in steps {
                now += wait * SECOND;
                match (step, table.find(&key(port))) {
                    (0 | 1, None) => {
                        table.insert(Instant(now), key(port), port, |flow| {
                            assert_eq!(model.remove(&flow.key), Some(flow.value));
                        });
                        model.insert(key(port), port);
                    }
                    (2, Some(slot)) => table.touch(Instant(now), slot, Activity::TwoWay),
                    (3, Some(slot)) => table.touch(Instant(now), slot, Activity::Closing),
                    _ => table.reclaim(Instant(now), 3, |flow| {
                        assert_eq!(model.remove(&flow.key), Some(flow.value));
                    }),
                }
                prop_assert!(table.len() <= 16);
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.lists.iter().map(|list| list.len).sum::<usize>(), model.len());
            }
            for (key, port) in &model {
                let slot = table.find(key).expect("in the model");
                prop_assert_eq!(table.get(slot), Some(port));
            }
        }
    }
}
