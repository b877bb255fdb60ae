//! One sentence for each profile: what it did to latency, and why.

use introspection::Profile;
use introspection::stage::Stage;

use super::args::Workload;
use super::format::{count, delta_micros, micros};
use super::report::{GuestInfo, Run, Settings};

/// The sentence for `run`, measured against `baseline` when that is another run.
pub(super) fn sentence(
    run: &Run,
    baseline: Option<&Run>,
    settings: &Settings,
    guests: &[GuestInfo],
) -> String {
    if run.transactions == 0 {
        return "no transaction ended in the time given; a longer --duration may show some".to_owned();
    }
    let frequent = run.stalls.total() * RARE >= run.transactions;
    let reason = if frequent && run.stalls.total() > 0 {
        stalled(run, settings, guests)
    } else {
        format!("{}, {}", quiet(run), rare_stalls(run))
    };
    format!("{}: {reason}", cost(run, baseline))
}

/// Stalls in fewer transactions than one in this many do not explain a profile: the machine itself stands still now and
/// then, when it has other work to do.
const RARE: u64 = 20;

/// Why Linux' ACKs come late: `TCP_DELACK_MIN`, and quick-ACK mode, in `net/ipv4/tcp_input.c` and `tcp_output.c`.
const LINUX_POLICY: &str = "; Linux delays an ACK by 40 to 200 ms unless more than a full segment waits for it, and sends \
                            the first 16 of a flow at once";

/// Width of the distribution's buckets: smaller differences are none.
const RESOLUTION: f64 = 0.01;

/// What a transaction takes, against another run if there is one. A stream's blocks go into a buffer, so their mean
/// tells more than their median.
fn cost(run: &Run, baseline: Option<&Run>) -> String {
    let (name, of): (_, fn(&Run) -> f64) = match run.workload {
        Workload::Stream => ("a block on average", |run| run.rtt_us.mean),
        Workload::Rr | Workload::Wwr | Workload::Records => ("at p50", |run| run.rtt_us.p50),
    };
    match baseline.filter(|base| base.transactions > 0) {
        Some(base) if (of(run) - of(base)).abs() <= RESOLUTION * of(base) => {
            format!("{} {name}, the same within 1 %", micros(of(run)))
        }
        Some(base) => format!(
            "{} {name} ({} → {})",
            delta_micros(of(run) - of(base)),
            micros(of(base)),
            micros(of(run))
        ),
        None => format!("{} {name}", micros(of(run))),
    }
}

fn rare_stalls(run: &Run) -> String {
    match run.stalls.total() {
        0 => "no stall".to_owned(),
        1 => "one stall".to_owned(),
        n => format!("{} stalls", count(n)),
    }
}

/// What a profile does where it stalls nothing.
fn quiet(run: &Run) -> String {
    let stages = &run.stages_us;
    let judged = micros(stages.of(Stage::Filter));
    let held = stages.of(Stage::Hold);
    match run.filter {
        Profile::Off => "no filter in the path".to_owned(),
        Profile::Inspect => format!("each frame was judged at once ({judged} a frame) and none held"),
        Profile::Hold | Profile::Serialize | Profile::Coalesce | Profile::ThinAcks if held < 1.0 => {
            format!("the filter took {judged} a frame and held next to nothing")
        }
        Profile::Hold => format!(
            "the filter held segments for the rest of their message ({} a frame on average)",
            micros(held)
        ),
        Profile::Serialize => format!(
            "the filter held segments for the ACK of the one before, which came at once ({} a frame on average)",
            micros(held)
        ),
        Profile::Coalesce => format!(
            "the filter held segments for those that follow them ({} a frame on average)",
            micros(held)
        ),
        Profile::ThinAcks => format!(
            "the filter held some ACKs for later ones to take their place ({} a frame on average)",
            micros(held)
        ),
    }
}

/// Names the most frequent cause, and then the others by number.
fn stalled(run: &Run, settings: &Settings, guests: &[GuestInfo]) -> String {
    let stalls = &run.stalls;
    let of = |n: u64| {
        if n <= run.transactions {
            format!("({} of {} transactions)", count(n), count(run.transactions))
        } else {
            format!("({} times in {} transactions)", count(n), count(run.transactions))
        }
    };
    let rest = |n: u64| others(stalls.total() - n);
    if stalls.delayed_ack >= stalls.filter_hold && stalls.delayed_ack >= stalls.retransmission {
        let who = receiver(settings, guests);
        let gap = typical_gap(run, "delayed_ack");
        let what = if run.stages_us.of(Stage::Hold) >= 1.0 {
            format!(
                "the filter held {} until {who}'s delayed ACK",
                held_thing(settings.workload)
            )
        } else {
            format!("the sender waited for {who}'s delayed ACK")
        };
        let policy = match settings.ack_delay_ms {
            Some(_) => "",
            None => LINUX_POLICY,
        };
        format!(
            "{what}, {gap} later {}{}{policy}",
            of(stalls.delayed_ack),
            rest(stalls.delayed_ack)
        )
    } else if stalls.filter_hold >= stalls.retransmission {
        let gap = typical_gap(run, "filter_hold");
        format!(
            "the filter itself held segments, for {gap} {}{}",
            of(stalls.filter_hold),
            rest(stalls.filter_hold)
        )
    } else {
        let gap = typical_gap(run, "retransmission");
        format!(
            "segments were sent again, {gap} after the first time {}{}",
            of(stalls.retransmission),
            rest(stalls.retransmission)
        )
    }
}

