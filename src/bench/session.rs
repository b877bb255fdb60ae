//! A load measured on guests of our own: A, A again and every B in turn, the filter set while traffic flows.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use introspection::Profile;
use microguest::cmdline::{Go, MAX_RATE, Workload as GuestWorkload};
use microguest::report::Line;
use vswitch::Switch;
use vswitch::control::{Attribution, FilterConfig, SwitchConfig};

use super::args::Args;
use super::guests::{self, Choice};
use super::report::{GuestKind, Load, Part, Point};
use super::tally::{self, Counted, Slice, Tally};
use crate::lab::findings;
use crate::lab::guests::{Guests, Listener, Orders, Role};
use crate::lab::interrupt::Interrupt;
use crate::lab::phase::PhaseLines;
use crate::lab::private_dir::PrivateDir;
use crate::lab::progress::Progress;
use crate::lab::report::Stalls;

/// How long guests may take to be ready.
const START: Duration = Duration::from_secs(30);
/// How long Linux may take for that on a slow machine.
const LINUX_START: Duration = Duration::from_mins(2);
/// What a slice may take beyond its length: warm-up, a drain, a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// The port that the filter sits on.
const FILTER_PORT: &str = Role::Client.name();
/// Share of a second's requests that warm an open loop up.
const WARMUP_SHARE: u32 = 10;
/// Transactions that warm a closed loop up: Linux acknowledges the first 16 segments of a connection at once.
const WARMUP: u32 = 20;
/// Slices without a switch at most.
const EMPTY_SLICES: u32 = 10;
const CAPACITY_SLICE: Duration = Duration::from_secs(1);
const STAMPS: u32 = 100_000;

/// A filter that takes part.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    pub(super) part: Part,
    pub(super) name: String,
    pub(super) config: FilterConfig,
}

/// Everything that a session works with.
pub(super) struct Session<'a> {
    pub(super) args: &'a Args,
    pub(super) choice: &'a Choice,
    /// A, A again, and every B.
    pub(super) contenders: &'a [Contender],
    pub(super) interrupt: &'a Interrupt,
    pub(super) progress: &'a mut Progress,
    pub(super) stamps_ns: f64,
    /// Slices so far.
    pub(super) done: u32,
}

impl Session<'_> {
    /// How many transactions a second the path with A can do: requests are due far faster.
    pub(super) fn capacity(&mut self, size: u32) -> Result<f64> {
        self.progress.say("measuring what the path can do".to_owned());
        let load = Load::Open { rate: MAX_RATE, size };
        let orders = self.orders(load, 1, CAPACITY_SLICE);
        let dir = PrivateDir::new()?;
        let switch = start_switch()?;
        let guests = guests::start(self.choice, &switch, &dir, &orders)?;
        let mut series = Series::begin(guests, self.interrupt, self.start(), CAPACITY_SLICE)?;
        if let Some(first) = self.contenders.first() {
            set_filter(&switch, first, false)?;
        }
        let (lines, _) = series.slice(Some(&switch), self.progress)?;
        let (_, in_time, _) = lines.load.unwrap_or_default();
        Ok(in_time as f64 / CAPACITY_SLICE.as_secs_f64())
    }

    /// Measures a load. The second value tells whether it was stopped before its end; then there is what was measured so far.
    pub(super) fn point(&mut self, load: Load) -> Result<(Option<Point>, bool)> {
        let mut tallies: Vec<Tally> = self
            .contenders
            .iter()
            .map(|contender| Tally::new(contender.part, contender.name.clone()))
            .collect();
        let mut empty = Tally::new(Part::Empty, "empty path");
        let stopped = match self.slices(load, &mut tallies, &mut empty) {
            Ok(()) => false,
            Err(_) if self.interrupt.is_raised() => true,
            Err(error) => return Err(error.context(format!("measuring {load}"))),
        };
        let complete = tallies.iter().map(Tally::len).min().unwrap_or(0);
        for tally in &mut tallies {
            tally.truncate(complete);
        }
        tallies.push(empty);
        let point = (complete > 0).then(|| tally::point(load, &tallies, self.stamps_ns, self.args.seed));
        Ok((point, stopped))
    }

    fn slices(&mut self, load: Load, tallies: &mut [Tally], empty: &mut Tally) -> Result<()> {
        let (repeats, length) = (self.args.repeats, self.args.duration);
        let slices = empty_slices(repeats);
        let without = guests::start_without_switch(self.choice.kind, &self.orders(load, slices, length))?;
        let mut series = Series::begin(without, self.interrupt, START, length)?;
        for _ in 0..slices {
            self.next(&format!("{load}: the generator alone"));
            let (lines, counted) = series.slice(None, self.progress)?;
            empty.add(Slice::Client(lines, counted));
        }
        drop(series);

        let phases = repeats * self.contenders.len() as u32;
        let orders = self.orders(load, phases, length);
        let dir = PrivateDir::new()?;
        let switch = start_switch()?;
        let guests = guests::start(self.choice, &switch, &dir, &orders)?;
        let mut series = Series::begin(guests, self.interrupt, self.start(), length)?;
        let mut rng = Rng::with_seed(self.args.seed);
        let mut order: Vec<usize> = (0..self.contenders.len()).collect();
        for _ in 0..repeats {
            rng.shuffle(&mut order);
            for &index in &order {
                let (Some(contender), Some(tally)) = (self.contenders.get(index), tallies.get_mut(index))
                else {
                    continue;
                };
                self.next(&format!("{load}: {}", contender.name));
                set_filter(&switch, contender, self.args.watch)?;
                let (lines, mut counted) = series.slice(Some(&switch), self.progress)?;
                if contender.config.profile == Profile::Off && !self.args.watch {
                    counted.stalls = None;
                }
                tally.add(Slice::Client(lines, counted));
            }
        }
        Ok(())
    }

    /// Another slice begins.
    fn next(&mut self, what: &str) {
        self.progress.say(what.to_owned());
        self.progress.begin(self.done);
        self.done += 1;
    }

    fn start(&self) -> Duration {
        match self.choice.kind {
            GuestKind::Linux => LINUX_START,
            _ => START,
        }
    }

    fn orders(&self, load: Load, phases: u32, length: Duration) -> Orders {
        let args = self.args;
        Orders::new(|parameters| {
            match load {
                Load::Open { rate, size } => {
                    (parameters.rate, parameters.size) = (rate, size);
                    parameters.warmup = (rate / WARMUP_SHARE).max(WARMUP);
                }
                Load::Wwr { size, gap_ms } => {
                    (parameters.workload, parameters.size) = (GuestWorkload::Wwr, size);
                    (parameters.gap_us, parameters.warmup) = (gap_ms * 1_000, WARMUP);
                }
                Load::Foreign => {}
            }
            parameters.spacing = args.spacing.into();
            parameters.seed = args.seed;
            parameters.nagle = args.nagle;
            parameters.ack_delay_ms = args.ack_delay;
            parameters.phases = phases;
            parameters.phase_ms = u32::try_from(length.as_millis()).unwrap_or(u32::MAX);
            parameters.go = Go::Serial;
        })
    }
}

