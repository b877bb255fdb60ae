//! The published cases, one by one.

use introspection::{Direction, RuleAction};
use offload::TcpFlags;

use crate::scene::{Fate, START, Scene, Segment};

const ACK: u8 = TcpFlags::ACK;

fn dropping() -> Scene {
    Scene::connected(RuleAction::Drop)
}

/// Insertion: the filter takes octets that the receiver does not (a bad checksum, a TTL that ends on the way, an old time stamp, a wrong MD5
/// option). The filter cannot know. It judged them, so they are what may stand there; the true ones contradict and do not pass.
#[test]
fn octets_that_the_receiver_will_refuse() {
    let mut scene = dropping();
    assert_eq!(scene.show(&Segment::at(0, b"at")), Fate::Passed);
    assert_eq!(
        scene.show(&Segment::at(2, b"XX")),
        Fate::Passed,
        "to be refused by the receiver"
    );
    assert_eq!(scene.show(&Segment::at(2, b"ta")), Fate::Dropped);
    assert_eq!(scene.show(&Segment::at(4, b"ck")), Fate::Passed);
    assert_eq!((scene.counters().conflicts, scene.counters().matches), (1, 0));
}

#[test]
fn data_with_the_syn_counts_from_behind_it() {
    let mut scene = Scene::new(RuleAction::Drop);
    let mut syn = Segment::at(0, b"att").flags(TcpFlags::SYN);
    syn.seq = START.wrapping_sub(1);
    assert_eq!(scene.show(&syn), Fate::Passed);
    assert_eq!(
        scene.show(&Segment::acknowledges(3).flags(TcpFlags::SYN | ACK)),
        Fate::Passed
    );
    assert_eq!(scene.show(&Segment::at(3, b"ack")), Fate::Dropped);
}

#[test]
fn a_second_syn_that_nobody_acknowledges_changes_nothing() {
    let mut scene = dropping();
    scene.show(&Segment::at(0, b"att"));
    let mut syn = Segment::at(0, b"").flags(TcpFlags::SYN);
    syn.seq = 77_777;
    assert_eq!(scene.show(&syn), Fate::Passed);
    assert_eq!(scene.show(&Segment::at(3, b"ack")), Fate::Dropped);
}

/// The receiver refuses a RST outside of its window, and one that never arrives ends nothing either.
#[test]
fn a_rst_ends_no_judging() {
    for seq in [START.wrapping_add(3), 12_345] {
        let mut scene = dropping();
        scene.show(&Segment::at(0, b"att"));
        let mut rst = Segment::at(0, b"").flags(TcpFlags::RST);
        rst.seq = seq;
        assert_eq!(scene.show(&rst), Fate::Passed);
        assert_eq!(scene.show(&Segment::at(3, b"ack")), Fate::Dropped);
    }
}

#[test]
fn a_fin_ends_no_judging_either() {
    for offset in [3, 500] {
        let mut scene = dropping();
        scene.show(&Segment::at(0, b"att"));
        assert_eq!(
            scene.show(&Segment::at(offset, b"").flags(TcpFlags::FIN | ACK)),
            Fate::Passed
        );
        assert_eq!(scene.show(&Segment::at(3, b"ack")), Fate::Dropped);
    }
}

#[test]
fn data_behind_a_gap_is_judged_when_the_gap_closes() {
    let mut scene = dropping();
    assert_eq!(scene.show(&Segment::at(3, b"ack")), Fate::Passed);
    assert_eq!(scene.show(&Segment::at(0, b"att")), Fate::Dropped);
    assert_eq!(
        scene.show(&Segment::at(0, b"att")),
        Fate::Dropped,
        "nor a second time"
    );
    assert_eq!(scene.show(&Segment::at(2, b"t")), Fate::Dropped, "nor in parts");
}

#[test]
fn overlaps_forwards_and_backwards_keep_the_first_copy() {
    let mut scene = dropping();
    scene.show(&Segment::at(0, b"atta"));
    assert_eq!(
        scene.show(&Segment::at(2, b"XXck")),
        Fate::Dropped,
        "it overlaps with other octets"
    );
    assert_eq!(
        scene.show(&Segment::at(2, b"tack")),
        Fate::Dropped,
        "it completes the match"
    );
    let mut scene = dropping();
    scene.show(&Segment::at(4, b"ck"));
    assert_eq!(
        scene.show(&Segment::at(0, b"attaXX")),
        Fate::Dropped,
        "early data was first"
    );
    assert_eq!(scene.show(&Segment::at(0, b"atta")), Fate::Dropped);
}

#[test]
fn a_keep_alive_with_an_octet_of_its_own_is_no_contradiction() {
    let mut scene = dropping();
    scene.show(&Segment::at(0, b"harmless"));
    scene.show(&Segment::acknowledges(8));
    assert_eq!(scene.show(&Segment::at(7, b"\0")), Fate::Passed);
    assert_eq!(scene.show(&Segment::at(8, b"attack")), Fate::Dropped);
    assert_eq!(scene.counters().conflicts, 0);
}

/// Far outside of every window nothing can be put in its place; it is judged by itself and counted.
#[test]
fn data_far_ahead_is_judged_by_itself() {
    let mut scene = dropping();
    scene.show(&Segment::at(0, b"."));
    assert_eq!(scene.show(&Segment::at(100_000_000, b"harmless")), Fate::Passed);
    assert_eq!(scene.show(&Segment::at(200_000_000, b"attack")), Fate::Dropped);
    assert_eq!(scene.counters().failed_open, 1);
}

#[test]
fn a_forged_acknowledgement_does_not_move_the_stream_past_a_match() {
    let mut scene = dropping();
    scene.show(&Segment::at(0, b"att"));
    // The guest's own forgery goes the guest's way and is of another flow: it acknowledges nothing of its own octets.
    let mut forged = Segment::acknowledges(1000);
    forged.direction = Direction::Tx;
    forged.ack = START.wrapping_add(1000);
    scene.show(&forged);
    assert_eq!(scene.show(&Segment::at(3, b"ack")), Fate::Dropped);
}

#[test]
fn urgent_and_odd_flags_change_nothing() {
    for flags in [
        ACK | 0x20,
        ACK | TcpFlags::PSH,
        0,
        !(TcpFlags::SYN | TcpFlags::RST),
    ] {
        let mut scene = dropping();
        scene.show(&Segment::at(0, b"att").flags(flags));
        assert_eq!(
            scene.show(&Segment::at(3, b"ack").flags(flags)),
            Fate::Dropped,
            "{flags:#x}"
        );
    }
}

#[test]
fn a_reset_flow_stays_so_until_a_new_connection() {
    let mut scene = Scene::connected(RuleAction::Reset);
    assert_eq!(scene.show(&Segment::at(0, b"attack")), Fate::Reset);
    assert_eq!(scene.show(&Segment::at(6, b"more")), Fate::Dropped);
    assert_eq!(scene.show(&Segment::acknowledges(0)), Fate::Dropped);
    let mut syn = Segment::at(0, b"").flags(TcpFlags::SYN);
    syn.seq = 1_000_000;
    assert_eq!(scene.show(&syn), Fate::Passed);
}
