//! The common configuration registers as a state machine (Virtio 1.2, 3.1 and 4.1.4.3).

use serde::Serialize;

use super::F_VERSION_1;
use super::queue::Queue;

/// Octets of the common configuration structure.
pub(super) const LEN: usize = 0x3c;

/// Register offsets.
const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
/// The vector registers are the transport's: MSI-X is not part of this state machine.
pub(super) const CONFIG_MSIX_VECTOR: usize = 0x10;
const NUM_QUEUES: usize = 0x12;
const DEVICE_STATUS: usize = 0x14;
const CONFIG_GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
pub(super) const QUEUE_MSIX_VECTOR: usize = 0x1a;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_OFF: usize = 0x1e;
const QUEUE_DESC: usize = 0x20;
const QUEUE_DRIVER: usize = 0x28;
const QUEUE_DEVICE: usize = 0x30;

/// Device status bits (Virtio 1.2, 2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;

/// What a write asks the device to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The driver set DRIVER_OK.
    Activate,
    /// The driver wrote 0 to the status.
    Reset,
}

/// The registers of one device.
#[derive(Clone, Serialize)]
pub(super) struct Registers {
    offered: u64,
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    status: u8,
    generation: u8,
    queue_select: u16,
    pub(super) queues: Vec<Queue>,
    /// Writes that break the rules; they have no other effect.
    pub(super) faults: u64,
}

impl Registers {
    /// Registers after a reset.
    pub(super) fn new(offered: u64, queue_sizes: &[u16]) -> Self {
        Self {
            offered,
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            status: 0,
            generation: 0,
            queue_select: 0,
            queues: queue_sizes.iter().map(|size| Queue::new(*size)).collect(),
            faults: 0,
        }
    }

    /// The features that the driver accepted.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// The queue that the queue registers show at the moment.
    pub(super) fn selected(&self) -> usize {
        usize::from(self.queue_select)
    }

    /// Whether a driver is at work.
    pub(super) fn is_active(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    /// Something in the device configuration changed.
    pub(super) fn bump_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// The device cannot go on until the driver resets it.
    pub(super) fn set_needs_reset(&mut self) {
        self.status |= NEEDS_RESET;
    }

    /// A driver's read; registers answer to their own size, 64-bit ones also by halves. Others read as zeros.
    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        let queue = self.queues.get(self.selected());
        let address = |of: fn(&Queue) -> u64| queue.map_or(0, of);
        let value: u64 = match (offset, data.len()) {
            (DEVICE_FEATURE_SELECT, 4) => self.device_feature_select.into(),
            (DEVICE_FEATURE, 4) => half(self.offered, self.device_feature_select).into(),
            (DRIVER_FEATURE_SELECT, 4) => self.driver_feature_select.into(),
            (DRIVER_FEATURE, 4) => half(self.accepted, self.driver_feature_select).into(),
            (NUM_QUEUES, 2) => self.queues.len() as u64,
            (DEVICE_STATUS, 1) => self.status.into(),
            (CONFIG_GENERATION, 1) => self.generation.into(),
            (QUEUE_SELECT, 2) => self.queue_select.into(),
            (QUEUE_SIZE, 2) => queue.map_or(0, |queue| queue.size).into(),
            (QUEUE_ENABLE, 2) => queue.is_some_and(|queue| queue.enabled).into(),
            (QUEUE_NOTIFY_OFF, 2) => queue.map_or(0, |_| self.queue_select).into(),
            (QUEUE_DESC, 4 | 8) => address(|queue| queue.descriptors),
            (QUEUE_DRIVER, 4 | 8) => address(|queue| queue.driver),
            (QUEUE_DEVICE, 4 | 8) => address(|queue| queue.device),
            (0x24, 4) => address(|queue| queue.descriptors) >> 32,
            (0x2c, 4) => address(|queue| queue.driver) >> 32,
            (0x34, 4) => address(|queue| queue.device) >> 32,
            _ => 0,
        };
        for (target, octet) in data.iter_mut().zip(value.to_le_bytes()) {
            *target = octet;
        }
    }

