//! `enlight bench latency`: what a filter costs, by a benchmark that audits itself.
//!
//! [`stats`] decides what may be said, [`session`] measures on guests of our own and [`attach`] on somebody else's, [`tally`] puts
//! slices together, [`report`] is what comes out, [`table`] and [`html`] show it, and [`compare`] holds it against an older one.

mod args;
mod attach;
pub mod compare;
mod guests;
mod html;
pub mod report;
mod session;
pub mod stats;
mod table;
mod tally;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use introspection::{Profile, Rule, RuleAction, RuleProtocol};

pub use args::{Args, GuestChoice, SpacingChoice, Workload};

use crate::config::load_rules;
use crate::lab::findings;
use crate::lab::host;
use crate::lab::interrupt::Interrupt;
use crate::lab::progress::Progress;
use crate::spec::FilterSpec;
use attach::Attached;
use guests::Choice;
use report::{GuestKind, Load, Part, Point, Report, Settings};
use session::{Contender, Session};

/// Exit status when a difference is refused.
const REFUSED: u8 = 3;
/// Exit status when it was stopped: what shells use for SIGINT.
const INTERRUPTED: u8 = 130;
/// What a slice takes beyond its length, for the progress bar.
const BETWEEN: Duration = Duration::from_millis(200);
/// Letters of a pattern that is made up.
const PATTERN_LETTERS: usize = 12;

/// Runs the benchmark and prints what it found out.
pub fn run(args: &Args) -> Result<ExitCode> {
    let interrupt = Interrupt::watch()?;
    let old = args.compare.as_deref().map(compare::read).transpose()?;
    if let Some(out) = &args.report {
        // A path that cannot be written is told before anything is measured.
        fs::write(out, "").with_context(|| format!("writing {}", out.display()))?;
    }
    let rules = rules(args)?;
    let specs = specs(args, &rules)?;
    let contenders = contenders(args, &specs)?;
    let mut report = if args.attach.is_empty() {
        on_own_guests(args, &contenders, &interrupt)?
    } else {
        on_ports(args, &contenders, &specs, &interrupt)?
    };
    if report.interrupted && report.points.is_empty() {
        bail!("stopped by a signal before the first repeat was complete");
    }
    report.comparison = old.map(|old| compare::compare(&old, &report));
    show(args, &report)?;
    Ok(match (report.interrupted, report.refuses()) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::from(REFUSED),
        (false, false) => ExitCode::SUCCESS,
    })
}

fn show(args: &Args, report: &Report) -> Result<()> {
    if let Some(out) = &args.report {
        fs::write(out, html::render(report)).with_context(|| format!("writing {}", out.display()))?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(report).context("writing the report as JSON")? + "\n"
    } else {
        table::render(report)
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("writing to standard output")
}

fn on_own_guests(args: &Args, contenders: &[Contender], interrupt: &Interrupt) -> Result<Report> {
    let choice = guests::choose(args)?;
    let wants_capacity = args.workload == Workload::Open && args.rates.is_empty();
    let points = match args.workload {
        Workload::Open if wants_capacity => args.load.len(),
        Workload::Open => args.rates.len(),
        Workload::Wwr => args.sizes.len() * args.gaps.len(),
    };
    let slices = args.repeats as usize * contenders.len() + session::empty_slices(args.repeats) as usize;
    let mut progress = Progress::new(points * slices, args.duration + BETWEEN, args.json);
    let stamps_ns = session::stamps_ns();
    let mut session = Session {
        args,
        choice: &choice,
        contenders,
        interrupt,
        progress: &mut progress,
        stamps_ns,
        done: 0,
    };
    let size = args.sizes.first().copied().unwrap_or(64);
    let capacity = wants_capacity.then(|| session.capacity(size)).transpose()?;
    let (mut points, mut interrupted) = (Vec::new(), false);
    for load in loads(args, capacity) {
        let (point, stopped) = session.point(load)?;
        points.extend(point);
        interrupted = stopped;
        if stopped {
            break;
        }
    }
    progress.finish();
    let settings = settings(args, Some(&choice), contenders);
    Ok(assemble(settings, stamps_ns, capacity, points, interrupted))
}

fn on_ports(
    args: &Args,
    contenders: &[Contender],
    specs: &[FilterSpec],
    interrupt: &Interrupt,
) -> Result<Report> {
    let attached = Attached::new(args, interrupt)?;
    let slices = args.repeats as usize * contenders.len();
    let mut progress = Progress::new(slices, args.duration + BETWEEN, args.json);
    let stamps_ns = session::stamps_ns();
    let (point, interrupted) = attached.point(contenders, specs, stamps_ns, &mut progress)?;
    progress.finish();
    let points = point.into_iter().collect();
    Ok(assemble(
        settings(args, None, contenders),
        stamps_ns,
        None,
        points,
        interrupted,
    ))
}

fn assemble(
    settings: Settings,
    stamps_ns: f64,
    capacity: Option<f64>,
    points: Vec<Point>,
    interrupted: bool,
) -> Report {
    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        interrupted,
        host: host::facts(match settings.guests {
            Some(GuestKind::Micro | GuestKind::Linux) => "KVM".to_owned(),
            _ => "not used".to_owned(),
        }),
        settings,
        stamps_ns,
        capacity,
        points,
        comparison: None,
    }
}

