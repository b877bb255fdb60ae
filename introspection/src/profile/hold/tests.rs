use crate::testing::{Port, Segment};
use crate::{Caps, Direction, FilterOptions, Profile, ReleaseCause, build};
use offload::TcpFlags;

const ACK: u8 = TcpFlags::ACK;
const PSH: u8 = TcpFlags::ACK | TcpFlags::PSH;
const TX: Direction = Direction::Tx;

fn data(seq: u32, len: u32) -> Segment {
    Segment::tx().data(seq, len)
}

#[test]
fn a_pushed_segment_lets_its_message_go() {
    let mut port = Port::new(Profile::Hold);
    port.carry(0, data(1, 1448));
    port.carry(1, data(1449, 1448));
    assert_eq!(port.left(), []);
    port.carry(2, data(2897, 1448).flags(PSH));
    assert_eq!(port.left(), [(TX, 1, 1448), (TX, 1449, 1448), (TX, 2897, 1448)]);
    assert_eq!(port.causes, [ReleaseCause::Satisfied; 2]);
    assert_eq!(port.counters().released, 2);
}

#[test]
fn short_closing_and_repeated_segments_end_a_message() {
    for last in [
        data(1449, 1000),
        data(1449, 1448).flags(ACK | TcpFlags::FIN),
        data(1449, 0).flags(ACK | TcpFlags::FIN),
        data(1, 1448),
        data(1449, 0).flags(TcpFlags::RST),
        data(9, 0).flags(TcpFlags::SYN),
    ] {
        let mut port = Port::new(Profile::Hold);
        port.carry(0, data(1, 1448));
        assert_eq!(port.left(), []);
        port.carry(1, last);
        assert_eq!(port.left().len(), 2, "{last:?}");
    }
}

#[test]
fn large_sends_are_judged_by_the_segments_that_they_become() {
    let mut port = Port::new(Profile::Hold);
    port.carry(0, data(1, 1448 * 10).gso(1448));
    port.carry(1, data(14_481, 1448)); // as long as the longest segment
    assert_eq!(port.left(), []);
    port.carry(2, data(15_929, 1448 * 3 + 7).gso(1448)); // ends with a short one
    assert_eq!(port.left().len(), 3);
}

#[test]
fn an_acknowledgement_waits_behind_data_of_its_direction_only() {
    let mut port = Port::new(Profile::Hold);
    port.carry(0, data(1, 1448));
    port.carry(1, data(1449, 0).ack(7));
    port.carry(2, Segment::rx().ack(1));
    assert_eq!(port.left(), [(Direction::Rx, 0, 0)]);
    port.wait(49_999);
    assert_eq!(port.left(), []);
    port.wait(50_000);
    assert_eq!(port.left(), [(TX, 1, 1448), (TX, 1449, 0)]);
    assert_eq!(port.causes, [ReleaseCause::Deadline; 2]);
    assert_eq!(port.counters().deadline_released, 2);
}

#[test]
fn past_its_cap_it_lets_the_flow_go_in_order() {
    let caps = Caps {
        held_frames: 2,
        ..Caps::default()
    };
    let options = FilterOptions {
        caps,
        ..FilterOptions::default()
    };
    let mut port = Port::with(build(Profile::Hold, options));
    for n in 0..3 {
        port.carry(0, data(n * 10, 10));
    }
    assert_eq!(port.left(), [(TX, 0, 10), (TX, 10, 10), (TX, 20, 10)]);
    assert_eq!(port.causes, [ReleaseCause::Drained; 2]);
    assert_eq!(port.counters().failed_open, 1);
}

#[test]
fn an_evicted_flow_keeps_nothing() {
    let caps = Caps {
        flows: 1,
        ..Caps::default()
    };
    let options = FilterOptions {
        caps,
        ..FilterOptions::default()
    };
    let mut port = Port::with(build(Profile::Hold, options));
    port.carry(0, data(1, 10));
    port.carry(0, data(11, 10));
    port.carry(0, data(1, 10).port(9));
    assert_eq!(port.left(), [(TX, 1, 10), (TX, 11, 10)]);
    assert_eq!(port.counters().flows_evicted, 1);
    port.switch_off(1);
    assert_eq!(port.left(), [(TX, 1, 10)]);
}
