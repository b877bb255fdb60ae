//! The driver's side of a split virtqueue (virtio 1.2, 2.7).

use std::sync::atomic::{Ordering, fence};

use super::{MockGuest, Piece};
use crate::ring::{feature, passed};

#[derive(Debug)]
pub(super) struct SplitDriver {
    pub(super) start: u16,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    /// Descriptors that are in no chain.
    pub(super) free: Vec<u16>,
    size: u16,
    event_idx: bool,
    /// The descriptors of the chain that starts at each head.
    chains: Vec<Vec<u16>>,
    next_avail: u16,
    kicked: u16,
    next_used: u16,
}

impl SplitDriver {
    pub(super) fn new(guest: &MockGuest, size: u16, features: u64, start: u16) -> Self {
        let entries = u64::from(size);
        let driver = Self {
            start,
            descriptors: guest.alloc(16 * entries, 16),
            available: guest.alloc(6 + 2 * entries, 2),
            used: guest.alloc(6 + 8 * entries, 4),
            free: (0..size).rev().collect(),
            size,
            event_idx: features & feature::EVENT_IDX != 0,
            chains: vec![Vec::new(); usize::from(size)],
            next_avail: start,
            kicked: start,
            next_used: start,
        };
        guest.store(driver.available + 2, start);
        guest.store(driver.used + 2, start);
        driver
    }

    pub(super) fn next_head(&self, wanted: usize) -> Option<u16> {
        self.free.last().copied().filter(|_| self.free.len() >= wanted)
    }

    pub(super) fn describe(&mut self, guest: &MockGuest, pieces: &[Piece]) {
        let keep = self.free.len() - pieces.len();
        let head = usize::from(*self.free.last().expect("a head was there"));
        let mut chain = std::mem::take(&mut self.chains[head]);
        chain.extend(self.free.drain(keep..).rev());
        for (place, piece) in pieces.iter().enumerate() {
            let tag = chain.get(place + 1).copied().unwrap_or(0);
            self.write(guest, chain[place], Piece { tag, ..*piece });
        }
        self.chains[head] = chain;
    }

    pub(super) fn write(&self, guest: &MockGuest, index: u16, piece: Piece) {
        guest.write(self.descriptors + 16 * u64::from(index), &octets(piece));
    }

    pub(super) fn offer(&mut self, guest: &MockGuest, head: u16) {
        let slot = u64::from(self.next_avail & (self.size - 1));
        guest.store(self.available + 4 + 2 * slot, head);
        self.next_avail = self.next_avail.wrapping_add(1);
        guest.store(self.available + 2, self.next_avail);
    }

    /// The head and length in the next used entry.
    pub(super) fn used_entry(&self, guest: &MockGuest) -> Option<(u16, u32)> {
        if guest.load(self.used + 2) == self.next_used {
            return None;
        }
        let entry = self.used + 4 + 8 * u64::from(self.next_used & (self.size - 1));
        let word = |at| u32::from(guest.load(at)) | u32::from(guest.load(at + 2)) << 16;
        Some((word(entry) as u16, word(entry + 4)))
    }

    /// Takes a used chain's descriptors back.
    pub(super) fn free(&mut self, head: u16) {
        self.next_used = self.next_used.wrapping_add(1);
        self.free.append(&mut self.chains[usize::from(head)]);
    }

    pub(super) fn want_interrupts(&self, guest: &MockGuest, on: bool) {
        if self.event_idx {
            let behind = u16::from(!on);
            let event = self.next_used.wrapping_sub(behind);
            guest.store(self.available + 4 + 2 * u64::from(self.size), event);
        } else {
            guest.store(self.available, u16::from(!on));
        }
        fence(Ordering::SeqCst);
    }

    pub(super) fn must_kick(&mut self, guest: &MockGuest) -> bool {
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.kicked, self.next_avail);
        if !self.event_idx {
            return old != self.next_avail && guest.load(self.used) & 1 == 0;
        }
        let event = guest.load(self.used + 4 + 8 * u64::from(self.size));
        passed(event, self.next_avail, old)
    }
}

/// A descriptor as it stands in memory.
pub(super) fn octets(piece: Piece) -> [u8; 16] {
    let words = [piece.flags, piece.tag].map(u16::to_le_bytes);
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&piece.address.to_le_bytes());
    raw[8..12].copy_from_slice(&piece.len.to_le_bytes());
    raw[12..].copy_from_slice(words.as_flattened());
    raw
}
