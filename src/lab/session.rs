//! One run of the lab from the first profile to the last: set the filter while traffic flows, look, measure.

use std::time::Duration;

use anyhow::{Context as _, Result};
use introspection::Profile;
use microguest::report::Line;
use vswitch::Switch;
use vswitch::capture::CapturedFrame;
use vswitch::control::{FilterConfig, SwitchStats};

use super::args::{Args, Workload};
use super::guests::{Listener, Role, WARMUP};
use super::phase::PhaseLines;
use super::progress::Progress;
use super::report::{GuestInfo, Run, Settings};
use super::timeline::Timeline;
use super::{explain, findings, tap};

/// The port that the filter sits on: the client's. There one sees why a write leaves late: the guest side shows when
/// the client wrote, the switch side when the filter let go, and the server's ACK between them.
pub(super) const FILTER_PORT: &str = "client";

/// How long a guest may take to boot and be ready.
const BOOT: Duration = Duration::from_secs(30);
/// How long Linux may take for that on a slow machine.
const LINUX_BOOT: Duration = Duration::from_mins(2);
/// What a phase may take beyond what was asked for, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The workload ends a phase after this many times its length at the latest.
const LONGEST_PHASE: u32 = 4;

/// A profile's result and the frames that were captured for it.
pub(super) struct Measured {
    /// The result.
    pub run: Run,
    /// Frames of a short stretch before the measured phase, the same profile in force.
    pub frames: Vec<CapturedFrame>,
}

/// Everything that a session works with.
pub(super) struct Session<'a, 'g> {
    /// The switch, in this process.
    pub switch: &'a Switch,
    /// Client and server.
    pub guests: &'a mut Listener<'g>,
    /// What was asked for.
    pub args: &'a Args,
    /// The same, for the report.
    pub settings: &'a Settings,
    /// Where progress is shown.
    pub progress: &'a mut Progress,
    /// What is known of the guests, once there is something.
    pub info: Vec<GuestInfo>,
}

impl Session<'_, '_> {
    /// Measures every profile.
    pub(super) fn measure(&mut self) -> Result<Vec<Measured>> {
        let mut all: Vec<Measured> = Vec::with_capacity(self.args.filters.len());
        let boot = if self.args.wants_linux() { LINUX_BOOT } else { BOOT };
        self.progress.say("booting".to_owned());
        self.guests.begin(boot)?;
        self.client_says(Line::Ready { phase: 0 }, "the client's being ready", boot)?;
        for (phase, profile) in (0..).zip(self.args.filters.iter().copied()) {
            self.progress.begin(phase);
            let measured = self
                .phase(phase, profile)
                .with_context(|| format!("measuring profile {profile}"))?;
            all.push(measured);
        }
        self.explain(&mut all);
        Ok(all)
    }

    fn phase(&mut self, phase: u32, profile: Profile) -> Result<Measured> {
        self.progress.say(format!("{profile}: looking at frames"));
        let config = FilterConfig {
            profile,
            deadline: self.args.deadline.map(Duration::from_millis),
            rules: findings::rules(profile),
            ..FilterConfig::default()
        };
        self.switch
            .set_filter(FILTER_PORT, &config)
            .context("setting the filter")?;
        self.switch
            .watch_stalls(FILTER_PORT, true)
            .context("watching for stalls")?;
        let progress = &*self.progress;
        let frames = tap::look(self.switch, FILTER_PORT, self.look_time(), || progress.tick())?;
        let timeline = self.timeline(&frames)?;
        self.info = self.guests.guests().info();

        self.progress.say(format!("{profile}: measuring"));
        self.guests.guests().go()?;
        self.client_says(
            Line::Begin { phase },
            "the start of the phase",
            PATIENCE + self.warmup_time(),
        )?;
        let began = vswitch::clock::now();
        self.start_counting()?;
        let limit = self.args.duration * LONGEST_PHASE + PATIENCE;
        let mut lines = PhaseLines::default();
        self.collect(&mut lines, phase, limit, |lines| lines.transactions.is_some())?;
        let stats = self.switch.stats();
        let stalls = self.switch.stalls(FILTER_PORT).context("reading the stalls")?;
        self.rest_of(&mut lines, phase)?;

        let mut run = assemble(profile, self.args.workload, &lines, &stats);
        run.evidence = findings::evidence(&stalls, began);
        run.timeline = timeline;
        Ok(Measured { run, frames })
    }

