//! What a guest's reset takes down and builds anew: memory, processors, devices.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use kvm_ioctls::{Kvm, VmFd};
use parking_lot::Mutex;

use super::machine::create_vm;
use crate::acpi;
use crate::boot::{self, BootError, Images};
use crate::config::{self, DiskConfig, Kernel, NicConfig, VmConfig};
use crate::console::Output;
use crate::devices::Terminal;
use crate::devices::block::{Block, Disk, DiskError};
use crate::devices::bus::Bus;
use crate::devices::console::VirtioConsole;
use crate::devices::lifecycle::{CannotExport, Lifecycle, SavedState};
use crate::devices::net::{Net, SessionError};
use crate::devices::pci::{PciFunction, PciRoot};
use crate::devices::power::Power;
use crate::devices::rng::Rng;
use crate::devices::serial::{COM1_LINE, SerialPort};
use crate::devices::virtio::{BAR_SPAN, VirtioDevice, VirtioFunction};
use crate::error::{VmError, host, kvm};
use crate::kernel::KernelInfo;
use crate::layout::{PCI_HOLE, PCI_MMIO};
use crate::memory::{self, GuestRam, MemoryError};
use crate::report::{BootTimes, ConsoleReport, DiskReport, MemoryUse, NicReport, RngReport, Stopwatch};
use crate::sandbox::{self, Thread};
use crate::vcpu::{VcpuError, Vcpus};
use crate::wiring::{KvmWiring, Wiring};

/// How often a switch is tried again that is not there when a guest starts anew.
const RETRY: Duration = Duration::from_millis(50);

/// One incarnation of a machine.
pub(super) struct Board {
    pub(super) vcpus: Vcpus,
    pub(super) bus: Arc<Bus>,
    pub(super) nics: Vec<Nic>,
    pub(super) disks: Vec<DiskFunction>,
    pub(super) rng: Arc<Mutex<VirtioFunction<Rng>>>,
    pub(super) console: Option<Arc<Mutex<VirtioFunction<VirtioConsole>>>>,
    pub(super) kernel: KernelInfo,
    // Declared last: the machine and its memory outlive what refers to them.
    _machine: Arc<VmFd>,
    ram: GuestRam,
}

/// An interface and what its owner must know to look after it.
pub(super) struct Nic {
    pub(super) function: Arc<Mutex<VirtioFunction<Net>>>,
    pub(super) config: NicConfig,
}

/// A disk as the guest sees it.
pub(super) type DiskFunction = Arc<Mutex<VirtioFunction<Block>>>;

/// A function of any kind on its way to the bus.
type Function = Arc<Mutex<dyn PciFunction>>;

/// Gives the functions of a machine their places.
struct Slots {
    ram: GuestRam,
    wiring: Arc<dyn Wiring>,
    functions: Vec<Function>,
}

impl Board {
    /// Makes everything; the first start does not wait for switches, later ones do.
    pub(super) fn new(
        config: &VmConfig,
        disks: &[Arc<Disk>],
        images: &Images,
        kvm_fd: &Kvm,
        output: &Output,
        watch: Stopwatch,
        again: bool,
    ) -> Result<(Self, BootTimes), VmError> {
        let mut times = BootTimes::default();
        let ram = allocate(config)?;
        times.memory_us = watch.us();

        let top = config.memory.min(PCI_HOLE);
        let kernel = images.kernel.load(&ram, top)?;
        times.unpacked_us = kernel.unpacked.map(|then| watch.us_at(then));
        let initrd = images.load_initrd(&ram, &kernel, top)?;
        times.kernel_us = watch.us();

        let machine = Arc::new(create_vm(kvm_fd, &ram)?);
        times.kvm_us = watch.us();

        let wiring: Arc<dyn Wiring> = Arc::new(KvmWiring::new(Arc::clone(&machine)));
        let serial = SerialPort::new(Box::new(output.clone())).map_err(host("make the console"))?;
        wiring
            .attach_interrupt(serial.interrupt(), COM1_LINE)
            .map_err(kvm("raise the console's interrupt"))?;
        let mut slots = Slots::new(ram.clone(), wiring);
        let nics = make_nics(&config.nics, &mut slots, again)?;
        let disks = make_disks(disks, &mut slots)?;
        let rng = slots.add(Rng::new(ram.clone()))?;
        let console = make_console(config.terminal, output, &mut slots)?;
        times.devices_us = watch.us();

        let vcpus = Vcpus::new(kvm_fd, &machine, config.vcpus)?;
        vcpus.enter_at(kernel.entry, kernel.info.protocol)?;
        let acpi = acpi::write(&ram, config.vcpus).map_err(BootError::from)?;
        let cmdline = cmdline(config, vcpus.tsc_khz());
        boot::write(&ram, &kernel, &cmdline, initrd, acpi)?;
        times.vcpus_us = watch.us();

        let bus = make_bus(serial, slots, output);
        let board = Self {
            vcpus,
            bus,
            nics,
            disks,
            rng,
            console,
            kernel: kernel.info,
            _machine: machine,
            ram,
        };
        Ok((board, times))
    }

