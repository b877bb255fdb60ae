//! The PCI function of a virtio device: capabilities, memory windows, notifications.

use std::io;
use std::sync::Arc;

use serde::Serialize;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::registers::{Action, CONFIG_MSIX_VECTOR, LEN as COMMON_LEN, QUEUE_MSIX_VECTOR, Registers};
use super::{ActiveQueue, F_RING_PACKED, VirtioDevice};
use crate::devices::lifecycle::{CannotExport, Lifecycle, SavedState};
use crate::devices::pci::{Bar, ConfigSpace, Identity, MSIX_ENTRY_LEN, Msix, PciFunction, SavedMsix};
use crate::memory::GuestRam;
use crate::wiring::Wiring;

/// Guest memory that one function's base address registers take, gaps included.
pub(crate) const BAR_SPAN: u32 = 0x1_0000;

/// Base address register 0: the four virtio windows, a page each so that a guest may map them separately.
const WINDOWS: Bar = Bar {
    index: 0,
    size: 0x4000,
};
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const WINDOW_LEN: u64 = 0x1000;
/// Base address register 1: MSI-X.
const MSIX: Bar = Bar {
    index: 1,
    size: 0x1000,
};
const MSIX_AT: u32 = 0x8000;
const TABLE: u64 = 0;
const PENDING: u64 = 0x800;

/// Capability identifiers and `virtio_pci_cap` types (Virtio 1.2, 4.1.4).
const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;
/// Octets between the notification addresses of two queues.
const NOTIFY_MULTIPLIER: u32 = 4;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// A virtio device on the PCI bus.
pub(crate) struct VirtioFunction<D> {
    device: D,
    config: ConfigSpace,
    /// Configuration space as at power-on.
    pristine: ConfigSpace,
    registers: Registers,
    msix: Msix,
    msix_capability: usize,
    pci_access: usize,
    queues: Vec<Doorbell>,
    config_event: Arc<EventFd>,
    config_changed: bool,
    ram: GuestRam,
    wiring: Arc<dyn Wiring>,
}

/// The two doorbells of a queue, and where the driver's one is attached.
struct Doorbell {
    kick: Arc<EventFd>,
    call: Arc<EventFd>,
    attached: Option<u64>,
    rung: bool,
}

