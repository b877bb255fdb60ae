use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::rules::{Rule, RuleAction, RuleProtocol};
use crate::testing::Segment;
use crate::{Direction, FlowKey};

/// First sequence number: streams of these tests wrap around.
const START: u32 = u32::MAX - 40;

fn rule_set(patterns: &[&str], action: RuleAction) -> RuleSet {
    let rules: Vec<Rule> = patterns
        .iter()
        .map(|pattern| Rule {
            name: format!("<{pattern}>"),
            pattern: (*pattern).to_owned(),
            protocol: RuleProtocol::Tcp,
            action,
            ..Rule::default()
        })
        .collect();
    RuleSet::compile(&rules).expect("good rules")
}

/// A stream with everything that judging it needs, and what was found so far.
struct Bench {
    rules: RuleSet,
    budget: Budget,
    stream: Stream,
    scratch: Seen,
    found: BTreeMap<String, usize>,
    conflicts: usize,
    failed_open: usize,
}

impl Bench {
    fn new(patterns: &[&str], action: RuleAction) -> Self {
        let rules = rule_set(patterns, action);
        let mut stream = Stream::new(&rules);
        stream.open(START);
        Self {
            rules,
            budget: Budget::new(4096, 16_384),
            stream,
            scratch: Seen::new(),
            found: BTreeMap::new(),
            conflicts: 0,
            failed_open: 0,
        }
    }

    fn show(&mut self, offset: usize, octets: &[u8]) -> Verdict {
        let flow = FlowKey::of(&Segment::tx().meta(), Direction::Tx).expect("TCP");
        let found = &mut self.found;
        let mut count = |rule: &Compiled| *found.entry(rule.name.to_string()).or_default() += 1;
        let mut judging = Judging {
            rules: &self.rules,
            place: Place {
                flow: &flow,
                direction: Direction::Tx,
                client: Direction::Tx,
            },
            budget: &mut self.budget,
            scratch: &mut self.scratch,
            found: &mut count,
            octets: 0,
            failed_open: false,
            conflict: false,
        };
        let verdict = self
            .stream
            .judge(START.wrapping_add(offset as u32), octets, &mut judging);
        self.conflicts += usize::from(judging.conflict);
        self.failed_open += usize::from(judging.failed_open);
        verdict
    }

    fn ack(&mut self, offset: usize) {
        let ack = START.wrapping_add(offset as u32);
        self.stream.acknowledge(ack, &self.rules, &mut self.budget);
    }

    fn matches(&self) -> usize {
        self.found.values().sum()
    }
}

/// How often each pattern stands in `octets`, overlaps included.
fn count(patterns: &[&str], octets: &[u8]) -> BTreeMap<String, usize> {
    patterns
        .iter()
        .map(|pattern| {
            let places = octets
                .windows(pattern.len())
                .filter(|window| *window == pattern.as_bytes());
            (format!("<{pattern}>"), places.count())
        })
        .filter(|(_, places)| *places > 0)
        .collect()
}

#[test]
fn a_pattern_across_segments_is_found_once() {
    let mut bench = Bench::new(&["needle"], RuleAction::Alert);
    for (offset, part) in [(0, "hay nee"), (7, "d"), (8, "le hay")] {
        assert_eq!(bench.show(offset, part.as_bytes()), Verdict::Pass);
    }
    assert_eq!(bench.matches(), 1);
    // Repeated, cut in other ways, it is no new data.
    assert_eq!(bench.show(3, b" needle"), Verdict::Pass);
    assert_eq!((bench.matches(), bench.conflicts, bench.failed_open), (1, 0, 0));
}

#[test]
fn early_data_waits_for_the_gap_before_it() {
    let mut bench = Bench::new(&["needle"], RuleAction::Drop);
    assert_eq!(bench.show(4, b"le"), Verdict::Pass);
    assert_eq!(bench.show(2, b"ed"), Verdict::Pass);
    assert_eq!(bench.matches(), 0);
    // The frame that closes the gap completes the match, and nothing that fills its place passes any more.
    assert_eq!(bench.show(0, b"ne"), Verdict::Drop);
    assert_eq!(bench.show(0, b"ne"), Verdict::Drop);
    assert_eq!(bench.show(1, b"e"), Verdict::Drop);
    assert_eq!(bench.show(6, b"next"), Verdict::Pass);
    assert_eq!(bench.matches(), 1);
}

