//! IP fragments, put together to be judged as the datagrams that their receiver will read (RFC 791, 3.2; RFC 8200, 4.5).
//!
//! Fragments pass at once, unchanged and in order. The one that makes its datagram whole gets the verdict on all of it; if that is to
//! drop, no other that belongs to the datagram passes afterwards, so that the receiver never has it whole.
//!
//! For each place in a datagram the first octet shown wins. What receivers make of a second one differs (the first copy stays, or the
//! last, or both go: RFC 5722), and it may reach one that missed the first. So a datagram is remembered when it was whole, too, and a
//! fragment with another octet, another end or another protocol than was shown before is a conflict, which is dropped if any rule
//! may drop.
//!
//! Memory is bounded. To make room, datagrams go that were judged and passed, longest untouched first; then those that are not whole yet,
//! whose fragments count as not judged; then those that were denied. What nobody touched for [`PATIENCE`] is forgotten.

mod datagram;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use offload::{FrameMeta, Network};

use crate::{FilterCounters, FrameRef, Instant};
use datagram::{Datagram, Taken};
use view::{Fragment, Key};

/// No receiver in use waits longer for the rest of a datagram: Linux 30 s for IPv4, all of them 60 s for IPv6 (RFC 8200, 4.5). It counts
/// from the last fragment, so nothing is forgotten here that a receiver still has.
const PATIENCE: Duration = Duration::from_mins(1);
/// Datagrams that are forgotten at most when one fragment comes.
const RECLAIM: usize = 4;

/// What is to become of a fragment.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It goes on.
    Pass,
    /// It must not.
    Drop,
    /// The datagram is whole; [`Fragments::settle`] wants to know the verdict.
    Whole(Whole),
}

/// A datagram that has been put together.
#[derive(Debug)]
pub(crate) struct Whole {
    key: Key,
    /// A frame with it, without VLAN tags and link addresses.
    octets: Vec<u8>,
    /// Its headers.
    pub(crate) meta: FrameMeta,
}

impl Whole {
    /// Its transport payload.
    pub(crate) fn payload(&self) -> &[u8] {
        let Some(payload) = self.meta.ip().and_then(|ip| ip.transport.payload()) else {
            return &[];
        };
        let behind = self.octets.get(payload.start..).unwrap_or_default();
        behind.get(..payload.len()).unwrap_or(behind)
    }
}

/// How a datagram stands. In the order in which datagrams go when memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Whole, and it passed.
    Passed,
    /// Not whole yet.
    Open,
    /// Whole, and its last fragment was dropped.
    Denied,
}

#[derive(Debug)]
struct Entry {
    datagram: Datagram,
    state: State,
    touched: Instant,
    /// Its place among those of its state.
    turn: u64,
}

/// The datagrams that come in fragments, in both directions of a port.
#[derive(Debug)]
pub(crate) struct Fragments {
    max_datagrams: usize,
    max_octets: usize,
    entries: HashMap<Key, Entry>,
    /// By [`State`], longest untouched first.
    order: [BTreeMap<u64, Key>; 3],
    turns: u64,
    /// Octets charged.
    used: usize,
    spare: Vec<u8>,
}

impl Fragments {
    /// Remembers up to so many datagrams of up to so many octets together, what keeping them costs included.
    pub(crate) fn new(max_datagrams: usize, max_octets: usize) -> Self {
        Self {
            max_datagrams,
            max_octets,
            entries: HashMap::new(),
            order: Default::default(),
            turns: 0,
            used: 0,
            spare: Vec::new(),
        }
    }

