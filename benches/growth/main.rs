//! What a daemon costs that has many ports or addresses, or nothing to do.
//!
//!     cargo bench --bench growth [-- PART ...] [--rounds N]
//!
//! The parts are `ports`, `addresses`, `memory`, `idle`, `first-frame` and `workers`; all of them if none is named. The figures go to
//! benches/results/growth.json. See docs/measuring.md for the set-up and its biases.

mod fleet;
mod load;
mod process;
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;
mod wakeup;
mod workers;

use std::process::ExitCode;
use std::time::Duration;

use fleet::Fleet;
use report::{Report, median, quantile};
use wakeup::Sleeper;

/// Ports of a large daemon; the switch takes 1,024.
const MANY: usize = 1000;
/// Ports of the daemon whose idleness is measured.
const IDLE: usize = 100;
/// Addresses that a guest may have.
const PER_PORT: usize = 1000;
/// Machines with so many addresses.
const SPEAKERS: usize = 100;
/// Descriptors that a front end, and a port, take at most.
const DESCRIPTORS: u64 = 12;
/// Idleness before a first frame.
const IDLE_TIME: Duration = Duration::from_secs(1);
/// Probes of a busy worker.
const PROBES: usize = 20_000;

/// Measures one thing; the number of rounds is what takes time.
type Part = fn(&mut Report, usize);

const PARTS: [(&str, Part); 6] = [
    ("ports", ports),
    ("addresses", addresses),
    ("memory", memory),
    ("idle", idle),
    ("first-frame", first_frame),
    ("workers", workers::measure),
];

fn main() -> ExitCode {
    let (named, rounds) = match words() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if let Some(reason) = missing() {
        println!("SKIPPED growth: {reason}");
        return ExitCode::SUCCESS;
    }
    let mut report = Report::default();
    for (name, part) in PARTS {
        if named.is_empty() || named.iter().any(|other| other == name) {
            part(&mut report, rounds);
        }
    }
    match report.write() {
        Ok(file) => println!("written: {}", file.display()),
        Err(error) => {
            eprintln!("the results cannot be written: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The parts that are named, and the number of rounds.
fn words() -> Result<(Vec<String>, usize), String> {
    let mut named = Vec::new();
    let mut rounds = 60;
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        if word == "--rounds" {
            let number = words.next().and_then(|word| word.parse().ok());
            rounds = number.ok_or("--rounds needs a number")?;
        } else if PARTS.iter().any(|(name, _)| *name == word) {
            named.push(word);
        } else {
            let parts: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "there is no part {word}; there are: {}",
                parts.join(", ")
            ));
        }
    }
    Ok((named, rounds))
}

/// Why nothing can be measured here, if so.
fn missing() -> Option<String> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Some("this needs two processors: one for the load, one for the switch".to_owned());
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let wanted = DESCRIPTORS * MANY as u64;
    soft.is_some_and(|soft| soft < wanted)
        .then(|| format!("this needs {wanted} open files; run: ulimit -n {wanted}"))
}

/// Idle ports cost the busy ones little. Both daemons run in turn.
fn ports(report: &mut Report, rounds: usize) {
    let mut fleets = [2, MANY].map(Fleet::new);
    compare(
        report,
        &mut fleets,
        rounds,
        [1, 1],
        ["2 ports", "1,000 ports, 998 of them idle"],
    );
}

/// Learned addresses cost nothing.
fn addresses(report: &mut Report, rounds: usize) {
    let mut fleets = [2, SPEAKERS + 1].map(Fleet::new);
    load::speak(&mut fleets[0], 1, 8);
    for number in 1..=SPEAKERS {
        load::speak(&mut fleets[1], number, PER_PORT);
    }
    let learned = fleets[1].learned();
    report.note("addresses learned of 100,000", learned as f64, "");
    compare(
        report,
        &mut fleets,
        rounds,
        [8, PER_PORT],
        ["10 addresses", "100,000 addresses"],
    );
}

/// The cost of a frame in two daemons, in turn, and the median of the ratios.
fn compare(report: &mut Report, fleets: &mut [Fleet; 2], rounds: usize, macs: [usize; 2], names: [&str; 2]) {
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..(rounds / 5).max(1) {
        for ((fleet, costs), macs) in fleets.iter_mut().zip(&mut costs).zip(macs) {
            costs.push(load::cost(fleet, macs));
        }
    }
    for (name, costs) in names.iter().zip(&costs) {
        report.note(
            format!("daemon's CPU time for a frame, {name}"),
            median(costs),
            "ns",
        );
    }
    let ratios: Vec<f64> = costs[1]
        .iter()
        .zip(&costs[0])
        .map(|(many, few)| many / few)
        .collect();
    report.note(
        format!("{} against {}", names[1], names[0]),
        median(&ratios),
        "times",
    );
}

fn memory(report: &mut Report, _rounds: usize) {
    let mut fleet = Fleet::new(MANY);
    let process = fleet.process();
    let memory = process.memory();
    report.judge("memory with 1,000 attached ports, PSS", memory.pss, "MiB", 200.0);
    report.note("the same, RSS", memory.rss, "MiB");
    report.note("threads", process.threads() as f64, "");
}

fn idle(report: &mut Report, _rounds: usize) {
    const SPAN: Duration = Duration::from_secs(10);
    let mut fleet = Fleet::new(IDLE);
    let process = fleet.process();
    std::thread::sleep(Duration::from_secs(1));
    let before = process.cpu();
    std::thread::sleep(SPAN);
    let ran = process.cpu().saturating_sub(before) as f64;
    let share = ran / SPAN.as_nanos() as f64 * 100.0;
    report.judge("CPU of a daemon with 100 idle attached ports", share, "%", 1.0);
}

/// After a second of idleness, a frame takes little longer than in a busy switch.
fn first_frame(report: &mut Report, rounds: usize) {
    for ports in [2, MANY] {
        let mut fleet = Fleet::new(ports);
        let busy = load::probe_busy(&mut fleet, PROBES);
        let sleeper = Sleeper::new(fleet::CPU);
        let (mut first, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            first.push(load::probe(&mut fleet, IDLE_TIME));
            bare.push(sleeper.probe(IDLE_TIME));
        }
        let name = |what: &str| format!("{what}, {ports} ports");
        report.note(
            name("frames of 20,000 that met a busy worker"),
            busy.len() as f64,
            "",
        );
        report.note(name("a frame on a busy worker, median"), median(&busy), "us");
        report.note(name("a frame on a busy worker, p99"), quantile(&busy, 990), "us");
        let later = median(&first) - median(&busy);
        report.judge(name("longer after 1 s of idleness, median"), later, "us", 60.0);
        let later = quantile(&first, 990) - median(&busy);
        report.note(name("longer after 1 s of idleness, p99"), later, "us");
        report.note(name("a bare eventfd's wake-up, median"), median(&bare), "us");
        report.note(name("a bare eventfd's wake-up, p99"), quantile(&bare, 990), "us");
        let own = median(&first) - median(&bare);
        report.note(name("the frame beyond a bare wake-up, median"), own, "us");
    }
}
