//! What does not come out of the simulator: cut and hostile traces, clocks that differ, missing directions.

use proptest::prelude::*;

use super::*;
use crate::testing::Segment;
use crate::{Direction, Instant};

const MS: u64 = 1_000_000;

/// A request in two small writes, the second kept back, at this tap and by this clock.
fn nagle(trace: &mut Trace, tap: Tap, clock: i64, ways: &[Direction]) {
    let (mut at, mut guest, mut peer) = (10_000 * MS, 1_u32, 1_u32);
    let mut number = 0;
    for _ in 0..6 {
        for (wait, segment) in [
            (0, Segment::tx().data(guest, 32).ack(peer)),
            (40 * MS, Segment::rx().data(peer, 0).ack(guest + 32)),
            (60_000, Segment::tx().data(guest + 32, 32).ack(peer)),
            (90_000, Segment::rx().data(peer, 100).ack(guest + 64)),
            (200 * MS, Segment::tx().data(guest + 64, 0).ack(peer + 100)),
        ] {
            at += wait;
            number += 1;
            // 20 us from tap to tap.
            let later = (segment.direction() == Direction::Tx) == (tap == Tap::Second);
            let seen = at + if later { 20_000 } else { 0 };
            let meta = segment.meta();
            if ways.contains(&segment.direction()) {
                trace.add(&TraceFrame {
                    number,
                    at: Instant(seen.saturating_add_signed(clock)),
                    tap,
                    meta: &meta,
                    mss: None,
                });
            }
        }
        (guest, peer) = (guest + 64, peer + 100);
    }
}

const BOTH: [Direction; 2] = [Direction::Tx, Direction::Rx];

#[test]
fn clocks_that_differ_change_nothing() {
    for clock in [0, 7 * MS.cast_signed(), -3_000 * MS.cast_signed()] {
        let mut trace = Trace::default();
        nagle(&mut trace, Tap::First, 0, &BOTH);
        nagle(&mut trace, Tap::Second, clock, &BOTH);
        let flows = trace.judge();
        assert_eq!(flows.len(), 1);
        assert!(flows[0].two_taps);
        let causes: Vec<Cause> = flows[0].findings.iter().map(|finding| finding.cause).collect();
        assert_eq!(causes, [Cause::NagleDelayedAck; 6], "{clock}");
        let finding = &flows[0].findings[0];
        assert!(finding.gap_ns.abs_diff(40 * MS) < MS, "{}", finding.gap_ns);
        assert_eq!(finding.evidence.len(), 3);
        assert_eq!(
            finding.explain(),
            "40 ms: 192.0.2.1:4000 kept small segment seq 33..65 back (Nagle), and the ACK of seq 1..33 left 192.0.2.2:80 \
             40 ms after that data"
        );
        let without = flows[0].without_filter.expect("two taps");
        assert_eq!((without.caused(), without.stalls_without), (0, 6));
    }
}

#[test]
fn one_direction_alone_shows_no_wait_for_the_other() {
    for way in BOTH {
        let mut trace = Trace::default();
        nagle(&mut trace, Tap::First, 0, &[way]);
        let flows = trace.judge();
        assert!(flows[0].one_way);
        assert_eq!(flows[0].findings, []);
    }
}

/// A segment that is sent again after 210 ms, and a window that is closed for 300 ms while more data waits for it.
fn loss_and_closed_window(ways: &[Direction]) -> FlowDiagnosis {
    let mut trace = Trace::default();
    let segments = [
        (0, Segment::tx().data(1, 1_000).ack(1)),
        (1, Segment::rx().data(1, 0).ack(1_001).window(5_000)),
        (20, Segment::tx().data(1_001, 1_000).ack(1)),
        (230, Segment::tx().data(1_001, 1_000).ack(1)),
        (231, Segment::rx().data(1, 0).ack(2_001).window(0)),
        (531, Segment::rx().data(1, 0).ack(2_001).window(5_000)),
        (532, Segment::tx().data(2_001, 1_000).ack(1)),
        (533, Segment::rx().data(1, 0).ack(3_001).window(5_000)),
    ];
    for (number, (ms, segment)) in (1..).zip(segments) {
        if ways.contains(&segment.direction()) {
            trace.add(&TraceFrame {
                number,
                at: Instant(ms * MS),
                tap: Tap::First,
                meta: &segment.meta(),
                mss: None,
            });
        }
    }
    trace.judge().remove(0)
}

