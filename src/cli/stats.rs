//! `enlight stats`.

mod flows;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use introspection::stage::Stage;
use vswitch::control::{PortStats, SwitchStats};
use vswitch::counters::CounterSnapshot;

use super::{Common, say, table};
use crate::daemon::api::{DEFAULT_TOP, MAX_TOP};
use crate::explain::Time;

/// Time between two looks of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

/// Show a switch's counters
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  enlight stats
      What passed each port, what was dropped and why, where time went.
  enlight stats --watch
      Rates, each second, until Ctrl-C.
  enlight stats --flows --top 5 --port v0
      The flows of a port that suffered most: time in the switch, time held, stalls and their causes.")]
pub(super) struct Args {
    /// Show rates, each second, until Ctrl-C; with --json all counters, one line each second
    #[arg(long)]
    watch: bool,
    /// Show the flows that suffered most
    #[arg(long, conflicts_with = "watch")]
    flows: bool,
    /// So many of each port
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TOP, requires = "flows",
          value_parser = clap::value_parser!(u64).range(1..=MAX_TOP))]
    top: u64,
    /// Of this port only
    #[arg(long, requires = "flows")]
    port: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.watch {
        return watch(&args.common);
    }
    if args.flows {
        return flows::run(&args.common, args.port.as_deref(), args.top as usize);
    }
    let stats = read(&args.common)?;
    args.common.print(&stats, show)
}

fn read(common: &Common) -> Result<SwitchStats> {
    Ok(common.client().get("/v1/stats")?)
}

fn watch(common: &Common) -> Result<()> {
    let mut before = (Instant::now(), read(common)?);
    loop {
        thread::sleep(INTERVAL);
        let now = (Instant::now(), read(common)?);
        if common.json {
            say(&serde_json::to_string(&now.1)?)?;
        } else {
            say(&rates(&before.1, &now.1, now.0 - before.0))?;
        }
        before = now;
    }
}

fn show(stats: &SwitchStats) -> String {
    let rows: Vec<Vec<String>> = stats.ports.iter().map(totals).collect();
    let heading = [
        "PORT",
        "TX FRAMES",
        "TX OCTETS",
        "RX FRAMES",
        "RX OCTETS",
        "DROPPED",
        "FLOODED",
        "CUT",
        "MERGED",
        "SUMMED",
        "WAITING",
    ];
    let mut text = table::render(&heading, &rows);
    for port in &stats.ports {
        text.push_str(&details(port));
    }
    text.push_str(&placement(stats));
    for (index, worker) in stats.workers.iter().enumerate() {
        text.push_str(&format!(
            "worker {index}: {} frames in {} bursts, {} of {} rounds busy, slept {} times\n",
            worker.frames, worker.bursts, worker.busy_rounds, worker.rounds, worker.sleeps
        ));
    }
    text.push_str(&format!("learned addresses: {}\n", stats.learned));
    text.push_str(&super::switch::describe(&stats.attribution));
    text
}

/// Where queues run, if they could run elsewhere.
fn placement(stats: &SwitchStats) -> String {
    if stats.workers.len() < 2 {
        return String::new();
    }
    let rows: Vec<Vec<String>> = stats
        .queues
        .iter()
        .map(|queue| {
            vec![
                format!("{}/{}", queue.port, queue.label()),
                queue.worker.to_string(),
                format!("{:.1}", f64::from(queue.load) / 10.0),
                queue.frames.to_string(),
                queue.moves.to_string(),
                queue.why.to_string(),
            ]
        })
        .collect();
    table::render(
        &["QUEUE", "WORKER", "LOAD %", "FRAMES", "MOVES", "WHY THERE"],
        &rows,
    )
}

fn totals(port: &PortStats) -> Vec<String> {
    let counters = &port.counters;
    let numbers = [
        counters.tx_frames,
        counters.tx_octets,
        counters.rx_frames,
        counters.rx_octets,
        dropped(counters),
        counters.flooded,
        counters.segmented,
        counters.coalesced,
        counters.checksummed,
        port.backlog,
    ];
    [port.name.clone()]
        .into_iter()
        .chain(numbers.map(|number| number.to_string()))
        .collect()
}

fn dropped(counters: &CounterSnapshot) -> u64 {
    counters
        .tx_dropped
        .values()
        .chain(counters.rx_dropped.values())
        .sum()
}

/// What only some ports have: drops, frames that their guests left out, stalls, times.
fn details(port: &PortStats) -> String {
    let mut text = String::new();
    if port.counters.filtered > 0 {
        text.push_str(&format!(
            "{}: {} rx frames left out by the guest's receive filters\n",
            port.name, port.counters.filtered
        ));
    }
    for (direction, drops) in [
        ("tx", &port.counters.tx_dropped),
        ("rx", &port.counters.rx_dropped),
    ] {
        for (reason, count) in drops {
            text.push_str(&format!(
                "{}: {count} {direction} frames dropped: {}\n",
                port.name,
                reason.label()
            ));
        }
    }
    for (cause, gaps) in port.stall_causes.causes.iter() {
        text.push_str(&format!(
            "{}: {} stalls: {cause}, {} together, {} at most\n",
            port.name,
            gaps.stalls,
            Time(gaps.total_ns),
            Time(gaps.longest_ns)
        ));
    }
    text.push_str(&times(port));
    text
}

