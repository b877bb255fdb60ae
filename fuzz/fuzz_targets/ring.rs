//! Two rings in one guest's memory, whose contents, places and features are the fuzzer's, and any order of calls. So are
//! the contents of the memory that their chains in hand are written down in. Frames that leave the one are delivered to the other, so sender and receiver overlap, too.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use vswitch::frame::{BURST, Burst, MAX_FRAME};
use vswitch::ring::inflight::{Area, region_len};
use vswitch::ring::mock::{GUEST_BASE, MockGuest, USER_BASE};
use vswitch::ring::{Ring, RingAddresses, RingSetup, feature};

const MEMORY: usize = 0x8000;
const CALLS: usize = 200;
/// The largest queue that chains in hand are written down of.
const TRACKED: u16 = 256;

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
        // What a driver may ask for is read from its headers only if one of these was agreed on.
        let more = self.u8();
        let features = features
            | if more & 1 == 0 { 0 } else { feature::CSUM }
            | if more & 2 == 0 { 0 } else { feature::HASH_REPORT };
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

/// Memory for chains in hand of both rings, which the peer has filled.
fn area(input: &[u8]) -> &'static (Area, File) {
    static AREA: OnceLock<(Area, File)> = OnceLock::new();
    let both = AREA.get_or_init(|| Area::create(2, TRACKED, 2).expect("there is memory"));
    write_area(&both.1, input);
    both
}

/// Half of all inputs have the right version.
fn write_area(file: &File, input: &[u8]) {
    for (queue, offset) in [0, region_len(TRACKED)].into_iter().enumerate() {
        let octets = input.get(queue * 16..).unwrap_or_default();
        file.write_all_at(&octets[..octets.len().min(region_len(TRACKED) as usize)], offset)
            .expect("sealed size");
        if input.first().is_some_and(|first| first & 1 == 0) {
            file.write_all_at(&[1, 0], offset + 8).expect("sealed size");
        }
    }
}

fuzz_target!(|octets: &[u8]| {
    let mut input = Input(octets);
    let (tx, rx) = (input.setup(), input.setup());
    let tracks = input.u8();
    let calls = input.0.get(..input.0.len().min(CALLS)).unwrap_or_default();
    let guest = guest(input.0);
    let (Ok(mut tx), Ok(mut rx)) = (Ring::new(guest.memory(), &tx), Ring::new(guest.memory(), &rx)) else {
        return;
    };
    let (area, file) = area(input.0);
    for (index, ring) in [&mut tx, &mut rx].into_iter().enumerate() {
        if tracks & 1 << index != 0 {
            let region = area.region(index).expect("made for two");
            assert_eq!(ring.track(region).is_ok(), ring.size() <= TRACKED);
        }
    }
    let mut burst = Burst::default();
    for call in calls {
        match call % 14 {
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
            11 => write_area(file, &input.0[usize::from(*call).min(input.0.len())..]),
            12 if tx.outstanding() == 0 => {
                tx.untrack();
                rx.untrack();
            }
            _ if tx.outstanding() == 0 => {
                tx.discard(BURST);
            }
            _ => guest.store(GUEST_BASE + u64::from(*call) * 2, u16::from(*call)),
        }
    }
});
