//! The ports by which a guest switches the machine off or resets it, and what else kernels look for beside them.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::stop::StopReason;

/// ACPI power management event registers (ACPI 6.4, 4.8.3.1): two ports of status, two of enable bits.
pub(crate) const PM1_EVENT: u16 = 0x600;
const PM1_ENABLE: u16 = PM1_EVENT + 2;
/// ACPI power management control register, where QEMU's q35 has it.
pub(crate) const PM1_CONTROL: u16 = 0x604;
/// The machine is in ACPI mode, and has no other.
const SCI_ENABLED: u8 = 1;
/// Sleep enable (ACPI 6.4, 4.8.3.2.1): the only sleep that this machine knows is soft-off.
const SLEEP_ENABLE: u16 = 1 << 13;
/// Keyboard controller data.
const I8042_DATA: u16 = 0x60;
/// Keyboard controller command and status.
const I8042_COMMAND: u16 = 0x64;
/// CMOS data.
const CMOS_DATA: u16 = 0x71;
/// Pulse the processor's reset line.
const I8042_RESET: u8 = 0xfe;
/// PC reset control, part of the chipset's PCI host bridge.
pub(crate) const RESET_CONTROL: u16 = 0xcf9;
/// Reset the processor.
pub(crate) const RESET_CPU: u8 = 1 << 2;

/// The registers that remember something.
#[derive(Default)]
pub(crate) struct Power {
    /// Enable bits of events that never happen; kernels check that they can be set.
    enabled: [AtomicU8; 2],
}

impl Power {
    /// A guest's write; what it asks of the machine.
    pub(crate) fn write(&self, port: u16, data: &[u8]) -> Option<StopReason> {
        match (port, data) {
            (PM1_CONTROL, [low, high]) if u16::from_le_bytes([*low, *high]) & SLEEP_ENABLE != 0 => {
                return Some(StopReason::GuestPowerOff);
            }
            (I8042_COMMAND, [I8042_RESET]) => return Some(StopReason::GuestReset),
            (RESET_CONTROL, [value]) if value & RESET_CPU != 0 => return Some(StopReason::GuestReset),
            (PM1_ENABLE, [_, _]) => {
                for (register, octet) in self.enabled.iter().zip(data) {
                    register.store(*octet, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        None
    }

    /// Answers reads of the power registers, of an idle keyboard controller without a keyboard, and of a CMOS without
    /// contents: as ones, the latter two would seem busy, and kernels would wait for seconds. `false` for other ports.
    pub(crate) fn read(&self, port: u16, data: &mut [u8]) -> bool {
        if !matches!(
            port,
            PM1_EVENT..=PM1_CONTROL | I8042_DATA | I8042_COMMAND | CMOS_DATA
        ) {
            return false;
        }
        data.fill(0);
        match (port, data) {
            (PM1_CONTROL, [first, ..]) => *first = SCI_ENABLED,
            (PM1_ENABLE, data) => {
                for (octet, register) in data.iter_mut().zip(&self.enabled) {
                    *octet = register.load(Ordering::Relaxed);
                }
            }
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_writes_stop_the_machine() {
        let power = Power::default();
        assert_eq!(power.write(0x604, &[0, 0x20]), Some(StopReason::GuestPowerOff));
        assert_eq!(power.write(0x604, &[0, 0]), None);
        assert_eq!(power.write(0x604, &[0x20]), None);
        assert_eq!(power.write(0x64, &[0xfe]), Some(StopReason::GuestReset));
        assert_eq!(power.write(0x64, &[0xfe, 0xfe]), None);
        assert_eq!(power.write(0x64, &[0xaa]), None);
        assert_eq!(power.write(0xcf9, &[6]), Some(StopReason::GuestReset));
        assert_eq!(power.write(0xcf9, &[2]), None);
    }

    #[test]
    fn keyboard_controller_is_idle() {
        let power = Power::default();
        let mut data = [0xff];
        assert!(power.read(0x64, &mut data));
        assert_eq!(data, [0]);
        assert!(!power.read(0x65, &mut data));
        let mut word = [0xff; 2];
        assert!(power.read(0x604, &mut word));
        assert_eq!(word, [1, 0]);
        assert_eq!(power.write(0x602, &[0x20, 1]), None);
        assert!(power.read(0x602, &mut word));
        assert_eq!(word, [0x20, 1]);
    }
}
