//! Where the numbers come from.

use core::ops::Range;

use super::Orders;

/// Memory that nothing depends on once the guest runs: below the image, and without the page of the other processors.
const LOW_END: u64 = 0x8_0000;
/// End of the guest's image.
pub(super) const IMAGE_END: u64 = 16 << 20;
/// Where rings are.
pub(super) const RINGS: u64 = IMAGE_END;
/// Octets for the rings of one queue: descriptors, available ring, used ring.
pub(super) const RING_SPAN: u64 = 0x8000;
/// Where indirect tables are, which nobody but the guest writes.
pub(super) const TABLES: u64 = 20 << 20;
const TABLES_LEN: u64 = 0x1_0000;
/// Where data is: from here to the end of memory.
const DATA: u64 = 21 << 20;
/// Registers of virtio devices.
const REGISTERS: Range<u64> = 0xe100_0000..0xe110_0000;

/// Vectors that the guest takes.
const VECTORS: Range<u32> = 0x41..0x4f;

/// Numbers that depend on the seed.
pub(super) struct Draw {
    state: u64,
    memory_end: u64,
    wild: bool,
}

impl Draw {
    pub(super) fn new(orders: Orders) -> Self {
        Self {
            state: (u64::from(orders.seed) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            memory_end: u64::from(orders.memory) << 20,
            wild: orders.wild,
        }
    }

    /// Any 64 bits (xorshift64*).
    pub(super) fn any(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        (self.any() >> 16) % limit
    }

    /// True once in `times`.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let at = self.below(choices.len().max(1) as u64) as usize;
        choices.get(at).copied()
    }

    /// How wide an access to a port is.
    pub(super) fn port_width(&mut self) -> u8 {
        1 << self.below(3)
    }

    /// How wide an access to memory is.
    pub(super) fn width(&mut self) -> u8 {
        1 << self.below(4)
    }

    /// What to write to a register: often a number at an edge. As an address it is not one of the image.
    pub(super) fn value(&mut self) -> u64 {
        let low = self.half();
        let high = if self.once_in(2) { 0 } else { self.half() };
        high << 32 | low
    }

    fn half(&mut self) -> u64 {
        let value = match self.below(7) {
            0 => 0,
            1 => u64::from(u32::MAX),
            2 => self.below(16),
            3 => self.below(1024),
            4 => 1 << self.below(32),
            5 => self.address() & u64::from(u32::MAX),
            _ => self.any() & u64::from(u32::MAX),
        };
        self.clear_of_image(value)
    }

    fn clear_of_image(&self, address: u64) -> u64 {
        if !self.wild && (LOW_END..IMAGE_END).contains(&address) {
            address | IMAGE_END
        } else {
            address
        }
    }

    /// What to write where a vector may be told: whatever it means there, it is nothing that ends the guest.
    pub(super) fn harmless(&mut self) -> u64 {
        let value = self.value();
        if self.wild {
            return value;
        }
        let span = u64::from(VECTORS.end - VECTORS.start);
        (value & !0x7ff) | (u64::from(VECTORS.start) + self.below(span))
    }

    /// Where a device is told to read or write: memory as a rule, else what is none.
    pub(super) fn address(&mut self) -> u64 {
        match self.below(12) {
            0 => self.memory_end - self.below(64),
            1 => self.memory_end + self.below(1 << 32),
            2 => REGISTERS.start + self.below(REGISTERS.end - REGISTERS.start),
            3 => u64::MAX - self.below(8192),
            4 => self.any() | 1 << 40,
            5 if self.wild => self.below(self.memory_end),
            _ => self.data(),
        }
    }

    /// Memory that a device may well read or write.
    pub(super) fn data(&mut self) -> u64 {
        DATA + self.below(self.memory_end - DATA - 0x4000)
    }

    /// An indirect table.
    pub(super) fn table(&mut self) -> u64 {
        TABLES + self.below(TABLES_LEN / 16) * 16
    }

    /// How much a device is told to read or write.
    pub(super) fn length(&mut self) -> u32 {
        match self.below(8) {
            0 => 0,
            1 => u32::MAX - self.below(4096) as u32,
            2 => self.any() as u32,
            3 => 512 << self.below(8),
            _ => 1 + self.below(2048) as u32,
        }
    }
}
