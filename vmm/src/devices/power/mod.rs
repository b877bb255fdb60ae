//! The ports by which a guest switches the machine off or resets it, and what else kernels look for beside them.

use crate::stop::StopReason;

/// ACPI power management control register, where QEMU's q35 has it.
const PM1_CONTROL: u16 = 0x604;
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
const RESET_CONTROL: u16 = 0xcf9;
/// Reset the processor.
const RESET_CPU: u8 = 1 << 2;

/// What a guest's write to `port` asks of the machine.
pub(crate) fn write(port: u16, data: &[u8]) -> Option<StopReason> {
    match (port, data) {
        (PM1_CONTROL, [low, high]) if u16::from_le_bytes([*low, *high]) & SLEEP_ENABLE != 0 => {
            Some(StopReason::GuestPowerOff)
        }
        (I8042_COMMAND, [I8042_RESET]) => Some(StopReason::GuestReset),
        (RESET_CONTROL, [value]) if value & RESET_CPU != 0 => Some(StopReason::GuestReset),
        _ => None,
    }
}

/// Answers reads of an idle keyboard controller without a keyboard, and of a CMOS without contents: as ones, both
/// would seem busy, and kernels would wait for seconds. `false` for other ports.
pub(crate) fn read(port: u16, data: &mut [u8]) -> bool {
    let known = matches!(port, I8042_DATA | I8042_COMMAND | CMOS_DATA);
    if known {
        data.fill(0);
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_writes_stop_the_machine() {
        assert_eq!(write(0x604, &[0, 0x20]), Some(StopReason::GuestPowerOff));
        assert_eq!(write(0x604, &[0, 0]), None);
        assert_eq!(write(0x604, &[0x20]), None);
        assert_eq!(write(0x64, &[0xfe]), Some(StopReason::GuestReset));
        assert_eq!(write(0x64, &[0xfe, 0xfe]), None);
        assert_eq!(write(0x64, &[0xaa]), None);
        assert_eq!(write(0xcf9, &[6]), Some(StopReason::GuestReset));
        assert_eq!(write(0xcf9, &[2]), None);
    }

    #[test]
    fn keyboard_controller_is_idle() {
        let mut data = [0xff];
        assert!(read(0x64, &mut data));
        assert_eq!(data, [0]);
        assert!(!read(0x65, &mut data));
    }
}
