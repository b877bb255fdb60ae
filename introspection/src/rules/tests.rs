use proptest::prelude::*;

use super::*;
use crate::testing::{Segment, udp};

fn rule(name: &str, pattern: &str, action: RuleAction) -> Rule {
    Rule {
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        action,
        ..Rule::default()
    }
}

fn tcp_flow() -> FlowKey {
    FlowKey::of(&Segment::tx().meta(), Direction::Tx).expect("TCP")
}

fn place(flow: &FlowKey) -> Place<'_> {
    Place {
        flow,
        direction: Direction::Tx,
        client: Direction::Tx,
    }
}

fn found(set: &RuleSet, flow: &FlowKey, octets: &[u8]) -> (Vec<String>, Scanned) {
    let mut names = Vec::new();
    let mut state = set.start();
    let scanned = set.scan(place(flow), &mut state, octets, |rule| {
        names.push(rule.name.to_string());
    });
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
    assert_eq!(file.rule[0].port, Some(80.into()));
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
        with(&|bad| bad.port = Some(0.into())),
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
fn overlapping_matches_are_all_found() {
    let rules = [
        rule("he", "he", RuleAction::Alert),
        rule("she", "she", RuleAction::Alert),
        rule("hers", "hers", RuleAction::Alert),
        rule("again", "he", RuleAction::Alert),
    ];
    let set = RuleSet::compile(&rules).expect("good");
    let (mut names, scanned) = found(&set, &tcp_flow(), b"ushers");
    names.sort();
    assert_eq!(names, ["again", "he", "hers", "she"]);
    assert_eq!(scanned.octets, 6);
}

#[test]
fn long_sets_become_the_smaller_automaton() {
    let long = vec![b'#'; 900];
    for (count, kind) in [
        (18, aho_corasick::AhoCorasickKind::DFA),
        (19, aho_corasick::AhoCorasickKind::ContiguousNFA),
    ] {
        let patterns: Vec<(u32, &[u8])> = (0..count).map(|number| (number, long.as_slice())).collect();
        let literals = literal::Literals::new(&patterns, false).expect("good");
        assert_eq!(literals.kind(), kind);
    }
}

#[test]
fn case_is_told_apart_by_pattern() {
    let mut either = rule("either", "AbC-not-so-short", RuleAction::Alert);
    either.nocase = true;
    let exact = rule("exact", "AbC-not-so-short", RuleAction::Alert);
    let mut regex = rule("regex", "", RuleAction::Alert);
    (regex.regex, regex.nocase) = (Some("abc-not-[a-z]{2}-short".to_owned()), true);
    let set = RuleSet::compile(&[either, exact, regex]).expect("good");
    let names = |octets| {
        let (mut names, _) = found(&set, &tcp_flow(), octets);
        names.sort();
        names
    };
    assert_eq!(names(b"..AbC-not-so-short.."), ["either", "exact", "regex"]);
    assert_eq!(names(b"..aBC-NOT-SO-SHORT.."), ["either", "regex"]);
    assert_eq!(names(b"..aBC-NOT-S0-SHORT.."), [""; 0]);
}

fn regex(name: &str, text: &str) -> Rule {
    Rule {
        regex: Some(text.to_owned()),
        ..rule(name, "", RuleAction::Alert)
    }
}

#[test]
fn an_expression_is_told_where_it_ends_and_once() {
    let set = RuleSet::compile(&[regex("a", "xa+"), regex("b", "y.z")]).expect("good");
    let mut state = set.start();
    let flow = tcp_flow();
    let mut told = Vec::new();
    for (part, expected) in [
        ("..x", vec![]),
        ("a", vec!["a"]),
        ("aa", vec![]),
        ("y\r", vec![]),
        ("z", vec!["b"]),
        ("xa", vec!["a"]),
    ] {
        told.clear();
        let octets = part.replace("\\r", "\r");
        set.scan(place(&flow), &mut state, octets.as_bytes(), |rule| {
            told.push(rule.name.to_string());
        });
        assert_eq!(told, expected, "{part}");
    }
}

#[test]
fn expressions_that_cannot_be_are_refused_with_their_place() {
    for (text, key) in [("^GET", "^"), ("end$", "$"), (r"\bword", "\\b")] {
        let error = RuleSet::compile(&[regex("r", text)]).expect_err("anchored");
        assert!(
            matches!(error, RuleError::Anchored { look, .. } if look == key),
            "{error}"
        );
        assert_eq!(error.place(), Some((FaultyRule::Name("r"), "regex")));
    }
    let error = RuleSet::compile(&[regex("r", "ab(c")]).expect_err("unclosed");
    assert!(
        matches!(error, RuleError::BadExpression { offset: 2, .. }),
        "{error}"
    );
    for text in ["a*", "", "(?:)"] {
        assert!(
            matches!(
                RuleSet::compile(&[regex("r", text)]),
                Err(RuleError::EmptyPattern { .. })
            ),
            "{text}"
        );
    }
    for text in [
        "[ab].{40}c.{40}[ab].{30}d".to_owned(),
        "x".repeat(MAX_EXPRESSION + 1),
        "(?:a{900}){900}".to_owned(),
    ] {
        assert!(
            matches!(
                RuleSet::compile(&[regex("r", &text)]),
                Err(RuleError::ExpressionTooLarge { .. })
            ),
            "{text}"
        );
    }
    let many: Vec<Rule> = (0..=MAX_EXPRESSIONS)
        .map(|n| regex(&n.to_string(), "abcd"))
        .collect();
    assert!(matches!(RuleSet::compile(&many), Err(RuleError::TooManyExpressions { name }) if name == "256"));
}

#[test]
fn a_rule_of_several_parts_waits_for_all_of_them() {
    let mut all = rule("all", "first part", RuleAction::Drop);
    all.regex = Some("sec[o0]nd".to_owned());
    all.also = vec![RulePart {
        pattern: "THIRD".to_owned(),
        nocase: true,
        ..RulePart::default()
    }];
    let set = RuleSet::compile(&[all]).expect("good");
    let mut state = set.start();
    let mut matches = 0;
    let flow = tcp_flow();
    let mut scan = |octets: &str| {
        set.scan(place(&flow), &mut state, octets.as_bytes(), |_| matches += 1)
            .octets
    };
    assert_eq!(scan("third"), 5);
    assert_eq!(scan("..sec0nd..first par"), 19);
    assert_eq!(scan("t and more"), 1);
    assert_eq!(scan(" and more, second"), 17);
    // In one piece it does not matter which part comes last.
    assert_eq!(scan(" third first part."), 6);
    assert_eq!(matches, 2);
}

#[test]
fn a_rule_keeps_to_its_scope() {
    let scoped = |change: &dyn Fn(&mut Rule)| {
        let mut scoped = rule("scoped", "x", RuleAction::Alert);
        change(&mut scoped);
        let set = RuleSet::compile(&[scoped]).expect("good");
        let flow = tcp_flow(); // 192.0.2.1:4000 to 192.0.2.2:80
        [Direction::Tx, Direction::Rx].map(|direction| {
            let client = Direction::Tx;
            set.concerns(Place {
                flow: &flow,
                direction,
                client,
            })
        })
    };
    let prefix = |text: &str| Some(text.parse().expect("a prefix"));
    let ports = |text: &str| Some(text.parse().expect("ports"));
    assert_eq!(scoped(&|rule| rule.address = prefix("192.0.2.2")), [true, true]);
    assert_eq!(
        scoped(&|rule| rule.address = prefix("2001:db8::/32")),
        [false, false]
    );
    assert_eq!(scoped(&|rule| rule.from = prefix("192.0.2.1")), [true, false]);
    assert_eq!(scoped(&|rule| rule.to = prefix("192.0.2.1")), [false, true]);
    assert_eq!(scoped(&|rule| rule.from_port = ports("1-100")), [false, true]);
    assert_eq!(scoped(&|rule| rule.to_port = ports("1-100")), [true, false]);
    assert_eq!(scoped(&|rule| rule.port = ports("9,4000-4001")), [true, true]);
    assert_eq!(scoped(&|rule| rule.vlan = Some(0)), [true, true]);
    assert_eq!(scoped(&|rule| rule.vlan = Some(7)), [false, false]);
    assert_eq!(
        scoped(&|rule| rule.direction = Some(Direction::Rx)),
        [false, true]
    );
    assert_eq!(
        scoped(&|rule| rule.towards = Some(Towards::Client)),
        [false, true]
    );
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
            verdict: Verdict::Reset,
            forgot: false
        }
    );
}

