//! One connection's segments in any order, cut, overlapped and repeated: no receiver reads what a rule forbids, and memory is bounded.
#![no_main]

use introspection::RuleAction;
use libfuzzer_sys::fuzz_target;
use scene::{Fate, Scene, Segment};

#[path = "../../introspection/tests/evasion/scene.rs"]
#[allow(dead_code)]
mod scene;

const LEN: usize = 128;

fuzz_target!(|script: &[u8]| {
    let mut scene = Scene::connected(RuleAction::Drop);
    let mut first = [None; LEN];
    let mut script = script.iter().copied();
    while let Some(step) = script.next() {
        let at = usize::from(step) % (LEN - 16);
        let len = usize::from(script.next().unwrap_or(0)) % 16;
        if step & 128 != 0 {
            // The receiver acknowledges what it has read.
            let read = first.iter().take_while(|octet: &&Option<u8>| octet.is_some()).count();
            scene.show(&Segment::acknowledges(read));
            continue;
        }
        let payload: Vec<u8> = (0..len)
            .map_while(|_| Some(b"attck"[usize::from(script.next()?) % 5]))
            .collect();
        if scene.show(&Segment::at(at, &payload)) == Fate::Passed {
            for (place, octet) in (at..).zip(payload) {
                first[place].get_or_insert(octet);
            }
        }
    }
    let read: Vec<u8> = first.iter().map_while(|octet| *octet).collect();
    assert!(!read.windows(6).any(|window| window == b"attack"));
});
