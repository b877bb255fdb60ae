//! Datagrams in IP fragments: the cases of Ptacek and Newsham, section 5.2, of RFC 1858, RFC 3128 and RFC 5722, and of Novak, "Target-Based
//! Fragmentation Reassembly" (2005).

use introspection::{Caps, Direction, RuleAction};
use proptest::prelude::*;

use crate::packets::{OPTIONS, Piece, Receiver, TCP, UDP, UDP_HEADER, tcp, udp};
use crate::scene::{Fate, START, Scene, Segment};

const TEXT: &[u8] = b"a harmless beginning and then an attack, hidden in the middle of something long";
const BOTH: [&str; 2] = ["literal", "regex"];

/// Eight octets each, of which some make an attack and some do not.
const EIGHTHS: [&[u8]; 6] = [
    b"xxxxxatt",
    b"ackxxxxx",
    b"xxxxxxat",
    b"tackxatt",
    b"ckxxatta",
    b"xxxxxxxx",
];

/// The text as a datagram of each kind.
fn datagrams() -> Vec<Piece> {
    [false, true]
        .into_iter()
        .flat_map(|v6| {
            [
                Piece::whole(v6, TCP, &tcp(START, TEXT)),
                Piece::whole(v6, UDP, &udp(TEXT)),
            ]
        })
        .collect()
}

fn dropping() -> Scene {
    Scene::new(RuleAction::Drop)
}

fn show(scene: &mut Scene, piece: &Piece) -> Fate {
    scene.show_frame(Direction::Tx, &piece.frame())
}

/// Shows pieces of a datagram with an attack, and asserts that exactly the last is dropped.
fn last_is_dropped(scene: &mut Scene, pieces: &[Piece]) {
    let (last, others) = pieces.split_last().expect("pieces");
    for piece in others {
        assert_eq!(show(scene, piece), Fate::Passed, "{piece:?}");
    }
    assert_eq!(show(scene, last), Fate::Dropped, "{last:?}");
}

/// A datagram in two halves, the second of which begins at octet 16.
fn halves(text: &[u8]) -> [Piece; 2] {
    let whole = Piece::whole(false, UDP, &udp(text));
    [whole.part(0, 16), whole.part(16, 1000)]
}

#[test]
fn cut_at_any_place_it_is_found_and_its_last_fragment_dropped() {
    for whole in datagrams() {
        for cut in (8..whole.octets.len()).step_by(8) {
            let mut scene = dropping();
            let mut pieces = whole.cut(&[cut]);
            last_is_dropped(&mut scene, &pieces);
            pieces.reverse();
            let mut scene = dropping();
            last_is_dropped(&mut scene, &pieces);
            let counters = scene.counters();
            assert_eq!(
                (
                    counters.fragments,
                    counters.reassembled,
                    counters.conflicts,
                    counters.failed_open
                ),
                (2, 1, 0, 0)
            );
        }
    }
}

/// RFC 1858: not even the TCP header is in one fragment.
#[test]
fn tiny_fragments() {
    let eighths: Vec<usize> = (8..200).step_by(8).collect();
    for whole in datagrams() {
        let pieces = whole.cut(&eighths);
        assert!(pieces.len() > 10);
        last_is_dropped(&mut dropping(), &pieces);
    }
}

/// What passes is neither held nor changed, and a datagram without an attack passes whole.
#[test]
fn harmless_datagrams_pass() {
    let mut scene = dropping();
    for (id, protocol) in [(1, TCP), (2, UDP), (3, 1), (4, 47)] {
        for v6 in [false, true] {
            let mut whole = Piece::whole(v6, protocol, &udp(&TEXT[..25]));
            whole.id = id;
            for piece in whole.cut(&[8, 16, 24]) {
                assert_eq!(show(&mut scene, &piece), Fate::Passed);
            }
        }
    }
    let counters = scene.counters();
    assert_eq!(
        (counters.conflicts, counters.failed_open, counters.matches),
        (0, 0, 0)
    );
}