    /// Resident memory of the process, the guest's apart.
    pub(super) fn memory_use(&self) -> Option<MemoryUse> {
        MemoryUse::measure(&memory::host_ranges(&self.ram)).ok()
    }

    /// The device that the guest reads typed octets from.
    pub(super) fn terminal(&self) -> Arc<dyn Terminal> {
        match &self.console {
            Some(console) => console.lock().device().receiver(),
            None => Arc::clone(&self.bus.serial) as Arc<dyn Terminal>,
        }
    }

    /// Readable when [`Board::flush_consoles`] is due.
    pub(super) fn flush_timers(&self) -> Vec<RawFd> {
        let console = self
            .console
            .iter()
            .map(|console| console.lock().device().flush_timer_fd());
        console.chain([self.bus.serial.flush_timer_fd()]).collect()
    }

    /// Prints what waits for the end of its line.
    pub(super) fn flush_consoles(&self) {
        self.bus.serial.flush();
        if let Some(console) = &self.console {
            console.lock().device_mut().flush();
        }
    }

    /// Octets that the guest printed and nobody took.
    pub(super) fn console_lost(&self) -> u64 {
        let console = self
            .console
            .iter()
            .map(|console| console.lock().device().counts().lost);
        self.bus.serial.lost() + console.sum::<u64>()
    }

    /// Processors first, then devices: a device at rest is not woken again.
    pub(super) fn pause(&self) -> Result<(), VcpuError> {
        self.vcpus.pause()?;
        self.each_device(|device| device.pause());
        Ok(())
    }

    /// The other way round.
    pub(super) fn resume(&self) {
        self.each_device(|device| device.resume());
        self.vcpus.resume();
    }

    /// The state of all devices, which must be paused.
    pub(super) fn export(&self) -> Result<Vec<SavedState>, CannotExport> {
        let mut states = Vec::new();
        self.each_device(|device| states.push(device.export()));
        states.into_iter().collect()
    }

    fn each_device(&self, mut what: impl FnMut(&mut dyn Lifecycle)) {
        what(&mut Arc::clone(&self.bus.serial));
        what(&mut Arc::clone(&self.bus.power));
        what(&mut Arc::clone(&self.bus.pci));
    }
}

