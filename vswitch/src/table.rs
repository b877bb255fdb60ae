//! The forwarding table: which port an address was last heard on.
//!
//! All workers share it and none of them locks. It is an array of sets of eight slots; a slot is a key word (MAC and
//! VLAN) and a value word (port, second, and a tag made from the key). The value word is the authority: 0 is
//! a free slot, [`BUSY`] one that is being rewritten, and every change of owner is a compare-and-swap on it, so
//! that the number of addresses per port is exact. A reader that catches a slot between two owners sees a value
//! whose tag does not fit its key, and takes it for a miss: the frame is flooded, which is always right.
//!
//! A guest can send from as many addresses as it likes. Each port may own a limited number of slots ([`ForwardingTable::allow`]); past that, and in
//! full sets, a port's new address takes the place of its own oldest one first. Sets are chosen by a secret hash, so that
//! a guest cannot aim at another's.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use offload::MacAddr;

use crate::port::PortId;

/// Slots in a set: the keys of one set fill one cache line.
const WAYS: usize = 8;

/// A slot that some worker is rewriting.
const BUSY: u64 = u64::MAX;

/// Key words of used slots have this bit set, so that no key is 0.
const KEY_VALID: u64 = 1 << 63;

/// Port 65,535 could make a value word that looks like [`BUSY`].
const MAX_PORTS: usize = 65_535;

/// Sets that are rid of expired addresses when a port at its cap wants one more.
const SWEEP_ON_REFUSAL: usize = 16;

/// Sizes and times of a [`ForwardingTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// Addresses in all; rounded up to a power of two, at least 8.
    pub capacity: usize,
    /// Addresses that a port may have of which nothing else was said.
    pub per_port: u32,
    /// Ports: identifiers at or above this number are not learned.
    pub ports: usize,
    /// Seconds for which an address that is not heard from is believed (IEEE 802.1Q-2018, 8.8.3: 300).
    pub ageing: u32,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            // Eight MiB. A quarter full, hardly any set is: 100,000 addresses find their places.
            capacity: 524_288,
            per_port: 1_024,
            ports: 4_096,
            ageing: 300,
        }
    }
}

/// What [`ForwardingTable::learn`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The address was there, on this port; at most its time was renewed.
    Known,
    /// The address is new.
    New,
    /// The address was on another port before.
    Moved(PortId),
    /// The address was not learned: a group address, a port out of range or at its cap, or a lost race.
    Refused,
}

/// One address of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// The address.
    pub mac: MacAddr,
    /// Its VLAN.
    pub vlan: u16,
    /// The port that it was last heard on.
    pub port: PortId,
    /// The second in which it was last heard.
    pub seen: u32,
}

/// What a table has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Addresses that went from one port to another.
    pub moves: u64,
    /// Addresses that made room for another although they had not expired.
    pub evictions: u64,
    /// Addresses that were not learned because their port was at its cap.
    pub refused: u64,
}

/// Where to send a frame, learned from where frames came from. See the module's documentation.
pub struct ForwardingTable {
    sets: Box<[Set]>,
    owned: Box<[AtomicU32]>,
    caps: Box<[AtomicU32]>,
    ageing: u32,
    seed: u64,
    sweep_cursor: AtomicUsize,
    moves: AtomicU64,
    evictions: AtomicU64,
    refused: AtomicU64,
    changes: AtomicU64,
}

#[repr(align(64))]
#[derive(Default)]
struct Set {
    keys: [AtomicU64; WAYS],
    values: [AtomicU64; WAYS],
}

impl ForwardingTable {
    /// An empty table.
    pub fn new(config: &TableConfig) -> Self {
        Self::with_seed(config, RandomState::new().hash_one(0x656e_6c69_u32))
    }

