//! A driver that begins well.

use super::draw::{RING_SPAN, RINGS};
use super::function::Function;
use super::{Chaos, Machine};

/// Registers in the common window (Virtio 1.2, 4.1.4.3).
const FEATURE_SELECT: u64 = 0x00;
const FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_PARTS: [u64; 3] = [0x20, 0x28, 0x30];
/// The other windows.
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
/// Pending bits, behind the vectors.
const PENDING: u64 = 0x800;

const VERSION_1: u64 = 1 << 32;
/// Acknowledged, driver, features, ready.
const READY: u64 = 1 | 2 | 8 | 4;
/// Descriptor flags (2.7.5).
const NEXT: u64 = 1;
const DEVICE_WRITES: u64 = 2;
const INDIRECT: u64 = 4;
/// The local APIC's address in messages, and a vector that the guest takes.
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
const MESSAGE_VECTOR: u64 = 0x41;

const NETWORK: u32 = 1;
const BLOCK: u32 = 2;
const CONSOLE: u32 = 3;
const ENTROPY: u32 = 4;
/// How often to look for an answer.
const PATIENCE: usize = 1000;

/// A queue that was set up.
#[derive(Clone, Copy)]
struct Ring {
    index: u64,
    size: u64,
    at: u64,
}

impl Ring {
    fn available(self) -> u64 {
        self.at + 0x4000
    }

    fn used(self) -> u64 {
        self.at + 0x5000
    }
}

impl<M: Machine> Chaos<M> {
    /// Sets a device up, gives it requests, and breaks something after the other.
    pub(super) fn drive(&mut self) {
        let Some(function) = self.one_function() else {
            return;
        };
        let rings = self.set_up(function);
        for ring in rings.into_iter().flatten() {
            self.fill(function, ring);
            self.ring_bell(function, ring.index);
        }
        for _ in 0..8 {
            let Some(Some(ring)) = self.draw.one_of(&rings) else {
                continue;
            };
            match self.draw.below(5) {
                0 => self.scribble(function, ring),
                1 => self.fill(function, ring),
                2 => self.disturb(function),
                _ => {}
            }
            let other = self.draw.below(function.queues + 2);
            let bell = if self.draw.once_in(6) { other } else { ring.index };
            self.ring_bell(function, bell);
        }
        if self.draw.once_in(2) {
            self.write(function.windows() + STATUS, 1, 0);
        }
    }

    /// Anything into the registers of a device, and from them.
    pub(super) fn disturb_registers(&mut self) {
        for _ in 0..4 {
            if let Some(function) = self.one_function() {
                self.disturb(function);
            }
        }
    }

    fn disturb(&mut self, function: Function) {
        for _ in 0..10 {
            let offset = match self.draw.below(6) {
                0 => ISR + self.draw.below(16),
                1 => DEVICE + self.draw.below(256),
                2 => NOTIFY + self.draw.below(4 * function.queues + 8),
                3 => 0x8000 + self.draw.below(16 * function.vectors + 32) / 4 * 4,
                4 => self.draw.below(0x1_0000 - 8),
                _ => self.draw.below(0x40),
            };
            self.touch(function, offset);
        }
    }

    fn touch(&mut self, function: Function, offset: u64) {
        let mut width = self.draw.width();
        let address = function.windows() + offset;
        if self.draw.once_in(3) {
            self.read(address, width);
            return;
        }
        let vectors = 0x8000 - 8..0x8000 + PENDING;
        if vectors.contains(&offset) {
            width = if self.draw.once_in(4) { width } else { 4 };
            let (low, high) = (self.draw.harmless() & 0xffff_ffff, self.draw.value());
            self.write(address, width, high << 32 | low);
        } else {
            let value = self.draw.value();
            self.write(address, width, value);
        }
    }

    /// What a correct driver does, save for one thing now and then.
    fn set_up(&mut self, function: Function) -> [Option<Ring>; 4] {
        self.tally.setups += 1;
        let common = function.windows();
        self.write(common + STATUS, 1, 0);
        self.write(common + STATUS, 1, 3);
        self.negotiate(common);
        self.set_vectors(function);
        let mut rings = [None; 4];
        for index in 0..function.queues {
            let ring = self.set_queue(function, index);
            if let Some(place) = rings.get_mut(index as usize) {
                *place = Some(ring);
            }
        }
        let status = if self.draw.once_in(16) {
            self.draw.any()
        } else {
            READY
        };
        self.write(common + STATUS, 1, status);
        rings
    }