#[test]
fn a_rule_keeps_to_its_protocol_and_port() {
    let mut tcp_only = rule("tcp", "x", RuleAction::Alert);
    tcp_only.protocol = RuleProtocol::Tcp;
    let mut port = rule("port", "x", RuleAction::Alert);
    port.port = Some(53.into());
    let set = RuleSet::compile(&[tcp_only, port]).expect("good");
    let datagram = FlowKey::of(&udp(b"x"), Direction::Tx).expect("UDP");
    assert!(set.concerns(place(&tcp_flow())) && set.concerns(place(&datagram)));
    assert_eq!(found(&set, &tcp_flow(), b"x").0, ["tcp"]);
    assert_eq!(found(&set, &datagram, b"x").0, ["port"]);
    let mut elsewhere = datagram;
    elsewhere.remote.port = 54;
    assert!(!set.concerns(place(&elsewhere)));
}

const PATTERNS: [&str; 7] = [
    "pattern-one",
    "needle",
    "tern-one",
    "aaaaaaaa",
    "ne",
    "abcdefghabcdefgh",
    "o.o",
];

/// Literals of all kinds, and expressions that let text be skipped and that do not.
static MIXED: std::sync::LazyLock<RuleSet> = std::sync::LazyLock::new(|| {
    let mut rules = PATTERNS
        .map(|pattern| rule(pattern, pattern, RuleAction::Alert))
        .to_vec();
    rules.push(Rule {
        nocase: true,
        ..rule("nocase", "pattern-one", RuleAction::Alert)
    });
    rules.push(regex("regex", "(?:pattern|abcd)[^.]{1,6}[0-9]"));
    rules.push(regex("slow", "[0-9]+x"));
    RuleSet::compile(&rules).expect("good")
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// However a text is cut, what is found is what a search of the whole text finds.
    #[test]
    fn cuts_do_not_matter(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "pattern-one", "PATTERN-ONE", "pattern-", "tern", "o", "needle", "xneed", "lexyz", "aaaaaaaaaaaa", "abcdefgh", ".", "12345",
        ]), 0..40),
        cuts in proptest::collection::vec(0usize..40, 0..12),
    ) {
        let set = &*MIXED;
        let text = words.concat();
        let octets = text.as_bytes();
        let mut expected = std::collections::BTreeMap::new();
        for end in 0..=octets.len() {
            let ends = |pattern: &str| octets[..end].ends_with(pattern.as_bytes());
            for pattern in PATTERNS.iter().filter(|pattern| ends(pattern)) {
                *expected.entry((*pattern).to_owned()).or_insert(0) += 1;
            }
            if octets[..end].to_ascii_lowercase().ends_with(b"pattern-one") {
                *expected.entry("nocase".to_owned()).or_insert(0) += 1;
            }
        }
        let flow = tcp_flow();
        let count = |pieces: &[&[u8]]| {
            let mut found = std::collections::BTreeMap::new();
            let mut state = set.start();
            for piece in pieces {
                set.scan(place(&flow), &mut state, piece, |rule| *found.entry(rule.name.to_string()).or_insert(0) += 1);
            }
            found
        };
        let mut pieces = Vec::new();
        let mut rest = octets;
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
        let found = count(&pieces);
        let single: Vec<&[u8]> = octets.chunks(1).collect();
        prop_assert_eq!(&found, &count(&[octets]));
        let mut whole = std::collections::BTreeMap::new();
        set.scan_whole(place(&flow), &mut Seen::new(), octets, |rule| *whole.entry(rule.name.to_string()).or_insert(0) += 1);
        prop_assert_eq!(&found, &whole);
        prop_assert_eq!(&found, &count(&single));
        let literals: std::collections::BTreeMap<String, i32> =
            found.into_iter().filter(|(name, _)| name != "regex" && name != "slow").collect();
        prop_assert_eq!(literals, expected);
    }
}
