use super::*;
use crate::testing::{Segment, udp};

fn rule(name: &str, pattern: &str, action: RuleAction) -> Rule {
    Rule {
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        protocol: RuleProtocol::Any,
        port: None,
        action,
    }
}

fn tcp_flow() -> FlowKey {
    FlowKey::of(&Segment::tx().meta(), Direction::Tx).expect("TCP")
}

fn found(set: &RuleSet, flow: &FlowKey, octets: &[u8]) -> (Vec<String>, Scanned) {
    let mut names = Vec::new();
    let mut state = set.start();
    let scanned = set.scan(flow, &mut state, octets, |name, _| names.push(name.to_string()));
    (names, scanned)
}

#[test]
fn a_rules_file_reads_as_documented() {
    let text = "
        [[rule]]
        name = \"eicar\"
        pattern = 'X5O!P%@AP\\x5b4'
        protocol = \"tcp\"
        port = 80
        action = \"reset\"
        [[rule]]
        name = \"any\"
        pattern = \"abc\"
        action = \"alert\"
    ";
    let file: RuleFile = toml::from_str(text).expect("well-formed");
    assert_eq!(file.rule[0].port, Some(80));
    assert_eq!(file.rule[0].action, RuleAction::Reset);
    assert_eq!(file.rule[1].protocol, RuleProtocol::Any);
    assert_eq!(
        toml::from_str::<RuleFile>(&toml::to_string(&file).expect("writes")).as_ref(),
        Ok(&file)
    );
    assert!(
        toml::from_str::<RuleFile>("[[rule]]\nname='a'\npattern='b'\naction='alert'\ncolour='red'").is_err()
    );
    assert!(toml::from_str::<RuleFile>("[[rule]]\nname='a'\npattern='b'\naction='explode'").is_err());
}

#[test]
fn escapes() {
    assert_eq!(
        escape::octets(r"a\x00\xfF\\\n\r\t\0z").as_deref(),
        Ok(&b"a\x00\xff\\\n\r\t\0z"[..])
    );
    for (text, offset) in [
        (r"ab\q", 2),
        (r"\x1", 0),
        (r"\\\xg0", 2),
        ("end\\", 3),
        (r"\x+1", 0),
    ] {
        assert_eq!(escape::octets(text), Err(offset), "{text}");
    }
}

#[test]
fn bad_rules_are_refused_by_name() {
    let name = || "bad".to_owned();
    let long = "x".repeat(MAX_PATTERN + 1);
    let with = |change: &dyn Fn(&mut Rule)| {
        let mut bad = rule("bad", "x", RuleAction::Reset);
        change(&mut bad);
        RuleSet::compile(&[rule("good", "y", RuleAction::Alert), bad]).expect_err("bad")
    };
    assert_eq!(
        with(&|bad| bad.pattern.clear()),
        RuleError::EmptyPattern { name: name() }
    );
    assert_eq!(
        with(&|bad| bad.pattern = r"a\z".to_owned()),
        RuleError::BadEscape {
            name: name(),
            offset: 1
        }
    );
    assert_eq!(
        with(&|bad| bad.pattern.clone_from(&long)),
        RuleError::PatternTooLong {
            name: name(),
            len: 1025
        }
    );
    assert_eq!(
        with(&|bad| bad.protocol = RuleProtocol::Udp),
        RuleError::ResetOfUdp { name: name() }
    );
    assert_eq!(
        with(&|bad| bad.port = Some(0)),
        RuleError::PortZero { name: name() }
    );
    assert_eq!(
        with(&|bad| bad.name = "good".to_owned()),
        RuleError::DuplicateName {
            name: "good".to_owned()
        }
    );
    for unnamed in [String::new(), "a\nb".to_owned(), "x".repeat(65)] {
        assert_eq!(
            with(&|bad| bad.name.clone_from(&unnamed)),
            RuleError::BadName { number: 2 }
        );
    }
}

#[test]
fn sets_have_limits() {
    let many: Vec<Rule> = (0..=MAX_RULES)
        .map(|n| rule(&n.to_string(), "x", RuleAction::Alert))
        .collect();
    assert_eq!(
        RuleSet::compile(&many).expect_err("too many"),
        RuleError::TooMany { count: 4097 }
    );
    let long: Vec<Rule> = (0..257)
        .map(|n| rule(&n.to_string(), &"x".repeat(MAX_PATTERN), RuleAction::Alert))
        .collect();
    assert_eq!(
        RuleSet::compile(&long).expect_err("too long"),
        RuleError::PatternsTooLong {
            name: "256".to_owned(),
            len: 257 * 1024
        }
    );
    assert!(RuleSet::compile(&[]).expect("empty").is_empty());
}

#[test]
fn overlapping_matches_are_all_found_by_both_automata() {
    let mut rules = vec![
        rule("he", "he", RuleAction::Alert),
        rule("she", "she", RuleAction::Alert),
        rule("hers", "hers", RuleAction::Alert),
        rule("again", "he", RuleAction::Alert),
    ];
    for padding in 0..2 {
        let set = RuleSet::compile(&rules).expect("good");
        assert_eq!(set.machine.kind_name(), if padding == 0 { "dfa" } else { "nfa" });
        let (mut names, scanned) = found(&set, &tcp_flow(), b"ushers");
        names.sort();
        assert_eq!(names, ["again", "he", "hers", "she"]);
        assert_eq!(scanned.octets, 6);
        let filler = (0..5).map(|n| rule(&format!("filler {n}"), &"#".repeat(900 + n), RuleAction::Alert));
        rules.extend(filler);
    }
}

#[test]
fn a_scan_stops_behind_a_denied_match_and_the_hardest_action_wins() {
    let rules = [
        rule("drop", "bad", RuleAction::Drop),
        rule("reset", "ad", RuleAction::Reset),
        rule("later", "zz", RuleAction::Alert),
    ];
    let set = RuleSet::compile(&rules).expect("good");
    let (names, scanned) = found(&set, &tcp_flow(), b"..bad..zz");
    assert_eq!(names.len(), 2);
    assert_eq!(
        scanned,
        Scanned {
            octets: 5,
            verdict: Verdict::Reset
        }
    );
}

#[test]
fn a_rule_keeps_to_its_protocol_and_port() {
    let mut tcp_only = rule("tcp", "x", RuleAction::Alert);
    tcp_only.protocol = RuleProtocol::Tcp;
    let mut port = rule("port", "x", RuleAction::Alert);
    port.port = Some(53);
    let set = RuleSet::compile(&[tcp_only, port]).expect("good");
    let datagram = FlowKey::of(&udp(b"x"), Direction::Tx).expect("UDP");
    assert!(set.concerns(&tcp_flow()) && set.concerns(&datagram));
    assert_eq!(found(&set, &tcp_flow(), b"x").0, ["tcp"]);
    assert_eq!(found(&set, &datagram, b"x").0, ["port"]);
    let mut elsewhere = datagram;
    elsewhere.remote.port = 54;
    assert!(!set.concerns(&elsewhere));
}