    /// An empty table whose hash is known, for tests that need to repeat.
    fn with_seed(config: &TableConfig, seed: u64) -> Self {
        let sets = config.capacity.max(WAYS).next_power_of_two() / WAYS;
        let for_each_port = |value| {
            (0..config.ports.min(MAX_PORTS))
                .map(|_| AtomicU32::new(value))
                .collect()
        };
        Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            owned: for_each_port(0),
            caps: for_each_port(config.per_port),
            ageing: config.ageing,
            seed,
            sweep_cursor: AtomicUsize::new(0),
            moves: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        }
    }

    /// The port that frames to `mac` in `vlan` go to; `None` when nobody was heard from there for the ageing time.
    pub fn lookup(&self, mac: MacAddr, vlan: u16, now_seconds: u32) -> Option<PortId> {
        let key = Key::new(mac, vlan, self.seed);
        let set = self.set(key);
        for (slot_key, slot_value) in set.keys.iter().zip(&set.values) {
            // Acquire on each: a value that belongs to another key was stored after that key, so that the second look
            // at the key, or else the tag, gives it away.
            if slot_key.load(Ordering::Acquire) != key.word {
                continue;
            }
            let value = Value(slot_value.load(Ordering::Acquire));
            if slot_key.load(Ordering::Relaxed) == key.word
                && value.fits(key)
                && !value.expired(now_seconds, self.ageing)
            {
                return Some(value.port());
            }
        }
        None
    }

    /// Notes that `mac` in `vlan` was heard on `port`. Stores nothing when that was known this second already.
    pub fn learn(&self, mac: MacAddr, vlan: u16, port: PortId, now_seconds: u32) -> Learned {
        if mac.is_multicast() || usize::from(port.0) >= self.owned.len() {
            return Learned::Refused;
        }
        let key = Key::new(mac, vlan, self.seed);
        let set = self.set(key);
        for (slot_key, slot_value) in set.keys.iter().zip(&set.values) {
            if slot_key.load(Ordering::Acquire) == key.word {
                let value = Value(slot_value.load(Ordering::Acquire));
                if value.fits(key) {
                    return self.renew(slot_value, value, key, port, now_seconds);
                }
            }
        }
        self.insert(set, key, port, now_seconds)
    }

    /// Lets a port have so many addresses from now on. What it has beyond that it keeps until they expire.
    pub fn allow(&self, port: PortId, addresses: u32) {
        if let Some(cap) = self.caps.get(usize::from(port.0)) {
            cap.store(addresses, Ordering::Relaxed);
        }
    }

    /// Forgets every address of a port that goes. Nobody may learn for it any more.
    pub fn forget_port(&self, port: PortId) {
        for slot in self.slots() {
            let value = Value(slot.load(Ordering::Acquire));
            if value.is_entry() && value.port() == port && self.release(slot, value) {
                self.note_change();
            }
        }
    }

    /// Frees the slots of expired addresses in the next `sets` sets. Whoever calls this now and then, with a few sets each
    /// time, keeps [`ForwardingTable::len`] honest; nothing else depends on it.
    pub fn sweep(&self, sets: usize, now_seconds: u32) {
        let sets = sets.min(self.sets.len());
        let start = self.sweep_cursor.fetch_add(sets, Ordering::Relaxed);
        for index in start..start.wrapping_add(sets) {
            for slot in &self.sets[index & (self.sets.len() - 1)].values {
                let value = Value(slot.load(Ordering::Acquire));
                if value.is_entry() && value.expired(now_seconds, self.ageing) {
                    self.release(slot, value);
                }
            }
        }
    }

    /// The addresses that are believed at `now_seconds`, in no order. For display: it walks the whole table.
    pub fn entries(&self, now_seconds: u32) -> Vec<TableEntry> {
        let mut entries = Vec::new();
        for set in &self.sets {
            for (slot_key, slot_value) in set.keys.iter().zip(&set.values) {
                let key = Key::of_word(slot_key.load(Ordering::Acquire), self.seed);
                let value = Value(slot_value.load(Ordering::Acquire));
                if value.fits(key) && !value.expired(now_seconds, self.ageing) {
                    entries.push(TableEntry {
                        mac: key.mac(),
                        vlan: key.vlan(),
                        port: value.port(),
                        seen: value.seen(),
                    });
                }
            }
        }
        entries
    }

    /// Slots in use, those of expired addresses that nobody swept yet included.
    pub fn len(&self) -> usize {
        let sum: u32 = self.owned.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        sum as usize
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots that `port` has in use.
    pub fn len_of(&self, port: PortId) -> usize {
        self.owned
            .get(usize::from(port.0))
            .map_or(0, |count| count.load(Ordering::Relaxed) as usize)
    }

    /// What happened so far.
    pub fn counts(&self) -> TableCounts {
        TableCounts {
            moves: self.moves.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// A number that is another one after any address came, moved or went with its port; not after one was heard again, and
    /// not after one expired, which the second tells.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The address has this slot already: renews its time and, when it moved, its port.
    fn renew(&self, slot: &AtomicU64, old: Value, key: Key, port: PortId, now_seconds: u32) -> Learned {
        let new = Value::new(key, port, now_seconds);
        if old == new {
            return Learned::Known;
        }
        if old.port() == port {
            // Lost to another worker's news of the same address: those are as good as ours.
            let _ = slot.compare_exchange(old.0, new.0, Ordering::Release, Ordering::Relaxed);
            return Learned::Known;
        }
        if !self.reserve(port, now_seconds) {
            return Learned::Refused;
        }
        if slot
            .compare_exchange(old.0, new.0, Ordering::Release, Ordering::Relaxed)
            .is_err()
        {
            self.unreserve(port);
            return Learned::Refused;
        }
        self.unreserve(old.port());
        self.note_change();
        self.moves.fetch_add(1, Ordering::Relaxed);
        Learned::Moved(old.port())
    }

    /// The address has no slot in its set: finds it one.
    fn insert(&self, set: &Set, key: Key, port: PortId, now_seconds: u32) -> Learned {
        let choice = Choice::of(set, port, now_seconds, self.ageing);
        let at_cap = !self.reserve(port, now_seconds);
        let victim = match choice {
            _ if at_cap => choice.own,
            Choice { free: Some(slot), .. } => Some(slot),
            _ => choice.own.or(choice.oldest),
        };
        let Some((way, old)) = victim else {
            return self.give_up(at_cap, port);
        };
        let (slot_key, slot_value) = (&set.keys[way], &set.values[way]);
        if slot_value
            .compare_exchange(old.0, BUSY, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return self.give_up(at_cap, port);
        }
        slot_key.store(key.word, Ordering::Release);
        slot_value.store(Value::new(key, port, now_seconds).0, Ordering::Release);
        self.note_change();
        if old.is_entry() {
            // At the cap the slot was the port's own and no other was reserved: its count stays as it is.
            if !at_cap {
                self.unreserve(old.port());
            }
            if !old.expired(now_seconds, self.ageing) {
                self.evictions.fetch_add(1, Ordering::Relaxed);
            }
        }
        Learned::New
    }

    fn give_up(&self, at_cap: bool, port: PortId) -> Learned {
        if at_cap {
            self.refused.fetch_add(1, Ordering::Relaxed);
        } else {
            self.unreserve(port);
        }
        Learned::Refused
    }

    /// Counts one more slot for the port, unless it has as many as it may. Expired ones are looked for before it is
    /// refused, a few sets each time.
    fn reserve(&self, port: PortId, now_seconds: u32) -> bool {
        let count = &self.owned[usize::from(port.0)];
        let cap = self.caps[usize::from(port.0)].load(Ordering::Relaxed);
        let try_once = || {
            count
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                    (n < cap).then_some(n + 1)
                })
                .is_ok()
        };
        try_once() || {
            self.sweep(SWEEP_ON_REFUSAL, now_seconds);
            try_once()
        }
    }

    fn unreserve(&self, port: PortId) {
        if let Some(count) = self.owned.get(usize::from(port.0)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Frees a slot, unless another worker changed it meanwhile. Whether it did.
    fn release(&self, slot: &AtomicU64, value: Value) -> bool {
        let freed = slot
            .compare_exchange(value.0, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if freed {
            self.unreserve(value.port());
        }
        freed
    }

    fn set(&self, key: Key) -> &Set {
        &self.sets[key.hash as usize & (self.sets.len() - 1)]
    }

    fn slots(&self) -> impl Iterator<Item = &AtomicU64> {
        self.sets.iter().flat_map(|set| &set.values)
    }
}

/// Slots of a set that a new address of a port could have.
#[derive(Default)]
struct Choice {
    /// Free, or with an expired address.
    free: Option<(usize, Value)>,
    /// The port's own oldest.
    own: Option<(usize, Value)>,
    /// The oldest.
    oldest: Option<(usize, Value)>,
}

impl Choice {
    fn of(set: &Set, port: PortId, now_seconds: u32, ageing: u32) -> Self {
        let mut choice = Self::default();
        let older = |best: Option<(usize, Value)>, value: Value| {
            best.is_none_or(|(_, other)| value.age(now_seconds) > other.age(now_seconds))
        };
        for (way, slot) in set.values.iter().enumerate() {
            let value = Value(slot.load(Ordering::Acquire));
            if value.0 == BUSY {
                continue;
            }
            if !value.is_entry() || value.expired(now_seconds, ageing) {
                choice.free = choice.free.or(Some((way, value)));
            }
            if !value.is_entry() {
                continue;
            }
            if value.port() == port && older(choice.own, value) {
                choice.own = Some((way, value));
            }
            if older(choice.oldest, value) {
                choice.oldest = Some((way, value));
            }
        }
        choice
    }
}

/// A key word and its hash.
#[derive(Clone, Copy)]
struct Key {
    word: u64,
    hash: u64,
}

impl Key {
    fn new(mac: MacAddr, vlan: u16, seed: u64) -> Self {
        Self::of_word(KEY_VALID | u64::from(vlan & 0x0fff) << 48 | mac.to_u64(), seed)
    }

    fn of_word(word: u64, seed: u64) -> Self {
        // The finalizer of SplitMix64: every input bit reaches every output bit.
        let mut hash = word ^ seed;
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        Self { word, hash }
    }

    /// Part of the hash that does not choose the set; never 0, so that no value word is.
    const fn tag(self) -> u16 {
        (self.hash >> 48) as u16 | 1
    }

    fn mac(self) -> MacAddr {
        let mut octets = [0; 6];
        octets.copy_from_slice(&self.word.to_be_bytes()[2..]);
        MacAddr(octets)
    }

    const fn vlan(self) -> u16 {
        (self.word >> 48) as u16 & 0x0fff
    }
}

/// A value word: seconds, port, tag.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value(u64);

impl Value {
    fn new(key: Key, port: PortId, seconds: u32) -> Self {
        Self(u64::from(seconds) << 32 | u64::from(port.0) << 16 | u64::from(key.tag()))
    }

    const fn is_entry(self) -> bool {
        self.0 != 0 && self.0 != BUSY
    }

    /// Whether this is an entry, and one of this key.
    const fn fits(self, key: Key) -> bool {
        self.is_entry() && self.0 as u16 == key.tag()
    }

    const fn port(self) -> PortId {
        PortId((self.0 >> 16) as u16)
    }

    const fn seen(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Seconds since it was heard; 0 when another worker's clock was a little ahead.
    const fn age(self, now_seconds: u32) -> u32 {
        now_seconds.saturating_sub(self.seen())
    }

    const fn expired(self, now_seconds: u32, ageing: u32) -> bool {
        self.age(now_seconds) >= ageing
    }
}

#[cfg(test)]
mod tests;
