use std::collections::VecDeque;

use proptest::prelude::*;

use crate::testing::{Port, Segment};
use crate::{Direction, Profile, ReleaseCause};
use offload::TcpFlags;

const TX: Direction = Direction::Tx;
const RX: Direction = Direction::Rx;
/// Streams of these tests wrap around.
const START: u32 = u32::MAX - 100;

fn tx(at: u32, len: u32) -> Segment {
    Segment::tx().data(START.wrapping_add(at), len).ack(START)
}

fn rx(at: u32, len: u32) -> Segment {
    Segment::rx().data(START.wrapping_add(at), len).ack(START)
}

fn ack(segment: Segment, at: u32) -> Segment {
    segment.ack(START.wrapping_add(at))
}

/// What left, with sequence numbers from the start.
fn left(port: &mut Port) -> Vec<(Direction, u32, u32)> {
    let left = port.left().into_iter();
    left.map(|(direction, seq, len)| (direction, seq.wrapping_sub(START), len))
        .collect()
}

#[test]
fn the_next_chunk_waits_for_the_acknowledgement_of_the_last() {
    let mut port = Port::new(Profile::Serialize);
    port.carry(0, tx(0, 100));
    port.carry(1, tx(100, 60_000).gso(1448));
    port.carry(2, tx(60_100, 32));
    assert_eq!(left(&mut port), [(TX, 0, 100)]);
    port.carry(3, ack(rx(0, 0), 99));
    assert_eq!(left(&mut port), [(RX, 0, 0)]);
    port.carry(200_000, ack(rx(0, 0), 100));
    assert_eq!(left(&mut port), [(RX, 0, 0), (TX, 100, 60_000)]);
    port.carry(200_001, ack(rx(0, 0), 60_100));
    assert_eq!(left(&mut port), [(RX, 0, 0), (TX, 60_100, 32)]);
    assert_eq!(port.causes, [ReleaseCause::Satisfied; 2]);
}

/// A receiver may take back what it selected (RFC 2018, 8); only what is acknowledged cumulatively counts.
#[test]
fn selective_acknowledgements_release_nothing() {
    let mut port = Port::new(Profile::Serialize);
    port.carry(0, tx(0, 100));
    port.carry(1, tx(100, 100));
    left(&mut port);
    for n in 2..6 {
        port.carry(n, ack(rx(0, 0), 0).options(12));
        assert_eq!(left(&mut port), [(RX, 0, 0)]);
    }
    port.carry(6, ack(rx(0, 0), 100).options(12));
    assert_eq!(left(&mut port), [(RX, 0, 0), (TX, 100, 100)]);
}

#[test]
fn acknowledged_chunks_keep_nothing_back() {
    let mut port = Port::new(Profile::Serialize);
    for n in 0..50 {
        port.carry(n, tx(n as u32 * 10, 10));
        port.carry(n, ack(rx(0, 0), n as u32 * 10 + 10));
    }
    assert_eq!(left(&mut port).len(), 100);
    assert_eq!(port.counters().held, 0);
}

#[test]
fn directions_and_flows_wait_for_themselves() {
    let mut port = Port::new(Profile::Serialize);
    port.carry(0, tx(0, 10));
    port.carry(0, rx(0, 10));
    port.carry(0, tx(0, 10).port(9));
    assert_eq!(left(&mut port).len(), 3);
    port.carry(0, tx(10, 10));
    port.carry(0, rx(10, 10));
    port.carry(0, tx(10, 10).port(9));
    assert_eq!(left(&mut port), []);
    port.carry(1, ack(rx(20, 0), 10));
    assert_eq!(left(&mut port), [(RX, 20, 0), (TX, 10, 10)]);
}

#[test]
fn pure_acknowledgements_and_repetitions_do_not_wait() {
    let mut port = Port::new(Profile::Serialize);
    port.carry(0, tx(0, 10));
    port.carry(1, tx(10, 10));
    port.carry(2, ack(tx(20, 0), 5));
    port.carry(3, tx(0, 10)); // its acknowledgement was lost, or it was
    assert_eq!(left(&mut port), [(TX, 0, 10), (TX, 20, 0), (TX, 0, 10)]);
    port.carry(4, ack(rx(0, 0), 10));
    assert_eq!(left(&mut port), [(RX, 0, 0), (TX, 10, 10)]);
}

#[test]
fn a_chunk_that_is_partly_new_is_new() {
    let mut port = Port::new(Profile::Serialize);
    port.carry(0, tx(0, 10));
    port.carry(1, tx(5, 10));
    assert_eq!(left(&mut port), [(TX, 0, 10)]);
    port.carry(2, ack(rx(0, 0), 10));
    assert_eq!(left(&mut port), [(RX, 0, 0), (TX, 5, 10)]);
}

#[test]
fn an_acknowledgement_on_held_data_counts_when_that_goes() {
    let mut port = Port::new(Profile::Serialize);
    port.carry(0, tx(0, 10));
    port.carry(0, rx(0, 10));
    port.carry(1, ack(tx(10, 10), 10)); // held, and it acknowledges rx 0..10
    port.carry(2, rx(10, 10));
    assert_eq!(left(&mut port), [(TX, 0, 10), (RX, 0, 10)]);
    port.carry(3, ack(rx(20, 0), 10));
    assert_eq!(left(&mut port), [(RX, 20, 0), (TX, 10, 10), (RX, 10, 10)]);
}

