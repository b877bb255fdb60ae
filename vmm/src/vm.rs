//! A machine: made of its parts, run, and taken down.

mod board;
mod check;
mod events;
mod keyboard;
#[cfg(test)]
mod life_tests;
mod machine;
#[cfg(test)]
mod microguest_tests;
#[cfg(test)]
mod network_tests;
mod requests;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use kvm_ioctls::Kvm;
use rustix::fs::{Access, access};

use crate::boot::Images;
use crate::config::{NicConfig, VmConfig};
use crate::console::{Console, Output};
use crate::devices::block::Disk;
use crate::devices::marks::INIT;
use crate::error::{VmError, host};
use crate::footprint;
use crate::kernel::KernelInfo;
use crate::report::{BootTimes, ExitCounts, MemoryUse, Stopwatch, VmInfo, VmReport, VmState};
use crate::sandbox::{self, Sandbox, Thread};
use crate::stop::{StopHandle, StopReason};
use board::Board;
use events::Events;
use keyboard::Keyboard;
pub use requests::{RequestError, VmHandle};

/// How long the output may take nothing before what the guest printed last is given up.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// One virtual machine.
pub struct Vm {
    /// Absent while [`Vm::run`] has it, and after a restart that failed.
    board: Option<Board>,
    config: VmConfig,
    /// Opened once: a guest that resets itself keeps them.
    disks: Vec<Arc<Disk>>,
    images: Images,
    kvm: Kvm,
    output: Output,
    /// Waits for the machine to run: only then a terminal changes its mode.
    input: Option<OwnedFd>,
    handle: VmHandle,
    stop: StopHandle,
    state: VmState,
    /// Runs since the machine was made.
    made: Stopwatch,
    /// Runs since the guest last began.
    watch: Stopwatch,
    boot: BootTimes,
    kernel: KernelInfo,
    resets: u64,
    /// Exits before the last reset.
    past_exits: ExitCounts,
    memory: Option<MemoryUse>,
}

impl Vm {
    /// Makes a machine that is ready to run: memory, kernel, processors, devices, and a conversation with the switch
    /// of each interface. With [`VmConfig::sandbox`], the process has given up its privileges when this returns; threads
    /// give up what is left with [`crate::enter_sandbox`], the one that calls [`Vm::run`] in there.
    pub fn new(config: VmConfig, console: Console) -> Result<Self, VmError> {
        let watch = Stopwatch::start();
        check::check(&config)?;
        let kvm = machine::open_kvm()?;
        let disks = board::open_disks(&config.disks)?;
        let output = Output::new(console.output);
        let images = Images::open(&config)?;
        let (board, boot) = Board::new(&config, &disks, &images, &kvm, &output, watch, false)?;
        if config.sandbox {
            confinement(&config).enter_process()?;
            warn_of_lost_sockets(&config);
        }
        board::begin_disks(&disks)?;
        let begun = output.begin(|| sandbox::enter(Thread::Console));
        begun.map_err(host("start the console's thread"))?;
        let stop = StopHandle::new().map_err(host("make the stop handle"))?;
        let handle = VmHandle::new(stop.clone()).map_err(host("make the request desk"))?;
        if let Err(error) = footprint::drop_text() {
            tracing::debug!(%error, "the text of the program stays in memory");
        }
        Ok(Self {
            kernel: board.kernel,
            board: Some(board),
            config,
            disks,
            images,
            kvm,
            output,
            input: console.input,
            handle,
            stop,
            state: VmState::Running,
            made: watch,
            watch,
            boot,
            resets: 0,
            past_exits: ExitCounts::default(),
            memory: None,
        })
    }

    /// A handle that stops the machine from elsewhere.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// A handle that asks the machine for everything else, too.
    pub fn handle(&self) -> VmHandle {
        self.handle.clone()
    }

    /// Runs the machine until it stops. All its threads have ended and the terminal is as it was when this returns.
    pub fn run(&mut self) -> Result<StopReason, VmError> {
        let Some(mut board) = self.board.take() else {
            return Ok(StopReason::Requested);
        };
        let desk = self.handle.desk();
        let mut keyboard = Keyboard::new(self.input.take(), events::KEYBOARD);
        sandbox::enter(Thread::Main);
        desk.open();
        let outcome = loop {
            match self.run_once(&mut board, &mut keyboard) {
                Ok(StopReason::GuestReset) if self.config.reboot => {}
                outcome => break outcome,
            }
            match self.start_again(board) {
                Ok(next) => board = next,
                Err(error) => {
                    desk.close();
                    self.output.drain(LAST_OUTPUT);
                    return Err(error);
                }
            }
        };
        desk.close();
        self.output.drain(LAST_OUTPUT);
        self.board = Some(board);
        outcome
    }

