//! Devices on the bus: finding them, their configuration space, and putting it back.

use alloc::vec::Vec;

use super::{Chaos, Machine};

pub(super) const CONFIG_ADDRESS: u16 = 0xcf8;
pub(super) const CONFIG_DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// The window of configuration space in memory.
const WINDOW: u64 = 0xe000_0000;
const SLOTS: u8 = 32;
const VIRTIO: u32 = 0x1af4;
/// Memory accesses, bus mastering, no INTx.
const COMMAND: u32 = 0x406;
const COMMAND_AT: u8 = 0x04;
const CAPABILITIES: u8 = 0x34;
const MSIX: u32 = 0x11;
const VENDOR: u32 = 0x09;
/// The capability by which registers are reached through configuration space.
const CFG_PCI: u32 = 5;
/// Where that capability's data is.
const ACCESS_DATA: u8 = 16;

/// A virtio device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    pub(super) slot: u8,
    /// Its virtio number.
    pub(super) kind: u32,
    /// Where its registers were at the start.
    pub(super) bars: [u32; 2],
    pub(super) vectors: u64,
    pub(super) queues: u64,
    msix: u8,
    access: u8,
}

impl Function {
    /// Where its virtio windows are.
    pub(super) fn windows(&self) -> u64 {
        self.bars[0].into()
    }

    /// Where its vectors are.
    pub(super) fn table(&self) -> u64 {
        self.bars[1].into()
    }
}

impl<M: Machine> Chaos<M> {
    pub(super) fn find_functions(&mut self) -> Vec<Function> {
        let mut found = Vec::new();
        for slot in 1..SLOTS {
            let identity = self.config(slot, 0);
            if identity & 0xffff == VIRTIO {
                found.push(self.describe(slot, (identity >> 16) - 0x1040));
            }
        }
        found
    }

    fn describe(&mut self, slot: u8, kind: u32) -> Function {
        let bars = [0x10, 0x14].map(|at| self.config(slot, at) & !0xf);
        let (mut msix, mut access, mut vectors) = (0, 0, 0);
        let mut at = self.config(slot, CAPABILITIES) as u8;
        for _ in 0..16 {
            if at == 0 {
                break;
            }
            let head = self.config(slot, at);
            match (head & 0xff, head >> 24) {
                (MSIX, _) => (msix, vectors) = (at, u64::from(head >> 16 & 0x7ff) + 1),
                (VENDOR, CFG_PCI) => access = at,
                _ => {}
            }
            at = (head >> 8) as u8;
        }
        Function {
            slot,
            kind,
            bars,
            vectors,
            queues: vectors.saturating_sub(1),
            msix,
            access,
        }
    }

    fn config(&mut self, slot: u8, offset: u8) -> u32 {
        self.select(slot, offset);
        self.read_port(CONFIG_DATA, 4)
    }

    fn select(&mut self, slot: u8, offset: u8) {
        let address = ENABLE | u32::from(slot) << 11 | u32::from(offset & !3);
        self.write_port(CONFIG_ADDRESS, 4, address);
    }

    fn set_config(&mut self, slot: u8, offset: u8, width: u8, value: u32) {
        self.select(slot, offset);
        self.write_port(CONFIG_DATA + u16::from(offset & 3), width, value);
    }

    /// Lets a function send its interrupts by message, or not.
    pub(super) fn enable_messages(&mut self, function: Function, enable: bool) {
        let control = if enable { 0x8000 } else { 0 };
        self.set_config(function.slot, function.msix + 2, 2, control);
    }

    /// Puts the registers of all devices back to where they were.
    pub(super) fn restore(&mut self) {
        for function in self.functions.clone() {
            for (at, address) in [0x10, 0x14].into_iter().zip(function.bars) {
                self.set_config(function.slot, at, 4, address);
            }
            self.set_config(function.slot, COMMAND_AT, 2, COMMAND);
        }
    }

