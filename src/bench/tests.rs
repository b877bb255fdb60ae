//! Reports, comparisons and pages from figures that are known.

use proptest::prelude::*;

use super::report::{Effect, GuestKind, Load, Metric, Part, Point, Report, Settings};
use super::stats::Refusal;
use super::tally::{self, Counted, Slice, Tally};
use super::{SpacingChoice, Workload, compare, html, table};
use crate::lab::phase::PhaseLines;
use crate::lab::report::{DirectionStages, HostFacts, StageMeans, Stalls};

const REPEATS: u32 = 10;

/// A slice in which `count` transactions took about `us` each.
fn slice(us: u64, count: u64, stalls: u64) -> Slice {
    let mut lines = PhaseLines::default();
    let ns = us * 1_000;
    for line in [
        format!("end phase=0 transactions={count} us=1000000"),
        format!("load phase=0 due={count} in-time={count} late={}", count * 500),
        format!("rtt phase=0 count={count} min={ns} max={ns} sum={}", ns * count),
        format!("hist phase=0 {ns}:{count}"),
    ] {
        let line = format!("enlight-guest: {line}");
        lines.take(&microguest::report::Line::parse(&line).unwrap(), 0);
    }
    let stages_us = StageMeans {
        copy: 2.0,
        ..StageMeans::default()
    };
    let counted = Counted {
        directions: vec![DirectionStages {
            from: "client".to_owned(),
            frames: count,
            stages_us,
            residence_us: 2.0,
        }],
        stalls: Some(Stalls {
            delayed_ack: stalls,
            ..Stalls::default()
        }),
    };
    Slice::Client(lines, counted)
}

fn point(rate: u32, a: u64, b: u64, stalls: u64) -> Point {
    let mut tallies = [
        Tally::new(Part::A, "off"),
        Tally::new(Part::Again, "off"),
        Tally::new(Part::B, "inspect"),
        Tally::new(Part::Empty, "empty path"),
    ];
    for repeat in 0..REPEATS {
        // Every slice is a little different, or there would be no interval.
        let wobble = u64::from(repeat % 3);
        for (tally, us) in tallies.iter_mut().zip([a, a, b, 10]) {
            let stalls = if tally.part == Part::B { stalls } else { 0 };
            tally.add(slice(us + wobble, u64::from(rate), stalls));
        }
    }
    tally::point(Load::Open { rate, size: 64 }, &tallies, 50.0, 1)
}

fn report(points: Vec<Point>) -> Report {
    Report {
        version: "0.0.0".to_owned(),
        interrupted: false,
        host: HostFacts {
            cpu: "a <cpu>".to_owned(),
            date: "2026-01-01T00:00:00Z".to_owned(),
            ..HostFacts::default()
        },
        settings: Settings {
            guests: Some(GuestKind::Endpoint),
            linux: None,
            attached: Vec::new(),
            filters: vec!["off".to_owned(), "inspect".to_owned()],
            rules: 1_000,
            patterns: true,
            deadline_ms: None,
            workload: Workload::Open,
            spacing: SpacingChoice::Poisson,
            nagle: false,
            ack_delay_ms: Some(40),
            watch: false,
            repeats: REPEATS,
            slice_s: 1.0,
            seed: 1,
        },
        stamps_ns: 50.0,
        capacity: Some(12_345.0),
        points,
        comparison: None,
    }
}

fn effect(point: &Point, metric: Metric) -> &Effect {
    point
        .effects
        .iter()
        .find(|effect| effect.metric == metric)
        .expect("it was measured")
}

#[test]
fn a_difference_is_put_into_a_sentence() {
    let point = point(5_000, 50, 53, 0);
    let effect = effect(&point, Metric::P99);
    assert!(
        effect.judgement.refused.is_empty(),
        "{:?}",
        effect.judgement.refused
    );
    assert!(
        (effect.judgement.difference_us - 3.0).abs() < 0.2,
        "{:?}",
        effect.judgement
    );
    let sentence = &point.sentences[0];
    assert!(sentence.starts_with("inspect: p99 +"), "{sentence}");
    assert!(
        sentence.ends_with(", 0 stalls in 50000 transactions"),
        "{sentence}"
    );
    let run = point.run(Part::B).expect("B was measured");
    assert_eq!((run.transactions, run.due, run.slow), (50_000, Some(50_000), 0));
    assert_eq!((run.send_late_us, run.directions[0].frames), (Some(0.5), 50_000));
}

