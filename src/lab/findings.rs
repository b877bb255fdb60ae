//! What the switch's counters, stages and stalls say, in the report's terms.

use introspection::stage::{Stage, StageSummary};
use introspection::stall::{Stall, StallCause};
use introspection::{Instant, Profile, Rule, RuleAction, RuleProtocol};
use vswitch::control::SwitchStats;

use super::report::{DirectionStages, Evidence, Run, StageMeans, Stalls};
use super::timeline::NamedGap;

/// Stalls whose evidence is kept for each run.
const MAX_EVIDENCE: usize = 16;

/// What the profiles that look at payload look for: a well-known test signature that the workloads never send.
pub(crate) fn rules(profile: Profile) -> Vec<Rule> {
    match profile {
        Profile::Off | Profile::Serialize | Profile::Coalesce | Profile::ThinAcks => Vec::new(),
        Profile::Inspect | Profile::Hold => vec![Rule {
            name: "test-signature".to_owned(),
            pattern: "EICAR-STANDARD-ANTIVIRUS-TEST-FILE".to_owned(),
            protocol: RuleProtocol::Tcp,
            action: RuleAction::Alert,
            ..Rule::default()
        }],
    }
}

/// The stages of the frames that each port's guest sent.
pub(crate) fn directions(stats: &SwitchStats) -> Vec<DirectionStages> {
    let mut directions: Vec<DirectionStages> = stats
        .ports
        .iter()
        .map(|port| direction(&port.name, &port.stages))
        .collect();
    directions.sort_by(|a, b| a.from.cmp(&b.from));
    directions
}

fn direction(port: &str, summary: &StageSummary) -> DirectionStages {
    let mean = |total_ns: u64| total_ns as f64 / 1_000.0 / summary.frames.max(1) as f64;
    DirectionStages {
        from: port.to_owned(),
        frames: summary.frames,
        stages_us: StageMeans::from_fn(|stage| mean(summary.stages.get(stage).total_ns)),
        residence_us: mean(summary.residence.total_ns),
    }
}

/// All directions as one: the means of all their frames, of each stage and of the residence.
pub(crate) fn together(directions: &[DirectionStages]) -> (StageMeans, f64) {
    let frames: u64 = directions.iter().map(|direction| direction.frames).sum();
    let mean = |of: &dyn Fn(&DirectionStages) -> f64| {
        let total: f64 = directions
            .iter()
            .map(|direction| of(direction) * direction.frames as f64)
            .sum();
        total / frames.max(1) as f64
    };
    let stages = StageMeans::from_fn(|stage: Stage| mean(&|direction| direction.stages_us.of(stage)));
    (stages, mean(&|direction| direction.residence_us))
}

/// Stalls seen on a port, by cause.
pub(crate) fn stalls(stats: &SwitchStats, port: &str) -> Stalls {
    let counts = stats
        .ports
        .iter()
        .find(|stats| stats.name == port)
        .map(|port| port.stalls)
        .unwrap_or_default();
    Stalls {
        delayed_ack: counts.delayed_ack,
        filter_hold: counts.filter_hold,
        retransmission: counts.retransmission,
    }
}

/// The first few stalls with what proves them; `began` is when the phase did.
pub(crate) fn evidence(stalls: &[Stall], began: Instant) -> Vec<Evidence> {
    let piece = |stall: &Stall| Evidence {
        cause: cause(stall.cause).to_owned(),
        at_ms: stall.end.since(began) as f64 / 1e6,
        gap_ms: stall.gap_ns as f64 / 1e6,
        ack_late_ms: stall.ack_delay_ns().map(|ns| ns as f64 / 1e6),
        proof: stall.explain(),
    };
    stalls.iter().take(MAX_EVIDENCE).map(piece).collect()
}

/// The median time that an ACK came late for which payload waited, in milliseconds, over the evidence of all runs.
pub(crate) fn seen_ack_delay_ms(runs: &[Run]) -> Option<f64> {
    let evidence = runs.iter().flat_map(|run| &run.evidence);
    let mut late: Vec<f64> = evidence.filter_map(|evidence| evidence.ack_late_ms).collect();
    late.sort_by(f64::total_cmp);
    late.get(late.len() / 2).copied()
}

/// Stalls as gaps that a time-line can name.
pub(crate) fn named_gaps(stalls: &[Stall]) -> Vec<NamedGap> {
    let gap = |stall: &Stall| NamedGap {
        from: stall.start.0,
        to: stall.end.0,
        cause: cause(stall.cause).to_owned(),
    };
    stalls.iter().map(gap).collect()
}

/// A cause's name in the report.
const fn cause(cause: StallCause) -> &'static str {
    match cause {
        StallCause::DelayedAck => "delayed_ack",
        StallCause::FilterHold => "filter_hold",
        StallCause::Retransmission => "retransmission",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(from: &str, frames: u64, copy: f64, hold: f64) -> DirectionStages {
        let stages_us = StageMeans {
            hold,
            copy,
            ..StageMeans::default()
        };
        DirectionStages {
            from: from.to_owned(),
            frames,
            stages_us,
            residence_us: stages_us.sum(),
        }
    }

    #[test]
    fn directions_are_weighted_by_their_frames() {
        let (stages, residence) = together(&[
            direction("client", 300, 1.0, 100.0),
            direction("server", 100, 3.0, 0.0),
        ]);
        assert_eq!((stages.copy, stages.hold), (1.5, 75.0));
        assert!((residence - stages.sum()).abs() < 1e-9);
        assert_eq!(together(&[]), (StageMeans::default(), 0.0));
    }

    #[test]
    fn the_ack_delay_seen_is_the_median() {
        let report = crate::lab::fixture::report();
        let seen = seen_ack_delay_ms(&report.runs).expect("serialize waited for ACKs");
        assert!((199.0..202.0).contains(&seen), "{seen}");
        assert_eq!(seen_ack_delay_ms(&report.runs[..2]), None);
    }

    #[test]
    fn the_rules_of_the_lab_are_good_ones() {
        for profile in Profile::ALL {
            assert!(
                introspection::RuleSet::compile(&rules(profile)).is_ok(),
                "{profile}"
            );
        }
        assert!(!rules(Profile::Inspect).is_empty());
    }
}