    /// Anything into configuration space, through the ports.
    pub(super) fn disturb_configuration(&mut self) {
        for _ in 0..32 {
            let width = self.draw.port_width();
            let (slot, offset) = self.place();
            let value = self.config_value(slot, offset);
            if self.draw.once_in(8) {
                // Other buses and functions, odd addresses, and without the bit that says that it is meant.
                let address = self.draw.any() as u32;
                self.write_port(CONFIG_ADDRESS, width, address);
                let port = CONFIG_DATA + self.draw.below(4) as u16;
                self.read_port(port, width);
            } else if self.draw.once_in(3) {
                self.select(slot, offset as u8);
                self.read_port(CONFIG_DATA + (offset & 3), width);
            } else {
                self.set_config(slot, offset as u8, width, value as u32);
            }
        }
        self.restore();
    }

    /// Anything into configuration space, through its window in memory.
    pub(super) fn disturb_configuration_window(&mut self) {
        for _ in 0..32 {
            let width = self.draw.width();
            let (slot, offset) = self.place();
            let extended = if self.draw.once_in(4) {
                0x100 << self.draw.below(4)
            } else {
                0
            };
            let function = if self.draw.once_in(8) {
                self.draw.below(8) << 12
            } else {
                0
            };
            let address = WINDOW + (u64::from(slot) << 15 | function | u64::from(offset) | extended);
            if self.draw.once_in(3) {
                self.read(address, width);
            } else {
                let value = self.config_value(slot, offset);
                self.write(address, width, value);
            }
        }
        self.restore();
    }

    /// A slot, the bridge and empty ones included, and an offset.
    fn place(&mut self) -> (u8, u16) {
        let slots = self.functions.len() as u64 + 2;
        let slot = if self.draw.once_in(8) {
            self.draw.below(SLOTS.into())
        } else {
            self.draw.below(slots)
        };
        let registers = self
            .functions
            .iter()
            .find(|function| u64::from(function.slot) == slot);
        let capabilities = registers.map_or([0x34; 2], |function| [function.msix, function.access]);
        let offset = match self.draw.below(4) {
            0 => 0x10 + self.draw.below(24),
            1 => 4 + self.draw.below(4),
            2 => u64::from(self.draw.one_of(&capabilities).unwrap_or(0)) + self.draw.below(20),
            _ => self.draw.below(256),
        };
        (slot as u8, offset as u16 & 0xff)
    }

    /// What to write there. Through one capability it reaches any register.
    fn config_value(&mut self, slot: u8, offset: u16) -> u64 {
        let reaches = self.functions.iter().any(|function| {
            let data = u16::from(function.access + ACCESS_DATA);
            function.slot == slot && (data.saturating_sub(8)..data + 4).contains(&offset)
        });
        if reaches {
            self.draw.harmless()
        } else {
            self.draw.value()
        }
    }

    /// Puts a device's registers onto another's, onto memory, onto the interrupt controllers.
    pub(super) fn move_registers(&mut self) {
        let Some(function) = self.one_function() else {
            return;
        };
        let other = self.one_function().unwrap_or(function);
        let targets = [
            other.bars[0],
            other.bars[1],
            0xe000_0000,
            0xfee0_0000,
            0x0200_0000,
            0,
            0xffff_f000,
        ];
        let target = self.draw.one_of(&targets).unwrap_or(0);
        let at = if self.draw.once_in(2) { 0x10 } else { 0x14 };
        self.set_config(function.slot, at, 4, target);
        let windows = [other.windows(), other.table(), function.windows()];
        for _ in 0..16 {
            let window = self.draw.one_of(&windows).unwrap_or(0);
            let (address, width) = (window + self.draw.below(0x4000), self.draw.width());
            if self.draw.once_in(2) {
                self.read(address, width);
            } else {
                let value = self.draw.harmless();
                self.write(address, width, value);
            }
        }
        self.restore();
    }

    pub(super) fn one_function(&mut self) -> Option<Function> {
        self.draw.one_of(&self.functions)
    }
}