impl Nic {
    pub(super) fn report(&self) -> NicReport {
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

impl Slots {
    fn new(ram: GuestRam, wiring: Arc<dyn Wiring>) -> Self {
        Self {
            ram,
            wiring,
            functions: Vec::new(),
        }
    }

    /// Puts a device into the next slot.
    fn add<D: VirtioDevice + 'static>(
        &mut self,
        device: D,
    ) -> Result<Arc<Mutex<VirtioFunction<D>>>, VmError> {
        let address = PCI_MMIO as u32 + self.functions.len() as u32 * BAR_SPAN;
        let function = VirtioFunction::new(device, self.ram.clone(), Arc::clone(&self.wiring), address)
            .map_err(host("make a device"))?;
        let function = Arc::new(Mutex::new(function));
        self.functions.push(Arc::clone(&function) as Function);
        Ok(function)
    }
}

fn make_bus(serial: SerialPort, slots: Slots, output: &Output) -> Arc<Bus> {
    Arc::new(Bus {
        serial: Arc::new(serial),
        pci: Arc::new(PciRoot::new(slots.functions)),
        power: Arc::new(Power::new(slots.wiring)),
        output: output.clone(),
    })
}

fn make_nics(configs: &[NicConfig], slots: &mut Slots, again: bool) -> Result<Vec<Nic>, VmError> {
    let make = |config: &NicConfig| {
        let patience = if again { config.reconnect } else { Duration::ZERO };
        Ok(Nic {
            function: slots.add(connect(config, &slots.ram, patience)?)?,
            config: config.clone(),
        })
    };
    configs.iter().map(make).collect()
}

/// Opens the images.
pub(super) fn open_disks(configs: &[DiskConfig]) -> Result<Vec<Arc<Disk>>, DiskError> {
    configs
        .iter()
        .map(|config| Disk::open(config).map(Arc::new))
        .collect()
}

/// Starts the threads that serve the images.
pub(super) fn begin_disks(disks: &[Arc<Disk>]) -> Result<(), DiskError> {
    disks
        .iter()
        .try_for_each(|disk| disk.begin(|| sandbox::enter(Thread::Disk)))
}

fn make_disks(disks: &[Arc<Disk>], slots: &mut Slots) -> Result<Vec<DiskFunction>, VmError> {
    let make = |disk: &Arc<Disk>| slots.add(Block::new(Arc::clone(disk), slots.ram.clone()));
    disks.iter().map(make).collect()
}

pub(super) fn report_rng(function: &Mutex<VirtioFunction<Rng>>) -> RngReport {
    let function = function.lock();
    let (guest_faults, wiring_failures) = function.faults();
    RngReport {
        features: function.device().accepted(),
        counts: function.device().counts(),
        guest_faults,
        wiring_failures,
    }
}

pub(super) fn report_console(function: &Arc<Mutex<VirtioFunction<VirtioConsole>>>) -> ConsoleReport {
    let function = function.lock();
    let (guest_faults, wiring_failures) = function.faults();
    ConsoleReport {
        features: function.device().accepted(),
        counts: function.device().counts(),
        guest_faults,
        wiring_failures,
    }
}

pub(super) fn report_disk(function: &DiskFunction) -> DiskReport {
    let function = function.lock();
    let (guest_faults, wiring_failures) = function.faults();
    let block = function.device();
    DiskReport {
        path: block.disk().path().display().to_string(),
        features: block.accepted(),
        counts: block.disk().counts(),
        guest_faults,
        wiring_failures,
    }
}

/// Connects to a switch, which may be on its way back.
fn connect(config: &NicConfig, ram: &GuestRam, patience: Duration) -> Result<Net, SessionError> {
    let deadline = Instant::now() + patience;
    loop {
        match Net::connect(config, ram.clone()) {
            Err(SessionError::Connect { .. }) if Instant::now() < deadline => sleep(RETRY),
            result => return result,
        }
    }
}

/// Guest memory. Only switches map it, too.
fn allocate(config: &VmConfig) -> Result<GuestRam, MemoryError> {
    if config.nics.is_empty() {
        memory::allocate_private(config.memory)
    } else {
        memory::allocate(config.memory)
    }
}

/// The virtio console, where it is wanted.
fn make_console(
    terminal: config::Terminal,
    output: &Output,
    slots: &mut Slots,
) -> Result<Option<Arc<Mutex<VirtioFunction<VirtioConsole>>>>, VmError> {
    if terminal != config::Terminal::Virtio {
        return Ok(None);
    }
    let console = VirtioConsole::new(slots.ram.clone(), Box::new(output.clone()));
    slots.add(console.map_err(host("make a console"))?).map(Some)
}

/// The command line: the embedded guest is told the frequency of its clock, which other kernels ask KVM for.
fn cmdline(config: &VmConfig, tsc_khz: Option<u32>) -> String {
    match (&config.kernel, tsc_khz) {
        (Kernel::Embedded(_), Some(khz)) => format!("{} tsc_khz={khz}", config.cmdline)
            .trim_start()
            .to_owned(),
        _ => config.cmdline.clone(),
    }
}
