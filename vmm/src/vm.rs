//! A machine: made of its parts, run, and taken down.

mod events;
#[cfg(test)]
mod microguest_tests;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use parking_lot::Mutex;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::acpi;
use crate::boot::{self, BootError};
use crate::config::{MAX_NICS, MAX_QUEUE_PAIRS, NicConfig, VmConfig};
use crate::devices::bus::Bus;
use crate::devices::net::Net;
use crate::devices::pci::{PciFunction, PciRoot};
use crate::devices::power::Power;
use crate::devices::serial::{COM1_LINE, Console, Input, SerialPort};
use crate::devices::virtio::{BAR_SPAN, VirtioFunction};
use crate::error::{VmError, host, kvm};
use crate::kernel;
use crate::layout::{KVM_TSS, MAX_VCPUS, PCI_HOLE, PCI_MMIO};
use crate::memory::{self, GuestRam};
use crate::report::{BootTimes, MemoryUse, NicReport, Stopwatch, VmReport};
use crate::stop::{StopHandle, StopReason};
use crate::vcpu::Vcpus;
use crate::wiring::{KvmWiring, Wiring};
use events::Events;

/// What KVM must be able to do.
const CAPABILITIES: [(Cap, &str); 6] = [
    (Cap::UserMemory, "map guest memory"),
    (Cap::Irqchip, "emulate interrupt controllers"),
    (Cap::IrqRouting, "route interrupts"),
    (Cap::Irqfd, "raise interrupts from eventfds"),
    (Cap::Ioeventfd, "signal eventfds from the guest"),
    (Cap::Pit2, "emulate the timer"),
];

/// One virtual machine.
pub struct Vm {
    vcpus: Vcpus,
    bus: Arc<Bus>,
    nics: Vec<Nic>,
    input: Option<Input>,
    stop: StopHandle,
    watch: Stopwatch,
    boot: BootTimes,
    memory: Option<MemoryUse>,
    // Declared last: the machine and its memory outlive what refers to them.
    _machine: Arc<VmFd>,
    _ram: GuestRam,
}

/// An interface and what its owner must know to look after it.
struct Nic {
    function: Arc<Mutex<VirtioFunction<Net>>>,
    config: NicConfig,
}

impl Vm {
    /// Makes a machine that is ready to run: memory, kernel, processors, devices, and a conversation with the switch
    /// of each interface.
    pub fn new(config: VmConfig, console: Console) -> Result<Self, VmError> {
        let (watch, mut boot) = (Stopwatch::start(), BootTimes::default());
        check(&config)?;
        let ram = memory::allocate(config.memory)?;
        boot.memory_us = watch.us();

        let top = config.memory.min(PCI_HOLE);
        let kernel = kernel::load(&config.kernel, &ram, top)?;
        let initrd = config
            .initrd
            .as_ref()
            .map(|path| boot::load_initrd(path, &ram, kernel.end, top))
            .transpose()?;
        boot.kernel_us = watch.us();

        let kvm_fd = open_kvm()?;
        let vm = Arc::new(create_vm(&kvm_fd, &ram)?);
        boot.kvm_us = watch.us();

        let wiring: Arc<dyn Wiring> = Arc::new(KvmWiring::new(Arc::clone(&vm)));
        let serial = SerialPort::new(console.output).map_err(host("make the console"))?;
        wiring
            .attach_interrupt(serial.interrupt(), COM1_LINE)
            .map_err(kvm("raise the console's interrupt"))?;
        let nics = make_nics(config.nics, &ram, &wiring)?;
        boot.devices_us = watch.us();

        let vcpus = Vcpus::new(&kvm_fd, &vm, config.vcpus)?;
        vcpus.enter_at(kernel.entry)?;
        let acpi = acpi::write(&ram, config.vcpus).map_err(BootError::from)?;
        boot::write_start_info(&ram, &with_tsc_khz(config.cmdline, vcpus.tsc_khz()), initrd, acpi)?;
        boot.vcpus_us = watch.us();

        let functions = nics
            .iter()
            .map(|nic| Arc::clone(&nic.function) as Arc<Mutex<dyn PciFunction>>)
            .collect();
        let bus = Arc::new(Bus {
            serial: Arc::new(serial),
            pci: Arc::new(PciRoot::new(functions)),
            power: Power::default(),
        });
        let input = console.input.map(Input::new);
        let stop = StopHandle::new().map_err(host("make the stop handle"))?;
        Ok(Self {
            vcpus,
            bus,
            nics,
            input,
            stop,
            watch,
            boot,
            memory: None,
            _machine: vm,
            _ram: ram,
        })
    }

    /// A handle that stops the machine from elsewhere.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Runs the machine until it stops. All its threads have ended and the terminal is as it was when this returns.
    pub fn run(&mut self) -> Result<StopReason, VmError> {
        let mut events = Events::new(self)?;
        self.boot.started_us = Some(self.watch.us());
        self.vcpus.start(&self.bus)?;
        let asked = events.serve(&self.nics, &self.bus.serial, self.input.as_mut());

        // Measured while everything is still in place.
        self.memory = MemoryUse::measure().ok();
        for nic in &events.hangups {
            nic.hang_up();
        }
        let ended = self.vcpus.stop();
        self.bus.serial.flush();
        self.input = None;
        match (asked?, ended?) {
            (Some(reason), _) | (None, Some(reason)) => Ok(reason),
            (None, None) => Ok(StopReason::Requested),
        }
    }

