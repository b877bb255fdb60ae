//! Rules for one VLAN, shown what is tagged.

use std::sync::Arc;

use introspection::{Caps, Direction, Rule, RuleAction, RuleSet};

use crate::packets::{Piece, TCP, UDP, tcp, udp};
use crate::scene::{Fate, START, Scene};

/// With a rule that drops `attack` on this VLAN.
fn scene(vlan: u16) -> Scene {
    let rule = Rule {
        name: "scoped".to_owned(),
        pattern: "attack".to_owned(),
        action: RuleAction::Drop,
        vlan: Some(vlan),
        ..Rule::default()
    };
    Scene::of(
        Arc::new(RuleSet::compile(&[rule]).expect("a good rule")),
        Caps::default(),
    )
}

/// What becomes of `attack` in two segments and in a datagram, with this tag.
fn fates(scene: &mut Scene, tag: Option<u16>) -> [Fate; 3] {
    let datagrams = [
        (TCP, tcp(START, b"att")),
        (TCP, tcp(START.wrapping_add(3), b"ack")),
        (UDP, udp(b"attack")),
    ];
    datagrams.map(|(protocol, octets)| {
        let mut frame = Piece::whole(false, protocol, &octets);
        frame.vlan = tag;
        scene.show_frame(Direction::Tx, &frame.frame())
    })
}

#[test]
fn a_rule_for_a_vlan_matches_flows_with_its_tag_only() {
    const MATCHES: [Fate; 3] = [Fate::Passed, Fate::Dropped, Fate::Dropped];
    const PASSES: [Fate; 3] = [Fate::Passed; 3];
    // A tag's first four bits are its priority and say nothing of the VLAN.
    for (vlan, tag, expected) in [
        (5, Some(5), MATCHES),
        (5, Some(0xe005), MATCHES),
        (4094, Some(4094), MATCHES),
        (5, Some(6), PASSES),
        (5, None, PASSES),
        (0, None, MATCHES),
        (0, Some(5), PASSES),
    ] {
        let mut scene = scene(vlan);
        assert_eq!(fates(&mut scene, tag), expected, "{vlan} {tag:?}");
        let found = expected.iter().filter(|fate| **fate == Fate::Dropped).count();
        assert_eq!(scene.matches(), vec!["scoped"; found]);
    }
}

/// The same addresses and ports on two VLANs are two flows: what passes on one is no beginning of a match on the other.
#[test]
fn flows_of_two_vlans_are_not_one() {
    let mut scene = scene(5);
    assert_eq!(fates(&mut scene, Some(6)), [Fate::Passed; 3]);
    let mut rest = Piece::whole(false, TCP, &tcp(START.wrapping_add(3), b"ack"));
    rest.vlan = Some(5);
    assert_eq!(scene.show_frame(Direction::Tx, &rest.frame()), Fate::Passed);
    assert!(scene.matches().is_empty());
}
