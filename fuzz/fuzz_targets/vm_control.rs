//! What a client of a machine's control socket sends.
#![no_main]

use enlight::vm_control::api::MAX_STOP_MS;
use enlight::vm_control::request::{Action, MAX_BODY, MAX_HEAD, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match parse(input) {
        Ok(None) => assert!(
            input.len() < MAX_HEAD + MAX_BODY,
            "the server's buffer is bounded"
        ),
        Ok(Some(Action::Stop(stop))) => assert!(stop.timeout_ms.is_none_or(|ms| ms <= MAX_STOP_MS)),
        Ok(Some(_)) => {}
        Err(refusal) => {
            assert!((400..500).contains(&refusal.status));
            assert!(
                !refusal.message.is_empty() && !refusal.message.contains(char::is_control),
                "{refusal:?}"
            );
        }
    }
    // A request is complete once, however its octets come: what is too short was not refused a moment ago.
    if let Some((_, shorter)) = input.split_last()
        && let Ok(Some(action)) = parse(shorter)
        && action != Action::Console
    {
        assert_eq!(parse(input), Ok(Some(action)));
    }
});
