//! The host bridge, the two ways to its configuration space, and the memory that its functions decode.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{ConfigSpace, Identity};
use crate::devices::lifecycle::{CannotExport, Lifecycle, SavedState};
use crate::devices::marks::Marks;
use crate::layout::{ECAM, ECAM_SIZE};

/// Configuration address register.
const CONFIG_ADDRESS: u16 = 0xcf8;
/// Configuration data window, 4 ports.
const CONFIG_DATA: u16 = 0xcfc;
/// Configuration address: the access is meant.
const ENABLE: u32 = 1 << 31;
/// Octet of the host bridge's own part of configuration space by which a guest tells how far its start has come.
const MARK_OFFSET: usize = 0x40;

/// A function on bus 0.
pub(crate) trait PciFunction: Lifecycle + Send {
    /// A guest's read of configuration space.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);
    /// A guest's write to configuration space.
    fn write_config(&mut self, offset: usize, data: &[u8]);
    /// Answers a read if the function decodes `address`; `false` if it does not.
    fn read_memory(&mut self, address: u64, data: &mut [u8]) -> bool;
    /// Takes a write if the function decodes `address`; `false` if it does not.
    fn write_memory(&mut self, address: u64, data: &[u8]) -> bool;
}

/// Bus 0: slot 0 is the host bridge, the functions follow.
pub(crate) struct PciRoot {
    address: Mutex<u32>,
    slots: Vec<Arc<Mutex<dyn PciFunction>>>,
    marks: Arc<Marks>,
}

impl PciRoot {
    /// A bus with `functions` in slots 1 and up.
    pub(crate) fn new(functions: Vec<Arc<Mutex<dyn PciFunction>>>) -> Self {
        let marks = Arc::<Marks>::default();
        let bridge = HostBridge::new(Arc::clone(&marks));
        let mut slots: Vec<Arc<Mutex<dyn PciFunction>>> = vec![Arc::new(Mutex::new(bridge))];
        slots.extend(functions);
        Self {
            address: Mutex::new(0),
            slots,
            marks,
        }
    }

