//! A port with a filter, and a receiver that reads what passes.

use std::sync::{Arc, OnceLock};

use introspection::{
    Action, Caps, Direction, DropCause, Filter, FilterCounters, FilterOptions, FrameId, FrameRef, Instant,
    Profile, Rule, RuleAction, RuleMatch, RuleSet, build,
};
use offload::{FrameMeta, TcpFlags, Transport};

#[path = "../common/frames.rs"]
mod frames;

/// The sequence number of the first octet; streams wrap around behind their 20th.
pub(crate) const START: u32 = u32::MAX - 19;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Passed,
    Dropped,
    Reset,
}

/// A frame of a connection from 192.0.2.1:4000, the guest, to 192.0.2.2:80.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) direction: Direction,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) gso_size: u16,
}

impl Segment {
    /// Octets of the guest's, from this place in its stream on.
    pub(crate) fn at(offset: usize, payload: &[u8]) -> Self {
        Self {
            direction: Direction::Tx,
            seq: START.wrapping_add(offset as u32),
            ack: 1,
            flags: TcpFlags::ACK,
            payload: payload.to_vec(),
            gso_size: 0,
        }
    }

    pub(crate) fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// An acknowledgement by the receiver of everything before this place.
    pub(crate) fn acknowledges(offset: usize) -> Self {
        Self {
            direction: Direction::Rx,
            seq: 1,
            ack: START.wrapping_add(offset as u32),
            ..Self::at(0, b"")
        }
    }

    fn meta(&self) -> FrameMeta {
        let segment = frames::Tcp {
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: 65_000,
            len: self.payload.len() as u32,
        };
        let ends = [([192, 0, 2, 1], 4000), ([192, 0, 2, 2], 80)];
        frames::tcp(self.direction == Direction::Rx, ends, false, segment)
    }
}

pub(crate) struct Scene {
    filter: Box<dyn Filter>,
    next: u64,
    now: Instant,
}

impl Scene {
    /// With one rule for `attack`, as a literal and by a regex, whose match has this consequence.
    pub(crate) fn new(action: RuleAction) -> Self {
        Self::with(action, Caps::default())
    }

    pub(crate) fn with(action: RuleAction, caps: Caps) -> Self {
        Self::of(rules(action), caps)
    }

    /// With rules of its own.
    pub(crate) fn of(rules: Arc<RuleSet>, caps: Caps) -> Self {
        let options = FilterOptions {
            rules: Some(rules),
            caps: Caps { flows: 64, ..caps },
            ..FilterOptions::default()
        };
        Self {
            filter: build(Profile::Inspect, options).expect("not off"),
            next: 0,
            now: Instant(0),
        }
    }

    /// With a handshake behind it.
    pub(crate) fn connected(action: RuleAction) -> Self {
        Self::new(action).connect()
    }

    fn connect(self) -> Self {
        let mut scene = self;
        let mut syn = Segment::at(0, b"").flags(TcpFlags::SYN);
        syn.seq = START.wrapping_sub(1);
        let mut answer = Segment::acknowledges(0).flags(TcpFlags::SYN | TcpFlags::ACK);
        answer.seq = 0;
        for segment in [syn, answer, Segment::at(0, b"")] {
            assert_eq!(scene.show(&segment), Fate::Passed);
        }
        scene
    }

    pub(crate) fn show(&mut self, segment: &Segment) -> Fate {
        let meta = segment.meta();
        let frame = FrameRef {
            id: FrameId(self.next),
            direction: segment.direction,
            meta: &meta,
            payload: &segment.payload,
            gso_size: segment.gso_size,
        };
        self.judge(frame)
    }

    /// Shows an Ethernet frame, as the switch does.
    pub(crate) fn show_frame(&mut self, direction: Direction, octets: &[u8]) -> Fate {
        let meta = offload::parse(octets, octets.len()).expect("an Ethernet frame");
        let payload = meta.ip().map_or(0..0, |ip| match ip.transport {
            _ if ip.fragment => usize::from(meta.network_offset)..ip.end as usize,
            Transport::Tcp(tcp) => usize::from(tcp.payload_offset)..ip.end as usize,
            Transport::Udp(udp) => usize::from(udp.payload_offset)..ip.end as usize,
            _ => 0..0,
        });
        let frame = FrameRef {
            id: FrameId(self.next),
            direction,
            meta: &meta,
            payload: &octets[payload],
            gso_size: 0,
        };
        self.judge(frame)
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, seconds: u64) {
        self.now.0 += seconds * 1_000_000_000;
    }

    fn judge(&mut self, frame: FrameRef<'_>) -> Fate {
        self.next += 1;
        self.now.0 += 1000;
        let mut actions = Vec::new();
        self.filter.inspect(self.now, &[frame], &mut actions);
        match actions.as_slice() {
            [Action::Forward(_)] => Fate::Passed,
            [Action::Drop(_, DropCause::Rule | DropCause::FlowReset)] => Fate::Dropped,
            [Action::Drop(..), Action::Reset(_)] => Fate::Reset,
            other => panic!("no fate: {other:?}"),
        }
    }

    pub(crate) fn counters(&self) -> FilterCounters {
        self.filter.counters()
    }

    /// The names of the rules that matched.
    pub(crate) fn matches(&mut self) -> Vec<String> {
        let mut matches: Vec<RuleMatch> = Vec::new();
        self.filter.take_matches(&mut matches);
        let mut names: Vec<String> = matches.iter().map(|one| one.rule.to_string()).collect();
        names.sort();
        names
    }
}

/// Compiled once: who plays many scenes has no time for more.
fn rules(action: RuleAction) -> Arc<RuleSet> {
    static ALL: [OnceLock<Arc<RuleSet>>; 4] = [const { OnceLock::new() }; 4];
    let compile = || {
        let literal = Rule {
            name: "literal".to_owned(),
            pattern: "attack".to_owned(),
            action,
            ..Rule::default()
        };
        let regex = Rule {
            name: "regex".to_owned(),
            pattern: String::new(),
            regex: Some("at{2}[a-f]ck".to_owned()),
            ..literal.clone()
        };
        Arc::new(RuleSet::compile(&[literal, regex]).expect("good rules"))
    };
    Arc::clone(ALL[action as usize].get_or_init(compile))
}
