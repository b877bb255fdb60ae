//! Control commands of a guest, one after the other, and what they mean for frames.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offload::MacAddr;
use offload::rss::HashReport;
use vswitch::net_control::{Command, Limits, decode, feature};
use vswitch::port::receive::ReceivePolicy;
use vswitch::vlan::TagForm;

fuzz_target!(|input: &[u8]| {
    let Some(([pairs, a, b, c], mut rest)) = input.split_first_chunk() else {
        return;
    };
    let features = u64::from_le_bytes([*a, 0, *b, 0, 0, 0, 0xc0, 0x12 & c]);
    let limits = Limits {
        features,
        queue_pairs: u16::from(pairs % 16) + 1,
    };
    let mut policy = ReceivePolicy::new(features);
    while let Some(([low, high], after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([*low, high & 1])).min(after.len());
        let (command, after) = after.split_at(len);
        rest = after;
        match decode(command, limits) {
            Ok(command) => {
                if let Command::GuestOffloads(offloads) = command {
                    assert_eq!(offloads & !(features & feature::GUEST_OFFLOADS), 0);
                }
                policy.apply(command);
            }
            Err(error) => assert!(!error.to_string().is_empty() && error.label().starts_with("control_")),
        }
        let frame = command.get(..60).unwrap_or(command);
        let Ok(meta) = offload::parse(frame, frame.len()) else {
            continue;
        };
        let takes = policy.takes(meta.dst, TagForm::Tagged(u16::from(*low)));
        assert!(takes || policy.is_selective());
        let _ = policy.takes(MacAddr::BROADCAST, TagForm::Untagged);
        let (hash, report) = policy.hash(&meta, frame).unwrap_or((0, HashReport::None));
        assert!(
            policy
                .queue_pair(hash, report)
                .is_none_or(|pair| pair < limits.queue_pairs)
        );
    }
});
