use proptest::prelude::*;

use super::*;

fn one(rule: &str) -> Rule {
    let Import { mut rules, refused } = import(rule, &Variables::default());
    assert_eq!(refused, []);
    rules.pop().expect("a rule")
}

fn why_not(rule: &str) -> String {
    let Import { rules, mut refused } = import(rule, &Variables::default());
    assert_eq!(rules, []);
    refused.pop().expect("a refusal").reason
}

#[test]
fn what_can_be_said_here_is_taken() {
    let rule = one(
        r#"reject tcp $HOME_NET any -> 192.0.2.0/24 [80,8000:8100] (msg:"A \"bad\" thing"; flow:established,to_server; content:"GET |2f 61|\;\\b"; nocase; fast_pattern; content:"second"; pcre:"/ev[i1]l\/x/si"; classtype:misc; sid:42; rev:3;)"#,
    );
    assert_eq!(rule.name, "42 A \"bad\" thing");
    assert_eq!((rule.pattern.as_str(), rule.nocase), (r"GET \x2f\x61;\\b", true));
    assert_eq!((rule.from, rule.from_port), (None, None));
    assert_eq!(rule.to, Some("192.0.2.0/24".parse().expect("a prefix")));
    assert_eq!(
        rule.to_port.map(|ports| ports.to_string()).as_deref(),
        Some("80,8000-8100")
    );
    assert_eq!(
        (rule.towards, rule.action),
        (Some(Towards::Server), RuleAction::Reset)
    );
    let [second, third] = rule.also.as_slice() else {
        panic!("two more parts: {:?}", rule.also)
    };
    assert_eq!((second.pattern.as_str(), second.nocase), ("second", false));
    assert_eq!(
        (third.regex.as_deref(), third.nocase),
        (Some(r"(?s:ev[i1]l\/x)"), true)
    );
}

#[test]
fn either_direction_and_open_ranges() {
    let rule = one(r#"drop udp any any <> 2001:db8::1 :1024 (content:"x"; sid:1;)"#);
    assert_eq!(rule.address, Some("2001:db8::1".parse().expect("a prefix")));
    assert_eq!(
        rule.port.map(|ports| ports.to_string()).as_deref(),
        Some("1-1024")
    );
}

#[test]
fn lines_go_on_behind_a_backslash_and_are_counted() {
    let text = "# a comment\n\nalert tcp any any -> any any \\\n (content:\"a\"; \\\n sid:1;)\nalert http any any -> any any (content:\"b\"; sid:7;)\n";
    let Import { rules, refused } = import(text, &Variables::default());
    assert_eq!(rules.len(), 1);
    assert_eq!((refused[0].line, refused[0].sid.as_deref()), (6, Some("7")));
    assert!(refused[0].reason.contains("\"http\""));
}

#[test]
fn each_refusal_names_what_is_too_much() {
    let with = |options: &str| why_not(&format!("alert tcp any any -> any any ({options})"));
    for (options, needle) in [
        (r#"content:!"x"; sid:1;"#, "negated"),
        (r#"content:"x"; depth:4; sid:1;"#, "\"depth\""),
        (r#"content:"x"; http.uri; sid:1;"#, "\"http.uri\""),
        (r#"content:"x"; flow:no_stream; sid:1;"#, "flow:no_stream"),
        (r#"pcre:"/x/U"; sid:1;"#, "flag U"),
        (r#"pcre:"/^x/"; sid:1;"#, "^"),
        (r#"pcre:"/(x)\1/"; sid:1;"#, "octet"),
        (r#"content:"|4|"; sid:1;"#, "hexadecimal"),
        (r#"content:"|41"; sid:1;"#, "bar"),
        (r#"content:"x; sid:1;"#, "quotation mark"),
        (r#"content:"x"; sid:1"#, "semicolon"),
        (r#"content:""; sid:1;"#, "empty pattern"),
        ("nocase; sid:1;", "nocase"),
        ("sid:1;", "neither content nor pcre"),
    ] {
        let reason = with(options);
        assert!(reason.contains(needle), "{options}: {reason}");
    }
    for (rule, needle) in [
        ("alert tcp any any -> any any", "parentheses"),
        ("alert tcp any any -> any (sid:1;)", "6 words"),
        ("pass tcp any any -> any any (content:\"x\";)", "pass"),
        ("alert tcp !192.0.2.1 any -> any any (content:\"x\";)", "any"),
        ("alert tcp $X any -> any any (content:\"x\";)", "--var"),
        ("alert tcp any 99999 -> any any (content:\"x\";)", "ports"),
        ("alert tcp any 1 <> any 2 (content:\"x\";)", "both ends"),
        ("alert tcp any any => any any (content:\"x\";)", "direction"),
    ] {
        let reason = why_not(rule);
        assert!(reason.contains(needle), "{rule}: {reason}");
    }
}

proptest! {
    /// Whatever a file holds, each rule is taken or refused, in one line each, and what is taken compiles.
    #[test]
    fn nonsense_is_survived(text in "((alert|drop|pass) (tcp|udp|x) (any|[$!\\[]?[0-9.]{1,5}) any (->|<>) any (any|[0-9:]{1,3}) )?\\(?(content:\"[a-z|0-9\\\\\"]{0,6}\";|pcre:\"/.{0,6}/[a-z]?\";|[a-z]{1,3}:?;|.){0,6}\\)?") {
        let Import { rules, refused } = import(&text, &Variables::default());
        prop_assert!(RuleSet::compile(&rules).is_ok());
        for refusal in refused {
            prop_assert!(!refusal.reason.contains('\n') || refusal.reason.len() < 4000);
        }
    }
}