    fn negotiate(&mut self, common: u64) {
        let mut offered = 0;
        for select in [0, 1] {
            self.write(common + FEATURE_SELECT, 4, select);
            offered |= self.read(common + FEATURE, 4) << (32 * select);
        }
        let mut accepted = match self.draw.below(3) {
            0 => offered & self.draw.any(),
            1 => VERSION_1,
            _ => offered,
        } | VERSION_1;
        if self.draw.once_in(16) {
            accepted = self.draw.any();
        }
        for (select, half) in [(0, accepted), (1, accepted >> 32)] {
            self.write(common + DRIVER_FEATURE_SELECT, 4, select);
            self.write(common + DRIVER_FEATURE, 4, half & 0xffff_ffff);
        }
        self.write(common + STATUS, 1, 11);
    }

    fn set_vectors(&mut self, function: Function) {
        let enable = !self.draw.once_in(4);
        self.enable_messages(function, enable);
        for vector in 0..function.vectors {
            let entry = function.table() + 16 * vector;
            let data = if self.draw.once_in(4) {
                self.draw.harmless()
            } else {
                MESSAGE_VECTOR
            };
            for (at, word) in [
                (0, MESSAGE_ADDRESS),
                (4, 0),
                (8, data),
                (12, self.draw.below(3) / 2),
            ] {
                self.write(entry + at, 4, word);
            }
        }
        let vector = self.draw.below(function.vectors + 2);
        self.write(function.windows() + CONFIG_VECTOR, 2, vector);
    }

    fn set_queue(&mut self, function: Function, index: u64) -> Ring {
        let common = function.windows();
        self.write(common + QUEUE_SELECT, 2, index);
        let largest = self.read(common + QUEUE_SIZE, 2).clamp(1, 1024);
        let smaller = 1 << self.draw.below(11);
        let size = if self.draw.once_in(2) {
            largest.min(smaller)
        } else {
            largest
        };
        let ring = Ring {
            index,
            size,
            at: RINGS + ((u64::from(function.slot) << 3) | (index % 8)) * RING_SPAN % (4 << 20),
        };
        let mut parts = [ring.at, ring.available(), ring.used()];
        if self.draw.once_in(12) {
            let part = self.draw.below(3) as usize;
            if let Some(place) = parts.get_mut(part) {
                *place = if self.draw.once_in(2) {
                    self.draw.address()
                } else {
                    *place + 1
                };
            }
        }
        self.write(common + QUEUE_SIZE, 2, size);
        for (register, part) in QUEUE_PARTS.into_iter().zip(parts) {
            self.write(common + register, 4, part & 0xffff_ffff);
            self.write(common + register + 4, 4, part >> 32);
        }
        let vector = self.draw.below(function.vectors + 2);
        self.write(common + QUEUE_VECTOR, 2, vector);
        let enable = u64::from(!self.draw.once_in(16));
        self.write(common + QUEUE_ENABLE, 2, enable);
        self.clear(ring);
        ring
    }

    /// An empty ring; what is there was another one's.
    fn clear(&mut self, ring: Ring) {
        for at in [ring.available(), ring.used()] {
            self.machine.write_memory(at, 4, 0);
        }
    }

    /// Requests, most of them nearly right.
    fn fill(&mut self, function: Function, ring: Ring) {
        for slot in 0..ring.size.min(32) {
            self.describe_part(ring.at + 16 * slot, ring.size);
        }
        if function.kind == BLOCK || function.kind == NETWORK && ring.index + 1 == function.queues {
            self.request(function, ring);
        }
        for _ in 0..self.draw.below(4) {
            let table = self.draw.table();
            for slot in 0..16 {
                self.describe_part(table + 16 * slot, 16);
            }
        }
        self.offer(ring);
    }

    /// One descriptor, anything.
    fn describe_part(&mut self, at: u64, size: u64) {
        let (mut address, mut flags) = (self.draw.address(), self.draw.below(4));
        if self.draw.once_in(6) {
            (address, flags) = (self.draw.table(), flags | INDIRECT);
        }
        let length = if flags & INDIRECT != 0 && !self.draw.once_in(4) {
            16 * 16
        } else {
            self.draw.length()
        };
        let next = if self.draw.once_in(16) {
            self.draw.any() & 0xffff
        } else {
            self.draw.below(size)
        };
        self.machine.write_memory(at, 8, address);
        self.machine
            .write_memory(at + 8, 8, u64::from(length) | flags << 32 | next << 48);
    }

