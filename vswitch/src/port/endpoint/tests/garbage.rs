//! Whatever comes in, an endpoint neither panics nor stops serving.

use proptest::prelude::*;

use super::*;

/// Frames that mean something, to be damaged: ARP, and TCP with a SYN to the echo port.
fn seed(kind: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&MAC_A.0);
    frame.extend_from_slice(&MAC_B.0);
    match kind % 4 {
        0 => {
            frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend_from_slice(&MAC_B.0);
            frame.extend_from_slice(&[192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
        }
        1 => {
            // A SYN with options: maximum segment size, window scale, selective acknowledgement, time stamps.
            frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 60, 0, 1, 0, 0, 64, 6, 0xf6, 0xb9]);
            frame.extend_from_slice(&[192, 0, 2, 2, 192, 0, 2, 1]);
            frame.extend_from_slice(&[
                0x9c, 0x40, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 2, 4, 0, 0, 0, 0, 0,
            ]);
            frame.extend_from_slice(&[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
        }
        2 => {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
            frame.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            frame.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend_from_slice(&[135, 0, 0, 0, 0, 0, 0, 0]);
            frame.extend_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        }
        _ => {
            frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0xf6, 0xca]);
            frame.extend_from_slice(&[192, 0, 2, 2, 192, 0, 2, 1]);
            frame.extend_from_slice(&[0x9c, 0x40, 0, 7, 0, 12, 0, 0, 1, 2, 3, 4]);
        }
    }
    frame
}

fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    (any::<u8>(), prop::collection::vec(change, 0..4), 0..80_usize).prop_map(|(kind, changes, cut)| {
        let mut frame = seed(kind);
        for (place, value) in changes {
            let place = place.index(frame.len());
            frame[place] = value;
        }
        frame.truncate(frame.len().saturating_sub(cut.saturating_sub(60)));
        frame
    })
}

fn random() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

/// Puts a good IPv4 header checksum in, so that damage gets further.
fn repaired(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() >= 34 && frame[12..14] == [8, 0] {
        let len = (usize::from(frame[14] & 15) * 4).max(20);
        if frame.len() >= 14 + len {
            frame[24..26].fill(0);
            let sum: u32 = frame[14..14 + len]
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
                .sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let folded = (folded & 0xffff) + (folded >> 16);
            frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        }
    }
    frame
}

proptest! {
    #[test]
    fn garbage_is_survived(
        frames in prop::collection::vec(prop_oneof![3 => damaged().prop_map(repaired), 1 => damaged(), 1 => random()], 1..40),
        step_us in 1..3_000_000_u64,
    ) {
        let port = endpoint("192.0.2.1/24,2001:db8::1/64", MAC_A);
        let mut now = Instant(0);
        for frame in &frames {
            offer(&port, frame);
            port.notify();
            now = Instant(now.0 + step_us * 1_000);
            take(&port, now);
        }
        // It is still there.
        offer(&port, &seed(0));
        port.notify();
        let answered = (0..10).flat_map(|_| take(&port, now)).any(|frame| frame[12..14] == [8, 6]);
        prop_assert!(answered);
    }
}

#[test]
fn the_seeds_are_good_frames() {
    let port = endpoint("192.0.2.1/24,2001:db8::1/64", MAC_A);
    let replies: Vec<usize> = (0..4)
        .map(|kind| answers(&port, &repaired(seed(kind))).len())
        .collect();
    // The neighbour solicitation lacks its sender's hardware address: the endpoint asks for it, or waits.
    assert_eq!((replies[0], replies[1], replies[3]), (1, 1, 1));
}
