//! Files given as older results of the latency benchmark: taken or refused in a line, and compared without harm.
#![no_main]

use enlight::bench::compare::{compare, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| match parse(file) {
    Ok(old) => {
        let comparison = compare(&old, &old);
        assert!(comparison.differs.is_empty(), "a run has its own set-up");
        assert!(!comparison.old_date.contains(char::is_control));
    }
    Err(error) => {
        let line = error.to_string();
        assert!(!line.is_empty() && !line.contains(char::is_control), "{line:?}");
    }
});
