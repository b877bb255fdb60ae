//! Virtual processors: one thread each.

mod account;
mod cpuid;
mod entry;
mod gate;
mod kick;
mod setup;
mod stats;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use parking_lot::Mutex;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::Killable;

use crate::devices::bus::Bus;
use crate::kernel::Protocol;
use crate::sandbox::{self, Thread};
use crate::stop::StopReason;
use account::Account;
pub use account::VcpuInfo;
use gate::{Gate, Passage};
use stats::Stats;

/// Stack of a processor's thread in octets.
const STACK: usize = 256 << 10;
/// How long processors may take to leave the guest.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// What KVM means by an internal error, as a rule: an instruction that it has to carry out itself and cannot, for instance
/// because the guest runs where there is no memory.
const CANNOT_EMULATE: &str = "KVM cannot carry out what the guest does there";

/// A processor that could not be made or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused a processor's initial state.
    #[error("cannot {what} of a virtual processor: {source}")]
    Setup {
        /// What was being done.
        what: &'static str,
        /// What KVM said.
        source: errno::Error,
    },
    /// The host is out of threads or signals.
    #[error("cannot start a virtual processor's thread: {0}")]
    Thread(#[from] io::Error),
    /// KVM gave up on the guest.
    #[error("virtual processor {id} cannot go on at {rip:#x}: {reason}")]
    Broken {
        /// The processor.
        id: u8,
        /// Its instruction pointer.
        rip: u64,
        /// What KVM reported.
        reason: String,
    },
    /// A processor's thread does not end, for instance because the console takes no output.
    #[error("{0} virtual processors did not stop in time")]
    Stuck(usize),
}

/// How often the guest left for this process, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ExitCounts {
    /// Port reads and writes.
    pub port: u64,
    /// Reads and writes of memory that is not RAM.
    pub mmio: u64,
    /// Signals to the thread.
    pub interrupted: u64,
    /// Everything else.
    pub other: u64,
}

impl std::ops::AddAssign for ExitCounts {
    fn add_assign(&mut self, more: Self) {
        self.port += more.port;
        self.mmio += more.mmio;
        self.interrupted += more.interrupted;
        self.other += more.other;
    }
}

/// What the processors' threads share with the thread that started them.
#[derive(Default)]
struct Shared {
    gate: Gate,
    port: AtomicU64,
    mmio: AtomicU64,
    interrupted: AtomicU64,
    other: AtomicU64,
    outcome: Mutex<Option<Result<StopReason, VcpuError>>>,
    /// In the order of the processors; `None` until the thread is up.
    accounts: Mutex<Vec<Option<Account>>>,
}

/// All processors of a machine.
pub(crate) struct Vcpus {
    idle: Vec<VcpuFd>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    ended: Arc<EventFd>,
}

