//! What a port's filter costs, in which flows, and why, in sentences.

use introspection::diagnosis::Cause;
use introspection::flow::FlowKey;
use introspection::stage::FilterStages;
use introspection::stall::{CauseTable, Gaps, StallSummary};
use serde::{Deserialize, Serialize};
use vswitch::control::{Attribution, FilterInfo, PortFlows, PortStats};

/// Flows that are told one by one.
pub const FLOWS: usize = 5;

/// What a filter costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The port.
    pub port: String,
    /// The filter's profiles, in the order in which they see frames; none when it is off.
    pub filter: Vec<String>,
    /// Which frames are stamped.
    pub attribution: Attribution,
    /// What the filter added to stamped frames.
    pub added: FilterStages,
    /// Stalls of flows through the port since it is watched.
    pub stalls: StallSummary,
    /// The flows that suffered most.
    pub flows: Vec<FlowShare>,
    /// All of it in words.
    pub sentences: Vec<String>,
}

/// What one flow suffered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowShare {
    /// The flow, as the port sees it.
    pub flow: FlowKey,
    /// Stamped frames that the filter saw, in both directions.
    pub frames: u64,
    /// What the filter added to them, in nanoseconds.
    pub added_ns: u64,
    /// What of that they were held.
    pub hold_ns: u64,
    /// The most that it added to one.
    pub longest_ns: u64,
    /// Its stalls.
    pub stalls: CauseTable,
}

impl FlowShare {
    /// The flows of both lists: those that stood still first, then by what the filter added.
    pub fn of(flows: &PortFlows) -> Vec<Self> {
        let mut shares: Vec<Self> = flows
            .filter
            .flows
            .iter()
            .map(|one| Self {
                flow: one.flow,
                frames: one.cost.frames,
                added_ns: one.cost.total_ns,
                hold_ns: one.cost.hold_ns,
                longest_ns: one.cost.longest_ns,
                stalls: CauseTable::default(),
            })
            .collect();
        for stalled in &flows.stalls {
            let stalls = stalled.cost.causes;
            match shares.iter_mut().find(|share| share.flow == stalled.flow) {
                Some(share) => share.stalls = stalls,
                None => shares.push(Self {
                    flow: stalled.flow,
                    frames: 0,
                    added_ns: 0,
                    hold_ns: 0,
                    longest_ns: 0,
                    stalls,
                }),
            }
        }
        shares.sort_by_key(|share| {
            let stalled = share.stalls.total().total_ns;
            (std::cmp::Reverse((stalled, share.added_ns)), share.flow)
        });
        shares
    }
}

impl Explanation {
    /// Explains what was counted.
    pub fn of(filter: &FilterInfo, stats: &PortStats, flows: &PortFlows) -> Self {
        let mut shares = FlowShare::of(flows);
        let mut this = Self {
            port: filter.port.clone(),
            filter: filter
                .stages
                .iter()
                .filter(|stage| *stage != "off")
                .cloned()
                .collect(),
            attribution: flows.attribution,
            added: stats.filter.clone(),
            stalls: stats.stall_causes,
            flows: Vec::new(),
            sentences: Vec::new(),
        };
        this.tell_state(filter);
        this.tell_frames();
        this.tell_stalls(&shares);
        shares.truncate(FLOWS);
        this.flows = shares;
        this.tell_flows();
        this
    }

    fn tell_state(&mut self, filter: &FilterInfo) {
        let port = &self.port;
        if let Some(failure) = &filter.failure {
            self.sentences.push(format!(
                "The filter of port {port} is out of the path since it {failure}; set it again to use it."
            ));
        } else if self.filter.is_empty() {
            self.sentences.push(format!(
                "Port {port} has no filter; `enlight filter set {port} inspect` puts one into the path."
            ));
        }
    }