#[test]
fn repetitions_need_one_direction_and_closed_windows_both() {
    let causes = |flow: &FlowDiagnosis| -> Vec<Cause> { flow.findings.iter().map(|one| one.cause).collect() };
    let whole = loss_and_closed_window(&BOTH);
    assert!(!whole.one_way);
    assert_eq!(causes(&whole), [Cause::Retransmission, Cause::ZeroWindow]);
    let data = loss_and_closed_window(&[Direction::Tx]);
    assert!(data.one_way);
    assert_eq!(causes(&data), [Cause::Retransmission]);
    assert_eq!(data.findings[0].gap_ns, 210 * MS);
    let frames: Vec<u64> = data.findings[0].evidence.iter().map(|one| one.frame).collect();
    assert_eq!(frames, [3, 4]);
    // Nothing shows that data waited, nor that any was sent twice.
    let acknowledgements = loss_and_closed_window(&[Direction::Rx]);
    assert!(acknowledgements.one_way);
    assert_eq!(causes(&acknowledgements), []);
}

#[test]
fn memory_is_bounded() {
    let mut trace = Trace::new(DiagnosisOptions {
        frames: 20,
        ..DiagnosisOptions::default()
    });
    nagle(&mut trace, Tap::First, 0, &BOTH);
    assert_eq!((trace.frames(), trace.left_out()), (20, 10));
    let mut trace = Trace::new(DiagnosisOptions {
        connections: 2,
        ..DiagnosisOptions::default()
    });
    for port in 1..9 {
        let meta = Segment::tx().port(port).data(1, 1).meta();
        trace.add(&TraceFrame {
            number: 1,
            at: Instant(1),
            tap: Tap::First,
            meta: &meta,
            mss: None,
        });
    }
    assert_eq!(trace.left_out(), 6);
    assert_eq!(trace.judge().len(), 2);
}

/// Repetitions without end, and acknowledgements of everything: work stays in proportion.
#[test]
fn a_hostile_trace_takes_no_long() {
    let mut trace = Trace::default();
    for number in 0..20_000_u32 {
        let segment = match number % 3 {
            0 => Segment::tx().data(number.wrapping_mul(700), 700),
            1 => Segment::tx().data(number.wrapping_mul(7) % 9_000, 3_000),
            _ => Segment::rx().ack(1),
        };
        let meta = segment.meta();
        for tap in [Tap::First, Tap::Second] {
            trace.add(&TraceFrame {
                number: u64::from(number) + 1,
                at: Instant(u64::from(number) * 30 * MS),
                tap,
                meta: &meta,
                mss: None,
            });
        }
    }
    let flows = trace.judge();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].frames, 40_000);
}

proptest! {
    /// Whatever the frames say: no panic, and every finding lies within the trace.
    #[test]
    fn any_frames_are_judged(
        frames in prop::collection::vec((any::<(bool, bool, u8, u64)>(), 0..3_000_u32, 0..3_000_u32, 0..2_000_u32), 1..120)
    ) {
        let mut trace = Trace::default();
        let (mut first, mut last) = (u64::MAX, 0);
        for (number, ((way, tap, flags, at), seq, ack, len)) in (1..).zip(frames) {
            let segment = if way { Segment::tx() } else { Segment::rx() };
            let meta = segment.data(seq, len).ack(ack).flags(flags).meta();
            let at = at % (2_000 * MS);
            (first, last) = (first.min(at), last.max(at));
            let tap = if tap { Tap::First } else { Tap::Second };
            trace.add(&TraceFrame { number, at: Instant(at), tap, meta: &meta, mss: Some(len as u16) });
        }
        for flow in trace.judge() {
            for finding in &flow.findings {
                prop_assert!(finding.gap_ns > 25 * MS);
                prop_assert!(finding.evidence.len() <= 4);
                prop_assert!((0.0..=1.0).contains(&finding.confidence));
                prop_assert!(!finding.explain().is_empty());
            }
            if let Some(without) = flow.without_filter {
                prop_assert!(without.without_ns <= without.duration_ns);
            }
        }
    }
}
