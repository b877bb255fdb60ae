//! A virtio driver that works through a function's registers, as a guest's would.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use crate::devices::pci::PciFunction;
use crate::memory::GuestRam;

/// Where the tests put base address register 0, and the windows in it.
pub(crate) const BASE: u64 = 0xe100_0000;
pub(crate) const DEVICE: u64 = BASE + 0x2000;
pub(crate) const NOTIFY: u64 = BASE + 0x3000;
pub(crate) const MSIX_TABLE: u64 = BASE + 0x8000;

/// Entries of the rings that the driver sets up.
pub(crate) const SIZE: u16 = 8;

/// Access to a function's registers.
pub(crate) struct Driver<'a>(pub(crate) &'a mut dyn PciFunction);

impl Driver<'_> {
    pub(crate) fn read<const N: usize>(&mut self, address: u64) -> [u8; N] {
        let mut octets = [0xa5; N];
        assert!(
            self.0.read_memory(address, &mut octets),
            "nothing at {address:#x}"
        );
        octets
    }

    pub(crate) fn write(&mut self, address: u64, octets: &[u8]) {
        assert!(self.0.write_memory(address, octets), "nothing at {address:#x}");
    }

    pub(crate) fn status(&mut self) -> u8 {
        self.read::<1>(BASE + 0x14)[0]
    }

    pub(crate) fn set_status(&mut self, status: u8) {
        self.write(BASE + 0x14, &[status]);
    }

    /// The features offered.
    pub(crate) fn offered(&mut self) -> u64 {
        let half = |driver: &mut Self, select: u32| {
            driver.write(BASE, &select.to_le_bytes());
            u64::from(u32::from_le_bytes(driver.read(BASE + 4)))
        };
        half(self, 0) | half(self, 1) << 32
    }

    /// Acknowledges the device and negotiates `features`; whether it agreed.
    pub(crate) fn negotiate(&mut self, features: u64) -> bool {
        self.set_status(1);
        self.set_status(3);
        for (select, half) in [(0_u32, features as u32), (1, (features >> 32) as u32)] {
            self.write(BASE + 8, &select.to_le_bytes());
            self.write(BASE + 12, &half.to_le_bytes());
        }
        self.set_status(11);
        self.status() & 8 != 0
    }

    /// Enables queue `index` with rings at [`ring_address`] and the vector `vector`.
    pub(crate) fn enable_queue(&mut self, index: u16, vector: u16) {
        let at = ring_address(index);
        self.write(BASE + 0x16, &index.to_le_bytes());
        self.write(BASE + 0x18, &SIZE.to_le_bytes());
        self.write(BASE + 0x1a, &vector.to_le_bytes());
        self.write(BASE + 0x20, &at.to_le_bytes());
        self.write(BASE + 0x28, &(at + 0x100).to_le_bytes());
        self.write(BASE + 0x30, &(at + 0x200).to_le_bytes());
        self.write(BASE + 0x1c, &1_u16.to_le_bytes());
    }

    pub(crate) fn notify(&mut self, index: u16) {
        self.write(NOTIFY + 4 * u64::from(index), &index.to_le_bytes());
    }
}

/// Where the descriptor table of queue `index` is; available and used ring follow 0x100 and 0x200 behind.
pub(crate) fn ring_address(index: u16) -> u64 {
    0x4_0000 + 0x1000 * u64::from(index)
}

/// Puts one chain of `parts` (address, length, device writes) into the available ring of queue `index`.
pub(crate) fn make_available(ram: &Arc<GuestRam>, index: u16, parts: &[(u64, u32, bool)]) {
    let at = ring_address(index);
    for (slot, (address, len, writes)) in (0_u16..).zip(parts) {
        let more = usize::from(slot) + 1 < parts.len();
        let flags = u16::from(more) | u16::from(*writes) << 1;
        let descriptor = GuestAddress(at + 16 * u64::from(slot));
        ram.write_obj(*address, descriptor).expect("in memory");
        ram.write_obj(*len, GuestAddress(descriptor.0 + 8))
            .expect("in memory");
        ram.write_obj([flags, slot + 1], GuestAddress(descriptor.0 + 12))
            .expect("in memory");
    }
    let next: u16 = ram.read_obj(GuestAddress(at + 0x102)).expect("in memory");
    ram.write_obj(0_u16, GuestAddress(at + 0x104 + 2 * u64::from(next % SIZE)))
        .expect("in memory");
    ram.write_obj(next.wrapping_add(1), GuestAddress(at + 0x102))
        .expect("in memory");
}

/// The used ring's index of queue `index`.
pub(crate) fn used_index(ram: &GuestRam, index: u16) -> u16 {
    ram.read_obj(GuestAddress(ring_address(index) + 0x202))
        .expect("in memory")
}