    /// Takes a fragment in, of which the whole packet has to be shown. `enforcing`: whether any rule may drop.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        frame: &FrameRef<'_>,
        enforcing: bool,
        counters: &mut FilterCounters,
    ) -> Outcome {
        counters.fragments += 1;
        self.expire(now, RECLAIM, counters);
        let refused = if enforcing { Outcome::Drop } else { Outcome::Pass };
        let Some(fragment) = Fragment::of(frame) else {
            counters.conflicts += 1;
            return refused;
        };
        if !fragment.key.may_be_judged() {
            return Outcome::Pass;
        }
        let mut entry = self.remove(&fragment.key).unwrap_or_else(Entry::new);
        if entry.state == State::Denied {
            self.keep(now, fragment.key, entry);
            return Outcome::Drop;
        }
        let mut taken = entry.datagram.take(&fragment);
        if taken == Taken::Conflict {
            counters.conflicts += 1;
            if entry.state == State::Open || enforcing {
                self.keep(now, fragment.key, entry);
                return refused;
            }
            // The next datagram of this identification.
            entry = Entry::new();
            taken = entry.datagram.take(&fragment);
        }
        let whole = if taken == Taken::Whole {
            counters.reassembled += 1;
            self.assemble(fragment.key, &entry.datagram, frame.meta)
        } else {
            None
        };
        if taken == Taken::Whole {
            entry.state = State::Passed;
        }
        self.keep(now, fragment.key, entry);
        self.make_room(counters);
        match whole {
            Some(whole) if is_readable(&whole.meta) => Outcome::Whole(whole),
            Some(whole) => {
                counters.conflicts += 1;
                self.settle(now, whole, enforcing);
                refused
            }
            None => Outcome::Pass,
        }
    }

    /// Takes back what was judged, and remembers what became of its last fragment.
    pub(crate) fn settle(&mut self, now: Instant, whole: Whole, denied: bool) {
        if denied {
            self.remove(&whole.key);
            let entry = Entry {
                state: State::Denied,
                ..Entry::new()
            };
            self.keep(now, whole.key, entry);
        }
        self.spare = whole.octets;
    }

    /// Forgets up to `limit` datagrams that nobody touched for long.
    pub(crate) fn expire(&mut self, now: Instant, limit: usize, counters: &mut FilterCounters) {
        let mut left = limit;
        for state in [State::Passed, State::Open, State::Denied] {
            while left > 0
                && let Some(key) = self.oldest(state)
                && let Some(entry) = self.entries.get(&key)
                && entry.touched.after(PATIENCE) < now
                && self.remove(&key).is_some()
            {
                left -= 1;
                counters.fragments_expired += u64::from(state == State::Open);
            }
        }
    }

    fn make_room(&mut self, counters: &mut FilterCounters) {
        while (self.used > self.max_octets || self.entries.len() > self.max_datagrams)
            && let Some(key) = [State::Passed, State::Open, State::Denied]
                .into_iter()
                .find_map(|state| self.oldest(state))
            && let Some(gone) = self.remove(&key)
        {
            if gone.state == State::Open {
                counters.fragments_evicted += 1;
                counters.failed_open += u64::from(gone.datagram.fragments());
            }
        }
    }

    fn assemble(&mut self, key: Key, datagram: &Datagram, meta: &FrameMeta) -> Option<Whole> {
        let mut octets = core::mem::take(&mut self.spare);
        octets.clear();
        view::begin_frame(&key, datagram.protocol(), datagram.octets(), &mut octets);
        datagram
            .pieces()
            .for_each(|piece| octets.extend_from_slice(piece));
        let parsed = offload::parse(&octets, octets.len()).ok()?;
        let meta = FrameMeta {
            vlan: meta.vlan,
            ..parsed
        };
        Some(Whole { key, octets, meta })
    }

    fn oldest(&self, state: State) -> Option<Key> {
        let order = self.order.get(state as usize)?;
        order.first_key_value().map(|(_, key)| *key)
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        if let Some(order) = self.order.get_mut(entry.state as usize) {
            order.remove(&entry.turn);
        }
        self.used -= entry.datagram.charge();
        Some(entry)
    }

    fn keep(&mut self, now: Instant, key: Key, entry: Entry) {
        self.turns += 1;
        if let Some(order) = self.order.get_mut(entry.state as usize) {
            order.insert(self.turns, key);
        }
        self.used += entry.datagram.charge();
        let entry = Entry {
            touched: now,
            turn: self.turns,
            ..entry
        };
        self.entries.insert(key, entry);
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            datagram: Datagram::default(),
            state: State::Open,
            touched: Instant(0),
            turn: 0,
        }
    }
}

/// Whether the parser came to the end of a packet's headers: not to another fragment header, and not to more IPv6 extension headers than
/// it reads.
pub(crate) fn is_readable(meta: &FrameMeta) -> bool {
    match &meta.network {
        Network::Ipv6(ip) => !ip.fragment && offload::view::ExtensionKind::from_number(ip.protocol).is_none(),
        _ => true,
    }
}