    /// A driver's write. Those that the specification forbids are counted and ignored.
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) -> Option<Action> {
        let value = data
            .iter()
            .rev()
            .take(8)
            .fold(0_u64, |value, octet| value << 8 | u64::from(*octet));
        match (offset, data.len()) {
            (DEVICE_FEATURE_SELECT, 4) => self.device_feature_select = value as u32,
            (DRIVER_FEATURE_SELECT, 4) => self.driver_feature_select = value as u32,
            (DRIVER_FEATURE, 4) => self.accept(value as u32),
            (DEVICE_STATUS, 1) => return self.set_status(value as u8),
            (QUEUE_SELECT, 2) => self.queue_select = value as u16,
            (QUEUE_SIZE | QUEUE_ENABLE, 2) | (QUEUE_DESC..=0x34, 4 | 8) => {
                self.write_queue(offset, data.len(), value);
            }
            _ => self.faults += 1,
        }
        None
    }

    /// Forgets the driver; statistics stay.
    pub(super) fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        let (generation, faults) = (self.generation, self.faults);
        *self = Self {
            generation,
            faults,
            ..Self::new(self.offered, &sizes)
        };
    }

    /// Takes over a new offer, which only a device without a driver may make.
    pub(super) fn set_offered(&mut self, offered: u64) {
        self.offered = offered;
    }

    fn accept(&mut self, features: u32) {
        let shift = match self.driver_feature_select {
            0 => 0,
            1 => 32,
            _ => return self.faults += u64::from(features != 0),
        };
        if self.status & FEATURES_OK != 0 {
            self.faults += 1;
            return;
        }
        self.accepted = (self.accepted & !(0xffff_ffff << shift)) | u64::from(features) << shift;
    }

    fn set_status(&mut self, status: u8) -> Option<Action> {
        if status == 0 {
            return Some(Action::Reset);
        }
        let before = self.status;
        let known = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED;
        let mut set = status & known & !before;
        if before & !status & known != 0 {
            // Bits are taken back by a reset only.
            self.faults += 1;
        }
        if set & FEATURES_OK != 0 && !self.features_are_fine() {
            set &= !FEATURES_OK;
        }
        if set & DRIVER_OK != 0 && (before | set) & FEATURES_OK == 0 {
            self.faults += 1;
            set &= !DRIVER_OK;
        }
        self.status |= set;
        (set & DRIVER_OK != 0).then_some(Action::Activate)
    }

    fn features_are_fine(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & F_VERSION_1 != 0
    }

    /// Queue registers: only before the queue is enabled and the driver ready.
    fn write_queue(&mut self, offset: usize, len: usize, value: u64) {
        let settled = self.status & DRIVER_OK != 0;
        let selected = self.selected();
        let Some(queue) = self
            .queues
            .get_mut(selected)
            .filter(|queue| !settled && !queue.enabled)
        else {
            self.faults += 1;
            return;
        };
        match (offset, len) {
            (QUEUE_SIZE, 2) if (value as u16).is_power_of_two() && value <= queue.max_size.into() => {
                queue.size = value as u16;
            }
            (QUEUE_ENABLE, 2) if value == 1 => queue.enabled = true,
            (QUEUE_DESC, 8) => queue.descriptors = value,
            (QUEUE_DRIVER, 8) => queue.driver = value,
            (QUEUE_DEVICE, 8) => queue.device = value,
            (QUEUE_DESC | 0x24, 4) => set_half(&mut queue.descriptors, offset, value),
            (QUEUE_DRIVER | 0x2c, 4) => set_half(&mut queue.driver, offset, value),
            (QUEUE_DEVICE | 0x34, 4) => set_half(&mut queue.device, offset, value),
            _ => self.faults += 1,
        }
    }
}

/// The lower or upper 32 bits; other selections show none.
fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}

/// Writes the half of `address` that the register at `offset` stands for.
fn set_half(address: &mut u64, offset: usize, value: u64) {
    let shift = if offset.is_multiple_of(8) { 0 } else { 32 };
    *address = (*address & !(0xffff_ffff << shift)) | value << shift;
}
