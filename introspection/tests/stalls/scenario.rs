//! What a seed stands for: two ends, an application, something in the path.

use std::time::Duration;

use introspection::diagnosis::{DiagnosisOptions, FlowDiagnosis, Trace};
use introspection::stall::CauseTable;
use introspection::{FilterOptions, Profile, build};

use super::endpoint::{Endpoint, MS, MSS, Policy, Step, US};
use super::middle::Middle;
use super::random::Random;
use super::world::{Faults, Truth, World};

/// A flow that was simulated and judged.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) truths: Vec<Truth>,
    pub(crate) diagnosis: Option<FlowDiagnosis>,
    pub(crate) has_filter: bool,
    /// How long it took.
    pub(crate) duration: u64,
    /// Times in which an application thought for longer than a stall's least.
    pub(crate) thoughts: u64,
    /// What a watcher said while it ran.
    pub(crate) live: CauseTable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A request in two small writes.
    Split,
    /// A request in one write, answered after some thought.
    Whole,
    /// Small records, each when the last is acknowledged.
    Records,
    /// Large sends that end in a part of a segment, each when the last is acknowledged.
    Sends,
    /// A bulk transfer.
    Bulk,
    /// A user who types.
    Typing,
    /// A bulk transfer to an application that does not read for a while.
    Slow,
}

pub(crate) const WORKS: [Work; 7] = [
    Work::Split,
    Work::Whole,
    Work::Records,
    Work::Sends,
    Work::Bulk,
    Work::Typing,
    Work::Slow,
];

/// Simulates a seed and judges what was captured.
pub(crate) fn run(seed: u64) -> Outcome {
    simulate(seed, true)
}

