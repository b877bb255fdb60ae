//! Files given as Suricata's rules: each rule is taken or refused, and what is taken can be used.
#![no_main]

use introspection::RuleSet;
use introspection::rules::suricata::{Variables, import};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &str| {
    let done = import(file, &Variables::default());
    let lines = file.lines().count();
    assert!(done.rules.len() + done.refused.len() <= lines);
    assert!(done.refused.iter().all(|refused| (1..=lines).contains(&refused.line)));
    for rule in done.rules {
        RuleSet::compile(&[rule]).expect("what is taken can be used");
    }
});
