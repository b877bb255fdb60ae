//! `enlight lab`: what each filter profile does to latency between two guests, and why.
//!
//! The switch runs in this process. Client and server are two virtual machines with the micro-guest or with Linux, or,
//! without KVM, two endpoints inside the switch. [`session`] goes through the profiles, [`report`] is what comes out, and [`table`] and [`html`] show it.

mod args;
mod explain;
pub(crate) mod findings;
#[cfg(test)]
mod fixture;
pub(crate) mod format;
pub(crate) mod guests;
pub(crate) mod host;
pub(crate) mod html;
pub(crate) mod interrupt;
mod output;
pub(crate) mod phase;
pub(crate) mod private_dir;
pub(crate) mod progress;
pub mod report;
mod serial;
mod session;
mod table;
mod tap;
pub mod timeline;

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use vswitch::Switch;
use vswitch::control::{Attribution, SwitchConfig};

pub use args::{Args, GuestChoice, Workload};

use guests::{EndpointGuests, Guests, KvmGuests, Linux, Listener, Wanted};
use interrupt::Interrupt;
use private_dir::PrivateDir;
use progress::Progress;
use report::{GuestKind, LabReport, Run, Settings};
use session::{FILTER_PORT, Measured, Session};

/// Time that a profile takes beyond its measuring, for the progress bar.
const SETTLING: Duration = Duration::from_secs(2);

/// Runs the lab and prints what it found out.
#[allow(
    clippy::needless_pass_by_value,
    reason = "every subcommand is handed its arguments"
)]
pub fn run(args: Args) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    if let Some(dir) = &args.out {
        output::prepare(dir)?;
    }
    let choice = choose(&args)?;
    if let Some(note) = choice.note.as_ref().filter(|_| !args.json) {
        eprintln!("{note}");
    }
    let (report, measured) = measure(&args, choice, &interrupt)?;
    if let Some(dir) = &args.out {
        output::write(dir, &report, &measured)?;
    }
    print(&args, &report)
}

/// What is to run client and server, and what is to be said about it.
struct Choice {
    kind: GuestKind,
    linux: Option<Linux>,
    kvm: String,
    note: Option<String>,
}

fn choose(args: &Args) -> Result<Choice> {
    let probed = guests::probe_kvm();
    if args.wants_linux() {
        let kvm = probed.map_err(|why| anyhow!("no Linux guests: {why}"))?;
        guests::can_run(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())?;
        if args.ack_delay.is_some() {
            bail!(
                "--ack-delay sets the TCP of the small guests; Linux delays its ACKs by its own rules (40 to 200 ms, none at \
                 a connection's start): leave --ack-delay out, the report tells what was seen"
            );
        }
        let wanted = Wanted {
            kernel: args.kernel.as_deref(),
            modules: args.modules.as_deref(),
            sysctls: &args.sysctls,
            talk: !args.json,
        };
        return Ok(Choice {
            kind: GuestKind::Linux,
            linux: Some(Linux::choose(wanted)?),
            kvm,
            note: None,
        });
    }
    if !args.sysctls.is_empty() {
        bail!("--sysctl sets something in Linux guests; add --distro or --kernel FILE");
    }
    match (args.guests, probed) {
        (GuestChoice::Auto | GuestChoice::Kvm, Ok(kvm)) => Ok(Choice {
            kind: GuestKind::Kvm,
            linux: None,
            kvm,
            note: None,
        }),
        (GuestChoice::Kvm, Err(why)) => bail!("no KVM guests: {why}; --guests endpoint works without"),
        (GuestChoice::Auto, Err(why)) => {
            let note = format!("Without KVM client and server run inside the switch: {why}.");
            Ok(Choice {
                kind: GuestKind::Endpoint,
                linux: None,
                kvm: why,
                note: Some(note),
            })
        }
        (GuestChoice::Endpoint, probed) => {
            let kvm = format!("{} (not used)", probed.unwrap_or_else(|_| "no KVM".to_owned()));
            Ok(Choice {
                kind: GuestKind::Endpoint,
                linux: None,
                kvm,
                note: None,
            })
        }
    }
}

fn measure(args: &Args, choice: Choice, interrupt: &Interrupt) -> Result<(LabReport, Vec<Measured>)> {
    let settings = Settings {
        workload: args.workload,
        size: args.size,
        ack_delay_ms: choice.linux.is_none().then(|| args.ack_delay_ms()),
        nagle: args.nagle,
        sysctls: args.sysctls.clone(),
        duration_s: args.duration.as_secs_f64(),
        deadline_ms: args.deadline,
        filter_port: FILTER_PORT.to_owned(),
    };
    let mut progress = Progress::new(args.filters.len(), args.duration + SETTLING, args.json);
    let dir = PrivateDir::new()?;
    let switch = Switch::start(&SwitchConfig::default()).context("starting the switch")?;
    switch.set_attribution(Attribution::Full);
    let orders = guests::orders(args);
    let guests: Box<dyn Guests + '_> = match choice.kind {
        GuestKind::Kvm | GuestKind::Linux => {
            Box::new(KvmGuests::start(&switch, &dir, &orders, choice.linux.as_ref())?)
        }
        GuestKind::Endpoint => Box::new(EndpointGuests::start(&switch, &orders)?),
    };
    let mut listener = Listener::new(guests, interrupt);
    let mut session = Session {
        switch: &switch,
        guests: &mut listener,
        args,
        settings: &settings,
        progress: &mut progress,
        info: Vec::new(),
    };
    let measured = session.measure();
    let guests_info = std::mem::take(&mut session.info);
    progress.finish();
    let measured = measured?;
    let runs: Vec<Run> = measured.iter().map(|measured| measured.run.clone()).collect();
    let report = LabReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        guests: choice.kind,
        guests_note: choice.note,
        host: host::facts(choice.kvm),
        settings,
        ack_delay_seen_ms: findings::seen_ack_delay_ms(&runs),
        guests_info,
        runs,
    };
    Ok((report, measured))
}

fn print(args: &Args, report: &LabReport) -> Result<()> {
    let mut text = if args.json {
        serde_json::to_string_pretty(report).context("writing the report as JSON")? + "\n"
    } else {
        table::render(report)
    };
    if let Some(dir) = args.out.as_ref().filter(|_| !args.json) {
        let _ = writeln!(text, "\nWritten: {}", dir.join("report.html").display());
    }
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("writing to standard output")
}
