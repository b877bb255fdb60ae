//! Which device answers which port and address.

use std::sync::Arc;

use super::marks::MARK_PORT;
use super::pci::PciRoot;
use super::power::Power;
use super::serial::{COM1, PORTS, SerialPort};
use crate::console::Output;
use crate::stop::StopReason;

/// Everything that a vCPU can reach by an exit. What nobody answers reads as ones, as on a real bus.
pub(crate) struct Bus {
    pub(crate) serial: Arc<SerialPort>,
    pub(crate) pci: Arc<PciRoot>,
    pub(crate) power: Arc<Power>,
    /// What all consoles print to.
    pub(crate) output: Output,
}

impl Bus {
    /// A guest's read of a port.
    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) {
        match port.checked_sub(COM1).filter(|offset| *offset < PORTS) {
            Some(offset) => self.serial.read(offset as u8, data),
            None if self.pci.read_port(port, data) || self.power.read(port, data) => {}
            None => data.fill(0xff),
        }
    }

    /// A guest's write to a port; the reason to stop when that is what it asks for.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> Option<StopReason> {
        let stop = self.power.write(port, data);
        if port == MARK_PORT {
            self.pci.marks().write(data);
        } else if stop.is_none() {
            match port.checked_sub(COM1).filter(|offset| *offset < PORTS) {
                Some(offset) => self.serial.write(offset as u8, data),
                None => drop(self.pci.write_port(port, data)),
            }
        }
        stop
    }

    /// A guest's read of memory without RAM.
    pub(crate) fn read_memory(&self, address: u64, data: &mut [u8]) {
        if !self.pci.read_memory(address, data) {
            data.fill(0xff);
        }
    }

    /// A guest's write to memory without RAM.
    pub(crate) fn write_memory(&self, address: u64, data: &[u8]) {
        self.pci.write_memory(address, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeWiring;

    #[test]
    fn ports_and_memory_nobody_owns_read_as_ones() {
        let serial = SerialPort::new(Box::new(std::io::sink())).expect("eventfds");
        let bus = Bus {
            serial: Arc::new(serial),
            pci: Arc::new(PciRoot::new(Vec::new())),
            power: Arc::new(Power::new(Arc::new(FakeWiring::default()))),
            output: Output::new(Box::new(std::io::sink())),
        };
        let mut data = [0; 4];
        bus.read_port(0x80, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.read_memory(0xd000_0000, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.write_memory(0xd000_0000, &data);
        assert_eq!(bus.write_port(0x80, &[1]), None);
        assert_eq!(bus.write_port(0x604, &[0, 0x20]), Some(StopReason::GuestPowerOff));
        let mut status = [0];
        bus.read_port(COM1 + 5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60, "transmitter empty");
    }
}
