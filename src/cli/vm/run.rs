//! Runs a machine, and says what it cost.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;
use vmm::{Console, StopReason, Vm, VmReport};

use super::super::{say, to_json};
use super::args::Args;

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let input = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("taking standard input")?;
    let mut vm = Vm::new(
        args.config()?,
        Console {
            output: Box::new(io::stdout()),
            input: Some(input),
        },
    )?;
    vm.stop_handle()
        .stop_on_signals()
        .context("watching for signals")?;
    let reason = vm.run()?;
    let outcome = Outcome {
        stopped: reason.to_string(),
        report: vm.report(),
    };
    if args.json {
        say(&to_json(&outcome)?)?;
    } else {
        eprint!("{}", in_words(&outcome, args.memory));
    }
    Ok(match reason {
        StopReason::GuestPowerOff | StopReason::GuestReset | StopReason::Requested => ExitCode::SUCCESS,
        StopReason::TripleFault | StopReason::SwitchGone { .. } => ExitCode::FAILURE,
    })
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
    let ms = |us: u64| format!("{:.1} ms", us as f64 / 1e3);
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    let boot = &report.boot;
    let mut text = format!("enlight: {stopped}\n");
    text.push_str(&format!(
        "enlight: ready after: memory {}, kernel {}, KVM {}, devices {}, processors {}",
        ms(boot.memory_us),
        ms(boot.kernel_us),
        ms(boot.kvm_us),
        ms(boot.devices_us),
        ms(boot.vcpus_us)
    ));
    for (what, when) in [("running", boot.started_us), ("first frame", boot.first_kick_us)] {
        if let Some(when) = when {
            text.push_str(&format!(", {what} {}", ms(when)));
        }
    }
    text.push_str(&format!(
        "\nenlight: memory: {} of the guest's {} touched, {} beyond it\n",
        mib(report.memory.guest_kib),
        mib(memory >> 10),
        mib(report.memory.beyond_guest_kib)
    ));
    // A terminal may still stand in the middle of the guest's last line.
    if io::stderr().is_terminal() {
        format!("\r\n{text}")
    } else {
        text
    }
}
