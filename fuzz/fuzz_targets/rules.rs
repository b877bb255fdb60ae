//! Files given as rules: what is refused is refused in one line with its place, and what is taken survives being written down.
#![no_main]

use std::path::Path;

use enlight::config::parse_rules;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &str| {
    match parse_rules(file, Path::new("rules.toml")) {
        Ok(rules) => {
            let written = toml::to_string(&rules).expect("rules can be written");
            let again = parse_rules(&written, Path::new("rules.toml")).expect("and read again");
            assert_eq!(again, rules);
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("rules.toml:"), "{error}");
        }
    }
});
