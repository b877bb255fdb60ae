//! More flows than a filter's table takes.

use std::sync::Arc;

use introspection::{
    Action, Caps, Direction, Filter, FilterOptions, FrameId, FrameRef, Instant, Profile, Rule, RuleAction,
    RuleSet, build,
};
use offload::{FrameMeta, TcpFlags};

use crate::counting::allocated;

#[path = "frames.rs"]
mod frames;

/// A filter with a rule, and what it was shown.
pub(crate) struct Crowd {
    pub(crate) filter: Box<dyn Filter>,
    /// Octets allocated before there was a filter.
    before: u64,
    frames: u64,
    actions: Vec<Action>,
}

impl Crowd {
    /// With a table of so many flows, and so many octets for all streams.
    pub(crate) fn new(flows: usize, octets: usize) -> Self {
        let rule = Rule {
            name: "rule".to_owned(),
            pattern: "needle".to_owned(),
            action: RuleAction::Drop,
            ..Rule::default()
        };
        let before = allocated();
        let options = FilterOptions {
            rules: Some(Arc::new(RuleSet::compile(&[rule]).expect("good"))),
            caps: Caps {
                flows,
                total_stream_octets: octets,
                ..Caps::default()
            },
            ..FilterOptions::default()
        };
        Self {
            filter: build(Profile::Inspect, options).expect("not off"),
            before,
            frames: 0,
            actions: Vec::with_capacity(16),
        }
    }

    /// Octets that the filter has.
    pub(crate) fn octets(&self) -> u64 {
        allocated() - self.before
    }

    /// One segment with payload, and one back, of the flow of this number. True when both passed.
    pub(crate) fn exchange(&mut self, flow: u32, offset: u32, payload: &[u8]) -> bool {
        let there = meta(flow, Direction::Tx, offset, payload.len() as u32);
        let back = meta(flow, Direction::Rx, offset, 0);
        let passed = self.show(Direction::Tx, &there, payload);
        self.show(Direction::Rx, &back, &[]) && passed
    }

    fn show(&mut self, direction: Direction, meta: &FrameMeta, payload: &[u8]) -> bool {
        let frame = FrameRef {
            id: FrameId(self.frames),
            direction,
            meta,
            payload,
            gso_size: 0,
        };
        self.frames += 1;
        self.actions.clear();
        self.filter
            .inspect(Instant(self.frames * 1000), &[frame], &mut self.actions);
        matches!(self.actions.as_slice(), [Action::Forward(_)])
    }
}

fn meta(flow: u32, direction: Direction, offset: u32, len: u32) -> FrameMeta {
    let [_, a, b, c] = flow.to_be_bytes();
    let (seq, ack) = match direction {
        Direction::Tx => (offset, 1),
        Direction::Rx => (1, offset),
    };
    let segment = frames::Tcp {
        seq,
        ack,
        flags: TcpFlags::ACK,
        window: 1000,
        len,
    };
    frames::tcp(
        direction == Direction::Rx,
        [([192, 0, 2, 1], 443), ([10, a, b, c], 50_000)],
        false,
        segment,
    )
}