#[test]
fn a_stream_goes_on_through_segments_in_fragments() {
    let mut scene = Scene::connected(RuleAction::Drop);
    assert_eq!(scene.show(&Segment::at(0, b"att")), Fate::Passed);
    let whole = Piece::whole(false, TCP, &tcp(START.wrapping_add(3), b"ack"));
    last_is_dropped(&mut scene, &whole.cut(&[8, 16]));
    assert_eq!(scene.show(&Segment::at(3, b"ack")), Fate::Dropped, "nor as it is");
}

/// Of two copies of an octet some receivers keep the first and some the last, and one refuses both (RFC 5722).
#[test]
fn overlaps_with_other_octets_do_not_pass() {
    let whole = Piece::whole(false, UDP, &udp(b"an attack behind it"));
    let other = Piece::whole(false, UDP, &udp(b"an attXXX behind it"));
    for [first, second, third] in [
        [other.part(0, 24), whole.part(16, 8), whole.part(24, 8)],
        [other.part(16, 8), whole.part(8, 16), whole.part(0, 8)],
        [whole.part(24, 8), other.part(8, 16), whole.part(8, 16)],
    ] {
        let mut scene = dropping();
        assert_eq!(show(&mut scene, &first), Fate::Passed);
        let fates = [show(&mut scene, &second), show(&mut scene, &third)];
        assert!(scene.counters().matches == 0, "{fates:?}");
    }
    let mut scene = dropping();
    show(&mut scene, &other.part(0, 24));
    assert_eq!(show(&mut scene, &whole.part(16, 8)), Fate::Dropped);
    assert_eq!(scene.counters().conflicts, 1);
    let mut scene = Scene::new(RuleAction::Alert);
    show(&mut scene, &other.part(0, 24));
    assert_eq!(
        show(&mut scene, &whole.part(16, 8)),
        Fate::Passed,
        "no rule drops"
    );
    assert_eq!(scene.counters().conflicts, 1);
}

/// The receiver may have lost the first copy, or have refused it: what was judged stays what may stand there.
#[test]
fn a_fragment_cannot_be_replaced_once_its_datagram_has_passed() {
    let [_, tail] = halves(b"an attack, then more");
    let [harmless, _] = halves(b"an XXXack, then more");
    let [head, _] = halves(b"an attack, then more");
    let mut scene = dropping();
    for piece in [&harmless, &tail, &harmless, &tail] {
        assert_eq!(show(&mut scene, piece), Fate::Passed);
    }
    assert_eq!(show(&mut scene, &head), Fate::Dropped);
    assert_eq!(
        scene.counters().reassembled,
        1,
        "repetitions are not judged again"
    );
}

/// Where nothing is dropped, identifications that come again begin the next datagram.
#[test]
fn an_identification_may_come_again() {
    let mut scene = Scene::new(RuleAction::Alert);
    for text in [&b"something harmless"[..], b"an attack, a real one"] {
        for piece in halves(text) {
            assert_eq!(show(&mut scene, &piece), Fate::Passed);
        }
    }
    assert_eq!(scene.counters().reassembled, 2);
    assert_eq!(scene.matches(), BOTH);
}

#[test]
fn nothing_of_a_denied_datagram_passes_any_more() {
    let mut scene = dropping();
    let whole = Piece::whole(true, UDP, &udp(TEXT));
    last_is_dropped(&mut scene, &whole.cut(&[8, 32]));
    for (start, len) in [(32, 1000), (32, 8), (40, 1000), (0, 8)] {
        assert_eq!(show(&mut scene, &whole.part(start, len)), Fate::Dropped);
    }
    scene.wait(61);
    assert_eq!(
        show(&mut scene, &whole.part(0, 8)),
        Fate::Passed,
        "no receiver has it any more"
    );
}

/// The filter must not forget before any receiver does, nor remember for ever.
#[test]
fn slow_fragments() {
    let [head, tail] = halves(b"an attack, then more");
    let mut scene = dropping();
    show(&mut scene, &head);
    scene.wait(59);
    show(&mut scene, &head);
    scene.wait(59);
    assert_eq!(
        show(&mut scene, &tail),
        Fate::Dropped,
        "a receiver may have the second copy still"
    );
    let mut scene = dropping();
    show(&mut scene, &head);
    scene.wait(61);
    assert_eq!(show(&mut scene, &tail), Fate::Passed);
    assert_eq!(
        (scene.counters().fragments_expired, scene.counters().failed_open),
        (1, 0)
    );
}