    /// How far the guest says that its start has come.
    pub(crate) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// A guest's read of a port; `false` when it is not one of the bus.
    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) -> bool {
        match port {
            CONFIG_ADDRESS if data.len() == 4 => data.copy_from_slice(&self.address.lock().to_le_bytes()),
            CONFIG_DATA..=0xcff => match self.selected(port) {
                Some((slot, offset)) => self.read_slot(slot, offset, data),
                None => data.fill(0xff),
            },
            _ => return false,
        }
        true
    }

    /// A guest's write to a port; `false` when it is not one of the bus.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> bool {
        match (port, data) {
            (CONFIG_ADDRESS, [a, b, c, d]) => *self.address.lock() = u32::from_le_bytes([*a, *b, *c, *d]),
            (CONFIG_DATA..=0xcff, _) => {
                if let Some((slot, offset)) = self.selected(port) {
                    self.write_slot(slot, offset, data);
                }
            }
            _ => return false,
        }
        true
    }

    /// A guest's read of memory; `false` when nothing on the bus decodes it.
    pub(crate) fn read_memory(&self, address: u64, data: &mut [u8]) -> bool {
        if let Some((slot, offset)) = ecam(address) {
            self.read_slot(slot, offset, data);
            return true;
        }
        self.slots
            .iter()
            .any(|slot| slot.lock().read_memory(address, data))
    }

    /// A guest's write to memory; `false` when nothing on the bus decodes it.
    pub(crate) fn write_memory(&self, address: u64, data: &[u8]) -> bool {
        if let Some((slot, offset)) = ecam(address) {
            self.write_slot(slot, offset, data);
            return true;
        }
        self.slots
            .iter()
            .any(|slot| slot.lock().write_memory(address, data))
    }

    /// The slot and offset that an access to the data window means.
    fn selected(&self, port: u16) -> Option<(usize, usize)> {
        let address = *self.address.lock();
        let (bus, function) = (address >> 16 & 0xff, address >> 8 & 7);
        let offset = (address & 0xfc) as usize + usize::from(port - CONFIG_DATA);
        (address & ENABLE != 0 && bus == 0 && function == 0)
            .then_some(((address >> 11 & 0x1f) as usize, offset))
    }

    fn read_slot(&self, slot: usize, offset: usize, data: &mut [u8]) {
        match self.slots.get(slot) {
            Some(function) => function.lock().read_config(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write_slot(&self, slot: usize, offset: usize, data: &[u8]) {
        if let Some(function) = self.slots.get(slot) {
            function.lock().write_config(offset, data);
        }
    }
}

/// The slot and offset that an address in the enhanced configuration window means. Functions other than 0 do
/// not exist, so they map to a slot that does not either.
fn ecam(address: u64) -> Option<(usize, usize)> {
    let at = address.checked_sub(ECAM).filter(|at| *at < ECAM_SIZE)? as usize;
    let function = at >> 12 & 0b111;
    let slot = if function == 0 { at >> 15 } else { usize::MAX };
    Some((slot, at & 0xfff))
}

impl Lifecycle for Arc<PciRoot> {
    fn pause(&mut self) {
        for function in &self.slots {
            function.lock().pause();
        }
    }

    fn resume(&mut self) {
        for function in &self.slots {
            function.lock().resume();
        }
    }

    fn reset(&mut self) {
        *self.address.lock() = 0;
        for function in &self.slots {
            function.lock().reset();
        }
    }

    /// The functions in the order of their slots.
    fn export(&self) -> Result<SavedState, CannotExport> {
        let functions = self
            .slots
            .iter()
            .map(|function| function.lock().export())
            .collect::<Result<Vec<_>, _>>()?;
        SavedState::new("pci-root", 1, (*self.address.lock(), functions))
    }
}

/// A bridge that does nothing but be there, and take marks.
struct HostBridge {
    config: ConfigSpace,
    marks: Arc<Marks>,
}

impl HostBridge {
    fn new(marks: Arc<Marks>) -> Self {
        // The identity of Intel's 440FX, which every PC guest accepts without a driver.
        let config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x1237,
            revision: 2,
            class: 0x06_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        Self { config, marks }
    }
}

impl Lifecycle for HostBridge {
    fn pause(&mut self) {}

    fn resume(&mut self) {}

    fn reset(&mut self) {
        *self = Self::new(Arc::clone(&self.marks));
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        SavedState::new("host-bridge", 1, self.config.octets())
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if offset == MARK_OFFSET {
            self.marks.write(data);
        }
        self.config.write(offset, data);
    }

    fn read_memory(&mut self, _: u64, _: &mut [u8]) -> bool {
        false
    }

    fn write_memory(&mut self, _: u64, _: &[u8]) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn select(root: &PciRoot, address: u32) {
        assert!(root.write_port(0xcf8, &address.to_le_bytes()));
    }

    #[test]
    fn both_mechanisms_find_the_host_bridge() {
        let root = PciRoot::new(Vec::new());
        let mut id = [0; 4];
        select(&root, 0x8000_0000);
        assert!(root.read_port(0xcfc, &mut id));
        assert_eq!(id, [0x86, 0x80, 0x37, 0x12]);
        let mut device = [0; 2];
        assert!(root.read_port(0xcfe, &mut device));
        assert_eq!(device, [0x37, 0x12]);
        assert!(root.read_memory(ECAM, &mut id));
        assert_eq!(id, [0x86, 0x80, 0x37, 0x12]);
    }

    #[test]
    fn absent_functions_read_as_ones() {
        let root = PciRoot::new(Vec::new());
        for address in [0x8000_0800, 0x8000_0100, 0x8001_0000, 0] {
            let mut id = [0; 4];
            select(&root, address);
            assert!(root.read_port(0xcfc, &mut id));
            assert_eq!(id, [0xff; 4], "{address:#x}");
        }
        let mut id = [0; 4];
        assert!(root.read_memory(ECAM + 0x1000, &mut id), "function 1");
        assert_eq!(id, [0xff; 4]);
        assert!(!root.read_memory(0xd000_0000, &mut id));
    }

    #[test]
    fn marks_are_taken_by_the_host_bridge() {
        let root = PciRoot::new(Vec::new());
        select(&root, 0x8000_0040);
        root.write_port(0xcfd, &[1]);
        root.write_memory(ECAM + 0x8040, &[1]);
        assert_eq!(root.marks().time(1), None);
        root.write_port(0xcfc, &[1]);
        root.write_memory(ECAM + 0x40, &[2]);
        assert!(root.marks().time(1).is_some() && root.marks().time(2).is_some());
    }

    proptest! {
        #[test]
        fn any_access_is_harmless(address: u32, port in 0xcf0_u16..0xd08, memory: u64, len in 0_usize..64) {
            let root = PciRoot::new(Vec::new());
            let mut data = vec![0xa5; len];
            select(&root, address);
            root.write_port(port, &data);
            root.read_port(port, &mut data);
            root.write_memory(memory, &data);
            root.read_memory(ECAM + memory % ECAM_SIZE, &mut data);
            root.write_memory(ECAM + memory % ECAM_SIZE, &data);
        }
    }
}
