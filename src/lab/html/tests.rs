use super::*;
use crate::lab::fixture;

/// Each opened element is closed, in order.
fn assert_well_formed(page: &str) {
    const VOID: [&str; 2] = ["!DOCTYPE", "meta"];
    let mut open: Vec<&str> = Vec::new();
    for piece in page.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').expect("a tag ends");
        let name = tag.split_whitespace().next().unwrap();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closing of {name}");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_from_elsewhere() {
    let page = render(&fixture::report());
    assert_well_formed(&page);
    for needle in [
        "http:", "https:", "//", "url(", "@import", "<script", "<img", "<link", "src=",
    ] {
        assert!(!page.contains(needle), "{needle}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn the_page_shows_every_run_and_its_figures() {
    let page = render(&fixture::report());
    for needle in [
        "serialize turns 41.0 µs into 200.1 ms",
        "curve p-off",
        "curve p-inspect",
        "curve p-serialize",
        "the server&#39;s delayed ACK",
        "held 66.7 ms (not to scale)",
        "seq 33  ack 1  len 32",
        "the ACK of octet 32 left 192.0.2.2 only then",
    ] {
        assert!(page.contains(needle), "{needle}");
    }
}

#[test]
fn text_from_outside_is_escaped() {
    let mut report = fixture::report();
    report.host.command = "enlight lab --out '</dd><script>alert(1)</script>'".to_owned();
    report.runs[2].evidence[0].proof = "<b>\u{1b}[2J & \"x\"".to_owned();
    let page = render(&report);
    assert_well_formed(&page);
    assert!(!page.contains("<script"));
    assert!(page.contains("Example CPU &lt;1&gt;"));
    assert!(!page.contains('\u{1b}'));
}

#[test]
fn empty_runs_do_not_upset_it() {
    let mut report = fixture::report();
    for run in &mut report.runs {
        run.transactions = 0;
        run.histogram_ns.clear();
        run.directions.clear();
        run.evidence.clear();
        run.timeline = crate::lab::timeline::Timeline::default();
        run.rtt_us = crate::lab::report::RttSummary::default();
    }
    let page = render(&report);
    assert_well_formed(&page);
    assert!(!page.contains("NaN") && !page.contains("inf"));
    report.runs.clear();
    assert_well_formed(&render(&report));
}

#[test]
fn a_report_survives_its_json() {
    let report = fixture::report();
    let json = serde_json::to_string(&report).unwrap();
    let back: LabReport = serde_json::from_str(&json).unwrap();
    assert_eq!(render(&report), render(&back));
}