    /// What the filter adds to frames, and which of its parts how much.
    fn tell_frames(&mut self) {
        let added = &self.added;
        if self.filter.is_empty() {
            return;
        }
        let name = self.filter.join(",");
        if added.frames == 0 {
            let why = match self.attribution {
                Attribution::Off => {
                    "frames are not stamped; `enlight switch attribution auto` has them stamped"
                }
                _ => "no stamped frame has left it yet",
            };
            self.sentences
                .push(format!("What {name} adds to frames is not known: {why}."));
            return;
        }
        let which = match self.attribution {
            Attribution::OneOf(step) if step.get() > 1 => format!("stamped frames, one of {step}"),
            Attribution::Auto => "stamped frames".to_owned(),
            _ => "frames".to_owned(),
        };
        self.sentences.push(format!(
            "{name} adds {} to a frame at p50 and {} at p99, {} at most ({} {which}, both directions).",
            Time::micros(added.added.p50),
            Time::micros(added.added.p99),
            Time::micros(added.added.max),
            added.frames
        ));
        let parts: Vec<String> = added
            .parts
            .iter()
            .map(|part| {
                let judging = format!(
                    "{} takes {} for judging",
                    part.part,
                    Time::micros(part.filter.mean)
                );
                if part.held == 0 {
                    return format!("{judging} on average, and held none");
                }
                let each = part.hold.total_ns / part.held;
                format!(
                    "{judging} on average, and held {} of them for {} each",
                    part.held,
                    Time(each)
                )
            })
            .collect();
        self.sentences.push(format!("{}.", parts.join("; ")));
    }

    /// How long flows stood still, and why.
    fn tell_stalls(&mut self, shares: &[FlowShare]) {
        let mut causes: Vec<(Cause, Gaps)> = self.stalls.causes.iter().collect();
        if causes.is_empty() {
            if !self.filter.is_empty() {
                self.sentences.push("No flow stood still.".to_owned());
            }
            return;
        }
        causes.sort_by_key(|(_, gaps)| std::cmp::Reverse(gaps.total_ns));
        for (cause, gaps) in causes {
            let flows = shares
                .iter()
                .filter(|share| share.stalls.get(cause).stalls > 0)
                .count();
            let whose = if cause.is_of_filter() {
                ""
            } else {
                " (not of the filter's making, as far as can be seen)"
            };
            self.sentences.push(format!(
                "{} in {}, {} together and {} at most, because {}{whose}. Remedy: {}.",
                counted(gaps.stalls, "stall"),
                counted(flows.max(1) as u64, "flow"),
                Time(gaps.total_ns),
                Time(gaps.longest_ns),
                cause.because(),
                cause.remedy().replace("PORT", &self.port)
            ));
        }
    }

    fn tell_flows(&mut self) {
        let worst = self
            .flows
            .iter()
            .filter(|share| share.added_ns > 0 || share.stalls.total().stalls > 0);
        let lines: Vec<String> = worst
            .map(|share| {
                let stalls = share.stalls.total();
                let mut line = format!("{}: ", share.flow);
                if stalls.stalls > 0 {
                    line.push_str(&format!(
                        "{} of {} together, ",
                        counted(stalls.stalls, "stall"),
                        Time(stalls.total_ns)
                    ));
                }
                line.push_str(&format!(
                    "{} added to {}, {} at most",
                    Time(share.added_ns),
                    counted(share.frames, "frame"),
                    Time(share.longest_ns)
                ));
                line
            })
            .collect();
        if !lines.is_empty() {
            self.sentences
                .push(format!("Who suffers most: {}.", lines.join("; ")));
        }
    }
}

fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// Nanoseconds, written in a fitting unit with three digits.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub u64);

