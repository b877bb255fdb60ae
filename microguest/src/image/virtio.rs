//! Virtio over PCI (virtio 1.2, 4.1): finds the network device, negotiates, gives it its queues.

use microguest::nic::{
    Doorbell, F_MTU, F_VERSION_1, FEATURES, LARGE_FEATURES, MAX_QUEUE_SIZE, Nic, NicConfig, RECEIVE_QUEUE,
    TRANSMIT_QUEUE,
};
use microguest::virtqueue::Queue;

use crate::lapic;
use crate::pci::{Capability, Function};

const VENDOR: u16 = 0x1af4;
/// Network device: modern, and transitional with modern capabilities.
const NETWORK: [u16; 2] = [0x1041, 0x1000];

/// PCI capabilities: vendor-specific, which virtio's are, and MSI-X.
const VENDOR_SPECIFIC: u8 = 0x09;
const MSIX: u8 = 0x11;

/// Kinds of virtio structures (4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

/// Offsets in the common configuration (4.1.4.3).
const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
const CONFIG_VECTOR: usize = 0x10;
const STATUS: usize = 0x14;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_VECTOR: usize = 0x1a;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
const QUEUE_DESCRIPTORS: usize = 0x20;
const QUEUE_DRIVER: usize = 0x28;
const QUEUE_DEVICE: usize = 0x30;

/// Offset of the MTU in the network device's configuration, after address, status and queue pairs (5.1.4).
const CONFIG_MTU: usize = 10;

/// Device status (2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

const NO_VECTOR: u16 = 0xffff;
/// MSI-X message control, above the capability's number: enable.
const MSIX_ENABLE: u32 = 1 << 31;
/// MSI-X message control: all vectors masked.
const MSIX_MASK: u32 = 1 << 30;

/// Where the device wants to be told of new buffers.
#[derive(Debug)]
pub(crate) struct Bell([Window; 2]);

impl Doorbell for Bell {
    fn ring(&mut self, queue: u16) {
        if let Some(window) = self.0.get(usize::from(queue)) {
            window.write16(0, queue);
        }
    }
}

/// Brings the machine's network device up, with segments larger than the MTU if `large` and the device can. The flag says
/// whether it interrupts.
pub(crate) fn open(large: bool) -> Result<(Nic<Bell>, bool), &'static str> {
    let function = Function::find(VENDOR, &NETWORK).ok_or("no virtio network device on PCI bus 0")?;
    function.enable();
    let structures = Structures::find(function)?;
    let common = structures.common;
    common.write8(STATUS, 0);
    common.write8(STATUS, ACKNOWLEDGE | DRIVER);
    let features = negotiate(common, FEATURES | if large { LARGE_FEATURES } else { 0 })?;
    let msix = structures
        .msix
        .is_some_and(|capability| route_interrupts(function, capability).is_ok());

    let config = NicConfig {
        features,
        mac: core::array::from_fn(|i| structures.device.read8(i)),
        mtu: (features & F_MTU != 0).then(|| structures.device.read16(CONFIG_MTU)),
        queue_sizes: (
            queue_size(common, RECEIVE_QUEUE)?,
            queue_size(common, TRANSMIT_QUEUE)?,
        ),
    };
    let bell = Bell([
        structures.doorbell(RECEIVE_QUEUE),
        structures.doorbell(TRANSMIT_QUEUE),
    ]);
    let mut nic = Nic::new(config, bell);
    if msix {
        common.write16(CONFIG_VECTOR, NO_VECTOR);
    }
    let [receive, transmit] = nic.queues();
    let receive_interrupts = set_queue(common, RECEIVE_QUEUE, receive, msix.then_some(0));
    set_queue(common, TRANSMIT_QUEUE, transmit, msix.then_some(NO_VECTOR));
    common.write8(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    nic.fill();
    Ok((nic, receive_interrupts))
}

/// The device's structures in memory.
struct Structures {
    common: Window,
    device: Window,
    notify: Window,
    notify_multiplier: usize,
    msix: Option<Capability>,
}

