//! `enlight vm list`: all machines in a few words each.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use vmm::VmState;

use super::super::{say, table, to_json};
use super::machine::{Machine, Place};
use super::words::{duration, mib};
use crate::control::ClientError;
use crate::vm_control::api::Info;
use crate::vm_control::place;

/// How long each machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long CPU use is watched for.
const WATCH: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    place: Place,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One machine.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    /// `running`, `paused`, `silent` (its process does not answer), or `dead` (only its socket is left).
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(flatten)]
    size: Option<Size>,
    /// CPU time of the whole process in a quarter of a second, in percent of one CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Size {
    vcpus: usize,
    memory_kib: u64,
    uptime_ms: u64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let dir = args.place.directory();
    let names = place::names(&dir)?;
    let mut lines: Vec<Line> = thread::scope(|scope| {
        let machines = names
            .iter()
            .map(|name| Machine::new(&dir, name).with_patience(PATIENCE));
        let asked: Vec<_> = machines
            .map(|machine| scope.spawn(move || look(&machine)))
            .collect();
        // A thread that panicked has said so.
        asked
            .into_iter()
            .filter_map(|thread| thread.join().ok().flatten())
            .collect()
    });
    watch(&mut lines);
    if args.json {
        return say(&to_json(&lines)?);
    }
    if lines.is_empty() {
        return say(&format!("no machines in {}", dir.display()));
    }
    let heading = ["NAME", "PID", "STATE", "VCPUS", "MEMORY", "UPTIME", "CPU"];
    let rows: Vec<_> = lines.iter().map(Line::row).collect();
    say(&table::render(&heading, &rows))
}

/// `None` for a machine that has just ended.
fn look(machine: &Machine) -> Option<Line> {
    let line = |state, pid| Line {
        name: machine.name().to_owned(),
        state,
        pid,
        size: None,
        cpu_percent: None,
    };
    match machine.try_get::<Info>("/v1/info") {
        Ok(info) => Some(Line {
            size: Some(Size {
                vcpus: info.machine.vcpus.len(),
                memory_kib: info.machine.memory_size_kib,
                uptime_ms: info.machine.uptime_ms,
            }),
            ..line(state(info.machine.state), Some(info.machine.pid))
        }),
        Err(ClientError::NoSwitch(_)) => machine.is_dead().then(|| line("dead", None)),
        Err(_) => Some(line("silent", machine.pid().and_then(|pid| pid.try_into().ok()))),
    }
}

fn state(state: VmState) -> &'static str {
    match state {
        VmState::Running => "running",
        VmState::Paused => "paused",
    }
}

/// Adds each machine's CPU use.
fn watch(lines: &mut [Line]) {
    let before: Vec<_> = lines.iter().map(|line| line.pid.and_then(cpu_time)).collect();
    if before.iter().all(Option::is_none) {
        return;
    }
    let start = Instant::now();
    thread::sleep(WATCH);
    for (line, before) in lines.iter_mut().zip(before) {
        let used = line.pid.and_then(cpu_time).zip(before);
        line.cpu_percent = used.map(|(after, before)| {
            let share = after.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
            (share * 1000.0).round() / 10.0
        });
    }
}

/// What all threads of a process have used, as the scheduler counts it: proc(5), `schedstat`, first field in ns.
fn cpu_time(pid: u32) -> Option<Duration> {
    let mut total = 0_u64;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // Threads may end between.
        let Ok(line) = fs::read_to_string(thread.path().join("schedstat")) else {
            continue;
        };
        total += line.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (total > 0).then(|| Duration::from_nanos(total))
}

impl Line {
    fn row(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let size = self.size.as_ref();
        vec![
            self.name.clone(),
            or_dash(self.pid.map(|pid| pid.to_string())),
            self.state.to_owned(),
            or_dash(size.map(|size| size.vcpus.to_string())),
            or_dash(size.map(|size| mib(size.memory_kib))),
            or_dash(size.map(|size| duration(size.uptime_ms))),
            or_dash(self.cpu_percent.map(|percent| format!("{percent:.0} %"))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_is_found() {
        let before = cpu_time(std::process::id());
        let mut sum = 0_u64;
        for number in 0..20_000_000_u64 {
            sum = std::hint::black_box(sum ^ number);
        }
        if let (Some(before), Some(after)) = (before, cpu_time(std::process::id())) {
            assert!(after > before, "{sum}");
        }
        assert_eq!(cpu_time(u32::MAX), None);
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let line = Line {
            name: "old".to_owned(),
            state: "dead",
            pid: None,
            size: None,
            cpu_percent: None,
        };
        assert_eq!(line.row(), ["old", "-", "dead", "-", "-", "-", "-"]);
        assert_eq!(
            serde_json::to_value(&line).unwrap(),
            serde_json::json!({"name": "old", "state": "dead"})
        );
    }
}