impl Time {
    fn micros(micros: f64) -> Self {
        Self((micros * 1e3).round().max(0.0) as u64)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ns = self.0 as f64;
        let (value, unit) = match self.0 {
            0..1_000 => return write!(out, "{} ns", self.0),
            1_000..1_000_000 => (ns / 1e3, "us"),
            1_000_000..1_000_000_000 => (ns / 1e6, "ms"),
            _ => (ns / 1e9, "s"),
        };
        match value {
            v if v >= 100.0 => write!(out, "{v:.0} {unit}"),
            v if v >= 10.0 => write!(out, "{v:.1} {unit}"),
            v => write!(out, "{v:.2} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use introspection::flow::{Endpoint, FlowCost, TopFlow};
    use introspection::stage::{FilterHistograms, PartTime};
    use introspection::stall::FlowStalls;
    use introspection::{FilterCounters, Profile};
    use serde_json::{Value, json};
    use vswitch::control::FlowList;

    use super::*;

    fn flow() -> FlowKey {
        let end = |last, port| Endpoint {
            addr: [192, 0, 2, last].into(),
            port,
        };
        FlowKey {
            local: end(1, 4000),
            remote: end(2, 80),
            protocol: 6,
            vlan: 0,
        }
    }

    fn filter(stages: &[&str]) -> FilterInfo {
        FilterInfo {
            port: "v0".to_owned(),
            profile: Profile::Serialize,
            stages: stages.iter().map(|stage| (*stage).to_owned()).collect(),
            deadline_ms: None,
            ratio: None,
            chunk: None,
            rules: 0,
            changes: 1,
            counters: FilterCounters::default(),
            over_budget: 0,
            failure: None,
        }
    }

    fn stats(added: FilterStages, stalls: StallSummary) -> PortStats {
        PortStats {
            name: "v0".to_owned(),
            counters: vswitch::counters::CounterSnapshot::default(),
            backlog: 0,
            stages: introspection::stage::StageSummary::default(),
            stages_of: 0,
            filter: added,
            stalls: introspection::stall::StallCounts::default(),
            stall_causes: stalls,
        }
    }

    fn flows(attribution: Attribution, causes: CauseTable) -> PortFlows {
        let cost = FlowCost {
            frames: 100,
            octets: 10_000,
            total_ns: 7_800_000_000,
            hold_ns: 7_800_000_000,
            filter_ns: 0,
            longest_ns: 200_000_000,
        };
        let listed = TopFlow {
            flow: flow(),
            cost,
            missed_ns: 0,
        };
        PortFlows {
            port: "v0".to_owned(),
            attribution,
            stamped: 100,
            frames: 100,
            residence: FlowList::default(),
            filter: FlowList {
                flows: vec![listed],
                ..FlowList::default()
            },
            stalls: vec![TopFlow {
                flow: flow(),
                cost: FlowStalls { causes },
                missed_ns: 0,
            }],
        }
    }

    #[test]
    fn a_filter_that_stalls_is_named_with_flows_cause_and_remedy() {
        let mut histograms = FilterHistograms::default();
        let judged = PartTime {
            filter: 1_200,
            hold: 0,
        };
        histograms.record(&[judged, PartTime::default()], 61);
        let held = PartTime {
            filter: 100,
            hold: 200_000_000,
        };
        histograms.record(&[judged, held], 39);
        let names = ["inspect", "serialize"].map(str::to_owned);
        let gaps = Gaps {
            stalls: 39,
            total_ns: 7_800_000_000,
            longest_ns: 201_000_000,
        };
        let causes: CauseTable = BTreeMap::from([(Cause::FilterSerialised, gaps)]).into();
        let summary = StallSummary {
            causes,
            ..StallSummary::default()
        };
        let explained = Explanation::of(
            &filter(&["inspect", "serialize"]),
            &stats(histograms.summary(&names), summary),
            &flows(Attribution::Full, causes),
        );
        let text = explained.sentences.join("\n");
        for needle in [
            "inspect,serialize adds 1.21 us to a frame at p50 and 200 ms at p99",
            "(100 frames, both directions)",
            "inspect takes 1.20 us for judging on average, and held none",
            "held 39 of them for 200 ms each",
            "39 stalls in 1 flow, 7.80 s together and 201 ms at most, because the filter let a frame go only after",
            "`enlight filter set v0 inspect`",
            "192.0.2.1:4000 - 192.0.2.2:80: 39 stalls of 7.80 s together, 7.80 s added to 100 frames",
        ] {
            assert!(text.contains(needle), "{needle:?} is not in:\n{text}");
        }
        let json: Value = serde_json::to_value(&explained).expect("JSON");
        let gaps = json!({"stalls": 39, "total_ns": 7_800_000_000_u64, "longest_ns": 201_000_000});
        assert_eq!(json["stalls"]["causes"], json!({"filter-serialised": gaps}));
        assert_eq!(
            serde_json::from_value::<Explanation>(json).expect("the same"),
            explained
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        let none = || stats(FilterStages::default(), StallSummary::default());
        let mut no_flows = flows(Attribution::Off, CauseTable::default());
        (no_flows.filter, no_flows.stalls) = (FlowList::default(), Vec::new());
        let off = Explanation::of(&filter(&["off"]), &none(), &no_flows);
        assert_eq!(off.sentences.len(), 1);
        assert!(off.sentences[0].contains("has no filter"), "{:?}", off.sentences);
        let unstamped = Explanation::of(&filter(&["inspect"]), &none(), &no_flows);
        assert!(unstamped.sentences[0].contains("`enlight switch attribution auto`"));
        assert_eq!(unstamped.sentences[1], "No flow stood still.");
        let mut failed = filter(&["inspect"]);
        failed.failure = Some("panicked: x".to_owned());
        let failed = Explanation::of(&failed, &none(), &no_flows);
        assert!(failed.sentences[0].contains("out of the path since it panicked"));
    }

    #[test]
    fn times_have_three_digits() {
        let text = [1, 1_234, 12_340_000, 200_000_000, 7_800_000_000].map(|ns| Time(ns).to_string());
        assert_eq!(text, ["1 ns", "1.23 us", "12.3 ms", "200 ms", "7.80 s"]);
    }
}