/// Where its frames' time went.
fn times(port: &PortStats) -> String {
    let mut text = String::new();
    let stages = &port.stages;
    if stages.frames > 0 {
        let parts: Vec<String> = Stage::ALL
            .iter()
            .map(|stage| {
                format!(
                    "{} {}",
                    stage.label(),
                    table::short(stages.stages.get(*stage).mean)
                )
            })
            .collect();
        let mean = table::short(stages.residence.mean);
        text.push_str(&format!(
            "{}: {mean} us in the switch on average, by {} of {} frames: {}\n",
            port.name,
            stages.frames,
            port.stages_of,
            parts.join(", ")
        ));
    }
    for part in &port.filter.parts {
        text.push_str(&format!(
            "{}: {} added {} us for judging and {} us of holding on average, p99 {} and {}; held {} of {} frames\n",
            port.name,
            part.part,
            table::short(part.filter.mean),
            table::short(part.hold.mean),
            table::short(part.filter.p99),
            table::short(part.hold.p99),
            part.held,
            port.filter.frames
        ));
    }
    text
}

/// What changed between two looks, per second.
fn rates(before: &SwitchStats, now: &SwitchStats, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let none = CounterSnapshot::default();
    let rows: Vec<Vec<String>> = now
        .ports
        .iter()
        .map(|port| {
            let old = before
                .ports
                .iter()
                .find(|old| old.name == port.name)
                .map_or(&none, |old| &old.counters);
            let new = &port.counters;
            let rate =
                |new: u64, old: u64, unit: f64| table::short(new.saturating_sub(old) as f64 / seconds / unit);
            vec![
                port.name.clone(),
                rate(new.tx_frames, old.tx_frames, 1e3),
                rate(new.tx_octets, old.tx_octets, 125e3),
                rate(new.rx_frames, old.rx_frames, 1e3),
                rate(new.rx_octets, old.rx_octets, 125e3),
                rate(dropped(new), dropped(old), 1.0),
                port.backlog.to_string(),
            ]
        })
        .collect();
    table::render(
        &[
            "PORT",
            "TX KFRAMES/S",
            "TX MBIT/S",
            "RX KFRAMES/S",
            "RX MBIT/S",
            "DROPS/S",
            "WAITING",
        ],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use introspection::stage::{FilterStages, StageSummary};
    use introspection::stall::{StallCounts, StallSummary};
    use vswitch::control::{AttributionStats, QueueStats, Why, WorkerStats};
    use vswitch::counters::DropReason;

    use super::*;

    fn stats(frames: u64) -> SwitchStats {
        let counters = CounterSnapshot {
            tx_frames: frames,
            tx_octets: frames * 1000,
            tx_dropped: [(DropReason::Vlan, frames / 1000)].into(),
            ..CounterSnapshot::default()
        };
        let port = PortStats {
            name: "v0".to_owned(),
            counters,
            backlog: 0,
            stages: StageSummary::default(),
            stages_of: 0,
            filter: FilterStages::default(),
            stalls: StallCounts::default(),
            stall_causes: StallSummary::default(),
        };
        SwitchStats {
            ports: vec![port],
            queues: Vec::new(),
            workers: Vec::new(),
            learned: 2,
            attribution: AttributionStats::default(),
        }
    }

    #[test]
    fn totals_and_reasons_are_shown() {
        let text = show(&stats(2000));
        assert!(text.contains("v0: 2 tx frames dropped: vlan"), "{text}");
        assert!(text.contains("learned addresses: 2"), "{text}");
    }

    #[test]
    fn queues_tell_why_they_are_where_they_are() {
        let mut stats = stats(0);
        stats.queues = vec![QueueStats {
            port: "v0".to_owned(),
            queue: 3,
            vm: false,
            worker: 1,
            load: 401,
            frames: 77,
            moves: 1,
            why: Why::Balanced {
                from: 0,
                from_load: 900,
                to_load: 25,
                load: 400,
            },
        }];
        assert!(!show(&stats).contains("v0/3"), "one worker leaves no choice");
        stats.workers = vec![WorkerStats::default(); 2];
        let text = show(&stats);
        let line = text.lines().find(|line| line.starts_with("v0/3")).expect("a row");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1..5], ["1", "40.1", "77", "1"]);
        assert!(
            line.ends_with("took 40.0 % of worker 0, which was 90.0 % busy and this one 2.5 %"),
            "{line}"
        );
    }

    #[test]
    fn rates_are_per_second() {
        let text = rates(&stats(1000), &stats(5000), Duration::from_secs(2));
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        // 4,000 frames of 1,000 octets in two seconds, 4 of them dropped.
        assert_eq!(row, ["v0", "2.00", "16.0", "0.00", "0.00", "2.00", "0"]);
    }
}
