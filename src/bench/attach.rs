//! Somebody else's load on two ports of a running switch: the filter is set and taken out, and the switch's own stages and stalls are
//! read. Nothing is sent.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use introspection::Profile;
use vswitch::control::{FilterInfo, PortInfo, SwitchStats};

use super::args::Args;
use super::report::{Load, Point};
use super::session::{Contender, since};
use super::tally::{self, Counted, Slice, Tally};
use crate::control::{Client, default_path};
use crate::lab::findings;
use crate::lab::interrupt::Interrupt;
use crate::lab::progress::Progress;
use crate::spec::FilterSpec;

/// After a change of filter, before counting.
const SETTLE: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_millis(50);

/// Two ports of a running switch.
pub(super) struct Attached<'a> {
    client: Client,
    args: &'a Args,
    interrupt: &'a Interrupt,
}

impl<'a> Attached<'a> {
    /// Looks whether both ports are there and the first one has no filter, since what it has could not be put back.
    pub(super) fn new(args: &'a Args, interrupt: &'a Interrupt) -> Result<Self> {
        let client = Client::new(args.control.clone().unwrap_or_else(default_path));
        let [first, second] = args.attach.as_slice() else {
            bail!("--attach takes two ports: --attach v0,v1");
        };
        let ports: Vec<PortInfo> = client.get("/v1/ports")?;
        for name in [first, second] {
            let Some(port) = ports.iter().find(|port| port.name == *name) else {
                bail!("there is no port named \"{name}\"; `enlight port list` shows those that exist");
            };
            if name == first && port.filter != Profile::Off {
                bail!(
                    "port {name} has the filter {}, which could not be put back afterwards: take it out first (enlight filter off \
                     {name})",
                    port.filter
                );
            }
        }
        Ok(Self {
            client,
            args,
            interrupt,
        })
    }

    /// Measures, and takes the filter out at the end. The second value tells whether it was stopped before its end.
    pub(super) fn point(
        &self,
        contenders: &[Contender],
        specs: &[FilterSpec],
        stamps_ns: f64,
        progress: &mut Progress,
    ) -> Result<(Option<Point>, bool)> {
        let mut tallies: Vec<Tally> = contenders
            .iter()
            .map(|contender| Tally::new(contender.part, contender.name.clone()))
            .collect();
        let measured = self.slices(specs, &mut tallies, progress);
        let off = self.set(&FilterSpec::default());
        let stopped = match measured {
            Ok(()) => false,
            Err(_) if self.interrupt.is_raised() => true,
            Err(error) => return Err(error),
        };
        off.context("taking the filter out again")?;
        let complete = tallies.iter().map(Tally::len).min().unwrap_or(0);
        for tally in &mut tallies {
            tally.truncate(complete);
        }
        let point = (complete > 0).then(|| tally::point(Load::Foreign, &tallies, stamps_ns, self.args.seed));
        Ok((point, stopped))
    }

    fn slices(&self, specs: &[FilterSpec], tallies: &mut [Tally], progress: &mut Progress) -> Result<()> {
        let mut rng = Rng::with_seed(self.args.seed);
        let mut order: Vec<usize> = (0..specs.len()).collect();
        let mut done = 0;
        for _ in 0..self.args.repeats {
            rng.shuffle(&mut order);
            for &index in &order {
                let (Some(spec), Some(tally)) = (specs.get(index), tallies.get_mut(index)) else {
                    continue;
                };
                progress.say(format!("port {}: {}", self.port(), tally.filter));
                progress.begin(done);
                done += 1;
                self.set(spec)?;
                self.wait(SETTLE, progress)?;
                let (began, before) = (Instant::now(), self.stats()?);
                self.wait(self.args.duration, progress)?;
                let after = self.stats()?;
                let stalls = |stats: &SwitchStats| findings::stalls(stats, self.port());
                let watched = *spec != FilterSpec::default();
                let counted = Counted {
                    directions: tally::between(&before, &after, &self.args.attach),
                    stalls: watched.then(|| since(stalls(&after), stalls(&before))),
                };
                tally.add(Slice::Foreign(began.elapsed().as_secs_f64(), counted));
            }
        }
        Ok(())
    }

    fn port(&self) -> &str {
        self.args.attach.first().map_or("", String::as_str)
    }

    fn set(&self, spec: &FilterSpec) -> Result<FilterInfo> {
        let target = format!("/v1/ports/{}/filter", self.port());
        Ok(self.client.send("PUT", &target, spec)?)
    }

    fn stats(&self) -> Result<SwitchStats> {
        Ok(self.client.get("/v1/stats")?)
    }

    fn wait(&self, length: Duration, progress: &Progress) -> Result<()> {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.interrupt.check()?;
            progress.tick();
            thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}
