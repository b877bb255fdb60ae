//! Filters that fail, that merge, and whose rules copy to another port.

use std::time::Duration;

use introspection::{Action, Filter, FilterCounters, FrameRef, Instant, Needs, Profile, Rule, RuleAction};
use offload::VnetHeader;

use super::{ALL, Bench, access, tcp, udp};
use crate::control::{ControlError, FilterConfig};
use crate::counters::DropReason;
use crate::port::Capabilities;
use crate::switch::filter;
use crate::worker::Worker;

/// A filter that holds each frame, until a burst that it does not survive, or that it sleeps over.
struct Unsound {
    good_bursts: usize,
    sleep: Option<Duration>,
}

impl Filter for Unsound {
    fn profile(&self) -> Profile {
        Profile::Hold
    }

    fn needs(&self) -> Needs {
        Needs::Headers
    }

    fn inspect(&mut self, _: Instant, burst: &[FrameRef<'_>], actions: &mut Vec<Action>) {
        actions.extend(burst.iter().map(|frame| Action::Hold(frame.id)));
        if let Some(left) = self.good_bursts.checked_sub(1) {
            self.good_bursts = left;
        } else if let Some(time) = self.sleep {
            std::thread::sleep(time);
        } else {
            panic!("no\nsense");
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn expire(&mut self, _: Instant, _: &mut Vec<Action>) {}

    fn drain(&mut self, _: &mut Vec<Action>) {
        panic!("nor here");
    }

    fn counters(&self) -> FilterCounters {
        FilterCounters::default()
    }
}

fn numbered(n: u8) -> Vec<u8> {
    udp(1, 2, &[n])
}

#[test]
fn a_filter_that_panics_is_named_and_out_of_the_path_with_nothing_lost() {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    let unsound = Unsound {
        good_bursts: 2,
        sleep: None,
    };
    let probe = &bench.port(0).probe;
    probe.set_filter(Some(Box::new(unsound)), FilterConfig::default());
    for n in 0..5 {
        bench.send(0, &numbered(n));
        bench.run();
        assert_eq!(probe.filter().failure.is_some(), n >= 2);
    }
    let frames: Vec<_> = (0..5).map(numbered).collect();
    assert_eq!(bench.got(1), frames, "those that were held are first");
    assert_eq!(probe.filter().failure.as_deref(), Some("panicked: nosense"));
    assert!(!probe.is_active());
    bench.filter(0, Profile::Inspect);
    assert_eq!(probe.filter().failure, None);
}

#[test]
fn a_filter_that_sleeps_again_and_again_is_named_and_out_of_the_path() {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    let unsound = Unsound {
        good_bursts: 0,
        sleep: Some(Duration::from_millis(2)),
    };
    let config = FilterConfig {
        budget: Some(Duration::from_millis(1)),
        ..FilterConfig::default()
    };
    let probe = &bench.port(0).probe;
    probe.set_filter(Some(Box::new(unsound)), config);
    for n in 0..10 {
        bench.send(0, &numbered(n));
        bench.run();
        if n == 6 {
            assert_eq!((probe.filter().over_budget, probe.filter().failure), (7, None));
        }
    }
    let failure = probe.filter().failure.expect("out of the path");
    assert!(failure.contains("8 times in a row"), "{failure}");
    assert_eq!(bench.got(1), (0..10).map(numbered).collect::<Vec<_>>());
}

pub(super) fn set(bench: &Bench, port: usize, config: &FilterConfig) -> Result<(), ControlError> {
    let name = format!("p{port}");
    let rules = filter::rules(&name, config)?;
    let made = filter::make(&name, config, rules.as_ref())?;
    let probe = &bench.port(port).probe;
    probe.set_mirrors(filter::mirrors(&bench.shared, &name, rules.as_deref())?);
    if !probe.set_rules(rules.as_ref(), config) {
        probe.set_filter(made, config.clone());
    }
    Ok(())
}

#[test]
fn coalesced_segments_reach_a_guest_as_one_large_send() {
    let mut bench = Bench::new(1, &[access(0), (access(0).0, ALL)]);
    let config = FilterConfig {
        profile: Profile::Coalesce,
        chunk: Some(12),
        ..FilterConfig::default()
    };
    set(&bench, 0, &config).expect("good");
    for (seq, octets) in [(0, b"abcd"), (4, b"efgh"), (8, b"ijkl")] {
        bench.send(0, &tcp(1, 2, seq, octets));
        bench.run();
    }
    let got = bench.guests[1].got.lock().drain(..).collect::<Vec<_>>();
    let [(vnet, frame)] = got.as_slice() else {
        panic!("one frame: {got:?}")
    };
    assert_eq!((vnet.gso_type, vnet.gso_size), (VnetHeader::GSO_TCPV4, 4));
    assert_eq!(&frame[54..], b"abcdefghijkl");
    assert_eq!(bench.port(0).probe.filter().counters.joined, 2);
}

#[test]
fn coalesced_segments_are_cut_again_for_who_takes_no_large_sends() {
    let mut bench = Bench::new(1, &[access(0), (access(0).0, Capabilities::default())]);
    let config = FilterConfig {
        profile: Profile::Coalesce,
        chunk: Some(12),
        ..FilterConfig::default()
    };
    set(&bench, 0, &config).expect("good");
    let frames = [(0, b"abcd"), (4, b"efgh"), (8, b"ijkl")].map(|(seq, octets)| tcp(1, 2, seq, octets));
    for frame in &frames {
        bench.send(0, frame);
    }
    bench.run();
    let payloads: Vec<Vec<u8>> = bench.got(1).iter().map(|frame| frame[54..].to_vec()).collect();
    assert_eq!(payloads, [b"abcd", b"efgh", b"ijkl"]);
}

pub(super) fn rule(pattern: &str, action: RuleAction, mirror_to: Option<&str>) -> FilterConfig {
    let rule = Rule {
        name: "r".to_owned(),
        pattern: pattern.to_owned(),
        action,
        mirror_to: mirror_to.map(str::to_owned),
        ..Rule::default()
    };
    FilterConfig {
        profile: Profile::Inspect,
        rules: vec![rule],
        ..FilterConfig::default()
    }
}

#[test]
fn a_flow_is_mirrored_from_its_match_on() {
    let bench = Bench::new(1, &[access(0), access(0), access(7)]);
    let mut worker = Worker::new(bench.shared.clone(), bench.shared.workers[0].clone());
    let mut run = || while worker.round() {};
    set(&bench, 0, &rule("secret", RuleAction::Mirror, Some("p2"))).expect("good");
    let frames = [
        tcp(1, 2, 0, b"a sec"),
        tcp(1, 2, 5, b"ret"),
        tcp(1, 2, 8, b"more"),
    ];
    for frame in &frames {
        bench.send(0, frame);
        run();
    }
    bench.send(0, &udp(1, 2, b"else"));
    run();
    assert_eq!(bench.got(1).len(), 4, "nothing is kept from its way");
    assert_eq!(bench.got(2), frames[1..]);
    assert_eq!(bench.port(0).probe.filter().counters.mirrored, 2);
}

#[test]
fn copies_go_nowhere_where_they_would_be_copied_again() {
    let bench = Bench::new(1, &[access(0), access(0), access(0)]);
    let mirror = |to: &str| rule("x", RuleAction::Mirror, Some(to));
    let refused = |port: usize, to: &str| set(&bench, port, &mirror(to)).expect_err("refused").to_string();
    assert!(refused(0, "p0").contains("copied again"));
    assert!(refused(0, "p9").contains("add it first"));
    set(&bench, 0, &mirror("p1")).expect("good");
    assert!(refused(2, "p0").contains("own filter mirrors"));
    assert!(refused(1, "p2").contains("gets copies itself"));
}

#[test]
fn rules_are_exchanged_while_what_was_denied_stays_denied() {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    set(&bench, 0, &rule("secret", RuleAction::Drop, None)).expect("good");
    bench.send(0, &tcp(1, 2, 0, b"harmless"));
    bench.send(0, &tcp(1, 2, 8, b"secret"));
    bench.run();
    assert_eq!(bench.got(1).len(), 1);
    set(&bench, 0, &rule("other", RuleAction::Drop, None)).expect("good");
    // Retransmitted, it fills the place of what was denied; other flows follow the new rules.
    bench.send(0, &tcp(1, 2, 8, b"secret"));
    bench.send(0, &udp(1, 2, b"secret"));
    bench.send(0, &udp(1, 2, b"another"));
    bench.run();
    assert_eq!(bench.got(1).len(), 1);
    let dropped = bench.port(0).counters.snapshot().tx_dropped;
    assert_eq!(dropped.get(&DropReason::FilterRule), Some(&3));
    let info = bench.port(0).probe.filter();
    assert_eq!((info.changes, info.counters.frames), (2, 5));
}