    /// Stages and stalls count from here.
    fn start_counting(&self) -> Result<()> {
        for role in [Role::Client, Role::Server] {
            self.switch
                .reset_stages(role.name())
                .context("resetting the stages")?;
        }
        self.switch
            .watch_stalls(FILTER_PORT, true)
            .context("watching for stalls")
    }

    /// Long enough for a few transactions, each of which may wait for an ACK.
    fn look_time(&self) -> Duration {
        Duration::from_millis((self.args.expected_ack_delay_ms() * 5 + 200).clamp(300, 3_000))
    }

    fn warmup_time(&self) -> Duration {
        Duration::from_millis(self.args.expected_ack_delay_ms()) * WARMUP * 4
    }

    fn timeline(&self, frames: &[CapturedFrame]) -> Result<Timeline> {
        let stalls = self.switch.stalls(FILTER_PORT).context("reading the stalls")?;
        Ok(Timeline::choose(
            &tap::tcp_frames(frames),
            &findings::named_gaps(&stalls),
            self.args.workload,
        ))
    }

    /// Waits for a line of the client's; `what` names it in the error.
    fn client_says(&mut self, wanted: Line<'_>, what: &str, limit: Duration) -> Result<()> {
        let progress = &*self.progress;
        self.guests.wait(
            what,
            limit,
            || progress.tick(),
            |role, line| (role == Role::Client && *line == wanted).then_some(()),
        )
    }

    /// Takes the client's lines about a phase until `enough`.
    fn collect(
        &mut self,
        lines: &mut PhaseLines,
        phase: u32,
        limit: Duration,
        enough: impl Fn(&PhaseLines) -> bool,
    ) -> Result<()> {
        let progress = &*self.progress;
        self.guests.wait(
            "the end of the phase",
            limit,
            || progress.tick(),
            |role, line| {
                if role == Role::Client {
                    lines.take(line, phase);
                }
                enough(lines).then_some(())
            },
        )
    }

    /// Takes the lines behind a phase's end: the next phase's being ready, or the client's farewell, ends them.
    fn rest_of(&mut self, lines: &mut PhaseLines, phase: u32) -> Result<()> {
        let progress = &*self.progress;
        self.guests.wait(
            "the phase's figures",
            PATIENCE,
            || progress.tick(),
            |role, line| {
                if role != Role::Client {
                    return None;
                }
                lines.take(line, phase);
                let over = matches!(line, Line::Done) || *line == Line::Ready { phase: phase + 1 };
                over.then_some(())
            },
        )
    }

    /// Puts each run into words, against `off` if it was measured, else against the first.
    fn explain(&mut self, all: &mut [Measured]) {
        let base = all
            .iter()
            .position(|measured| measured.run.filter == Profile::Off)
            .unwrap_or(0);
        let baseline = all.get(base).map(|measured| measured.run.clone());
        for (index, measured) in all.iter_mut().enumerate() {
            let against = baseline.as_ref().filter(|_| index != base);
            measured.run.explanation = explain::sentence(&measured.run, against, self.settings, &self.info);
        }
    }
}

/// A run made of what the client said and the switch counted.
fn assemble(filter: Profile, workload: Workload, lines: &PhaseLines, stats: &SwitchStats) -> Run {
    let directions = findings::directions(stats);
    let (stages_us, residence_us) = findings::together(&directions);
    Run {
        filter,
        workload,
        transactions: lines.transactions.unwrap_or(0),
        seconds: lines.us as f64 / 1_000_000.0,
        rtt_us: lines.summary(),
        stalls: findings::stalls(stats, FILTER_PORT),
        stages_us,
        directions,
        residence_us,
        explanation: String::new(),
        evidence: Vec::new(),
        slowest: lines.slow.clone(),
        histogram_ns: lines.histogram(),
        timeline: Timeline::default(),
    }
}
