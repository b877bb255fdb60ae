//! The layout for split rings (`QueueRegionSplit` and `DescStateSplit`).

use super::{Region, VERSION};
use crate::ring::chain::Chain;

const FEATURES: u64 = 0;
const VERSION_AT: u64 = 8;
const DESC_NUM: u64 = 10;
const LAST_BATCH_HEAD: u64 = 12;
const USED_IDX: u64 = 14;
const HEADER: u64 = 16;
const ENTRY: u64 = 16;

/// What is written down of a split ring.
#[derive(Debug)]
pub(in crate::ring) struct SplitLog {
    region: Region,
    counter: u64,
    size: u16,
}

impl SplitLog {
    /// Goes on with what a region says, or makes it new. True if it was in use: the ring then goes on at its used
    /// index.
    pub(in crate::ring) fn open(region: Region, size: u16, used: u16) -> (Self, bool) {
        let resumes = region.get_u16(VERSION_AT) == VERSION && region.get_u16(DESC_NUM) == size;
        for index in 0..size {
            region.set_u8(entry(index), 0);
            region.set_u16(entry(index) + 6, 0);
            region.set_u64(entry(index) + 8, 0);
        }
        region.set_u16(LAST_BATCH_HEAD, 0);
        region.set_u16(USED_IDX, used);
        region.set_u64(FEATURES, 0);
        region.set_u16(DESC_NUM, size);
        region.set_u16(VERSION_AT, VERSION);
        let log = Self {
            region,
            counter: 0,
            size,
        };
        (log, resumes)
    }

    /// A chain was taken. Its head was found to be below the ring's size when it was walked.
    pub(in crate::ring) fn taken(&mut self, chain: &Chain) {
        if chain.id < self.size {
            self.region.set_u64(entry(chain.id) + 8, self.counter);
            self.counter += 1;
            self.region.set_u8(entry(chain.id), 1);
        }
    }

    /// Chains are about to be published as used.
    pub(in crate::ring) fn returning(&self, chains: &[Chain]) {
        let mut last = self.region.get_u16(LAST_BATCH_HEAD);
        for chain in chains.iter().filter(|chain| chain.id < self.size) {
            self.region.set_u16(entry(chain.id) + 6, last);
            self.region.set_u16(LAST_BATCH_HEAD, chain.id);
            last = chain.id;
        }
    }

    /// They were published.
    pub(in crate::ring) fn returned(&self, chains: &[Chain], used: u16) {
        for chain in chains.iter().filter(|chain| chain.id < self.size) {
            self.region.set_u8(entry(chain.id), 0);
        }
        self.region.set_u16(USED_IDX, used);
    }

    /// The ring stopped in an orderly way: its position is the front end's to keep.
    pub(in crate::ring) fn close(&self) {
        self.region.set_u16(VERSION_AT, 0);
    }
}

fn entry(index: u16) -> u64 {
    HEADER + ENTRY * u64::from(index)
}
