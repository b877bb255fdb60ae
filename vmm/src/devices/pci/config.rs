//! The 256 octets of a function's configuration space and their write masks.

/// Octets of a function's configuration space without PCI Express extensions.
const LEN: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const BARS: usize = 6;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;

/// Command register: memory decoding, bus mastering, and INTx disabled, which drivers that use MSI-X set.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 10;
const COMMAND_MEMORY: u16 = 1 << 1;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What identifies a function to a driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) revision: u8,
    /// Base class, subclass and programming interface, most significant octet first.
    pub(crate) class: u32,
    pub(crate) subsystem_vendor: u16,
    pub(crate) subsystem: u16,
}

/// A 32-bit memory base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    /// Which register, 0 to 5.
    pub(crate) index: u8,
    /// Octets that it decodes: a power of two, 16 at least.
    pub(crate) size: u32,
}

/// A function's configuration space: its octets, and which of their bits a guest may change.
#[derive(Clone)]
pub(crate) struct ConfigSpace {
    octets: [u8; LEN],
    writable: [u8; LEN],
    bars: Vec<Bar>,
    end: usize,
    last_capability: usize,
}

impl ConfigSpace {
    /// A type 0 header without base address registers or capabilities.
    pub(crate) fn new(identity: Identity) -> Self {
        let (octets, writable) = ([0; LEN], [0; LEN]);
        let mut space = Self {
            octets,
            writable,
            bars: Vec::new(),
            end: FIRST_CAPABILITY,
            last_capability: CAPABILITIES,
        };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(0x08, &[identity.revision]);
        space.put(0x09, &identity.class.to_le_bytes()[..3]);
        space.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.put(0x2e, &identity.subsystem.to_le_bytes());
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.allow(0x0c, &[0xff]);
        space.allow(0x3c, &[0xff]);
        space
    }

    /// Adds a register that already decodes memory at `address`, as firmware would leave it.
    pub(crate) fn add_bar(&mut self, bar: Bar, address: u32) {
        debug_assert!(bar.size.is_power_of_two() && bar.size >= 16 && usize::from(bar.index) < BARS);
        let offset = BAR0 + 4 * usize::from(bar.index);
        self.put(offset, &(address & !(bar.size - 1)).to_le_bytes());
        self.allow(offset, &(!(bar.size - 1)).to_le_bytes());
        self.put(COMMAND, &COMMAND_MEMORY.to_le_bytes());
        self.bars.push(bar);
    }

    /// Appends the capability `id` with `body` behind its two header octets; returns where it starts.
    pub(crate) fn add_capability(&mut self, id: u8, body: &[u8]) -> usize {
        let start = self.end;
        debug_assert!(start + 2 + body.len() <= LEN);
        self.put(self.last_capability, &[start as u8]);
        self.put(start, &[id, 0]);
        self.put(start + 2, body);
        self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.last_capability = start + 1;
        self.end = (start + 2 + body.len()).next_multiple_of(4);
        start
    }

