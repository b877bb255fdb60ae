//! Ports, and memory where nothing is.

use super::function::{CONFIG_ADDRESS, CONFIG_DATA};
use super::{Chaos, Machine};

const COM1: u16 = 0x3f8;
const MARKS: u16 = 0x404;
const PM1_EVENT: u16 = 0x600;
const PM1_CONTROL: u16 = 0x604;
const SLEEP_ENABLE: u32 = 1 << 13;
const KEYBOARD: u16 = 0x64;
const KEYBOARD_RESET: u32 = 0xfe;
const RESET_CONTROL: u16 = 0xcf9;
const RESET_CPU: u32 = 1 << 2;

/// The guest's interrupt controllers: what they are told decides which vector comes, and KVM has them.
const CONTROLLERS: [u16; 6] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];
/// Ports at which something is, and their neighbours.
const KNOWN: [u16; 18] = [
    0x40,
    0x43,
    0x60,
    0x61,
    0x63,
    KEYBOARD,
    0x70,
    0x71,
    0x80,
    0x3f0,
    MARKS,
    0x4d2,
    PM1_EVENT,
    PM1_EVENT + 1,
    PM1_EVENT + 2,
    PM1_CONTROL,
    PM1_CONTROL + 1,
    0xb004,
];
/// Memory without RAM and without interrupt controllers.
const NOWHERE: u64 = 0xc000_0000;
const NOWHERE_LEN: u64 = 0x3e00_0000;

impl<M: Machine> Chaos<M> {
    /// Anything into ports.
    pub(super) fn disturb_ports(&mut self) {
        for _ in 0..40 {
            let width = self.draw.port_width();
            let port = match self.draw.below(4) {
                0 => COM1 + self.draw.below(8) as u16,
                1 => self.draw.one_of(&KNOWN).unwrap_or(0),
                2 => CONFIG_ADDRESS + self.draw.below(8) as u16,
                _ => self.draw.any() as u16,
            };
            let reached = port..port.saturating_add(width.into());
            if CONTROLLERS.iter().any(|controller| reached.contains(controller)) || port > 0xfff0 {
                continue;
            }
            if self.draw.once_in(3) {
                self.read_port(port, width);
                continue;
            }
            let value = self.draw.any() as u32;
            let value = without_end(port, width, value);
            self.write_port(port, width, value);
        }
        self.restore();
    }

    /// The serial port as it was: no loop, no divisor latch, no interrupts.
    pub(super) fn restore_serial(&mut self) {
        for (offset, value) in [(3, 3), (1, 0), (4, 8), (2, 7)] {
            self.write_port(COM1 + offset, 1, value);
        }
    }

    /// Memory where nothing is.
    pub(super) fn disturb_nowhere(&mut self) {
        for _ in 0..16 {
            let (width, at) = (self.draw.width(), NOWHERE + self.draw.below(NOWHERE_LEN - 8));
            let taken = (0xe000_0000..0xe200_0000).contains(&at);
            if taken || self.draw.once_in(2) {
                self.read(at, width);
            } else {
                let value = self.draw.any();
                self.write(at, width, value);
            }
        }
    }
}

/// Takes from a value what would end the machine, and control characters from what is printed.
fn without_end(port: u16, width: u8, value: u32) -> u32 {
    match (port, width) {
        (PM1_CONTROL, 2) => value & !SLEEP_ENABLE,
        (KEYBOARD, 1) if value & 0xff == KEYBOARD_RESET => value ^ 1,
        (RESET_CONTROL, 1) => value & !RESET_CPU,
        // Through the capability that reaches registers.
        (CONFIG_DATA..=0xcff, _) => 0x45,
        (COM1, _) => u32::from_le_bytes(value.to_le_bytes().map(|octet| b' ' + octet % 95)),
        _ => value,
    }
}