#[test]
fn two_directions_that_wait_for_each_other_both_go() {
    let mut port = Port::new(Profile::Serialize);
    port.carry(0, tx(0, 10));
    port.carry(0, rx(0, 10));
    port.carry(1, ack(tx(10, 10), 10));
    port.carry(2, ack(rx(10, 10), 10));
    assert_eq!(left(&mut port).len(), 4);
    assert_eq!(port.causes, [ReleaseCause::Satisfied; 2]);
}

#[test]
fn without_an_acknowledgement_each_chunk_goes_at_its_deadline() {
    let mut port = Port::new(Profile::Serialize);
    port.carry(0, tx(0, 10));
    port.carry(1, tx(10, 10));
    port.carry(500, tx(20, 10));
    port.wait(1_000_000);
    assert_eq!(left(&mut port), [(TX, 0, 10)]);
    port.wait(1_000_001);
    assert_eq!(left(&mut port), [(TX, 10, 10)]);
    port.wait(1_000_500);
    assert_eq!(left(&mut port), [(TX, 20, 10)]);
    assert_eq!(port.causes, [ReleaseCause::Deadline; 2]);
}

#[test]
fn fin_keeps_its_place_and_rst_ends_the_wait() {
    let mut port = Port::new(Profile::Serialize);
    port.carry(0, tx(0, 10));
    port.carry(1, tx(10, 10));
    port.carry(2, tx(20, 0).flags(TcpFlags::ACK | TcpFlags::FIN));
    assert_eq!(left(&mut port), [(TX, 0, 10)]);
    port.carry(3, ack(rx(0, 0), 10));
    assert_eq!(left(&mut port), [(RX, 0, 0), (TX, 10, 10), (TX, 20, 0)]);
    for reset in [tx(30, 0), rx(0, 0)] {
        let mut port = Port::new(Profile::Serialize);
        port.carry(0, tx(0, 10));
        port.carry(1, tx(10, 10));
        port.carry(2, reset.flags(TcpFlags::RST));
        assert_eq!(left(&mut port).len(), 3);
    }
}

#[test]
fn a_new_connection_starts_anew() {
    let mut port = Port::new(Profile::Serialize);
    port.carry(0, tx(0, 10));
    port.carry(1, tx(500_000, 0).flags(TcpFlags::SYN));
    port.carry(2, tx(500_001, 10));
    assert_eq!(left(&mut port).len(), 3);
}

/// One end of a connection without loss, which acknowledges at once.
#[derive(Default)]
struct End {
    sent: u32,
    received: u32,
    to_send: VecDeque<u32>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Two ends that send as they please and acknowledge with or without data get everything across, in order, without
    /// a single deadline.
    #[test]
    fn there_is_no_deadlock(
        guest in proptest::collection::vec(1u32..4000, 0..30),
        peer in proptest::collection::vec(1u32..4000, 0..30),
        turns in proptest::collection::vec((any::<bool>(), 1usize..5), 200),
    ) {
        let totals = [peer.iter().sum::<u32>(), guest.iter().sum::<u32>()];
        let mut ends = [guest, peer].map(|list| End { to_send: list.into(), ..End::default() });
        let mut port = Port::new(Profile::Serialize);
        let base = |end: usize| if end == 0 { tx as fn(u32, u32) -> Segment } else { rx };
        for (turn, (side, count)) in turns.into_iter().enumerate() {
            // A turn: one end sends some of what it has; then what has arrived is taken and acknowledged.
            let end = usize::from(side);
            for _ in 0..count {
                let Some(len) = ends[end].to_send.pop_front() else { break };
                let segment = ack(base(end)(ends[end].sent, len), ends[end].received);
                ends[end].sent += len;
                port.carry(turn as u64, segment);
            }
            loop {
                let arrived = left(&mut port);
                let news = arrived.iter().filter(|(_, _, len)| *len > 0);
                let mut answers = 0;
                for (direction, seq, len) in news {
                    let receiver = usize::from(*direction == TX);
                    prop_assert_eq!(ends[receiver].received, *seq, "in order");
                    ends[receiver].received += len;
                    answers += 1;
                    // Data carries the acknowledgement if there is some to send, else it goes by itself.
                    let len = if turn % 2 == 0 { ends[receiver].to_send.pop_front() } else { None }.unwrap_or(0);
                    let answer = ack(base(receiver)(ends[receiver].sent, len), ends[receiver].received);
                    ends[receiver].sent += len;
                    port.carry(turn as u64, answer);
                }
                if answers == 0 {
                    break;
                }
            }
        }
        let unsent: Vec<u32> = ends.iter().map(|end| end.to_send.iter().sum()).collect();
        prop_assert_eq!(ends[0].received, totals[0] - unsent[1]);
        prop_assert_eq!(ends[1].received, totals[1] - unsent[0]);
        prop_assert_eq!(port.counters().deadline_released, 0);
    }
}
