//! Selective acknowledgements (RFC 2018), which a filter does not look at: a receiver may take back what it selected and read another
//! copy of it, so that only a cumulative acknowledgement says what can no longer be replaced.

use introspection::{Direction, RuleAction};

use crate::packets::{Piece, TCP, tcp};
use crate::scene::{Fate, START, Scene, Segment};

/// The receiver's: it has everything before `before`, and these octets, too.
fn acknowledgement(before: usize, blocks: &[[usize; 2]]) -> Vec<u8> {
    let place = |at: usize| START.wrapping_add(at as u32).to_be_bytes();
    let mut segment = tcp(1, b"");
    segment[8..12].copy_from_slice(&place(before));
    segment[..4].rotate_left(2);
    if !blocks.is_empty() {
        segment.extend([1, 1, 5, blocks.len() as u8 * 8 + 2]);
        segment.extend(blocks.as_flattened().iter().flat_map(|at| place(*at)));
        segment[12] = (segment.len() as u8 / 4) << 4;
    }
    let mut frame = Piece::whole(false, TCP, &segment).frame();
    frame[26..34].rotate_left(4);
    frame
}

fn acknowledge(scene: &mut Scene, before: usize, blocks: &[[usize; 2]]) {
    let frame = acknowledgement(before, blocks);
    assert_eq!(scene.show_frame(Direction::Rx, &frame), Fate::Passed);
}

#[test]
fn what_was_selected_can_still_complete_a_match() {
    for (before, blocks, expected) in [
        (0, &[[3, 6]][..], Fate::Dropped),
        (0, &[[3, 6], [8, 9], [100, 200]], Fate::Dropped),
        (0, &[[0, 6]], Fate::Dropped),
        // Cumulatively, by way of contrast: the receiver has read it, so it is not what this fills the place of.
        (6, &[], Fate::Passed),
    ] {
        let mut scene = Scene::connected(RuleAction::Drop);
        assert_eq!(scene.show(&Segment::at(3, b"ack")), Fate::Passed);
        acknowledge(&mut scene, before, blocks);
        assert_eq!(
            scene.show(&Segment::at(0, b"att")),
            expected,
            "{before} {blocks:?}"
        );
    }
}

#[test]
fn what_was_selected_cannot_be_replaced_yet() {
    for (before, blocks, expected) in [
        (0, &[][..], Fate::Dropped),
        (0, &[[0, 8]], Fate::Dropped),
        (4, &[[4, 8]], Fate::Dropped),
        // A block below the acknowledgement tells of a repetition (RFC 2883).
        (4, &[[0, 4], [4, 8]], Fate::Dropped),
        (8, &[], Fate::Passed),
        (8, &[[4, 8]], Fate::Passed),
    ] {
        let mut scene = Scene::connected(RuleAction::Drop);
        assert_eq!(scene.show(&Segment::at(0, b"harmless")), Fate::Passed);
        acknowledge(&mut scene, before, blocks);
        assert_eq!(
            scene.show(&Segment::at(4, b"XXXX")),
            expected,
            "{before} {blocks:?}"
        );
        let conflicts = u64::from(expected == Fate::Dropped);
        assert_eq!(scene.counters().conflicts, conflicts);
    }
}

#[test]
fn what_was_denied_stays_so_whatever_is_selected() {
    let mut scene = Scene::connected(RuleAction::Drop);
    scene.show(&Segment::at(0, b"att"));
    assert_eq!(scene.show(&Segment::at(3, b"ack")), Fate::Dropped);
    assert_eq!(scene.show(&Segment::at(6, b"more")), Fate::Passed);
    // The receiver cannot have what it did not get; who says so is heard no more than who tells the truth.
    for blocks in [&[[6, 10]][..], &[[3, 10]]] {
        acknowledge(&mut scene, 3, blocks);
        assert_eq!(scene.show(&Segment::at(3, b"ack")), Fate::Dropped);
        assert_eq!(scene.show(&Segment::at(2, b"tack")), Fate::Dropped);
    }
}