#[test]
fn other_octets_for_the_same_place_are_dropped_where_rules_may_drop() {
    for (action, verdict) in [
        (RuleAction::Drop, Verdict::Drop),
        (RuleAction::Alert, Verdict::Pass),
    ] {
        let mut bench = Bench::new(&["needle"], action);
        bench.show(0, b"harmless");
        assert_eq!(bench.show(0, b"a needle"), verdict);
        assert_eq!(bench.show(10, b"early"), Verdict::Pass);
        assert_eq!(bench.show(12, b"RL"), verdict);
        assert_eq!(bench.show(8, b"..ea"), Verdict::Pass);
        assert_eq!(bench.show(8, b"..EA"), verdict);
        assert_eq!(bench.conflicts, 3);
    }
}

#[test]
fn what_the_receiver_has_is_not_compared() {
    let mut bench = Bench::new(&["needle"], RuleAction::Drop);
    bench.show(0, b"0123456789");
    bench.ack(10);
    assert_eq!(bench.show(9, b"?"), Verdict::Pass); // a keep-alive probe
    assert_eq!(bench.conflicts, 0);
    assert_eq!(bench.stream.history.len(), 0);
}

#[test]
fn what_is_forgotten_is_judged_by_itself() {
    let mut bench = Bench::new(&["needle"], RuleAction::Drop);
    bench.budget = Budget::new(8, 1000);
    bench.show(0, &[b'.'; 20]);
    assert_eq!(bench.show(0, b"........"), Verdict::Pass);
    assert_eq!(bench.failed_open, 1);
    assert_eq!(bench.show(2, b"needle"), Verdict::Drop);
}

#[test]
fn past_the_caps_it_fails_open_and_the_receiver_puts_it_right() {
    let mut bench = Bench::new(&["needle"], RuleAction::Alert);
    assert_eq!(bench.show(5000, b"too far ahead"), Verdict::Pass);
    assert_eq!(bench.failed_open, 1);
    assert_eq!(bench.show(6000, b"needle"), Verdict::Pass);
    assert_eq!((bench.failed_open, bench.matches()), (2, 1));
    // The receiver has had what was lost here: the stream goes on behind it.
    bench.ack(6006);
    bench.show(6006, b"nee");
    bench.show(6009, b"dle");
    assert_eq!((bench.failed_open, bench.matches()), (2, 2));
}

#[test]
fn a_syn_counts_when_it_is_acknowledged() {
    let mut bench = Bench::new(&["needle"], RuleAction::Drop);
    bench.show(0, b"nee");
    bench.stream.open(900_000);
    assert_eq!(bench.show(3, b"dle"), Verdict::Drop);
    bench.stream.open(900_000);
    bench.stream.acknowledge(900_000, &bench.rules, &mut bench.budget);
    assert_eq!(bench.stream.next, Some(900_000));
    assert_eq!(bench.stream.blocked, None);
}

#[test]
fn a_stream_is_picked_up_at_what_its_receiver_waits_for() {
    let mut bench = Bench::new(&["needle"], RuleAction::Alert);
    bench.stream = Stream::new(&bench.rules);
    bench.ack(10);
    bench.show(13, b"dle");
    bench.show(10, b"nee");
    assert_eq!((bench.matches(), bench.failed_open), (1, 0));
}

#[test]
fn memory_stays_within_the_budget_and_all_of_it_comes_back() {
    let mut bench = Bench::new(&["needle"], RuleAction::Alert);
    for offset in (1..3000).step_by(3) {
        bench.show(offset, b"x");
        assert!(bench.budget.used() <= 16_384);
    }
    assert!(bench.failed_open > 0);
    for offset in (0..100_000).step_by(1000) {
        bench.show(offset, &[b'y'; 1000]);
        assert!(bench.stream.history.len() <= 4096);
    }
    assert!(bench.budget.used() >= 4096);
    bench.stream.close(&mut bench.budget);
    assert_eq!(bench.budget.used(), 0);
}