#[test]
fn a_refusal_and_stalls_are_put_into_a_sentence() {
    let point = point(5_000, 50, 50, 1);
    let judgement = &effect(&point, Metric::P99).judgement;
    assert!(judgement.refused.contains(&Refusal::Zero), "{judgement:?}");
    let sentence = &point.sentences[0];
    assert!(sentence.contains("no difference is reported"), "{sentence}");
    assert!(
        sentence.contains("10 stalls in 50000 transactions, 200.0 per million"),
        "{sentence}"
    );
    assert!(report(vec![point]).refuses());
}

#[test]
fn a_report_survives_its_json_and_is_shown() {
    let report = report(vec![point(1_000, 50, 53, 0), point(5_000, 60, 66, 0)]);
    let json = serde_json::to_vec(&report).unwrap();
    let again = compare::parse(&json).unwrap();
    assert_eq!(serde_json::to_vec(&again).unwrap(), json);
    let text = table::render(&report);
    for needle in ["off (again)", "empty path", "5000/s of 64 octets", "12,345"] {
        assert!(text.contains(needle), "{needle}: {text}");
    }
    let page = html::render(&report);
    assert_eq!(page.matches("<svg").count(), 5, "a curve, and two for each load");
    assert!(page.contains("a &lt;cpu&gt;") && !page.contains("<cpu>") && !page.contains("NaN"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

#[test]
fn a_change_is_told_from_none_and_from_another_set_up() {
    let old = report(vec![point(1_000, 50, 53, 0), point(9_000, 50, 53, 0)]);
    let mut new = report(vec![point(1_001, 50, 60, 0)]);
    let comparison = compare::compare(&old, &new);
    assert!(comparison.differs.is_empty() && comparison.changes.len() == 6);
    for change in &comparison.changes {
        let changed = change.filter == "inspect";
        assert_eq!(change.refused.is_none(), changed, "{change:?}");
        assert!(!changed || (change.new_us - change.old_us - 7.0).abs() < 0.5);
    }
    assert!(comparison.refuses());
    new.comparison = Some(comparison);
    assert!(table::render(&new).contains("changed by +7"));

    new.settings.rules = 1;
    new.host.kernel = "other".to_owned();
    let refused = compare::compare(&old, &new);
    assert_eq!(
        refused.differs,
        [
            "kernel:  then, other now",
            "rules: 1000 made up then, 1 made up now"
        ]
    );
    assert!(refused.changes.is_empty() && refused.refuses());
    let elsewhere = report(vec![point(4_000, 50, 60, 0)]);
    assert!(compare::compare(&old, &elsewhere).changes.is_empty());
}

#[test]
fn hostile_results_are_refused_in_a_line() {
    let good = serde_json::to_string(&report(vec![point(100, 50, 53, 0)])).unwrap();
    let slices = good.replacen("\"mean\":[", &format!("\"mean\":[{}", "1,".repeat(2_000)), 1);
    let nested = format!("{{\"points\":{}", "[".repeat(100_000));
    for text in [
        "",
        "{}",
        "[]",
        "null",
        "{\"version\":\"\\u001b[2J\"",
        &slices,
        &nested,
        &good[..good.len() - 1],
        &good.replacen("50.0", "1e999", 1),
    ] {
        let error = compare::parse(text.as_bytes()).expect_err("refused").to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    assert!(compare::parse(&[0xff; 99]).is_err());
    let mut odd = compare::parse(good.as_bytes()).unwrap();
    odd.host.cpu = "\u{1b}[2J".repeat(100);
    let told = compare::compare(&odd, &report(vec![]));
    assert!(told.differs[0].chars().count() < 120 && !told.differs[0].contains('\u{1b}'));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_change_of_a_result_is_taken_or_refused(at in any::<prop::sample::Index>(), with in "[ -~]{0,6}") {
        let now = report(vec![point(100, 50, 53, 0)]);
        let good = serde_json::to_vec(&now).unwrap();
        let at = at.index(good.len());
        let end = (at + with.len()).min(good.len());
        if let Ok(old) = compare::parse(&[&good[..at], with.as_bytes(), &good[end..]].concat()) {
            let comparison = compare::compare(&old, &now);
            prop_assert!(comparison.differs.iter().all(|line| !line.contains(char::is_control)));
            let mut now = now;
            now.comparison = Some(comparison);
            prop_assert!(!table::render(&now).is_empty() && !html::render(&old).is_empty());
        }
    }
}
