//! Runs a machine, and says what it cost.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use serde::Serialize;
use vmm::{Console, Inherited, StopReason, Vm, VmError, VmReport};

use super::super::{say, to_json};
use super::args::Args;
use super::info::boot;
use super::words::{mib, sandbox, sharing, shortage};
use crate::vm_control::Server;
use crate::vm_control::api::Ended;

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let inherited = Inherited::find();
    let input = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("taking standard input")?;
    // First of all: a name that is taken must not cost anybody anything.
    let socket = args.socket()?;
    let mut config = args.config()?;
    config.removes_from = socket
        .iter()
        .map(|socket| socket.directory().to_owned())
        .collect();
    let sandbox = config.sandbox;
    warn_of_sharing(args.vcpus);
    let console = Console {
        output: Box::new(io::stdout()),
        input: Some(input),
    };
    // Afterwards the host cannot be asked any more.
    let available = vmm::available_memory();
    let mut vm = Vm::new(config, console)?;
    warn_of_memory(args.memory, available);
    if sandbox {
        inherited.close();
    }
    vm.stop_handle()
        .stop_on_signals()
        .context("watching for signals")?;
    let server = socket
        .map(|socket| Server::start(socket, vm.handle(), vmm::enter_sandbox))
        .transpose()
        .context("serving the control socket")?;
    let ended = vm.run();
    let report = vm.report();
    // Whoever is told of the end may have the machine's disks at once.
    drop(vm);
    if let Some(server) = server {
        server.finish(farewell(&ended));
    }
    let reason = ended?;
    let outcome = Outcome {
        stopped: reason.to_string(),
        report,
    };
    if args.json {
        say(&to_json(&outcome)?)?;
    } else {
        eprint!("{}", in_words(&outcome, args.memory));
    }
    Ok(if is_success(&reason) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn is_success(reason: &StopReason) -> bool {
    match reason {
        StopReason::GuestPowerOff | StopReason::GuestReset | StopReason::Requested => true,
        StopReason::TripleFault | StopReason::SwitchGone { .. } => false,
    }
}

/// What those are told who wait for the machine's end.
fn farewell(ended: &Result<StopReason, VmError>) -> Ended {
    Ended {
        stopped: ended
            .as_ref()
            .map_or_else(ToString::to_string, ToString::to_string),
        forced: matches!(ended, Ok(StopReason::Requested)),
        reason: None,
        success: ended.as_ref().is_ok_and(is_success),
    }
}

fn warn_of_sharing(vcpus: u8) {
    let host_cpus = available_parallelism().map_or(1, |count| count.get() as u32);
    if let Some(sharing) = sharing(vcpus.into(), host_cpus) {
        eprintln!("enlight: {sharing}");
    }
}

/// Guests rarely touch all that they have, so that more than there is may be given away; but then who runs must know.
fn warn_of_memory(memory: u64, available: Option<u64>) {
    if let Some(shortage) = available.and_then(|available| shortage(memory, available)) {
        eprintln!("enlight: {shortage}");
    }
}

#[derive(Debug, Serialize)]
struct Outcome {
    /// Why the machine stopped.
    stopped: String,
    #[serde(flatten)]
    report: VmReport,
}

fn in_words(outcome: &Outcome, memory: u64) -> String {
    let Outcome { stopped, report } = outcome;
    let mut text = format!("enlight: {stopped}\nenlight: {}", boot(&report.boot));
    text.push_str(&format!(
        "enlight: memory: {} of the guest's {} touched, {} beyond it\n",
        mib(report.memory.guest_kib),
        mib(memory >> 10),
        mib(report.memory.beyond_guest_kib)
    ));
    text.push_str(&format!("enlight: {}", sandbox(&report.sandbox)));
    // A terminal may still stand in the middle of the guest's last line.
    if io::stderr().is_terminal() {
        format!("\r\n{text}")
    } else {
        text
    }
}