fn settings(args: &Args, choice: Option<&Choice>, contenders: &[Contender]) -> Settings {
    let guests = choice.map(|choice| choice.kind);
    let linux = choice.and_then(|choice| choice.linux.as_ref());
    Settings {
        guests,
        linux: linux.map(|linux| linux.release.clone()),
        attached: args.attach.clone(),
        filters: args.filters.iter().map(ToString::to_string).collect(),
        rules: contenders
            .iter()
            .map(|contender| contender.config.rules.len())
            .max()
            .unwrap_or(0),
        patterns: args.patterns.is_some(),
        deadline_ms: args.deadline,
        workload: args.workload,
        spacing: args.spacing,
        nagle: args.nagle,
        ack_delay_ms: matches!(guests, Some(GuestKind::Endpoint | GuestKind::Micro))
            .then_some(args.ack_delay),
        watch: args.watch,
        repeats: args.repeats,
        slice_s: args.duration.as_secs_f64(),
        seed: args.seed,
    }
}

/// The loads, lightest first.
fn loads(args: &Args, capacity: Option<f64>) -> Vec<Load> {
    let size = args.sizes.first().copied().unwrap_or(64);
    let open = |rate: u32| Load::Open { rate, size };
    match (args.workload, capacity) {
        (Workload::Open, Some(capacity)) => {
            let rate = |percent: &u32| (capacity * f64::from(*percent) / 100.0).max(1.0) as u32;
            args.load.iter().map(|percent| open(rate(percent))).collect()
        }
        (Workload::Open, None) => args.rates.iter().copied().map(open).collect(),
        (Workload::Wwr, _) => {
            let cell = |&size| args.gaps.iter().map(move |&gap_ms| Load::Wwr { size, gap_ms });
            args.sizes.iter().flat_map(cell).collect()
        }
    }
}

/// What the filters are told: A, A again, and every B.
fn specs(args: &Args, rules: &[Rule]) -> Result<Vec<FilterSpec>> {
    let [first, others @ ..] = args.filters.as_slice() else {
        bail!("name two filters or more: --filter off,inspect");
    };
    if others.is_empty() {
        bail!("one filter has nothing to be compared with: --filter {first},inspect");
    }
    let all = [first, first].into_iter().chain(others);
    let spec = |stage: &vswitch::control::FilterStage| {
        let looks = matches!(stage.profile, Profile::Inspect | Profile::Hold);
        let own = if rules.is_empty() {
            findings::rules(stage.profile)
        } else {
            rules.to_vec()
        };
        let deadline_ms = args
            .deadline
            .filter(|_| stage.profile != Profile::Off)
            .map(u64::cast_signed);
        FilterSpec {
            profile: stage.to_string().parse().unwrap_or_default(),
            deadline_ms,
            rule: if looks { own } else { Vec::new() },
            ..FilterSpec::default()
        }
    };
    Ok(all.map(spec).collect())
}

fn contenders(args: &Args, specs: &[FilterSpec]) -> Result<Vec<Contender>> {
    let parts = [Part::A, Part::Again]
        .into_iter()
        .chain(std::iter::repeat(Part::B));
    let first = args.filters.first().into_iter();
    let names = first.chain(&args.filters);
    let contender = |((part, name), spec): ((Part, _), &FilterSpec)| {
        let name: &vswitch::control::FilterStage = name;
        Ok(Contender {
            part,
            name: name.to_string(),
            config: spec.clone().check()?,
        })
    };
    parts.zip(names).zip(specs).map(contender).collect()
}

/// The rules that were asked for; empty for the default one.
fn rules(args: &Args) -> Result<Vec<Rule>> {
    match (&args.rules, args.patterns) {
        (Some(file), _) => Ok(load_rules(file)?.rule),
        (None, Some(count)) => Ok(made_up(count)),
        (None, None) => Ok(Vec::new()),
    }
}

/// Patterns of random letters, which the requests' consecutive octets never match.
fn made_up(count: u32) -> Vec<Rule> {
    let mut rng = fastrand::Rng::with_seed(u64::from(count));
    let mut rule = |number: u32| Rule {
        name: format!("pattern-{number}"),
        pattern: std::iter::once('%')
            .chain(std::iter::repeat_with(|| rng.alphabetic()).take(PATTERN_LETTERS))
            .collect(),
        protocol: RuleProtocol::Tcp,
        action: RuleAction::Alert,
        ..Rule::default()
    };
    (0..count).map(&mut rule).collect()
}