/// A receiver with a policy for overlapping data that is not in order yet.
struct Receiver {
    octets: Vec<Option<u8>>,
    next: usize,
    last_wins: bool,
}

impl Receiver {
    fn take(&mut self, offset: usize, octets: &[u8]) {
        for (place, octet) in (offset..).zip(octets) {
            let empty = self.octets[place].is_none();
            if place >= self.next && (empty || self.last_wins) {
                self.octets[place] = Some(*octet);
            }
        }
        while self.octets.get(self.next).copied().flatten().is_some() {
            self.next += 1;
        }
    }

    fn delivered(&self) -> Vec<u8> {
        self.octets.iter().take(self.next).flatten().copied().collect()
    }
}

fn octets(len: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(b'a'..=b'c', len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Random cuts, orders and repetitions find what a search of the whole stream finds.
    #[test]
    fn matches_are_those_of_the_whole_stream(
        text in octets(1..160),
        cuts in proptest::collection::vec((0usize..160, 1usize..30, 0usize..40), 0..60),
        acks in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let patterns = ["ab", "abc", "bcab", "aaaa", "c"];
        let mut bench = Bench::new(&patterns, RuleAction::Alert);
        let mut receiver = Receiver { octets: vec![None; 400], next: 0, last_wins: false };
        // The random pieces, then everything once more, in pieces of 7 from the end.
        let mut shown: Vec<(usize, usize)> = cuts.into_iter().map(|(at, len, _)| (at, at + len)).collect();
        shown.extend((0..text.len()).step_by(7).rev().map(|at| (at, at + 7)));
        for ((from, to), ack) in shown.into_iter().zip(acks.into_iter().cycle()) {
            let piece = text.get(from..to.min(text.len())).unwrap_or_default();
            prop_assert_eq!(bench.show(from, piece), Verdict::Pass);
            receiver.take(from, piece);
            if ack {
                bench.ack(receiver.next);
            }
        }
        prop_assert_eq!(receiver.next, text.len());
        prop_assert_eq!(&bench.found, &count(&patterns, &text));
        prop_assert_eq!((bench.conflicts, bench.failed_open), (0, 0));
    }

    /// Whatever a sender tries, with frames lost behind the filter, no receiver ever reads a pattern that is to be dropped.
    #[test]
    fn no_receiver_reads_what_is_to_be_dropped(
        segments in proptest::collection::vec((0usize..24, octets(1..9), 0u8..4, any::<bool>()), 1..120),
        last_wins in any::<bool>(),
    ) {
        let mut bench = Bench::new(&["abba", "cc"], RuleAction::Drop);
        let mut receiver = Receiver { octets: vec![None; 64], next: 0, last_wins };
        for (offset, octets, fate, ack) in segments {
            if bench.show(offset, &octets) == Verdict::Pass && fate > 0 {
                receiver.take(offset, &octets);
            }
            if ack {
                bench.ack(receiver.next);
            }
        }
        prop_assert_eq!(count(&["abba", "cc"], &receiver.delivered()), BTreeMap::new());
        bench.stream.close(&mut bench.budget);
        prop_assert_eq!(bench.budget.used(), 0);
    }

    /// Arbitrary sequence numbers, acknowledgements and SYNs: no panic, and memory within bounds.
    #[test]
    fn nonsense_is_survived(steps in proptest::collection::vec((any::<u32>(), 0u32..4, octets(0..20), 0u8..6), 1..60)) {
        let mut bench = Bench::new(&["abba"], RuleAction::Drop);
        bench.budget = Budget::new(64, 200);
        for (number, near, octets, step) in steps {
            let near = START.wrapping_add(near * 16);
            match step {
                0 => bench.ack(number as usize),
                1 => bench.ack(near.wrapping_sub(START) as usize),
                2 => bench.stream.open(near),
                3 => { bench.show(number as usize, &octets); }
                _ => { bench.show(near.wrapping_sub(START) as usize, &octets); }
            }
            prop_assert!(bench.budget.used() <= 200 + 64);
        }
        bench.stream.close(&mut bench.budget);
        prop_assert_eq!(bench.budget.used(), 0);
    }
}
