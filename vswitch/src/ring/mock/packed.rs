//! The driver's side of a packed virtqueue (virtio 1.2, 2.8).

use std::sync::atomic::{Ordering, fence};

use super::{MockGuest, Piece};
use crate::ring::feature;
use crate::ring::packed::position::{WRAP, after, distance, slot, wrap};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

#[derive(Debug)]
pub(super) struct PackedDriver {
    pub(super) start: u16,
    pub(super) ring: u64,
    pub(super) driver_event: u64,
    pub(super) device_event: u64,
    /// Slots that belong to no chain.
    pub(super) free_slots: u16,
    size: u16,
    event_idx: bool,
    /// Identifiers of no buffer.
    free: Vec<u16>,
    /// Slots of the chain that each identifier stands for.
    slots: Vec<u16>,
    /// The flags that make the described chain available; `None` without one.
    flags: Option<u16>,
    /// How many slots it has.
    ready: u16,
    next_avail: u16,
    kicked: u16,
    next_used: u16,
}

impl PackedDriver {
    pub(super) fn new(guest: &MockGuest, size: u16, features: u64, start: u16) -> Self {
        let start = ((start & !WRAP) % size) | (!start & WRAP);
        let driver = Self {
            start,
            ring: guest.alloc(16 * u64::from(size), 16),
            driver_event: guest.alloc(4, 4),
            device_event: guest.alloc(4, 4),
            free_slots: size,
            size,
            event_idx: features & feature::EVENT_IDX != 0,
            free: (0..size).rev().collect(),
            slots: vec![0; usize::from(size)],
            flags: None,
            ready: 1,
            next_avail: start,
            kicked: start,
            next_used: start,
        };
        // The round so far has left used descriptors behind, and the one before those after them.
        for index in 0..size {
            let this_round = index < slot(start);
            let flags = if wrap(start) == this_round {
                AVAIL | USED
            } else {
                0
            };
            guest.store(driver.flags_at(index), flags);
        }
        driver
    }

    pub(super) fn next_head(&self, wanted: usize) -> Option<u16> {
        let room = usize::from(self.free_slots) >= wanted;
        self.free.last().copied().filter(|_| room)
    }

    /// Writes descriptors, all but the first one's flags.
    pub(super) fn describe(&mut self, guest: &MockGuest, pieces: &[Piece]) {
        let id = self.free.pop().expect("a head was there");
        let count = pieces.len() as u16;
        for (place, piece) in (0..count).zip(pieces) {
            let at = after(self.next_avail, place, self.size);
            let flags = match place {
                0 => guest.load(self.flags_at(slot(at))),
                _ => piece.flags | available(at),
            };
            let piece = Piece {
                flags,
                tag: id,
                ..*piece
            };
            self.write(guest, slot(at), piece);
        }
        self.flags = pieces
            .first()
            .map(|piece| piece.flags | available(self.next_avail));
        self.ready = count;
        self.slots[usize::from(id)] = count;
        self.free_slots -= count;
    }

    pub(super) fn write(&self, guest: &MockGuest, index: u16, piece: Piece) {
        let at = self.ring + 16 * u64::from(index);
        guest.write(at, &octets(piece)[..14]);
        guest.store(at + 14, piece.flags);
    }

    /// Writes the first descriptor's flags. What was not described is made available as it stands in its slot.
    pub(super) fn offer(&mut self, guest: &MockGuest) {
        let at = self.flags_at(slot(self.next_avail));
        let as_it_is = guest.load(at) & !(AVAIL | USED) | available(self.next_avail);
        guest.store(at, self.flags.take().unwrap_or(as_it_is));
        let slots = std::mem::replace(&mut self.ready, 1);
        self.next_avail = after(self.next_avail, slots, self.size);
    }

    /// The identifier and length in the next used descriptor.
    pub(super) fn used_entry(&self, guest: &MockGuest) -> Option<(u16, u32)> {
        let flags = guest.load(self.flags_at(slot(self.next_used)));
        let round = wrap(self.next_used);
        if (flags & AVAIL != 0) != round || (flags & USED != 0) != round {
            return None;
        }
        let at = self.ring + 16 * u64::from(slot(self.next_used));
        let len = u32::from(guest.load(at + 8)) | u32::from(guest.load(at + 10)) << 16;
        Some((guest.load(at + 12), len))
    }

    /// Takes a used buffer's slots and identifier back.
    pub(super) fn free(&mut self, id: u16) {
        let slots = self.slots[usize::from(id)];
        self.next_used = after(self.next_used, slots, self.size);
        self.free_slots += slots;
        self.free.push(id);
    }

    pub(super) fn want_interrupts(&self, guest: &MockGuest, on: bool) {
        let flags = match (on, self.event_idx) {
            (true, true) => 2,
            (true, false) => 0,
            (false, _) => 1,
        };
        guest.store(self.driver_event, self.next_used);
        guest.store(self.driver_event + 2, flags);
        fence(Ordering::SeqCst);
    }

    pub(super) fn must_kick(&mut self, guest: &MockGuest) -> bool {
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.kicked, self.next_avail);
        let new = self.next_avail;
        match guest.load(self.device_event + 2) {
            0 => old != new,
            1 => false,
            _ => {
                let event = guest.load(self.device_event);
                let back = distance(event, new, self.size);
                back != 0 && back <= distance(old, new, self.size)
            }
        }
    }

    fn flags_at(&self, index: u16) -> u64 {
        self.ring + 16 * u64::from(index) + 14
    }
}

/// The flags of an available descriptor in the round of a position.
fn available(at: u16) -> u16 {
    if wrap(at) { AVAIL } else { USED }
}

/// A descriptor as it stands in memory.
pub(super) fn octets(piece: Piece) -> [u8; 16] {
    let words = [piece.tag, piece.flags].map(u16::to_le_bytes);
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&piece.address.to_le_bytes());
    raw[8..12].copy_from_slice(&piece.len.to_le_bytes());
    raw[12..].copy_from_slice(words.as_flattened());
    raw
}
