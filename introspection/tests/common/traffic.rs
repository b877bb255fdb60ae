//! Regular traffic for measurements.

use introspection::stage::{Stage, StageHistograms, Stamps};
use introspection::stall::{Point, StallWatcher};
use introspection::{Action, Direction, Filter, FrameId, FrameRef, Instant};
use offload::{FrameMeta, TcpFlags};

#[path = "frames.rs"]
mod frames;

/// Frames of one round.
pub(crate) const FRAMES: usize = 32;

/// A flow on which each round carries 24 segments of the guest's and 8 acknowledgements of its peer's.
pub(crate) struct Traffic {
    payload: Vec<u8>,
    seq: u32,
    next: u64,
    now: Instant,
    metas: [FrameMeta; FRAMES],
    actions: Vec<Action>,
}

impl Traffic {
    /// Segments of `len` octets.
    pub(crate) fn new(len: usize) -> Self {
        Self::with((0..len).map(|octet| octet as u8).collect())
    }

    /// Segments that carry `payload`.
    pub(crate) fn with(payload: Vec<u8>) -> Self {
        Self {
            payload,
            seq: 1,
            next: 0,
            now: Instant(0),
            metas: [segment(Direction::Tx, 0, 0, 0); FRAMES],
            actions: Vec::with_capacity(16 * FRAMES),
        }
    }

    /// Shows one round in bursts of 4 (three segments, one acknowledgement), and returns how many actions came of it.
    pub(crate) fn round(&mut self, filter: &mut dyn Filter) -> usize {
        let len = self.payload.len() as u32;
        self.actions.clear();
        for burst in self.metas.chunks_exact_mut(4) {
            self.now.0 += 500_000;
            if filter.next_deadline().is_some_and(|due| due <= self.now) {
                filter.expire(self.now, &mut self.actions);
            }
            let mut ids = self.next..;
            for (meta, last) in burst.iter_mut().zip([false, false, false, true]) {
                if last {
                    *meta = segment(Direction::Rx, 1, 0, self.seq);
                } else {
                    *meta = segment(Direction::Tx, self.seq, len, 1);
                    self.seq = self.seq.wrapping_add(len);
                }
            }
            self.next += 4;
            let mut frame = |index: usize, direction, payload| FrameRef {
                id: FrameId(ids.next().unwrap_or_default()),
                direction,
                meta: &burst[index],
                payload,
                gso_size: 0,
            };
            let frames = [
                frame(0, Direction::Tx, self.payload.as_slice()),
                frame(1, Direction::Tx, &self.payload),
                frame(2, Direction::Tx, &self.payload),
                frame(3, Direction::Rx, &[]),
            ];
            filter.inspect(self.now, &frames, &mut self.actions);
        }
        self.actions.len()
    }

    /// Lets the watcher see the round's frames on both sides.
    pub(crate) fn watch(&self, watcher: &mut StallWatcher) {
        for meta in &self.metas {
            let payload = meta.tcp().is_some_and(|tcp| tcp.payload_len > 0);
            let direction = if payload { Direction::Tx } else { Direction::Rx };
            watcher.observe(self.now, Point::entry(direction), direction, meta);
            watcher.observe(self.now, Point::exit(direction), direction, meta);
        }
    }

    /// Records a burst's stages.
    pub(crate) fn record(&self, histograms: &mut StageHistograms) {
        let mut stamps = Stamps {
            start: self.now,
            ends: [self.now; Stage::ALL.len()],
        };
        for (end, late) in stamps.ends.iter_mut().zip(1..) {
            end.0 += late * 1000;
        }
        histograms.record(&stamps, FRAMES as u64);
    }
}

fn segment(direction: Direction, seq: u32, len: u32, ack: u32) -> FrameMeta {
    let segment = frames::Tcp {
        seq,
        ack,
        flags: TcpFlags::ACK,
        window: 1000,
        len,
    };
    frames::tcp(
        direction == Direction::Rx,
        [([192, 0, 2, 1], 4000), ([192, 0, 2, 2], 80)],
        false,
        segment,
    )
}