    /// Runs one incarnation of the guest.
    fn run_once(&mut self, board: &mut Board, keyboard: &mut Keyboard) -> Result<StopReason, VmError> {
        let mut events = Events::new(board, keyboard, &self.handle.desk(), &self.stop)?;
        self.boot.started_us = Some(self.watch.us());
        board.vcpus.start(&board.bus)?;
        let asked = events.serve(self, board, keyboard);

        // Measured while everything is still in place.
        self.memory = board.memory_use();
        for nic in &events.hangups {
            nic.hang_up();
        }
        let ended = board.vcpus.stop();
        board.flush_consoles();
        match (asked?, ended?) {
            (Some(reason), _) | (None, Some(reason)) => Ok(reason),
            (None, None) => Ok(StopReason::Requested),
        }
    }

    /// Takes the guest's incarnation down, and only then makes the next one: switches, disks and memory are had once.
    fn start_again(&mut self, board: Board) -> Result<Board, VmError> {
        self.resets += 1;
        self.past_exits += board.vcpus.exits();
        drop(board);
        self.watch = Stopwatch::start();
        self.state = VmState::Running;
        self.output.forget_first();
        let (board, times) = Board::new(
            &self.config,
            &self.disks,
            &self.images,
            &self.kvm,
            &self.output,
            self.watch,
            true,
        )?;
        (self.boot, self.kernel) = (times, board.kernel);
        Ok(board)
    }

    fn pause(&mut self, board: &Board) -> Result<(), RequestError> {
        if self.state == VmState::Running {
            board.pause()?;
            self.state = VmState::Paused;
        }
        Ok(())
    }

    fn resume(&mut self, board: &Board) {
        if self.state == VmState::Paused {
            board.resume();
            self.state = VmState::Running;
        }
    }

    /// What the machine is, costs and does now.
    fn info(&self, board: &Board) -> VmInfo {
        let host_cpus = available_parallelism().map_or(1, |count| count.get() as u32);
        VmInfo {
            pid: std::process::id(),
            state: self.state,
            uptime_ms: self.made.us() / 1000,
            memory_size_kib: self.config.memory >> 10,
            host_cpus,
            overcommitted: u32::from(self.config.vcpus) > host_cpus,
            vcpus: board.vcpus.info(),
            report: VmReport {
                memory: board.memory_use().unwrap_or_default(),
                ..self.report_on(board)
            },
        }
    }

    /// What the machine cost and did until now.
    pub fn report(&self) -> VmReport {
        let gone = || VmReport {
            boot: self.boot,
            resets: self.resets,
            exits: self.past_exits,
            sandbox: sandbox::report(),
            ..VmReport::default()
        };
        self.board
            .as_ref()
            .map_or_else(gone, |board| self.report_on(board))
    }

    fn report_on(&self, board: &Board) -> VmReport {
        let kicks = board
            .nics
            .iter()
            .filter_map(|nic| nic.function.lock().device().first_kick());
        let us = |then| self.watch.us_at(then);
        let mut exits = self.past_exits;
        exits += board.vcpus.exits();
        VmReport {
            kernel: Some(self.kernel),
            boot: BootTimes {
                first_output_us: self.output.first().map(us),
                init_us: board.bus.pci.marks().time(INIT).map(us),
                first_kick_us: kicks.min().map(us),
                ..self.boot
            },
            resets: self.resets,
            memory: self.memory.or_else(|| board.memory_use()).unwrap_or_default(),
            exits,
            console_lost: board.console_lost() + self.output.lost(),
            nics: board.nics.iter().map(board::Nic::report).collect(),
            disks: board.disks.iter().map(board::report_disk).collect(),
            sandbox: sandbox::report(),
            rng: board::report_rng(&board.rng),
            console: board.console.as_ref().map(board::report_console),
        }
    }
}

/// What a machine's process must still be able to do in its sandbox.
fn confinement(config: &VmConfig) -> Sandbox {
    Sandbox {
        reboot: config.reboot,
        removes_from: config.removes_from.clone(),
        sockets: config.nics.iter().map(|nic| nic.socket.clone()).collect(),
    }
}

/// Root may use any socket, until it gives that up.
fn warn_of_lost_sockets(config: &VmConfig) {
    for NicConfig { socket, .. } in &config.nics {
        if let Err(error) = access(socket, Access::WRITE_OK) {
            tracing::warn!(
                socket = %socket.display(),
                %error,
                "inside the sandbox this switch cannot be connected to again; run it as the same user, or use --no-sandbox"
            );
        }
    }
}