impl Structures {
    fn find(function: Function) -> Result<Self, &'static str> {
        let (mut common, mut device, mut notify, mut multiplier, mut msix) = (None, None, None, 0, None);
        for capability in function.capabilities() {
            let kind = (capability.head >> 24) as u8;
            match capability.head as u8 {
                MSIX => msix = Some(capability),
                VENDOR_SPECIFIC if kind == COMMON => common = common.or(Some(capability)),
                VENDOR_SPECIFIC if kind == DEVICE => device = device.or(Some(capability)),
                VENDOR_SPECIFIC if kind == NOTIFY && notify.is_none() => {
                    multiplier = function.read(capability.offset + 16);
                    notify = Some(capability);
                }
                _ => {}
            }
        }
        let window = |capability: Option<Capability>| {
            let offset = capability
                .ok_or("the network device has no modern virtio interface")?
                .offset;
            let bar = function.read(offset + 4) as u8;
            let start = function.read(offset + 8) as usize;
            Ok::<_, &'static str>(Window(function.memory(bar)? + start))
        };
        Ok(Self {
            common: window(common)?,
            device: window(device)?,
            notify: window(notify)?,
            notify_multiplier: multiplier as usize,
            msix,
        })
    }

    fn doorbell(&self, queue: u16) -> Window {
        self.common.write16(QUEUE_SELECT, queue);
        let offset = usize::from(self.common.read16(QUEUE_NOTIFY_OFFSET));
        Window(self.notify.0 + offset * self.notify_multiplier)
    }
}

/// Agrees on features of those wanted; the device must be a modern one.
fn negotiate(common: Window, wanted: u64) -> Result<u64, &'static str> {
    let half = |select| {
        common.write32(DEVICE_FEATURE_SELECT, select);
        u64::from(common.read32(DEVICE_FEATURE))
    };
    let features = (half(0) | half(1) << 32) & wanted;
    if features & F_VERSION_1 == 0 {
        return Err("the network device is not a modern one");
    }
    for (select, bits) in [(0, features as u32), (1, (features >> 32) as u32)] {
        common.write32(DRIVER_FEATURE_SELECT, select);
        common.write32(DRIVER_FEATURE, bits);
    }
    common.write8(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if common.read8(STATUS) & FEATURES_OK == 0 {
        return Err("the network device refused the features");
    }
    Ok(features)
}

/// Points the first MSI-X vector at this processor.
fn route_interrupts(function: Function, capability: Capability) -> Result<(), &'static str> {
    let table = function.read(capability.offset + 4);
    let table = Window(function.memory(table as u8 & 7)? + (table & !7) as usize);
    let enabled = capability.head & !MSIX_MASK | MSIX_ENABLE;
    function.write(capability.offset, enabled);
    table.write32(0, lapic::MESSAGE_ADDRESS | lapic::id() << 12);
    table.write32(4, 0);
    table.write32(8, lapic::NETWORK_VECTOR);
    table.write32(12, 0);
    Ok(())
}

fn queue_size(common: Window, queue: u16) -> Result<u16, &'static str> {
    common.write16(QUEUE_SELECT, queue);
    match common.read16(QUEUE_SIZE) {
        0 => Err("the network device lacks a queue"),
        size if size.is_power_of_two() => Ok(size.min(MAX_QUEUE_SIZE)),
        _ => Err("the network device's queue size is no power of two"),
    }
}

/// Gives the device a queue. Returns whether it took the interrupt vector.
fn set_queue(common: Window, index: u16, queue: &Queue, vector: Option<u16>) -> bool {
    let addresses = queue.addresses();
    common.write16(QUEUE_SELECT, index);
    common.write16(QUEUE_SIZE, queue.size());
    common.write64(QUEUE_DESCRIPTORS, addresses.descriptors);
    common.write64(QUEUE_DRIVER, addresses.available);
    common.write64(QUEUE_DEVICE, addresses.used);
    let accepted = vector.is_some_and(|vector| {
        common.write16(QUEUE_VECTOR, vector);
        common.read16(QUEUE_VECTOR) == vector
    });
    common.write16(QUEUE_ENABLE, 1);
    accepted
}

/// Device memory.
#[derive(Clone, Copy, Debug)]
struct Window(usize);

/// Accesses of one width.
macro_rules! access {
    ($read:ident, $write:ident, $width:ty) => {
        #[allow(dead_code)]
        fn $read(self, offset: usize) -> $width {
            // SAFETY: a window lies in a memory region of the device's, which boot.s maps for ring 3, and the offsets are
            // those of its structures. What the device does with it is the device's business.
            unsafe { ((self.0 + offset) as *const $width).read_volatile() }
        }

        fn $write(self, offset: usize, value: $width) {
            // SAFETY: as for reading.
            unsafe { ((self.0 + offset) as *mut $width).write_volatile(value) }
        }
    };
}

impl Window {
    access!(read8, write8, u8);
    access!(read16, write16, u16);
    access!(read32, write32, u32);

    /// 64 bits in two halves, as the common configuration wants them (4.1.3.1).
    fn write64(self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}