impl<D: VirtioDevice> VirtioFunction<D> {
    /// Puts `device` behind registers that decode memory from `address` on.
    pub(crate) fn new(device: D, ram: GuestRam, wiring: Arc<dyn Wiring>, address: u32) -> io::Result<Self> {
        let sizes = device.queue_sizes();
        let event = || EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Arc::new);
        let config_event = event()?;
        let doorbell = |_| {
            Ok(Doorbell {
                kick: event()?,
                call: event()?,
                attached: None,
                rung: false,
            })
        };
        let queues = sizes.iter().map(doorbell).collect::<io::Result<Vec<_>>>()?;
        let sources: Vec<_> = [&config_event]
            .into_iter()
            .chain(queues.iter().map(|queue| &queue.call))
            .cloned()
            .collect();
        let vectors = sources.len() as u16;
        let registers = Registers::new(device.features(), sizes);
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1040 + device.device_id(),
            revision: 1,
            class: device.class(),
            subsystem_vendor: 0x1af4,
            subsystem: device.device_id(),
        });
        config.add_bar(WINDOWS, address);
        config.add_bar(MSIX, address + MSIX_AT);
        let (msix_capability, pci_access) = add_capabilities(&mut config, vectors);
        let msix = Msix::new(vectors, sources, Arc::clone(&wiring));
        Ok(Self {
            device,
            pristine: config.clone(),
            config,
            registers,
            msix,
            msix_capability,
            pci_access,
            queues,
            config_event,
            config_changed: false,
            ram,
            wiring,
        })
    }

    /// The device behind the transport.
    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    /// The device behind the transport.
    pub(crate) fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Register accesses of the driver that broke the rules, and wires that the host refused.
    pub(crate) fn faults(&self) -> (u64, u64) {
        (self.registers.faults, self.msix.failures())
    }

    /// Tells the driver that the device configuration changed.
    pub(crate) fn signal_config_change(&mut self) {
        self.registers.bump_generation();
        if self.registers.is_active() {
            self.config_changed = true;
            // Fails only when the counter is full, and then the interrupt is pending already.
            let _ = self.config_event.write(1);
        }
    }

    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let within = offset % WINDOW_LEN;
        match (bar, offset - within) {
            (0, COMMON) => self.read_common(within as usize, data),
            (0, ISR) if within == 0 => data.iter_mut().take(1).for_each(|octet| *octet = self.take_isr()),
            (0, DEVICE) => self.device.read_config(within as usize, data),
            (1, _) if offset >= PENDING => self.msix.read_pending(offset - PENDING, data),
            (1, _) => self.msix.read_table(offset, data),
            _ => {}
        }
    }

    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]) {
        let within = offset % WINDOW_LEN;
        match (bar, offset - within) {
            (0, COMMON) => self.write_common(within as usize, data),
            (0, NOTIFY) => self.notify((within / u64::from(NOTIFY_MULTIPLIER)) as usize),
            (1, _) if offset < PENDING => self.msix.write_table(offset, data),
            _ => self.registers.faults += 1,
        }
    }

    fn read_common(&self, offset: usize, data: &mut [u8]) {
        let vector = match (offset, data.len()) {
            (CONFIG_MSIX_VECTOR, 2) => self.msix.vector(0),
            (QUEUE_MSIX_VECTOR, 2) => self.msix.vector(1 + self.registers.selected()),
            _ => return self.registers.read(offset, data),
        };
        data.copy_from_slice(&vector.to_le_bytes());
    }

    fn write_common(&mut self, offset: usize, data: &[u8]) {
        let source = match (offset, data) {
            (CONFIG_MSIX_VECTOR, [_, _]) => 0,
            (QUEUE_MSIX_VECTOR, [_, _]) => 1 + self.registers.selected(),
            _ => return self.write_register(offset, data),
        };
        let [low, high] = *data else { return };
        self.msix.set_vector(source, u16::from_le_bytes([low, high]));
    }

    fn write_register(&mut self, offset: usize, data: &[u8]) {
        match self.registers.write(offset, data) {
            Some(Action::Activate) => self.activate(),
            Some(Action::Reset) => self.forget_driver(),
            None => {}
        }
    }

    fn activate(&mut self) {
        let result = match self.active_queues() {
            Some(queues) => self.device.activate(self.registers.accepted(), &queues),
            None => Err("a queue is not in guest memory".to_owned()),
        };
        if let Err(reason) = result {
            tracing::debug!(%reason, "device not activated");
            self.registers.faults += 1;
            self.signal_config_change();
            self.registers.set_needs_reset();
        }
    }

    /// The enabled queues; `None` when one of them is not in guest memory.
    fn active_queues(&self) -> Option<Vec<ActiveQueue>> {
        let packed = self.registers.accepted() & F_RING_PACKED != 0;
        let enabled = self
            .registers
            .queues
            .iter()
            .zip(&self.queues)
            .zip(0..)
            .filter(|((queue, _), _)| queue.enabled);
        enabled
            .map(|((queue, doorbell), index)| {
                queue.is_valid(&self.ram, packed).then(|| ActiveQueue {
                    index,
                    size: queue.size,
                    descriptors: queue.descriptors,
                    driver: queue.driver,
                    device: queue.device,
                    kick: Arc::clone(&doorbell.kick),
                    call: Arc::clone(&doorbell.call),
                })
            })
            .collect()
    }

    /// The driver wrote 0 to the status.
    fn forget_driver(&mut self) {
        self.device.reset();
        self.registers.reset();
        self.registers.set_offered(self.device.features());
        self.msix.reset_sources();
        self.config_changed = false;
        // The next driver's queues may be other ones: what it notifies may be for this process.
        self.keep_doorbells(None);
        for queue in &self.queues {
            // Fails only when there is no stale notification to forget.
            let _ = queue.kick.read();
        }
    }

    /// A notification that came as an exit: pass it on, and have the kernel take the next ones by itself.
    fn notify(&mut self, index: usize) {
        // Before the driver is ready, nobody knows who will serve the queue.
        let ready = self.registers.is_active();
        let base = self.config.bar_address(WINDOWS.index).filter(|_| ready);
        let Some(queue) = self.queues.get_mut(index) else {
            self.registers.faults += 1;
            return;
        };
        if self.device.serve(index as u16) {
            return;
        }
        // Fails only when the counter is full, and then the back end is notified already.
        let _ = queue.kick.write(1);
        if !queue.rung {
            queue.rung = true;
            self.device.first_notification(index as u16);
        }
        let address = base.map(|base| base + NOTIFY + index as u64 * u64::from(NOTIFY_MULTIPLIER));
        if let (Some(address), None) = (address, queue.attached) {
            match self.wiring.attach_doorbell(&queue.kick, address) {
                Ok(()) => queue.attached = Some(address),
                Err(error) => tracing::debug!(%error, index, "doorbell stays an exit"),
            }
        }
    }

    /// Undoes attachments to addresses that the function no longer decodes.
    fn detach_moved_doorbells(&mut self) {
        self.keep_doorbells(self.config.bar_address(WINDOWS.index));
    }

    /// Undoes attachments elsewhere than in windows at `base`.
    fn keep_doorbells(&mut self, base: Option<u64>) {
        for (queue, index) in self.queues.iter_mut().zip(0_u64..) {
            let here = base.map(|base| base + NOTIFY + index * u64::from(NOTIFY_MULTIPLIER));
            if let Some(address) = queue.attached.take_if(|address| Some(*address) != here)
                && let Err(error) = self.wiring.detach_doorbell(&queue.kick, address)
            {
                tracing::debug!(%error, index, "doorbell not detached");
            }
        }
    }

    /// Interrupt status; reading clears it (Virtio 1.2, 4.1.4.5).
    fn take_isr(&mut self) -> u8 {
        let mut isr = if std::mem::take(&mut self.config_changed) {
            ISR_CONFIG
        } else {
            0
        };
        for index in 0..self.queues.len() {
            if self.msix.take_polled(1 + index) {
                isr |= ISR_QUEUE;
            }
        }
        isr
    }

    /// The window access that the PCI configuration access capability describes, when `offset` is its data.
    fn pci_access(&self, offset: usize, len: usize) -> Option<(u8, u64)> {
        let at = |field: usize| self.config.dword(self.pci_access + field);
        let (bar, place, wanted) = (at(4) as u8, u64::from(at(8)), at(12) as usize);
        let size = match bar {
            0 => WINDOWS.size,
            1 => MSIX.size,
            _ => return None,
        };
        let fits = matches!(len, 1 | 2 | 4) && wanted == len && place + len as u64 <= size.into();
        (offset == self.pci_access + 16 && fits).then_some((bar, place))
    }
}