    /// A request or a command as the device expects it: what it is, data, and room for the answer.
    fn request(&mut self, function: Function, ring: Ring) {
        let header = self.draw.table();
        let (kind, detail) = if function.kind == BLOCK {
            let kinds = [0, 1, 1, 4, 8, 11, 13, 99];
            (self.draw.one_of(&kinds).unwrap_or(0), self.draw.below(300))
        } else {
            (self.draw.below(5) | self.draw.below(3) << 8, self.draw.any())
        };
        self.machine.write_memory(header, 8, kind);
        self.machine.write_memory(header + 8, 8, detail);
        let right = !self.draw.once_in(3);
        let device_writes = if right { kind == 0 } else { self.draw.once_in(2) };
        let direction = if device_writes { DEVICE_WRITES } else { 0 };
        let sectors = 512 * (1 + self.draw.below(16));
        let [data, answer] = [(); 2].map(|()| {
            if right {
                self.draw.data()
            } else {
                self.draw.address()
            }
        });
        let parts = [
            (header, 16, NEXT, 1),
            (data, sectors, NEXT | direction, 2),
            (answer, 1, DEVICE_WRITES, 0),
        ];
        if ring.size >= 4 {
            for (slot, (address, length, flags, next)) in (0..).zip(parts) {
                self.machine.write_memory(ring.at + 16 * slot, 8, address);
                self.machine
                    .write_memory(ring.at + 16 * slot + 8, 8, length | flags << 32 | next << 48);
            }
        }
    }

    /// Makes chains available.
    fn offer(&mut self, ring: Ring) {
        let index = self.machine.read_memory(ring.available() + 2, 2);
        let count = 1 + self.draw.below(ring.size.min(16));
        for more in 0..count {
            let slot = (index + more) % ring.size;
            let head = if more == 0 { 0 } else { self.draw.below(ring.size) };
            self.machine
                .write_memory(ring.available() + 4 + 2 * slot, 2, head);
        }
        self.machine
            .write_memory(ring.available() + 2, 2, (index + count) & 0xffff);
    }

    /// Anything into the rings, by whole words: half of an address would be an address of the image's.
    fn scribble(&mut self, function: Function, ring: Ring) {
        for _ in 0..8 {
            let part = self.draw.below(5);
            let slot = self.draw.below(ring.size);
            match part {
                0 => self.describe_part(ring.at + 16 * slot, 0x1_0000),
                1 => {
                    let index = self.draw.any();
                    self.machine.write_memory(ring.available() + 2, 2, index);
                }
                2 => {
                    let head = self.draw.any();
                    self.machine
                        .write_memory(ring.available() + 4 + 2 * slot, 2, head);
                }
                3 => {
                    let used = self.draw.any();
                    self.machine.write_memory(ring.used() + 4 * slot, 4, used);
                }
                // The device's writes go into its own ring.
                _ if function.kind == ENTROPY => {
                    self.machine.write_memory(ring.at + 16 * slot, 8, ring.at);
                }
                _ => self.machine.write_memory(ring.available(), 2, part & 1),
            }
        }
    }

    fn ring_bell(&mut self, function: Function, queue: u64) {
        self.write(function.windows() + NOTIFY + 4 * queue, 2, queue);
    }

    /// Resets consoles: they print what they have, and no more.
    pub(super) fn quieten(&mut self) {
        for function in self.functions.clone() {
            if function.kind == CONSOLE {
                self.write(function.windows() + STATUS, 1, 0);
            }
        }
    }

    /// Resets a device.
    pub(super) fn reset(&mut self, index: usize) {
        if let Some(function) = self.functions.get(index).copied() {
            self.write(function.windows() + STATUS, 1, 0);
            self.enable_messages(function, false);
        }
    }

    /// Whether the entropy device fills a buffer for a correct driver.
    pub(super) fn draws_entropy(&mut self) -> bool {
        let Some(function) = self
            .functions
            .iter()
            .copied()
            .find(|function| function.kind == ENTROPY)
        else {
            return false;
        };
        let common = function.windows();
        self.write(common + STATUS, 1, 3);
        for (select, half) in [(0, 0), (1, 1)] {
            self.write(common + DRIVER_FEATURE_SELECT, 4, select);
            self.write(common + DRIVER_FEATURE, 4, half);
        }
        self.write(common + STATUS, 1, 11);
        let ring = Ring {
            index: 0,
            size: 1,
            at: RINGS,
        };
        self.write(common + QUEUE_SELECT, 2, 0);
        self.write(common + QUEUE_SIZE, 2, ring.size);
        for (register, part) in QUEUE_PARTS
            .into_iter()
            .zip([ring.at, ring.available(), ring.used()])
        {
            self.write(common + register, 8, part);
        }
        self.write(common + QUEUE_ENABLE, 2, 1);
        self.clear(ring);
        self.write(common + STATUS, 1, READY);
        self.machine.write_memory(ring.at, 8, ring.at + 0x6000);
        self.machine
            .write_memory(ring.at + 8, 8, 64 | DEVICE_WRITES << 32);
        self.machine.write_memory(ring.available() + 4, 2, 0);
        self.machine.write_memory(ring.available() + 2, 2, 1);
        self.ring_bell(function, 0);
        (0..PATIENCE).any(|_| self.machine.read_memory(ring.used() + 2, 2) == 1)
            && self.machine.read_memory(ring.used() + 8, 4) == 64
    }
}