/// The same; without what is between the taps if told so.
pub(crate) fn simulate(seed: u64, with_filter: bool) -> Outcome {
    let mut random = Random(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let work = random.pick(&WORKS);
    let link = random.range(2, 60) * US;
    let path = random.pick(&[30 * US, 100 * US, 400 * US, 2 * MS, 8 * MS]);
    let srtt = 2 * (link + path);
    let mut ends = [0, 1].map(|_| end(&mut random, srtt));
    let sender = random.range(0, 1) as usize;
    let middle = middle(&mut random, work, sender);
    let nagle = random.percent(60);
    ends[sender].nagle = nagle && matches!(work, Work::Split | Work::Whole);
    let thoughts = script(&mut random, work, &mut ends, sender);
    let has_filter = !matches!(middle, Middle::Off);
    let name = format!(
        "seed {seed}: {work:?} by {sender}, Nagle {}, {:?}/{} ms, {}, path {} us",
        ends[sender].nagle,
        ends[1 - sender].policy,
        ends[1 - sender].ack_delay / MS,
        describe(&middle),
        path / US
    );
    let middle = if with_filter { middle } else { Middle::Off };
    let faults = faults(&mut random, work, has_filter, (sender, srtt));
    let two_taps = has_filter || random.percent(50);
    let mut world = World::new(ends, middle, [link, path], Random(random.next()));
    world.faults = faults;
    if world.random.percent(75) {
        world.handshake(sender);
    }
    world.run();
    let mut trace = Trace::new(DiagnosisOptions::default());
    world.trace(&mut trace, two_taps);
    let (first, last) = (world.rows.first(), world.rows.last());
    let duration = first.zip(last).map_or(0, |(first, last)| last.0 - first.0);
    Outcome {
        name,
        has_filter,
        duration,
        live: world.watch(),
        truths: world.truths,
        diagnosis: trace.judge().into_iter().next(),
        thoughts,
    }
}

fn end(random: &mut Random, srtt: u64) -> Endpoint {
    let policy = random.pick(&[
        Policy::Linux,
        Policy::Linux,
        Policy::Windows,
        Policy::FreeBsd,
        Policy::Smoltcp,
    ]);
    let delay = match policy {
        Policy::Linux => random.pick(&[40, 40, 40, 44, 80, 200]),
        Policy::Windows => 200,
        Policy::FreeBsd => random.pick(&[40, 100]),
        Policy::Smoltcp => random.pick(&[10, 50, 100]),
    };
    let mut end = Endpoint::new(policy, delay * MS, srtt);
    if matches!(policy, Policy::Linux) && random.percent(40) {
        end.quick = random.range(1, 16);
    }
    end
}

fn middle(random: &mut Random, work: Work, sender: usize) -> Middle {
    let filter = |profile, deadline: Option<u64>| {
        let options = FilterOptions {
            deadline: deadline.map(Duration::from_nanos),
            ..FilterOptions::default()
        };
        build(profile, options).map_or(Middle::Off, Middle::Real)
    };
    let merge = |random: &mut Random| Middle::Merge {
        of: sender,
        window: 300 * US,
        keeps_size: random.percent(30),
    };
    match (work, random.range(0, 9)) {
        (Work::Slow, 0..=8) | (_, 0..=3) => Middle::Off,
        (Work::Bulk | Work::Sends, 4..=6) => merge(random),
        (_, 4) => filter(Profile::Hold, Some(random.range(30, 450) * MS)),
        (_, 5) | (Work::Split | Work::Records, 9) => filter(Profile::Serialize, None),
        (_, 6) => filter(Profile::Inspect, None),
        (_, 7) => Middle::Thin {
            of: 1 - sender,
            percent: random.pick(&[30, 60, 100]),
            delay: Some(random.range(30, 150) * MS),
        },
        (_, 8) => Middle::Split,
        _ => filter(Profile::Hold, None),
    }
}

fn describe(middle: &Middle) -> String {
    match middle {
        Middle::Off => "off".to_owned(),
        Middle::Real(filter) => filter.profile().to_string(),
        Middle::Thin { percent, delay, .. } => format!("thin {percent} {delay:?}"),
        Middle::Merge { keeps_size, .. } => format!("merge {keeps_size}"),
        Middle::Split => "split".to_owned(),
    }
}

fn faults(random: &mut Random, work: Work, has_filter: bool, (sender, srtt): (usize, u64)) -> Faults {
    let mut faults = Faults::default();
    if has_filter {
        return faults;
    }
    match (work, random.range(0, 3)) {
        (Work::Bulk, 0 | 2 | 3) if sender == 0 => {
            let start = 1_000 * MS + random.range(1, 5) * srtt;
            faults.spike = Some((start, random.range(40, 180) * MS));
        }
        (Work::Bulk | Work::Whole | Work::Sends, 1) if sender == 0 => faults.drop_data = random.range(3, 12),
        (Work::Whole | Work::Records, 2) => faults.drop_acks = random.range(5, 20),
        _ => {}
    }
    faults
}

/// Writes both applications' scripts; how often one of them thinks for long.
fn script(random: &mut Random, work: Work, ends: &mut [Endpoint; 2], sender: usize) -> u64 {
    let mut script = Script::default();
    let echo = ends[0].ack_delay != ends[1].ack_delay;
    for _ in 0..random.range(2, 12) {
        match work {
            Work::Split | Work::Whole => script.exchange(random, work),
            Work::Typing => script.key(random, echo),
            Work::Records | Work::Sends | Work::Bulk | Work::Slow => script.send(random, work),
        }
    }
    if script.total > 0 {
        script.server.push(Step::Read(script.total));
    }
    ends[sender].script = script.client.into();
    ends[1 - sender].script = script.server.into();
    script.thoughts
}

#[derive(Default)]
struct Script {
    client: Vec<Step>,
    server: Vec<Step>,
    /// What the server reads at its end.
    total: u64,
    thoughts: u64,
}

impl Script {
    /// A pause: in `chance` of a hundred cases a long one, else of some microseconds.
    fn think(&mut self, random: &mut Random, chance: u64, usual: u64) -> Step {
        if random.percent(chance) {
            self.thoughts += 1;
            Step::Think(random.range(30, 900) * MS)
        } else {
            Step::Think(random.range(5, usual) * US)
        }
    }

    fn exchange(&mut self, random: &mut Random, work: Work) {
        let ask = if work == Work::Split {
            let (one, two) = (random.range(20, 600), random.range(20, 600));
            let pause = Step::Think(random.range(1, 900) * US);
            self.client.extend([Step::Write(one), pause, Step::Write(two)]);
            one + two
        } else {
            let ask = random.range(20, 3_000);
            self.client.push(Step::Write(ask));
            ask
        };
        let answer = random.range(20, 4_000);
        let (work, pause) = (self.think(random, 15, 2_000), self.think(random, 25, 3_000));
        self.server.extend([Step::Read(ask), work, Step::Write(answer)]);
        self.client.extend([Step::Read(answer), pause]);
    }

    fn key(&mut self, random: &mut Random, echo: bool) {
        let key = random.range(1, 5);
        let pause = self.think(random, 95, 3_000);
        self.client.extend([Step::Write(key), pause]);
        if echo {
            self.client.push(Step::Read(key));
            self.server.extend([Step::Read(key), Step::Write(key)]);
        } else {
            self.total += key;
        }
    }

    fn send(&mut self, random: &mut Random, work: Work) {
        let len = match work {
            Work::Records => random.range(20, 1_000),
            Work::Sends => random.range(1, 8) * MSS + random.pick(&[0, 700, 1_100]),
            Work::Bulk => random.range(20_000, 150_000),
            _ => random.range(70_000, 200_000),
        };
        self.client.push(Step::Write(len));
        if work == Work::Slow {
            let pause = self.think(random, 80, 3_000);
            self.server.extend([pause, Step::Read(len)]);
            return;
        }
        self.total += len;
        if work != Work::Bulk {
            self.client.push(Step::WaitAck);
            if random.percent(15) {
                let pause = self.think(random, 60, 3_000);
                self.client.push(pause);
            }
        }
    }
}