/// A function's state as it is exported.
#[derive(Serialize)]
struct SavedFunction<'a> {
    config: &'a [u8],
    registers: &'a Registers,
    msix: SavedMsix,
    config_changed: bool,
    device: SavedState,
}

impl<D: VirtioDevice> Lifecycle for VirtioFunction<D> {
    fn pause(&mut self) {
        self.device.pause();
    }

    fn resume(&mut self) {
        self.device.resume();
    }

    fn reset(&mut self) {
        self.forget_driver();
        self.msix.reset();
        self.config = self.pristine.clone();
        self.detach_moved_doorbells();
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        let state = SavedFunction {
            config: self.config.octets(),
            registers: &self.registers,
            msix: self.msix.export(),
            config_changed: self.config_changed,
            device: self.device.export()?,
        };
        SavedState::new("virtio-pci", 1, state)
    }
}

impl<D: VirtioDevice> PciFunction for VirtioFunction<D> {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        match self.pci_access(offset, data.len()) {
            Some((bar, place)) => self.read_bar(bar, place, data),
            None => self.config.read(offset, data),
        }
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        if let Some((bar, place)) = self.pci_access(offset, data.len()) {
            self.write_bar(bar, place, data);
        }
        self.msix.set_control(self.config.word(self.msix_capability + 2));
        self.detach_moved_doorbells();
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) -> bool {
        let decoded = self.config.decode(address);
        if let Some((bar, offset)) = decoded {
            self.read_bar(bar, offset, data);
        }
        decoded.is_some()
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) -> bool {
        let decoded = self.config.decode(address);
        if let Some((bar, offset)) = decoded {
            self.write_bar(bar, offset, data);
        }
        decoded.is_some()
    }
}

/// The capability list; returns where the MSI-X and the PCI configuration access capabilities are.
fn add_capabilities(config: &mut ConfigSpace, vectors: u16) -> (usize, usize) {
    let window = |kind, offset: u64, len: u64, extra: &[u8]| {
        let mut body = vec![16 + extra.len() as u8, kind, WINDOWS.index, 0, 0, 0];
        body.extend((offset as u32).to_le_bytes());
        body.extend((len as u32).to_le_bytes());
        body.extend(extra);
        body
    };
    let queues = u64::from(vectors) - 1;
    let notify_len = queues * u64::from(NOTIFY_MULTIPLIER);
    config.add_capability(CAP_VENDOR, &window(CFG_COMMON, COMMON, COMMON_LEN as u64, &[]));
    config.add_capability(
        CAP_VENDOR,
        &window(CFG_NOTIFY, NOTIFY, notify_len, &NOTIFY_MULTIPLIER.to_le_bytes()),
    );
    config.add_capability(CAP_VENDOR, &window(CFG_ISR, ISR, 1, &[]));
    config.add_capability(CAP_VENDOR, &window(CFG_DEVICE, DEVICE, WINDOW_LEN, &[]));
    let pci_access = config.add_capability(CAP_VENDOR, &window(CFG_PCI, 0, 0, &[0; 4]));
    config.allow(pci_access + 4, &[0xff]);
    config.allow(pci_access + 8, &[0xff; 12]);

    debug_assert!(usize::from(vectors) * MSIX_ENTRY_LEN <= PENDING as usize);
    let mut body = (vectors - 1).to_le_bytes().to_vec();
    body.extend((TABLE as u32 | u32::from(MSIX.index)).to_le_bytes());
    body.extend((PENDING as u32 | u32::from(MSIX.index)).to_le_bytes());
    let msix = config.add_capability(CAP_MSIX, &body);
    config.allow(msix + 3, &[0xc0]);
    (msix, pci_access)
}