/// Ends that contradict each other, fragments that are no multiple of eight, empty or beyond the longest packet.
#[test]
fn impossible_fragments_do_not_pass() {
    let whole = Piece::whole(false, UDP, &udp(TEXT));
    let with = |start, more, len: usize| Piece {
        start,
        more,
        octets: vec![b'.'; len],
        ..whole.clone()
    };
    for v6 in [false, true] {
        for piece in [
            with(8, true, 9),
            with(8, true, 0),
            with(8, false, 0),
            with(65_528, false, 8),
        ] {
            let mut scene = dropping();
            assert_eq!(
                show(&mut scene, &Piece { v6, ..piece.clone() }),
                Fate::Dropped,
                "{piece:?}"
            );
            assert_eq!(scene.counters().conflicts, 1);
            let mut scene = Scene::new(RuleAction::Alert);
            assert_eq!(show(&mut scene, &Piece { v6, ..piece }), Fate::Passed);
        }
    }
    let last = with(32, false, 8);
    for piece in [
        with(24, false, 8),
        with(32, false, 16),
        with(40, true, 8),
        with(32, true, 8),
    ] {
        let mut scene = dropping();
        assert_eq!(show(&mut scene, &last), Fate::Passed);
        assert_eq!(show(&mut scene, &piece), Fate::Dropped, "{piece:?}");
    }
    let mut scene = dropping();
    show(&mut scene, &with(40, true, 8));
    assert_eq!(
        show(&mut scene, &last),
        Fate::Dropped,
        "an end before what is known"
    );
}

/// Fragments of other datagrams, VLANs and directions are no parts of this one.
#[test]
fn datagrams_do_not_mix() {
    let [head, tail] = halves(b"an attack, then more");
    let mut scene = dropping();
    show(&mut scene, &head);
    for piece in [
        Piece {
            id: 8,
            ..tail.clone()
        },
        Piece {
            protocol: TCP,
            ..tail.clone()
        },
        Piece {
            vlan: Some(5),
            ..tail.clone()
        },
    ] {
        assert_eq!(show(&mut scene, &piece), Fate::Passed);
    }
    assert_eq!(scene.show_frame(Direction::Rx, &tail.frame()), Fate::Passed);
    assert_eq!(scene.counters().reassembled, 0);
    assert_eq!(show(&mut scene, &tail), Fate::Dropped);
}

/// RFC 8200, 4.5: only the first fragment's next header counts. Extension headers may stand behind the fragment header.
#[test]
fn ipv6_headers_in_fragments() {
    let mut octets = vec![UDP, 0, 1, 4, 0, 0, 0, 0];
    octets.extend(udp(TEXT));
    let whole = Piece::whole(true, OPTIONS, &octets);
    let mut pieces = whole.cut(&[8, 16]);
    pieces[1].protocol = 59;
    last_is_dropped(&mut dropping(), &pieces);
    // Another fragment header inside is what no receiver takes.
    let mut inner = vec![UDP, 0, 0, 1, 0, 0, 0, 9];
    inner.extend(udp(TEXT));
    let whole = Piece::whole(true, 44, &inner);
    last_is_dropped(&mut dropping(), &whole.cut(&[8]));
    let mut scene = Scene::new(RuleAction::Alert);
    for piece in whole.cut(&[8]) {
        assert_eq!(show(&mut scene, &piece), Fate::Passed);
    }
    assert_eq!(scene.counters().conflicts, 1);
}

#[test]
fn a_reset_by_fragments_is_told_with_the_next_segment() {
    let mut scene = Scene::connected(RuleAction::Reset);
    let whole = Piece::whole(false, TCP, &tcp(START, b"attack"));
    last_is_dropped(&mut scene, &whole.cut(&[8]));
    assert_eq!(scene.counters().resets, 1);
    assert_eq!(scene.show(&Segment::at(6, b"more")), Fate::Reset);
    assert_eq!(scene.show(&Segment::at(6, b"more")), Fate::Dropped);
    let mut later = Piece::whole(false, TCP, &tcp(START.wrapping_add(6), b"more"));
    later.id = 8;
    last_is_dropped(&mut scene, &later.cut(&[8]));
}