/// How many slices without a switch stand beside so many repeats.
pub(super) fn empty_slices(repeats: u32) -> u32 {
    repeats.min(EMPTY_SLICES)
}

/// A switch that stamps every frame: a slow load's sample would be small.
fn start_switch() -> Result<Switch> {
    let switch = Switch::start(&SwitchConfig::default()).context("starting the switch")?;
    switch.set_attribution(Attribution::Full);
    Ok(switch)
}

fn set_filter(switch: &Switch, contender: &Contender, watch: bool) -> Result<()> {
    switch
        .set_filter(FILTER_PORT, &contender.config)
        .context("setting the filter")?;
    let watched = watch || contender.config.profile != Profile::Off;
    switch
        .watch_stalls(FILTER_PORT, watched)
        .context("watching for stalls")
}

/// Slices on the same guests, one after the other.
struct Series<'a> {
    listener: Listener<'a>,
    phase: u32,
    limit: Duration,
}

impl<'a> Series<'a> {
    /// Waits until client and server are ready, for `start` at most each.
    fn begin(
        guests: Box<dyn Guests + 'a>,
        interrupt: &'a Interrupt,
        start: Duration,
        length: Duration,
    ) -> Result<Self> {
        let mut series = Self {
            listener: Listener::new(guests, interrupt),
            phase: 0,
            limit: 4 * length + PATIENCE,
        };
        series.listener.begin(start)?;
        series.client("the client's being ready", start, |line| {
            *line == Line::Ready { phase: 0 }
        })?;
        Ok(series)
    }

    /// Measures one slice: what the client says, and what the switch counted meanwhile.
    fn slice(&mut self, switch: Option<&Switch>, progress: &Progress) -> Result<(PhaseLines, Counted)> {
        let phase = self.phase;
        self.listener.guests().go()?;
        self.client("the start of a slice", self.limit, |line| {
            *line == Line::Begin { phase }
        })?;
        let before = switch.map(begin_counting).transpose()?.unwrap_or_default();
        let mut lines = PhaseLines::default();
        let mut counted = Counted::default();
        self.listener.wait(
            "the end of a slice",
            self.limit,
            || progress.tick(),
            |role, line| {
                if role != Role::Client {
                    return None;
                }
                lines.take(line, phase);
                if matches!(line, Line::End { .. }) {
                    counted = switch
                        .map(|switch| counted_since(switch, before))
                        .unwrap_or_default();
                }
                let over = matches!(line, Line::Done) || *line == Line::Ready { phase: phase + 1 };
                over.then_some(())
            },
        )?;
        self.phase += 1;
        Ok((lines, counted))
    }

    fn client(&mut self, what: &str, limit: Duration, wanted: impl Fn(&Line<'_>) -> bool) -> Result<()> {
        let found = |role, line: &Line<'_>| (role == Role::Client && wanted(line)).then_some(());
        self.listener.wait(what, limit, || (), found)
    }
}

/// Stages count from here; the stalls so far.
fn begin_counting(switch: &Switch) -> Result<Stalls> {
    for role in [Role::Client, Role::Server] {
        switch.reset_stages(role.name()).context("resetting the stages")?;
    }
    Ok(findings::stalls(&switch.stats(), FILTER_PORT))
}

fn counted_since(switch: &Switch, before: Stalls) -> Counted {
    let stats = switch.stats();
    Counted {
        directions: findings::directions(&stats),
        stalls: Some(since(findings::stalls(&stats, FILTER_PORT), before)),
    }
}

/// Stalls beyond those that were there before.
pub(super) const fn since(now: Stalls, before: Stalls) -> Stalls {
    Stalls {
        delayed_ack: now.delayed_ack.saturating_sub(before.delayed_ack),
        filter_hold: now.filter_hold.saturating_sub(before.filter_hold),
        retransmission: now.retransmission.saturating_sub(before.retransmission),
    }
}

/// What two readings of the clock take, in nanoseconds.
pub(super) fn stamps_ns() -> f64 {
    let begin = Instant::now();
    for _ in 0..STAMPS {
        std::hint::black_box(Instant::now());
        std::hint::black_box(Instant::now());
    }
    begin.elapsed().as_nanos() as f64 / f64::from(STAMPS)
}
