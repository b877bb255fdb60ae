//! The layout for packed rings (`QueueRegionPacked` and `DescStatePacked`). A chain's entries are those with the numbers of
//! its slots, so that the list of free entries simply goes round.

use super::{Region, VERSION};
use crate::ring::chain::{Chain, Descriptor};
use crate::ring::packed::position::{WRAP, after, slot, wrap};

const FEATURES: u64 = 0;
const VERSION_AT: u64 = 8;
const DESC_NUM: u64 = 10;
const FREE_HEAD: u64 = 12;
const OLD_FREE_HEAD: u64 = 14;
/// A word with the numbers of the next used slot, before it of the one before the present batch, and their wrap
/// counters in an octet each.
const USED: u64 = 16;
pub(super) const HEADER: u64 = 32;
pub(super) const ENTRY: u64 = 32;

/// What is written down of a packed ring.
#[derive(Debug)]
pub(in crate::ring) struct PackedLog {
    region: Region,
    size: u16,
    counter: u64,
}

/// Where used descriptors go: the first one after a batch that is being returned, and the first one of it. Without such
/// a batch both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Used {
    new: u16,
    old: u16,
}

impl Used {
    /// The fields `used_idx`, `old_used_idx`, `used_wrap_counter` and `old_used_wrap_counter`, as one word, for they
    /// must change at once.
    fn to_word(self) -> u64 {
        let [new, old] = [self.new, self.old].map(|at| slot(at).to_ne_bytes());
        let rounds = [self.new, self.old].map(|at| u8::from(wrap(at)));
        u64::from_ne_bytes([new[0], new[1], old[0], old[1], rounds[0], rounds[1], 0, 0])
    }

    /// `None` if a position is not in a ring of this size.
    fn of_word(word: u64, size: u16) -> Option<Self> {
        let [a, b, c, d, new_round, old_round, ..] = word.to_ne_bytes();
        let position = |index: [u8; 2], round: u8| {
            let index = u16::from_ne_bytes(index);
            (index < size).then_some(index | if round & 1 == 0 { 0 } else { WRAP })
        };
        Some(Self {
            new: position([a, b], new_round)?,
            old: position([c, d], old_round)?,
        })
    }
}

impl PackedLog {
    /// Goes on with what a region says, or makes it new with `base`. Also returns where the ring goes on.
    ///
    /// `is_available` says whether the descriptor at a position still waits for us. The region has room for `size`
    /// entries.
    pub(in crate::ring) fn open(
        region: Region,
        size: u16,
        base: u16,
        is_available: impl FnOnce(u16) -> bool,
    ) -> (Self, u16) {
        let known = region.get_u16(VERSION_AT) == VERSION && region.get_u16(DESC_NUM) == size;
        let used = Used::of_word(region.get_u64(USED), size).filter(|_| known);
        let at = match used {
            // A batch was being returned. Its first descriptor is what makes it visible.
            Some(Used { new, old }) if new == old || is_available(old) => old,
            Some(Used { new, .. }) => new,
            None => base,
        };
        let log = Self {
            region,
            size,
            counter: 0,
        };
        log.reset(at);
        (log, at)
    }

    /// Nothing is in hand, and the ring is at a position. What is known stays so until it is replaced.
    fn reset(&self, at: u16) {
        let region = &self.region;
        self.set_used(at, at);
        for index in 0..self.size {
            region.set_u8(entry(index), 0);
            region.set_u16(entry(index) + 2, (index + 1) % self.size);
        }
        self.set_free(slot(at));
        region.set_u64(FEATURES, 0);
        region.set_u16(DESC_NUM, self.size);
        region.set_u16(VERSION_AT, VERSION);
    }

    /// A chain was taken that starts at a position; these are its descriptors.
    pub(in crate::ring) fn taken(&mut self, at: u16, chain: &Chain, descriptor: impl Fn(u16) -> Descriptor) {
        let (region, head) = (&self.region, entry(slot(at)));
        for step in 0..chain.slots {
            let index = slot(after(at, step, self.size));
            let Descriptor {
                address,
                len,
                flags,
                tag,
            } = descriptor(index);
            region.set_u64(entry(index) + 24, address);
            region.set_u32(entry(index) + 20, len);
            region.set_u16(entry(index) + 18, flags);
            region.set_u16(entry(index) + 16, tag);
            region.set_u16(head + 4, index);
        }
        region.set_u16(head + 6, chain.slots);
        region.set_u64(head + 8, self.counter);
        self.counter += 1;
        region.set_u8(head, 1);
        self.set_free(slot(after(at, chain.slots, self.size)));
    }

    /// Chains from one position to another are about to be published as used.
    pub(in crate::ring) fn returning(&self, from: u16, to: u16) {
        self.set_used(to, from);
    }

    /// They were, and these of them were taken before.
    pub(in crate::ring) fn returned(&self, from: u16, chains: &[Chain], to: u16) {
        let mut at = from;
        for chain in chains {
            self.region.set_u8(entry(slot(at)), 0);
            at = after(at, chain.slots, self.size);
        }
        self.set_used(to, to);
    }

    /// The ring stopped in an orderly way: its position is the front end's to keep.
    pub(in crate::ring) fn close(&self) {
        self.region.set_u16(VERSION_AT, 0);
    }

    fn set_free(&self, index: u16) {
        self.region.set_u16(FREE_HEAD, index);
        self.region.set_u16(OLD_FREE_HEAD, index);
    }

    fn set_used(&self, new: u16, old: u16) {
        self.region.set_u64(USED, Used { new, old }.to_word());
    }
}

fn entry(index: u16) -> u64 {
    HEADER + ENTRY * u64::from(index)
}
