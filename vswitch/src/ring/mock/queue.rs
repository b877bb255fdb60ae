//! The driver's side of a virtqueue: what does not depend on its format.

use std::collections::VecDeque;
use std::sync::Arc;

use super::packed::PackedDriver;
use super::split::SplitDriver;
use super::{GUEST_BASE, MockGuest, Piece, Shape, TABLE, USER_BASE};
use crate::ring::chain::{INDIRECT, NEXT, WRITE};
use crate::ring::{RingAddresses, RingSetup, feature};

/// The driver's side of a virtqueue.
#[derive(Debug)]
pub struct MockQueue {
    guest: Arc<MockGuest>,
    size: u16,
    features: u64,
    driver: Driver,
    tables: u64,
    buffers: u64,
    buffer_len: u64,
    /// The length of the buffer that each head stands for.
    lengths: Vec<u32>,
    /// Heads that are available, in order.
    available: VecDeque<u16>,
    /// With in-order use: the last buffer of a batch that was not looked at to its end, and its length.
    batch: Option<(u16, u32)>,
}

#[derive(Debug)]
enum Driver {
    Split(SplitDriver),
    Packed(PackedDriver),
}

impl MockQueue {
    /// A queue with a buffer of `buffer_len` octets a descriptor. Its indices start at `start`; a packed queue starts at
    /// that slot, as far as it has so many, and in a later round if bit 15 is set.
    pub fn new(guest: &Arc<MockGuest>, size: u16, buffer_len: u64, features: u64, start: u16) -> Self {
        let entries = u64::from(size);
        let driver = if features & feature::RING_PACKED == 0 {
            Driver::Split(SplitDriver::new(guest, size, features, start))
        } else {
            Driver::Packed(PackedDriver::new(guest, size, features, start))
        };
        let mut queue = Self {
            guest: Arc::clone(guest),
            size,
            features,
            driver,
            tables: guest.alloc(entries * 16 * TABLE as u64, 16),
            buffers: guest.alloc(entries * buffer_len, 64),
            buffer_len,
            lengths: vec![0; usize::from(size)],
            available: VecDeque::with_capacity(usize::from(size)),
            batch: None,
        };
        queue.want_interrupts(true);
        queue
    }

    /// What the device's side needs to know.
    pub fn setup(&self) -> RingSetup {
        let user = |guest: u64| guest - GUEST_BASE + USER_BASE;
        let (descriptors, available, used) = self.parts();
        RingSetup {
            size: self.size,
            addresses: RingAddresses {
                descriptors: user(descriptors),
                available: user(available),
                used: user(used),
            },
            features: self.features,
            base: match &self.driver {
                Driver::Split(driver) => driver.start,
                Driver::Packed(driver) => driver.start,
            },
        }
    }

    /// The guest that it is in.
    pub fn guest(&self) -> &Arc<MockGuest> {
        &self.guest
    }

    /// Guest physical addresses of the ring's three parts, as [`RingAddresses`] has them.
    pub fn parts(&self) -> (u64, u64, u64) {
        match &self.driver {
            Driver::Split(driver) => (driver.descriptors, driver.available, driver.used),
            Driver::Packed(driver) => (driver.ring, driver.driver_event, driver.device_event),
        }
    }

    /// Makes a buffer with `octets` available for reading; false when too few descriptors are free.
    pub fn send(&mut self, octets: &[u8], shape: Shape) -> bool {
        assert!(octets.len() as u64 <= self.buffer_len);
        let Some(head) = self.describe(octets.len() as u32, shape, false) else {
            return false;
        };
        self.guest.write(self.buffer(head), octets);
        self.offer(head);
        true
    }

    /// Makes an empty buffer of `len` octets available for writing; false when too few descriptors are free.
    pub fn post(&mut self, len: u32, shape: Shape) -> bool {
        assert!(u64::from(len) <= self.buffer_len);
        let Some(head) = self.describe(len, shape, true) else {
            return false;
        };
        self.offer(head);
        true
    }