fn others(n: u64) -> String {
    if n == 0 {
        String::new()
    } else {
        format!(", and {} of other causes", count(n))
    }
}

/// Who delays ACKs: the one that receives what the workload waits for.
fn receiver(settings: &Settings, guests: &[GuestInfo]) -> String {
    let name = match settings.workload {
        Workload::Rr | Workload::Wwr | Workload::Stream => "server",
        Workload::Records => "client",
    };
    guests
        .iter()
        .find(|guest| guest.name == name)
        .map_or_else(|| format!("the {name}"), |guest| guest.ip.clone())
}

const fn held_thing(workload: Workload) -> &'static str {
    match workload {
        Workload::Wwr => "the second write",
        Workload::Rr | Workload::Records | Workload::Stream => "the next segment",
    }
}

/// The median gap of the evidence for one cause.
fn typical_gap(run: &Run, cause: &str) -> String {
    let mut gaps: Vec<f64> = run
        .evidence
        .iter()
        .filter(|evidence| evidence.cause == cause)
        .map(|evidence| evidence.gap_ms)
        .collect();
    gaps.sort_by(f64::total_cmp);
    gaps.get(gaps.len() / 2)
        .map_or_else(|| "some time".to_owned(), |gap| micros(gap * 1_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::fixture;
    use crate::lab::report::{LabReport, Stalls};

    fn sentence_of(report: &LabReport, run: &Run) -> String {
        let base = report.runs.first().filter(|base| base.filter != run.filter);
        sentence(run, base, &report.settings, &report.guests_info)
    }

    #[test]
    fn a_delayed_ack_is_named_with_its_host_and_length() {
        let report = fixture::report();
        let text = sentence_of(&report, &report.runs[2]);
        assert_eq!(
            text,
            "+200.1 ms at p50 (41.0 µs → 200.1 ms): the filter held the second write until 192.0.2.2's delayed ACK, \
             200.1 ms later (37 of 38 transactions)"
        );
    }

    #[test]
    fn linux_policy_is_named_where_it_is_linux() {
        let mut report = fixture::report();
        report.settings.ack_delay_ms = None;
        let text = sentence_of(&report, &report.runs[2]);
        assert!(text.ends_with("sends the first 16 of a flow at once"), "{text}");
        let quiet = sentence_of(&report, &report.runs[1]);
        assert!(!quiet.contains("Linux"), "{quiet}");
    }

    #[test]
    fn quiet_profiles_say_what_they_did() {
        let report = fixture::report();
        let off = sentence_of(&report, &report.runs[0]);
        assert_eq!(off, "41.0 µs at p50: no filter in the path, no stall");
        assert!(sentence_of(&report, &report.runs[1]).contains("+1.50 µs at p50"));
        let mut run = report.runs[2].clone();
        run.stalls = Stalls::default();
        assert!(sentence_of(&report, &run).contains("held segments for the ACK of the one before"));
    }

    #[test]
    fn rare_stalls_do_not_explain_a_profile() {
        let report = fixture::report();
        let mut run = report.runs[1].clone();
        run.stalls.delayed_ack = 1;
        let text = sentence_of(&report, &run);
        assert!(text.ends_with("and none held, one stall"), "{text}");
        run.workload = Workload::Stream;
        assert!(sentence_of(&report, &run).contains("a block on average"));
    }

    #[test]
    fn differences_below_the_resolution_are_none() {
        let report = fixture::report();
        let mut run = report.runs[1].clone();
        run.rtt_us.p50 = report.runs[0].rtt_us.p50 + 0.3;
        let text = sentence_of(&report, &run);
        assert!(
            text.starts_with("41.3 µs at p50, the same within 1 %: each frame"),
            "{text}"
        );
    }

    #[test]
    fn other_causes_are_named_too() {
        let report = fixture::report();
        let mut run = report.runs[2].clone();
        run.stalls = Stalls {
            delayed_ack: 1,
            filter_hold: 36,
            retransmission: 0,
        };
        let text = sentence_of(&report, &run);
        assert!(text.contains("the filter itself held segments"), "{text}");
        assert!(
            text.ends_with("(36 of 38 transactions), and 1 of other causes"),
            "{text}"
        );
        run.stalls = Stalls {
            delayed_ack: 0,
            filter_hold: 0,
            retransmission: 50,
        };
        let text = sentence_of(&report, &run);
        assert!(
            text.contains("sent again") && text.ends_with("(50 times in 38 transactions)"),
            "{text}"
        );
    }

    #[test]
    fn nothing_measured_is_said() {
        let report = fixture::report();
        let mut run = report.runs[0].clone();
        run.transactions = 0;
        assert!(sentence_of(&report, &run).contains("no transaction ended"));
    }
}
