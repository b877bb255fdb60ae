//! The ports by which a guest switches the machine off or resets it, and what else kernels look for beside them.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::lifecycle::{CannotExport, Lifecycle, SavedState};
use crate::stop::StopReason;
use crate::wiring::{Line, Wiring};

/// ACPI power management event registers (ACPI 6.4, 4.8.3.1): two ports of status, two of enable bits.
pub(crate) const PM1_EVENT: u16 = 0x600;
#[cfg(test)]
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

/// The line of the system control interrupt.
pub(crate) const SCI_LINE: Line = 9;
/// Power button in the status and enable registers (ACPI 6.4, 4.8.3.1).
const POWER_BUTTON: u16 = 1 << 8;
/// Ports of the status register and of the enable register behind it.
const EVENT_PORTS: usize = 4;

/// The registers that remember something, and the interrupt that they raise.
pub(crate) struct Power {
    events: Mutex<Events>,
    wiring: Arc<dyn Wiring>,
}

/// The two event registers.
#[derive(Clone, Copy, Default, Serialize)]
struct Events {
    status: u16,
    enabled: u16,
}

impl Power {
    /// The interrupt goes out through `wiring`.
    pub(crate) fn new(wiring: Arc<dyn Wiring>) -> Self {
        Self {
            events: Mutex::default(),
            wiring,
        }
    }

    /// Presses the power button. Whether the guest listens: until its operating system has enabled the button, nothing
    /// comes of pressing it.
    pub(crate) fn press_button(&self) -> bool {
        let mut events = self.events.lock();
        let listens = events.enabled & POWER_BUTTON != 0;
        if listens {
            events.status |= POWER_BUTTON;
            self.signal(*events);
        }
        listens
    }

    /// A guest's write; what it asks of the machine.
    pub(crate) fn write(&self, port: u16, data: &[u8]) -> Option<StopReason> {
        match (port, data) {
            (PM1_CONTROL, [low, high]) if u16::from_le_bytes([*low, *high]) & SLEEP_ENABLE != 0 => {
                return Some(StopReason::GuestPowerOff);
            }
            (I8042_COMMAND, [I8042_RESET]) => return Some(StopReason::GuestReset),
            (RESET_CONTROL, [value]) if value & RESET_CPU != 0 => return Some(StopReason::GuestReset),
            (PM1_EVENT..PM1_CONTROL, _) => self.write_events(usize::from(port - PM1_EVENT), data),
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
            (PM1_EVENT..PM1_CONTROL, data) => {
                let octets = self.events.lock().octets();
                let registers = octets.iter().skip(usize::from(port - PM1_EVENT));
                for (octet, register) in data.iter_mut().zip(registers) {
                    *octet = *register;
                }
            }
            _ => {}
        }
        true
    }

    /// Status bits are cleared by writing ones, enable bits take what is written.
    fn write_events(&self, offset: usize, data: &[u8]) {
        let mut events = self.events.lock();
        let mut octets = events.octets();
        for (place, octet) in (offset..EVENT_PORTS).zip(data) {
            if let Some(register) = octets.get_mut(place) {
                *register = if place < 2 { *register & !octet } else { *octet };
            }
        }
        let [a, b, c, d] = octets;
        *events = Events {
            status: u16::from_le_bytes([a, b]),
            enabled: u16::from_le_bytes([c, d]),
        };
        self.signal(*events);
    }

    /// The line is up while an enabled event has happened.
    fn signal(&self, events: Events) {
        let level = events.status & events.enabled != 0;
        if let Err(error) = self.wiring.set_line(SCI_LINE, level) {
            tracing::debug!(%error, "system control interrupt not set");
        }
    }
}

impl Events {
    fn octets(self) -> [u8; EVENT_PORTS] {
        let ([a, b], [c, d]) = (self.status.to_le_bytes(), self.enabled.to_le_bytes());
        [a, b, c, d]
    }
}

impl Lifecycle for Arc<Power> {
    fn pause(&mut self) {}

    fn resume(&mut self) {}

    fn reset(&mut self) {
        let mut events = self.events.lock();
        *events = Events::default();
        self.signal(*events);
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        SavedState::new("power", 1, *self.events.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeWiring;

    fn power() -> (Arc<Power>, Arc<FakeWiring>) {
        let wiring = Arc::new(FakeWiring::default());
        (Arc::new(Power::new(wiring.clone())), wiring)
    }

    fn word(power: &Power, port: u16) -> u16 {
        let mut word = [0xff; 2];
        assert!(power.read(port, &mut word));
        u16::from_le_bytes(word)
    }

    #[test]
    fn only_the_documented_writes_stop_the_machine() {
        let (power, _) = power();
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
        let (power, _) = power();
        let mut data = [0xff];
        assert!(power.read(0x64, &mut data));
        assert_eq!(data, [0]);
        assert!(!power.read(0x65, &mut data));
        assert_eq!(word(&power, 0x604), 1);
        assert_eq!(power.write(0x602, &[0x20, 1]), None);
        assert_eq!(word(&power, 0x602), 0x120);
    }

    #[test]
    fn the_button_interrupts_until_the_guest_has_seen_it() {
        let (power, wiring) = power();
        assert!(!power.press_button(), "nobody listens yet");
        assert_eq!(wiring.level(SCI_LINE), None);
        power.write(PM1_ENABLE, &POWER_BUTTON.to_le_bytes());
        assert!(power.press_button());
        assert_eq!(
            (word(&power, PM1_EVENT), wiring.level(SCI_LINE)),
            (POWER_BUTTON, Some(true))
        );
        power.write(PM1_EVENT, &[0xff, 0]);
        assert_eq!(wiring.level(SCI_LINE), Some(true), "another status bit");
        power.write(PM1_EVENT, &POWER_BUTTON.to_le_bytes());
        assert_eq!(
            (word(&power, PM1_EVENT), wiring.level(SCI_LINE)),
            (0, Some(false))
        );
        assert!(power.press_button());
        power.clone().reset();
        assert_eq!(
            (word(&power, PM1_ENABLE), wiring.level(SCI_LINE)),
            (0, Some(false))
        );
    }

    #[test]
    fn any_width_anywhere_is_harmless() {
        let (power, _) = power();
        for port in PM1_EVENT..=PM1_CONTROL {
            for width in 0..9 {
                let mut data = vec![0xdf; width];
                assert_eq!(power.write(port, &data), None);
                assert!(power.read(port, &mut data));
            }
        }
    }
}
