//! The wires between eventfds and the guest: interrupts in, doorbells out.
//!
//! Devices see the [`Wiring`] trait, so that their register logic is tested without a KVM.

use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_irq_routing_msi;
use kvm_bindings::{KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KvmIrqRouting};
use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE};
use kvm_bindings::{kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use parking_lot::Mutex;
use vmm_sys_util::eventfd::EventFd;

/// Input pins of the I/O APIC: the interrupt lines below this number are legacy ones.
const IOAPIC_PINS: u32 = 24;
/// Routes that KVM takes in one table, legacy lines left out.
const MSI_ROUTES_MAX: usize = 1024;

/// A message-signalled interrupt: a write of `data` to `address` (PCI 3.0, 6.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MsiMessage {
    pub(crate) address: u64,
    pub(crate) data: u32,
}

/// An interrupt line of the machine, as KVM numbers them.
pub(crate) type Line = u32;

/// Connects eventfds to the machine.
pub(crate) trait Wiring: Send + Sync {
    /// A line of its own that sends `message`; `None` when the machine has no more.
    fn add_line(&self, message: MsiMessage) -> io::Result<Option<Line>>;
    /// Changes the message that a line sends.
    fn set_message(&self, line: Line, message: MsiMessage) -> io::Result<()>;
    /// From now on a signal on `event`, one that is pending already included, raises `line`.
    fn attach_interrupt(&self, event: &EventFd, line: Line) -> io::Result<()>;
    /// Undoes [`Wiring::attach_interrupt`]; later signals stay in the eventfd.
    fn detach_interrupt(&self, event: &EventFd, line: Line) -> io::Result<()>;
    /// Raises or lowers a legacy line that is level-triggered.
    fn set_line(&self, line: Line, level: bool) -> io::Result<()>;
    /// From now on a guest's write to `address` signals `event` without leaving the kernel.
    fn attach_doorbell(&self, event: &EventFd, address: u64) -> io::Result<()>;
    /// Undoes [`Wiring::attach_doorbell`].
    fn detach_doorbell(&self, event: &EventFd, address: u64) -> io::Result<()>;
}

/// The wiring of a KVM machine: irqfd, ioeventfd and the interrupt routing table.
pub(crate) struct KvmWiring {
    vm: Arc<VmFd>,
    routes: Mutex<Vec<kvm_irq_routing_entry>>,
}

impl KvmWiring {
    /// Legacy lines only; message-signalled ones are added as devices ask for them.
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        Self {
            vm,
            routes: Mutex::new(legacy_routes()),
        }
    }

    fn install(&self, routes: &[kvm_irq_routing_entry]) -> io::Result<()> {
        let table =
            KvmIrqRouting::from_entries(routes).map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok(self.vm.set_gsi_routing(&table)?)
    }
}

impl Wiring for KvmWiring {
    fn add_line(&self, message: MsiMessage) -> io::Result<Option<Line>> {
        let mut routes = self.routes.lock();
        let taken = routes
            .iter()
            .filter(|route| route.type_ == KVM_IRQ_ROUTING_MSI)
            .count();
        if taken >= MSI_ROUTES_MAX {
            return Ok(None);
        }
        let line = IOAPIC_PINS + taken as u32;
        routes.push(msi_route(line, message));
        if let Err(error) = self.install(&routes) {
            routes.pop();
            return Err(error);
        }
        Ok(Some(line))
    }

    fn set_message(&self, line: Line, message: MsiMessage) -> io::Result<()> {
        let mut routes = self.routes.lock();
        let found = routes
            .iter_mut()
            .find(|route| route.gsi == line && route.type_ == KVM_IRQ_ROUTING_MSI);
        *found.ok_or(io::ErrorKind::NotFound)? = msi_route(line, message);
        self.install(&routes)
    }

    fn attach_interrupt(&self, event: &EventFd, line: Line) -> io::Result<()> {
        Ok(self.vm.register_irqfd(event, line)?)
    }

    fn detach_interrupt(&self, event: &EventFd, line: Line) -> io::Result<()> {
        Ok(self.vm.unregister_irqfd(event, line)?)
    }

    fn set_line(&self, line: Line, level: bool) -> io::Result<()> {
        Ok(self.vm.set_irq_line(line, level)?)
    }

    fn attach_doorbell(&self, event: &EventFd, address: u64) -> io::Result<()> {
        Ok(self
            .vm
            .register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }

    fn detach_doorbell(&self, event: &EventFd, address: u64) -> io::Result<()> {
        Ok(self
            .vm
            .unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }
}

/// What KVM_CREATE_IRQCHIP sets up: each line at its I/O APIC pin, the first 16 at the two PICs as well.
fn legacy_routes() -> Vec<kvm_irq_routing_entry> {
    let pic = (0..16).map(|line| {
        let chip = if line < 8 {
            KVM_IRQCHIP_PIC_MASTER
        } else {
            KVM_IRQCHIP_PIC_SLAVE
        };
        chip_route(line, chip, line % 8)
    });
    let ioapic = (0..IOAPIC_PINS).map(|line| chip_route(line, KVM_IRQCHIP_IOAPIC, line));
    pic.chain(ioapic).collect()
}

fn chip_route(line: Line, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let target = kvm_irq_routing_irqchip { irqchip, pin };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { irqchip: target };
    kvm_irq_routing_entry {
        gsi: line,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u,
        ..Default::default()
    }
}

fn msi_route(line: Line, message: MsiMessage) -> kvm_irq_routing_entry {
    let target = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { msi: target };
    kvm_irq_routing_entry {
        gsi: line,
        type_: KVM_IRQ_ROUTING_MSI,
        u,
        ..Default::default()
    }
}
