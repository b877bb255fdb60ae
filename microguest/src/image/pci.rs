//! PCI configuration through ports 0xcf8 and 0xcfc (PCI Local Bus 3.0, 3.2.2.3 and chapter 6).

use core::sync::atomic::{AtomicU32, Ordering};

use crate::{ports, stub};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

const IDENTITY: u8 = 0x00;
const COMMAND: u8 = 0x04;
const FIRST_BAR: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;

/// Command: memory accesses, bus mastering; no INTx.
const COMMAND_ON: u32 = 1 << 1 | 1 << 2 | 1 << 10;
/// Command: memory accesses alone.
const COMMAND_MEMORY: u32 = 1 << 1;
/// Status, above the command: there is a capability list.
const HAS_CAPABILITIES: u32 = 1 << 20;
const DEVICES: u8 = 32;
/// More capabilities than fit the configuration space: the list must be a loop.
const MOST_CAPABILITIES: usize = 48;

/// Where the next memory region goes that the firmware gave no address: from 3.5 GiB, which PC chipsets leave to PCI.
static FREE: AtomicU32 = AtomicU32::new(0xe000_0000);
/// Where that ends: the interrupt controllers follow.
const FREE_END: u32 = 0xfec0_0000;

/// A function on bus 0, function 0 of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Function(u8);

/// A capability: where it is, and its first 32 bits (number, next, and what is specific to it).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capability {
    pub(crate) offset: u8,
    pub(crate) head: u32,
}

impl Function {
    /// The first device of `vendor` that has one of the device numbers.
    pub(crate) fn find(vendor: u16, devices: &[u16]) -> Option<Self> {
        (0..DEVICES).map(Self).find(|function| {
            let identity = function.read(IDENTITY);
            identity as u16 == vendor && devices.contains(&((identity >> 16) as u16))
        })
    }

    /// Reads 32 bits of configuration space.
    pub(crate) fn read(self, offset: u8) -> u32 {
        self.select(offset);
        ports::read32(DATA)
    }

    /// Writes 32 bits of configuration space.
    pub(crate) fn write(self, offset: u8, value: u32) {
        self.select(offset);
        ports::write32(DATA, value);
    }

    /// Lets it answer memory accesses and write to memory.
    pub(crate) fn enable(self) {
        // The upper half is the status, whose bits a one would clear.
        let command = self.read(COMMAND) as u16;
        self.write(COMMAND, u32::from(command) | COMMAND_ON);
    }

    /// The capabilities, as the list has them.
    pub(crate) fn capabilities(self) -> impl Iterator<Item = Capability> {
        let present = self.read(COMMAND) & HAS_CAPABILITIES != 0;
        let mut next = if present { self.read(CAPABILITIES) as u8 } else { 0 };
        core::iter::from_fn(move || {
            let offset = next & !3;
            (offset != 0).then(|| {
                let head = self.read(offset);
                next = (head >> 8) as u8;
                Capability { offset, head }
            })
        })
        .take(MOST_CAPABILITIES)
    }

    /// Where the memory of base address register `index` appears.
    pub(crate) fn memory(self, index: u8) -> Result<usize, &'static str> {
        let register = FIRST_BAR + 4 * (index & 7);
        let low = self.read(register);
        if index > 5 || low & 1 != 0 {
            return Err("the device has no memory region where it says");
        }
        let wide = low & 0b110 == 0b100 && index < 5;
        let high = if wide { self.read(register + 4) } else { 0 };
        match (high, low & !0xf) {
            (0, 0) => self.place(register, wide),
            (0, low) => Ok(low as usize),
            (high, low) => stub::map_device(u64::from(high) << 32 | u64::from(low))
                .ok_or("the device has too many memory regions above 4 GiB"),
        }
    }

    /// Gives a memory region an address, which the firmware of some machines (qboot, for one) leaves to the system.
    fn place(self, register: u8, wide: bool) -> Result<usize, &'static str> {
        let command = u32::from(self.read(COMMAND) as u16);
        // While its size is read, the region must not answer.
        self.write(COMMAND, command & !COMMAND_MEMORY);
        self.write(register, u32::MAX);
        let size = (self.read(register) & !0xf).wrapping_neg();
        let start = FREE.load(Ordering::Relaxed).checked_next_multiple_of(size);
        let end = start.and_then(|start| start.checked_add(size));
        let (Some(start), Some(end)) = (start, end.filter(|end| *end <= FREE_END)) else {
            return Err("there is no address for the device's memory region");
        };
        FREE.store(end, Ordering::Relaxed);
        self.write(register, start);
        if wide {
            self.write(register + 4, 0);
        }
        self.write(COMMAND, command);
        Ok(start as usize)
    }

    fn select(self, offset: u8) {
        let address = u32::from(self.0) << 11 | u32::from(offset & !3);
        ports::write32(ADDRESS, ENABLE | address);
    }
}