impl Vcpus {
    /// Makes `count` processors. The first is the one that boots, the others wait to be started by it.
    pub(crate) fn new(kvm: &Kvm, vm: &VmFd, count: u8) -> Result<Self, VcpuError> {
        let template = cpuid::Template::new(kvm)?;
        let make = |id: u8| {
            let what = "create the state";
            let vcpu = vm
                .create_vcpu(id.into())
                .map_err(|source| VcpuError::Setup { what, source })?;
            setup::prepare(&template, &vcpu, id, count).map(|()| vcpu)
        };
        let idle = (0..count).map(make).collect::<Result<_, _>>()?;
        let ended = Arc::new(EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        Ok(Self {
            idle,
            threads: Vec::new(),
            shared: Arc::default(),
            ended,
        })
    }

    /// Puts the first processor at the kernel's entry point.
    pub(crate) fn enter_at(&self, entry: u64, protocol: Protocol) -> Result<(), VcpuError> {
        self.idle
            .first()
            .map_or(Ok(()), |first| entry::enter(first, entry, protocol))
    }

    /// Frequency of the guest's time stamp counter in kHz, when KVM tells it.
    pub(crate) fn tsc_khz(&self) -> Option<u32> {
        self.idle.first().and_then(|first| first.get_tsc_khz().ok())
    }

    /// Readable once a processor ended the machine.
    pub(crate) fn ended(&self) -> &EventFd {
        &self.ended
    }

    /// Starts a thread for each processor.
    pub(crate) fn start(&mut self, bus: &Arc<Bus>) -> Result<(), VcpuError> {
        kick::install()?;
        self.shared.accounts.lock().resize_with(self.idle.len(), || None);
        for (vcpu, id) in std::mem::take(&mut self.idle).into_iter().zip(0_u8..) {
            let (bus, shared, ended) = (Arc::clone(bus), Arc::clone(&self.shared), Arc::clone(&self.ended));
            let body = move || {
                if let Some(outcome) = run(vcpu, id, &bus, &shared) {
                    shared.outcome.lock().get_or_insert(outcome);
                }
                // Fails only when the counter is full, and then the end is known already.
                let _ = ended.write(1);
            };
            self.threads.push(
                Builder::new()
                    .name(format!("vcpu{id}"))
                    .stack_size(STACK)
                    .spawn(body)?,
            );
        }
        Ok(())
    }

    /// Gets all processors out of the guest and holds them there.
    pub(crate) fn pause(&self) -> Result<(), VcpuError> {
        self.shared.gate.close();
        self.kick();
        let running = || self.threads.iter().filter(|thread| !thread.is_finished()).count();
        let deadline = Instant::now() + LEAVE_PATIENCE;
        if self.shared.gate.all_wait(running(), deadline) {
            return Ok(());
        }
        self.resume();
        Err(VcpuError::Stuck(running()))
    }

    /// Lets processors go on where [`Vcpus::pause`] stopped them.
    pub(crate) fn resume(&self) {
        self.shared.gate.open();
    }

    /// What each processor used of the host.
    pub(crate) fn info(&self) -> Vec<VcpuInfo> {
        let accounts = self.shared.accounts.lock();
        accounts
            .iter()
            .map(|account| account.as_ref().map(Account::read).unwrap_or_default())
            .collect()
    }

    /// Makes all processors leave the guest.
    fn kick(&self) {
        for thread in &self.threads {
            // A thread that ended already cannot be signalled, and need not be.
            let _ = thread.kill(kick::signal());
        }
    }

    /// Gets all processors out of the guest and ends their threads. Returns why the first one ended by itself.
    pub(crate) fn stop(&mut self) -> Result<Option<StopReason>, VcpuError> {
        self.shared.gate.end();
        self.kick();
        let deadline = Instant::now() + LEAVE_PATIENCE;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        let (done, stuck): (Vec<_>, Vec<_>) = self.threads.drain(..).partition(JoinHandle::is_finished);
        for thread in done {
            if thread.join().is_err() {
                tracing::error!("a virtual processor's thread panicked");
            }
        }
        if !stuck.is_empty() {
            return Err(VcpuError::Stuck(stuck.len()));
        }
        self.shared.outcome.lock().take().transpose()
    }

    /// How often processors left the guest so far.
    pub(crate) fn exits(&self) -> ExitCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ExitCounts {
            port: count(&self.shared.port),
            mmio: count(&self.shared.mmio),
            interrupted: count(&self.shared.interrupted),
            other: count(&self.shared.other),
        }
    }
}

/// Runs one processor until it stops the machine or is told to stop; `None` in the latter case.
fn run(mut vcpu: VcpuFd, id: u8, bus: &Bus, shared: &Shared) -> Option<Result<StopReason, VcpuError>> {
    let account = Account::of_this_thread(Stats::of(&vcpu)).ok();
    if let Some(place) = shared.accounts.lock().get_mut(usize::from(id)) {
        *place = account;
    }
    // What is above opens files.
    sandbox::enter(Thread::Vcpu);
    let kickable = kick::Kickable::new(&mut vcpu);
    let outcome = loop {
        match shared.gate.pass() {
            Passage::Open => {}
            // Fails for a guest without a KVM clock, which then has no watchdog that knows of pauses.
            Passage::Waited => drop(vcpu.kvmclock_ctrl()),
            Passage::End => break None,
        }
        match step(&mut vcpu, bus, shared) {
            Ok(None) => bus.output.wait_for_room(|| shared.gate.wants_attention()),
            Ok(Some(reason)) => break Some(Ok(reason)),
            Err(reason) => {
                let rip = vcpu.get_regs().map_or(0, |regs| regs.rip);
                break Some(Err(VcpuError::Broken { id, rip, reason }));
            }
        }
    };
    drop(kickable);
    outcome
}

/// Enters the guest once and serves the exit.
fn step(vcpu: &mut VcpuFd, bus: &Bus, shared: &Shared) -> Result<Option<StopReason>, String> {
    let count = |counter: &AtomicU64| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    match vcpu.run() {
        Ok(VcpuExit::IoIn(port, data)) => {
            count(&shared.port);
            bus.read_port(port, data);
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            count(&shared.port);
            return Ok(bus.write_port(port, data));
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            count(&shared.mmio);
            bus.read_memory(address, data);
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            count(&shared.mmio);
            bus.write_memory(address, data);
        }
        Ok(VcpuExit::Shutdown) => return Ok(Some(StopReason::TripleFault)),
        Ok(VcpuExit::Intr) => count(&shared.interrupted),
        Ok(VcpuExit::IoapicEoi(_) | VcpuExit::IrqWindowOpen | VcpuExit::Hlt) => count(&shared.other),
        Ok(VcpuExit::InternalError) => return Err(CANNOT_EMULATE.to_owned()),
        Ok(exit) => return Err(format!("{exit:?}")),
        Err(error) => match error.errno() {
            libc::EINTR | libc::EAGAIN => {
                count(&shared.interrupted);
                vcpu.set_kvm_immediate_exit(0);
            }
            _ => return Err(error.to_string()),
        },
    }
    Ok(None)
}