    /// What the machine cost and did until now.
    pub fn report(&self) -> VmReport {
        let kicks = self
            .nics
            .iter()
            .filter_map(|nic| nic.function.lock().device().first_kick());
        let first_kick_us = kicks.min().map(|then| self.watch.us_at(then));
        VmReport {
            boot: BootTimes {
                first_kick_us,
                ..self.boot
            },
            memory: self
                .memory
                .or_else(|| MemoryUse::measure().ok())
                .unwrap_or_default(),
            exits: self.vcpus.exits(),
            console_lost: self.bus.serial.lost(),
            nics: self.nics.iter().map(Nic::report).collect(),
        }
    }
}

impl Nic {
    fn report(&self) -> NicReport {
        let function = self.function.lock();
        let (guest_faults, wiring_failures) = function.faults();
        NicReport {
            socket: self.config.socket.display().to_string(),
            features: function.device().accepted(),
            counts: function.device().counts(),
            guest_faults,
            wiring_failures,
        }
    }
}

/// Refuses descriptions that no machine can be made of.
fn check(config: &VmConfig) -> Result<(), VmError> {
    let refuse = |reason: String| Err(VmError::Config(reason));
    boot::check_cmdline(&config.cmdline)?;
    if !(1..=MAX_VCPUS).contains(&config.vcpus) {
        return refuse(format!(
            "{} virtual processors are not between 1 and {MAX_VCPUS}",
            config.vcpus
        ));
    }
    if config.nics.len() > MAX_NICS {
        return refuse(format!(
            "{} interfaces are too many; {MAX_NICS} fit",
            config.nics.len()
        ));
    }
    for nic in &config.nics {
        if !(1..=MAX_QUEUE_PAIRS).contains(&nic.queue_pairs) {
            return refuse(format!(
                "queues={} is not between 1 and {MAX_QUEUE_PAIRS}",
                nic.queue_pairs
            ));
        }
        if nic.mac.is_multicast() {
            return refuse(format!(
                "{} is a multicast address; clear the lowest bit of its first octet",
                nic.mac
            ));
        }
        if nic.mtu < 68 {
            return refuse(format!(
                "an MTU of {} is below 68, the least that IPv4 allows",
                nic.mtu
            ));
        }
    }
    Ok(())
}

fn open_kvm() -> Result<Kvm, VmError> {
    let kvm_fd = Kvm::new().map_err(|error| VmError::NoKvm(error.into()))?;
    for (capability, what) in CAPABILITIES {
        if !kvm_fd.check_extension(capability) {
            return Err(VmError::Kvm {
                what,
                source: io::ErrorKind::Unsupported.into(),
            });
        }
    }
    Ok(kvm_fd)
}

/// A KVM machine with the memory mapped, interrupt controllers and a timer, but no processors.
fn create_vm(kvm_fd: &Kvm, ram: &GuestRam) -> Result<VmFd, VmError> {
    let vm = kvm_fd.create_vm().map_err(kvm("create a machine"))?;
    for (region, slot) in ram.iter().zip(0..) {
        map_region(
            &vm,
            kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            },
        )?;
    }
    vm.set_tss_address(KVM_TSS as usize)
        .map_err(kvm("place its task state"))?;
    vm.create_irq_chip()
        .map_err(kvm("create interrupt controllers"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(kvm("create a timer"))?;
    Ok(vm)
}

#[allow(unsafe_code)] // handing memory to KVM is the one unsafe call of this module
fn map_region(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), VmError> {
    // SAFETY: the region is a whole mapping of `GuestRam`. `Vm` keeps the mapping until after the machine and its
    // processors are gone, and Rust code only touches it through volatile accesses.
    unsafe { vm.set_user_memory_region(region) }.map_err(kvm("map guest memory"))
}

fn make_nics(configs: Vec<NicConfig>, ram: &GuestRam, wiring: &Arc<dyn Wiring>) -> Result<Vec<Nic>, VmError> {
    let make = |(config, address): (NicConfig, u64)| {
        let net = Net::connect(&config, ram.clone())?;
        let function = VirtioFunction::new(net, ram.clone(), Arc::clone(wiring), address as u32)
            .map_err(host("make an interface"))?;
        Ok(Nic {
            function: Arc::new(Mutex::new(function)),
            config,
        })
    };
    configs
        .into_iter()
        .zip((PCI_MMIO..).step_by(BAR_SPAN as usize))
        .map(make)
        .collect()
}

/// Tells the kernel the frequency of its clock, which it could only estimate.
fn with_tsc_khz(cmdline: String, tsc_khz: Option<u32>) -> String {
    match tsc_khz {
        Some(khz) if cmdline.is_empty() => format!("tsc_khz={khz}"),
        Some(khz) => format!("{cmdline} tsc_khz={khz}"),
        None => cmdline,
    }
}
