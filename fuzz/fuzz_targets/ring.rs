//! Two rings in one guest's memory, whose contents, places and features are the fuzzer's, and any order of calls.
//! Frames that leave the one are delivered to the other, so sender and receiver overlap, too.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use vswitch::frame::{BURST, Burst, MAX_FRAME};
use vswitch::ring::mock::{GUEST_BASE, MockGuest, USER_BASE};
use vswitch::ring::{Ring, RingAddresses, RingSetup, feature};

const MEMORY: usize = 0x8000;
const CALLS: usize = 200;

/// Octets of the input, then zeroes.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn u8(&mut self) -> u8 {
        let (first, rest) = self
            .0
            .split_first()
            .map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn setup(&mut self) -> RingSetup {
        let flags = self.u8();
        let bit = |n: u8, feature: u64| if flags & 1 << n == 0 { 0 } else { feature };
        let features = bit(0, feature::INDIRECT_DESC)
            | bit(1, feature::EVENT_IDX)
            | bit(2, feature::MRG_RXBUF)
            | bit(3, feature::VERSION_1)
            | bit(4, feature::NOTIFY_ON_EMPTY)
            | bit(5, feature::RING_PACKED)
            | bit(6, feature::IN_ORDER);
        let mut place =
            || USER_BASE + u64::from(self.u16()) * if flags & 0x80 == 0 { 16 } else { 1 } % MEMORY as u64;
        let addresses = RingAddresses {
            descriptors: place(),
            available: place(),
            used: place(),
        };
        RingSetup {
            size: 1 << (self.u8() % 10),
            addresses,
            features,
            base: self.u16(),
        }
    }
}

/// The guest, with the rest of the input in its memory, descriptor addresses brought near to it.
fn guest(input: &[u8]) -> &'static Arc<MockGuest> {
    static GUEST: OnceLock<Arc<MockGuest>> = OnceLock::new();
    let guest = GUEST.get_or_init(|| MockGuest::new(MEMORY as u64));
    let mut memory = vec![0; MEMORY];
    if !input.is_empty() {
        for part in memory.chunks_mut(input.len()) {
            part.copy_from_slice(&input[..part.len()]);
        }
        // Every second descriptor's address gets the base, so that some lead somewhere.
        for descriptor in memory.chunks_exact_mut(32) {
            descriptor[3..8].copy_from_slice(&(GUEST_BASE >> 24).to_le_bytes()[..5]);
        }
    }
    guest.write(GUEST_BASE, &memory);
    guest
}

fuzz_target!(|octets: &[u8]| {
    let mut input = Input(octets);
    let (tx, rx) = (input.setup(), input.setup());
    let calls = input.0.get(..input.0.len().min(CALLS)).unwrap_or_default();
    let guest = guest(input.0);
    let (Ok(mut tx), Ok(mut rx)) = (Ring::new(guest.memory(), &tx), Ring::new(guest.memory(), &rx)) else {
        return;
    };
    let mut burst = Burst::default();
    for call in calls {
        match call % 12 {
            0..=3 => {
                let before = burst.frames().len();
                assert_eq!(tx.take(0, &mut burst), burst.frames().len() - before);
                assert!(burst.frames().len() <= BURST);
            }
            4..=6 => {
                for index in 0..burst.frames().len() {
                    let frame = burst.outgoing(index, 0).expect("a frame of the burst");
                    let tail: usize = frame.tail.iter().map(|segment| segment.len as usize).sum();
                    assert_eq!(frame.head.len() + tail, frame.len as usize);
                    assert!((14..=MAX_FRAME).contains(&(frame.len as usize)));
                    rx.deliver(&[frame]);
                }
            }
            7 => {
                tx.complete();
                assert_eq!(tx.outstanding(), 0);
                burst.clear();
            }
            8 => {
                tx.enable_notifications();
                rx.enable_room_notifications();
            }
            9 => {
                tx.disable_notifications();
                rx.disable_notifications();
            }
            10 => {
                tx.needs_notification();
                rx.needs_notification();
                let _ = tx.take_refused();
            }
            _ if tx.outstanding() == 0 => {
                tx.discard(BURST);
            }
            _ => guest.store(GUEST_BASE + u64::from(*call) * 2, u16::from(*call)),
        }
    }
});