/// A flood displaces first what was judged; what is not whole and has to go counts as not judged.
#[test]
fn memory_is_bounded() {
    let caps = Caps {
        fragmented: 64,
        fragment_octets: 100_000,
        ..Caps::default()
    };
    let [head, tail] = halves(b"an attack, then more");
    let flood = |scene: &mut Scene, ids: core::ops::Range<u16>, pieces: &[Piece]| {
        for id in ids {
            for piece in pieces {
                let piece = Piece { id, ..piece.clone() };
                assert_eq!(show(scene, &piece), Fate::Passed);
            }
        }
    };
    let mut scene = Scene::with(RuleAction::Drop, caps);
    show(&mut scene, &head);
    flood(&mut scene, 100..1000, &halves(b"something harmless"));
    assert_eq!(scene.counters().fragments_evicted, 0);
    assert_eq!(show(&mut scene, &tail), Fate::Dropped);
    flood(&mut scene, 1000..2000, std::slice::from_ref(&head));
    assert_eq!(
        scene.counters().fragments_evicted,
        1000 - 63,
        "one place is the denied one's"
    );
    assert_eq!(scene.counters().failed_open, 1000 - 63);
    assert_eq!(show(&mut scene, &tail), Fate::Dropped, "still denied");
    let large = Piece::whole(false, UDP, &udp(&vec![b'.'; 60_000])).part(0, 50_000);
    flood(&mut scene, 3000..3010, &[large]);
    assert!(scene.counters().fragments_evicted > 1000 - 63 + 60);
}

fn found(pieces: &[Piece]) -> Vec<String> {
    let mut scene = Scene::new(RuleAction::Alert);
    for piece in pieces {
        assert_eq!(show(&mut scene, piece), Fate::Passed);
    }
    let counters = scene.counters();
    assert_eq!(
        (counters.conflicts, counters.failed_open, counters.reassembled),
        (0, 0, 1)
    );
    scene.matches()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_in_any_order_gives_the_same_findings(
        kind in 0usize..4,
        cuts in proptest::collection::vec(1usize..14, 0..14),
        swaps in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
        again in proptest::collection::vec((0usize..14, 1usize..14, any::<prop::sample::Index>()), 0..8),
    ) {
        let whole = &datagrams()[kind];
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut * 8).chain([48]).collect();
        let mut pieces = whole.cut(&cuts);
        // Overlaps that agree.
        for (start, len, place) in again {
            if start * 8 < whole.octets.len() {
                pieces.insert(place.index(pieces.len()), whole.part(start * 8, len * 8));
            }
        }
        for (one, other) in swaps {
            let (one, other) = (one.index(pieces.len()), other.index(pieces.len()));
            pieces.swap(one, other);
        }
        pieces.retain(|piece| piece.more || piece.start > 0);
        prop_assert_eq!(found(&pieces), BOTH);
        // Where it is to be dropped, a receiver never has it whole.
        let (mut scene, mut receiver) = (dropping(), Receiver::new(false));
        for piece in &pieces {
            if show(&mut scene, piece) == Fate::Passed {
                prop_assert_eq!(receiver.take(0, piece), None);
            }
        }
    }

    /// Whatever fragments come, no receiver has a datagram with an attack, whichever copies it keeps and whatever it misses.
    #[test]
    fn no_receiver_reads_an_attack(
        shown in proptest::collection::vec((0usize..5, prop::sample::select(&EIGHTHS), any::<bool>(), 0u8..8), 1..80),
        last in any::<bool>(),
    ) {
        let mut scene = dropping();
        let mut receivers: Vec<Receiver> = (0..2).map(|_| Receiver::new(last)).collect();
        for (start, eighth, more, odd) in shown {
            let octets = if start == 0 { UDP_HEADER.to_vec() } else { eighth.to_vec() };
            let piece = Piece {
                id: u16::from(odd & 1),
                start: start * 8,
                more: more || start == 0,
                octets,
                ..Piece::whole(false, UDP, b"")
            };
            if show(&mut scene, &piece) == Fate::Passed && odd < 6 {
                let read = receivers[usize::from(piece.id)].take(0, &piece);
                prop_assert!(!read.is_some_and(|octets| octets.windows(6).any(|window| window == b"attack")));
            }
        }
    }
}
