//! `enlight vm stop`: asks the guest to end, and ends it when it does not.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::{say, to_json};
use super::machine::{Machine, Place};
use crate::vm_control::Socket;
use crate::vm_control::api::{Ended, StopRequest};

/// How long a machine may take to end once its guest is not asked any more.
const END_PATIENCE: Duration = Duration::from_secs(15);
/// The exit status when the guest did not end by itself.
const FORCED: u8 = 3;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The machine
    name: String,

    /// Seconds that the guest may take, 0 to 86400
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(..=86_400))]
    timeout: u64,

    /// Do not ask the guest; what it has not written to its disks is lost
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    place: Place,

    /// Print how it ended as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let machine = args.place.machine(&args.name)?;
    if machine.is_dead() {
        // Taken and given up: nobody else gets the name between.
        drop(Socket::bind(&args.place.directory(), &args.name)?);
        say(&format!("{}: was dead already; its socket is removed", args.name))?;
        return Ok(ExitCode::SUCCESS);
    }
    let timeout = Duration::from_secs(if args.force { 0 } else { args.timeout });
    let request = StopRequest {
        timeout_ms: Some(timeout.as_millis() as u64),
        force: args.force,
        wait: true,
    };
    let ended = wait(args, &answer(machine, request, timeout), timeout)?;
    let text = if args.json {
        to_json(&ended)?
    } else {
        in_words(&args.name, &ended)
    };
    say(&text)?;
    let forced_at_last = ended.forced && !args.force;
    Ok(if forced_at_last {
        ExitCode::from(FORCED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Asks in another thread, so that this one can say what goes on.
fn answer(machine: Machine, request: StopRequest, timeout: Duration) -> Receiver<Result<Ended>> {
    let machine = machine.with_patience(timeout + END_PATIENCE);
    let (send, answer) = channel();
    thread::spawn(move || {
        // Fails only when nobody waits any more.
        let _ = send.send(machine.post("/v1/stop", &request));
    });
    answer
}

fn wait(args: &Args, answer: &Receiver<Result<Ended>>, timeout: Duration) -> Result<Ended> {
    let spinner = spinner(args.json);
    if args.force {
        spinner.set_message(format!("{}: ending it", args.name));
    } else {
        spinner.set_message(format!(
            "{}: its power button is pressed; waiting for the guest, {} s at most",
            args.name, args.timeout
        ));
        match answer.recv_timeout(timeout) {
            Err(RecvTimeoutError::Timeout) => {
                eprintln!(
                    "enlight: {} did not switch itself off within {} s; ending it",
                    args.name, args.timeout
                );
                spinner.set_message(format!("{}: ending it", args.name));
            }
            done => return done.context("asking the machine to stop")?,
        }
    }
    answer.recv().context("asking the machine to stop")?
}

/// Shown to people only.
fn spinner(quiet: bool) -> ProgressBar {
    let target = if quiet || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let spinner = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn in_words(name: &str, ended: &Ended) -> String {
    match (&ended.reason, ended.forced) {
        (Some(reason), true) => format!("{name}: ended by force; its guest could not be asked: {reason}"),
        (None, true) => format!("{name}: ended by force"),
        _ => format!("{name}: {}", ended.stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_told_apart() {
        let mut ended = Ended {
            stopped: "the guest switched itself off".to_owned(),
            ..Ended::default()
        };
        assert_eq!(in_words("web", &ended), "web: the guest switched itself off");
        ended.forced = true;
        assert_eq!(in_words("web", &ended), "web: ended by force");
        ended.reason = Some("no button".to_owned());
        assert!(in_words("web", &ended).ends_with("could not be asked: no button"));
    }
}
