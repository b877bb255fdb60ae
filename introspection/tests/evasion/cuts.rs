//! However the octets of a stream come, they are found.

use introspection::RuleAction;
use proptest::prelude::*;

use crate::scene::{Fate, Scene, Segment};

const TEXT: &[u8] = b"a harmless beginning and then an attack, hidden in the middle of something long";
const BOTH: [&str; 2] = ["literal", "regex"];

fn found(segments: &[Segment]) -> Vec<String> {
    let mut scene = Scene::connected(RuleAction::Alert);
    for segment in segments {
        assert_eq!(scene.show(segment), Fate::Passed);
    }
    let counters = scene.counters();
    assert_eq!((counters.conflicts, counters.failed_open), (0, 0));
    scene.matches()
}

/// The text in pieces that begin at 0 and at each of the sorted cuts.
fn pieces(cuts: &[usize]) -> Vec<Segment> {
    let ends = cuts.iter().copied().chain([TEXT.len()]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    starts
        .zip(ends)
        .filter(|(start, end)| start < end)
        .map(|(start, end)| Segment::at(start, &TEXT[start..end]))
        .collect()
}

#[test]
fn cut_in_two_or_three_at_any_place() {
    for first in 1..TEXT.len() {
        assert_eq!(found(&pieces(&[first])), BOTH);
        for second in first + 1..TEXT.len() {
            assert_eq!(found(&pieces(&[first, second])), BOTH, "{first}, {second}");
        }
    }
}

#[test]
fn in_segments_of_three_octets_forwards_and_backwards() {
    for size in 1..=3 {
        let mut segments: Vec<Segment> = (0..TEXT.len())
            .step_by(size)
            .map(|at| Segment::at(at, &TEXT[at..TEXT.len().min(at + size)]))
            .collect();
        assert_eq!(found(&segments), BOTH);
        segments.reverse();
        assert_eq!(found(&segments), BOTH);
    }
}

#[test]
fn anywhere_in_a_large_send_which_is_judged_once() {
    for place in [0, 1445, 1447, 1448, 30_000, 65_000 - 6] {
        let mut octets = vec![b'.'; 65_000];
        octets[place..place + 6].copy_from_slice(b"attack");
        let mut segment = Segment::at(0, &octets);
        segment.gso_size = 1448;
        let mut scene = Scene::connected(RuleAction::Alert);
        assert_eq!(scene.show(&segment), Fate::Passed);
        assert_eq!(scene.matches(), BOTH, "at {place}");
        // Each automaton sees the whole of it once, whatever it will be cut into.
        assert_eq!(scene.counters().inspected_octets, 65_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_any_pieces_any_order_and_any_number_of_times(
        mut cuts in proptest::collection::vec(1..TEXT.len(), 0..20),
        order in any::<prop::sample::Index>(),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
        swaps in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
    ) {
        cuts.sort_unstable();
        let mut segments = pieces(&cuts);
        let first = order.index(segments.len());
        segments.rotate_left(first);
        for (one, other) in swaps {
            let (one, other) = (one.index(segments.len()), other.index(segments.len()));
            segments.swap(one, other);
        }
        for index in again {
            let one = segments[index.index(segments.len())].clone();
            segments.push(one);
        }
        prop_assert_eq!(found(&segments), BOTH);
    }

    /// A sender that repeats itself with other octets shows no receiver, whether it keeps the first copy or the last, what is to be
    /// dropped: what both can read is the same.
    #[test]
    fn repeated_with_other_octets(
        shown in proptest::collection::vec((0usize..20, "[atck]{1,8}"), 1..60),
    ) {
        let mut scene = Scene::connected(RuleAction::Drop);
        let mut first: Vec<Option<u8>> = vec![None; 40];
        let mut last = first.clone();
        for (at, octets) in shown {
            if scene.show(&Segment::at(at, octets.as_bytes())) != Fate::Passed {
                continue;
            }
            for (place, octet) in (at..).zip(octets.bytes()) {
                first[place].get_or_insert(octet);
                last[place] = Some(octet);
            }
        }
        let read = |copy: &[Option<u8>]| -> Vec<u8> { copy.iter().map_while(|octet| *octet).collect() };
        prop_assert_eq!(read(&first), read(&last));
        prop_assert!(!read(&first).windows(6).any(|window| window == b"attack"));
    }
}