    /// The next used buffer: its head and the octets that the device says it wrote. With in-order use, buffers that
    /// the device skipped count as entirely used.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        let in_order = self.features & feature::IN_ORDER != 0;
        let (last, len) = match self.batch.take() {
            Some(batch) => batch,
            None if self.available.is_empty() => return None,
            None => match &self.driver {
                Driver::Split(driver) => driver.used_entry(&self.guest)?,
                Driver::Packed(driver) => driver.used_entry(&self.guest)?,
            },
        };
        let place = self.available.iter().position(|head| *head == last);
        let place = place.unwrap_or_else(|| panic!("the device used buffer {last}, which is not available"));
        let skipped = in_order && place > 0;
        let (head, len) = if skipped {
            self.batch = Some((last, len));
            let head = *self.available.front()?;
            (head, self.lengths[usize::from(head)])
        } else {
            (last, len)
        };
        self.available.remove(if skipped { 0 } else { place });
        match &mut self.driver {
            Driver::Split(driver) => driver.free(head),
            Driver::Packed(driver) => driver.free(head),
        }
        Some((head, len))
    }

    /// The next received frame with its header of `header_len` octets in front, put together from as many buffers as the
    /// header says.
    pub fn receive(&mut self, header_len: usize) -> Option<Vec<u8>> {
        let (head, len) = self.used()?;
        let mut frame = self.guest.read(self.buffer(head), len as usize);
        let buffers = if header_len == 12 {
            u16::from_le_bytes([frame[10], frame[11]])
        } else {
            1
        };
        for _ in 1..buffers {
            let (head, len) = self.used().expect("as many buffers as the header says");
            frame.extend(self.guest.read(self.buffer(head), len as usize));
        }
        Some(frame)
    }

    /// Says whether the driver wants to be interrupted, from the next used buffer on.
    pub fn want_interrupts(&mut self, on: bool) {
        match &self.driver {
            Driver::Split(driver) => driver.want_interrupts(&self.guest, on),
            Driver::Packed(driver) => driver.want_interrupts(&self.guest, on),
        }
    }

    /// Whether the driver has to ring for what it made available since the last call.
    pub fn must_kick(&mut self) -> bool {
        match &mut self.driver {
            Driver::Split(driver) => driver.must_kick(&self.guest),
            Driver::Packed(driver) => driver.must_kick(&self.guest),
        }
    }

    /// Free descriptors.
    pub fn free(&self) -> usize {
        match &self.driver {
            Driver::Split(driver) => driver.free.len(),
            Driver::Packed(driver) => driver.free_slots.into(),
        }
    }

    /// Writes a descriptor as it is, good or bad; `tag` is a split ring's next descriptor, a packed ring's identifier.
    pub fn write_descriptor(&self, index: u16, address: u64, len: u32, flags: u16, tag: u16) {
        let piece = Piece {
            address,
            len,
            flags,
            tag,
        };
        match &self.driver {
            Driver::Split(driver) => driver.write(&self.guest, index, piece),
            Driver::Packed(driver) => driver.write(&self.guest, index, piece),
        }
    }

    /// Makes any descriptor available, good or bad; in a packed ring, what is in the next slots is.
    pub fn offer(&mut self, head: u16) {
        self.available.push_back(head);
        match &mut self.driver {
            Driver::Split(driver) => driver.offer(&self.guest, head),
            Driver::Packed(driver) => driver.offer(&self.guest),
        }
    }

    /// The address of the buffer that belongs to a head.
    pub fn buffer(&self, head: u16) -> u64 {
        self.buffers + u64::from(head) * self.buffer_len
    }

    /// Writes the descriptors of a buffer of `len` octets; returns its head.
    fn describe(&mut self, len: u32, shape: Shape, write: bool) -> Option<u16> {
        let (count, indirect) = match shape {
            Shape::Chain(count) => (count.max(1), false),
            Shape::Indirect(count) => (count.clamp(1, TABLE), true),
        };
        let count = count.min(len.max(1) as usize);
        let wanted = if indirect { 1 } else { count };
        let head = match &self.driver {
            Driver::Split(driver) => driver.next_head(wanted),
            Driver::Packed(driver) => driver.next_head(wanted),
        }?;
        let pieces = pieces(self.buffer(head), len, count, write);
        if indirect {
            let table = self.write_table(head, pieces);
            self.place(&[table]);
        } else {
            self.place(&pieces.collect::<Vec<_>>());
        }
        self.lengths[usize::from(head)] = len;
        Some(head)
    }

    /// Writes a head's indirect table; returns the descriptor that leads to it.
    fn write_table(&self, head: u16, pieces: impl Iterator<Item = Piece>) -> Piece {
        let table = self.tables + u64::from(head) * 16 * TABLE as u64;
        let mut len = 0;
        for piece in pieces {
            let octets = match &self.driver {
                Driver::Split(_) => super::split::octets(piece),
                Driver::Packed(_) => super::packed::octets(piece),
            };
            self.guest.write(table + u64::from(len), &octets);
            len += 16;
        }
        Piece {
            address: table,
            len,
            flags: INDIRECT,
            tag: 0,
        }
    }

    fn place(&mut self, pieces: &[Piece]) {
        match &mut self.driver {
            Driver::Split(driver) => driver.describe(&self.guest, pieces),
            Driver::Packed(driver) => driver.describe(&self.guest, pieces),
        }
    }
}

/// `len` octets at `address` in `count` pieces that follow each other.
fn pieces(address: u64, len: u32, count: usize, write: bool) -> impl Iterator<Item = Piece> {
    let step = len.div_ceil(count as u32);
    (0..count as u32).map(move |piece| {
        let start = (piece * step).min(len);
        let last = piece as usize + 1 == count;
        Piece {
            address: address + u64::from(start),
            len: if last { len - start } else { step.min(len - start) },
            flags: if write { WRITE } else { 0 } | if last { 0 } else { NEXT },
            tag: piece as u16 + 1,
        }
    })
}