    /// Lets the guest change the bits of `mask` at `offset`.
    pub(crate) fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (target, mask) in self.writable.iter_mut().skip(offset).zip(mask) {
            *target = *mask;
        }
    }

    /// Sets octets, whatever a guest may change.
    fn put(&mut self, offset: usize, octets: &[u8]) {
        for (target, octet) in self.octets.iter_mut().skip(offset).zip(octets) {
            *target = *octet;
        }
    }

    /// A guest's read of any size anywhere; what does not exist reads as zeros.
    pub(crate) fn read(&self, offset: usize, data: &mut [u8]) {
        let mut octets = self.octets.get(offset..).unwrap_or_default().iter();
        data.fill_with(|| octets.next().copied().unwrap_or(0));
    }

    /// A guest's write of any size anywhere; only writable bits change.
    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) {
        let cells = self.octets.iter_mut().zip(&self.writable).skip(offset);
        for ((cell, mask), octet) in cells.zip(data) {
            *cell = (*cell & !mask) | (octet & mask);
        }
    }

    /// All octets, for those who save them.
    pub(crate) fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The 16-bit register at `offset`.
    pub(crate) fn word(&self, offset: usize) -> u16 {
        let mut octets = [0; 2];
        self.read(offset, &mut octets);
        u16::from_le_bytes(octets)
    }

    /// The 32-bit register at `offset`.
    pub(crate) fn dword(&self, offset: usize) -> u32 {
        let mut octets = [0; 4];
        self.read(offset, &mut octets);
        u32::from_le_bytes(octets)
    }

    /// The register, and the offset in its memory, that decode `address` at the moment.
    pub(crate) fn decode(&self, address: u64) -> Option<(u8, u64)> {
        self.bars.iter().find_map(|bar| {
            let offset = address.checked_sub(self.bar_address(bar.index)?)?;
            (offset < u64::from(bar.size)).then_some((bar.index, offset))
        })
    }

    /// Where the register's memory is; `None` while the guest has memory decoding off.
    pub(crate) fn bar_address(&self, index: u8) -> Option<u64> {
        let decoding = self.word(COMMAND) & COMMAND_MEMORY != 0;
        decoding.then(|| u64::from(self.dword(BAR0 + 4 * usize::from(index)) & !0xf))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1041,
            revision: 1,
            class: 0x02_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 1,
        });
        space.add_bar(
            Bar {
                index: 0,
                size: 0x4000,
            },
            0xe100_0000,
        );
        space.add_capability(9, &[16, 1, 0, 0]);
        space.add_capability(0x11, &[0; 10]);
        space
    }

    #[test]
    fn header_and_capability_list() {
        let space = space();
        assert_eq!((space.word(0), space.word(2)), (0x1af4, 0x1041));
        assert_eq!(space.dword(8) >> 8, 0x02_0000);
        assert_eq!(space.word(0x06) & 0x10, 0x10);
        let first = usize::from(space.word(0x34) & 0xff);
        let second = usize::from(space.word(first) >> 8);
        assert_eq!((space.word(first) & 0xff, space.word(second) & 0xff), (9, 0x11));
        assert_eq!(space.word(second) >> 8, 0, "end of the list");
    }

    #[test]
    fn sizing_and_moving_a_base_address_register() {
        let mut space = space();
        assert_eq!(space.decode(0xe100_3fff), Some((0, 0x3fff)));
        assert_eq!(space.decode(0xe100_4000), None);
        space.write(0x04, &[0, 0]);
        assert_eq!(space.decode(0xe100_0000), None, "decoding is off");
        space.write(0x10, &[0xff; 4]);
        assert_eq!(space.dword(0x10), 0xffff_c000);
        space.write(0x10, &0xe200_1234_u32.to_le_bytes());
        space.write(0x04, &[2, 0]);
        assert_eq!(space.decode(0xe200_0000), Some((0, 0)));
    }

    #[test]
    fn read_only_registers_stay() {
        let mut space = space();
        space.write(0, &[0xff; 16]);
        assert_eq!((space.word(0), space.word(2)), (0x1af4, 0x1041));
        assert_eq!(space.word(4), COMMAND_WRITABLE);
        space.write(0x14, &[0xff; 4]);
        assert_eq!(space.dword(0x14), 0, "no such register");
    }

    proptest! {
        #[test]
        fn any_access_is_harmless(accesses in prop::collection::vec(
            (0_usize..5000, prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 1..40)) {
            let mut space = space();
            let (fixed, writable) = (space.octets, space.writable);
            for (offset, mut data, write) in accesses {
                if write { space.write(offset, &data) } else { space.read(offset, &mut data) }
            }
            for offset in 0..LEN {
                prop_assert_eq!(space.octets[offset] & !writable[offset], fixed[offset] & !writable[offset]);
            }
            let _ = space.decode(0xe100_0000);
        }
    }
}
