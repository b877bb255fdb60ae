//! Plays arbitrary traffic to filters and checks their contract after each step. Shared with the fuzz target.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use introspection::{
    Action, Caps, Direction, Filter, FilterChain, FilterOptions, FlowKey, FrameId, FrameRef, Instant, Needs,
    Profile, Rule, RuleAction, RuleSet, build, compose,
};
use offload::{FrameMeta, TcpFlags, TcpMeta, Transport, UdpMeta};

#[path = "frames.rs"]
mod frames;

/// Small, so that all of them are met.
const CAPS: Caps = Caps {
    flows: 3,
    held_frames: 4,
    held_octets: 300,
    stream_octets: 128,
    total_stream_octets: 400,
    fragmented: 3,
    fragment_octets: 1500,
};
const HOLD: Duration = Duration::from_millis(50);
const SERIALIZE: Duration = Duration::from_millis(300);

/// A filter to be played to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A profile, with rules or without.
    One(Profile, bool),
    /// `inspect` with rules, `hold` and `serialize` behind each other.
    Chain,
    /// `inspect` with rules, `thin-acks` for what enters and `coalesce` for what leaves.
    Long,
}

impl Kind {
    pub(crate) const ALL: [Self; 12] = [
        Self::One(Profile::Inspect, false),
        Self::One(Profile::Hold, false),
        Self::One(Profile::Serialize, false),
        Self::One(Profile::Inspect, true),
        Self::One(Profile::Hold, true),
        Self::One(Profile::Serialize, true),
        Self::One(Profile::Coalesce, false),
        Self::One(Profile::ThinAcks, false),
        Self::One(Profile::Coalesce, true),
        Self::One(Profile::ThinAcks, true),
        Self::Chain,
        Self::Long,
    ];

    fn make(self, rules: &Arc<RuleSet>) -> Box<dyn Filter> {
        match self {
            Self::One(profile, judged) => one(profile, judged.then(|| Arc::clone(rules))),
            Self::Chain => {
                let members = vec![
                    one(Profile::Inspect, Some(Arc::clone(rules))),
                    one(Profile::Hold, None),
                    one(Profile::Serialize, None),
                ];
                Box::new(FilterChain::new(members).expect("only the first needs payload"))
            }
            Self::Long => {
                let stages = [
                    (Profile::Inspect, None),
                    (Profile::ThinAcks, Some(Direction::Rx)),
                    (Profile::Off, None),
                    (Profile::Coalesce, Some(Direction::Tx)),
                ];
                let options = FilterOptions {
                    deadline: Some(SERIALIZE),
                    rules: Some(Arc::clone(rules)),
                    chunk: Some(100),
                    caps: CAPS,
                    ..FilterOptions::default()
                };
                compose(&stages, &options).expect("in order").expect("not off")
            }
        }
    }

    /// The longest that a frame may be held.
    fn patience(self) -> Duration {
        match self {
            Self::One(Profile::Hold, _) => HOLD,
            Self::One(Profile::Inspect | Profile::Off, _) => Duration::ZERO,
            Self::One(..) => SERIALIZE,
            Self::Chain => HOLD + SERIALIZE,
            Self::Long => SERIALIZE + SERIALIZE,
        }
    }

    /// Whether acknowledgements and repetitions may overtake.
    fn is_lenient(self) -> bool {
        matches!(self, Self::Chain | Self::One(Profile::Serialize, _))
    }

    fn members(self) -> u64 {
        match self {
            Self::One(..) => 1,
            Self::Chain | Self::Long => 3,
        }
    }
}

fn one(profile: Profile, rules: Option<Arc<RuleSet>>) -> Box<dyn Filter> {
    let deadline = match profile {
        Profile::Hold => HOLD,
        _ => SERIALIZE,
    };
    let options = FilterOptions {
        deadline: Some(deadline),
        rules,
        ratio: Some(2),
        chunk: (profile == Profile::Coalesce).then_some(100),
        caps: CAPS,
        ..FilterOptions::default()
    };
    build(profile, options).expect("not off")
}

fn rules() -> Arc<RuleSet> {
    let rule = |name: &str, pattern: &str, action| Rule {
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        action,
        ..Rule::default()
    };
    let rules = [
        rule("alert", "ab", RuleAction::Alert),
        rule("drop", "bcab", RuleAction::Drop),
        rule("reset", "cccc", RuleAction::Reset),
    ];
    Arc::new(RuleSet::compile(&rules).expect("good rules"))
}

#[derive(Clone, Debug)]
struct Frame {
    id: FrameId,
    direction: Direction,
    meta: FrameMeta,
    payload: Vec<u8>,
    gso_size: u16,
    at: Instant,
}

impl Frame {
    fn flow(&self) -> Option<(FlowKey, Direction)> {
        FlowKey::of(&self.meta, self.direction).map(|key| (key, self.direction))
    }

    fn is_pure_ack(&self) -> bool {
        self.meta.tcp().is_some_and(|tcp| {
            tcp.payload_len == 0 && !tcp.flags.any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST)
        })
    }
}

/// The owner of frames, as the contract wants it, and what it has seen.
struct Owner {
    kind: Kind,
    filter: Box<dyn Filter>,
    rules: Arc<RuleSet>,
    now: Instant,
    next: u64,
    held: BTreeMap<FrameId, Frame>,
    settled: u64,
    /// The highest payload end that has left, by flow and direction.
    ends: HashMap<(FlowKey, Direction), u32>,
    /// Since this filter is in force.
    shown: u64,
    holds: u64,
}

/// Reads `script` as traffic, passes of time and changes of filter, and plays it, to a filter of `kind` first.
///
/// Panics when the contract is broken.
pub(crate) fn play(kind: Kind, script: &[u8]) {
    let rules = rules();
    let mut owner = Owner {
        kind,
        filter: kind.make(&rules),
        rules,
        now: Instant(1_000_000_000),
        next: 0,
        held: BTreeMap::new(),
        settled: 0,
        ends: HashMap::new(),
        shown: 0,
        holds: 0,
    };
    let mut burst = Vec::new();
    let mut steps = script.iter().copied();
    while let Some(step) = steps.next() {
        let mut more = || steps.next().unwrap_or(0);
        match step % 32 {
            0 => {
                owner.show(&std::mem::take(&mut burst));
                owner.change(Kind::ALL[usize::from(more()) % Kind::ALL.len()]);
            }
            1 => {
                owner.show(&std::mem::take(&mut burst));
                owner.wait(u64::from(more()) * 2_000_000_000);
            }
            2..=5 => {
                owner.show(&std::mem::take(&mut burst));
                owner.wait(u64::from(more()) * 1_000_000);
            }
            6..=9 => owner.show(&std::mem::take(&mut burst)),
            _ => burst.push(owner.frame(step, [more(), more(), more(), more()])),
        }
    }
    owner.show(&burst);
    owner.change(kind);
    assert_eq!(owner.settled, owner.next, "every frame has met its fate");
}

/// A packet that is a part of one of a few datagrams.
fn part_of_packet([what, seq, ack]: [u8; 3], payload: &[u8]) -> Vec<u8> {
    let (id, more, place) = (seq % 4, what & 64 != 0, ack % 4);
    let protocol = if what & 128 == 0 { 6 } else { 17 };
    let mut packet = vec![
        0x45,
        0,
        0,
        0,
        0,
        id,
        u8::from(more) << 5,
        place,
        64,
        protocol,
        0,
        0,
    ];
    packet.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    packet.extend(payload.iter().cycle().take(if more { 24 } else { payload.len() }));
    packet
}

/// The header of a segment or a datagram of `len` octets between the guest's port and its peer's.
fn transport(direction: Direction, port: u16, [what, seq, ack]: [u8; 3], len: usize) -> Transport {
    match what % 32 {
        31 => Transport::Udp(UdpMeta {
            src_port: if direction == Direction::Tx { port } else { 53 },
            dst_port: if direction == Direction::Tx { 53 } else { port },
            payload_offset: 42,
            payload_len: len as u32,
        }),
        30 => Transport::Other,
        kind => Transport::Tcp(TcpMeta {
            src_port: if direction == Direction::Tx { port } else { 80 },
            dst_port: if direction == Direction::Tx { 80 } else { port },
            seq: (u32::MAX - 100).wrapping_add(seq.into()),
            ack: (u32::MAX - 100).wrapping_add(ack.into()),
            flags: TcpFlags(match kind {
                0 => TcpFlags::SYN,
                1 => TcpFlags::SYN | TcpFlags::ACK,
                2 => TcpFlags::ACK | TcpFlags::FIN,
                3 => TcpFlags::RST,
                4..=7 => TcpFlags::ACK | TcpFlags::PSH,
                8 => seq,
                _ => TcpFlags::ACK,
            }),
            window: 1000,
            payload_offset: 54,
            payload_len: len as u32,
        }),
    }
}

impl Owner {
    fn frame(&mut self, step: u8, [what, seq, ack, len]: [u8; 4]) -> Frame {
        let id = FrameId(self.next);
        self.next += 1;
        let direction = if step & 128 == 0 {
            Direction::Tx
        } else {
            Direction::Rx
        };
        let fragment = len >= 240;
        let len = usize::from(len) % 40;
        let payload: Vec<u8> = (0..len)
            .map(|index| b'a' + (usize::from(seq) * 7 + index * (1 + usize::from(what >> 6))) as u8 % 3)
            .collect();
        let port = 4000 + u16::from(step >> 5 & 3);
        let (transport, payload) = if fragment {
            (Transport::Other, part_of_packet([what, seq, ack], &payload))
        } else {
            (transport(direction, port, [what, seq, ack], len), payload)
        };
        let gso_size = if what & 32 == 0 { 0 } else { 10 };
        Frame {
            id,
            direction,
            meta: frames::ipv4(
                direction == Direction::Rx,
                [[192, 0, 2, 1], [192, 0, 2, 2]],
                6,
                fragment,
                transport,
                54 + len as u32,
            ),
            payload,
            gso_size,
            at: self.now,
        }
    }

    /// Shows a burst and carries out what the filter says of it.
    fn show(&mut self, burst: &[Frame]) {
        let payload = self.filter.needs() == Needs::Payload;
        let frames: Vec<FrameRef<'_>> = burst
            .iter()
            .map(|frame| FrameRef {
                id: frame.id,
                direction: frame.direction,
                meta: &frame.meta,
                payload: if payload { &frame.payload } else { &[] },
                gso_size: frame.gso_size,
            })
            .collect();
        let mut actions = Vec::new();
        self.filter.inspect(self.now, &frames, &mut actions);
        self.shown += burst.len() as u64;
        let mut fresh: BTreeMap<FrameId, Frame> = burst
            .iter()
            .map(|frame| {
                (
                    frame.id,
                    Frame {
                        at: self.now,
                        ..frame.clone()
                    },
                )
            })
            .collect();
        self.carry_out(actions, &mut fresh);
        assert!(fresh.is_empty(), "each frame of a burst has an answer: {fresh:?}");
        self.check();
    }

    fn carry_out(&mut self, actions: Vec<Action>, fresh: &mut BTreeMap<FrameId, Frame>) {
        let mut last_drop = None;
        for action in actions {
            match action {
                Action::Forward(id) => {
                    let frame = fresh.remove(&id).expect("a frame of this burst");
                    self.leave(&frame);
                }
                Action::Hold(id) => {
                    let frame = fresh.remove(&id).expect("a frame of this burst");
                    self.holds += 1;
                    self.held.insert(id, frame);
                }
                Action::Release(id, _) | Action::Join(id, _) => {
                    let frame = self.held.remove(&id).expect("a held frame");
                    self.leave(&frame);
                }
                Action::Drop(id, _) => {
                    let known = fresh.remove(&id).or_else(|| self.held.remove(&id));
                    assert!(known.is_some(), "a frame of this burst or a held one");
                    self.settled += 1;
                    last_drop = Some(id);
                }
                Action::Mirror(id, _) => assert!(fresh.contains_key(&id), "a frame that has no fate yet"),
                // Behind a rule's drop, or behind the first one after a reset by a datagram in fragments.
                Action::Reset(id) => assert_eq!(last_drop, Some(id)),
            }
        }
    }

    /// A frame goes on: it must not have overtaken another of its flow and direction.
    fn leave(&mut self, frame: &Frame) {
        self.settled += 1;
        let Some(flow) = frame.flow() else { return };
        let end = frame.meta.tcp().filter(|tcp| tcp.payload_len > 0).map(|tcp| {
            let syn = u32::from(tcp.flags.any(TcpFlags::SYN));
            tcp.seq.wrapping_add(tcp.payload_len + syn)
        });
        let sent = self.ends.get(&flow).copied();
        let repeated = end
            .zip(sent)
            .is_some_and(|(end, sent)| sent.wrapping_sub(end) < 1 << 31);
        if !(self.kind.is_lenient() && (frame.is_pure_ack() || repeated)) {
            let overtaken = self
                .held
                .range(..frame.id)
                .find(|(_, held)| held.flow() == Some(flow));
            assert!(overtaken.is_none(), "{frame:?} overtook {overtaken:?}");
        }
        if let Some(end) = end.filter(|_| !repeated) {
            self.ends.insert(flow, end);
        }
    }

    /// Lets time pass and meets each deadline on its way.
    fn wait(&mut self, ns: u64) {
        let until = Instant(self.now.0 + ns);
        while let Some(at) = self.filter.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.expire();
            assert!(
                self.filter.next_deadline().is_none_or(|next| next > at),
                "due frames go"
            );
        }
        self.now = until;
        self.expire();
    }

    fn expire(&mut self) {
        let mut actions = Vec::new();
        self.filter.expire(self.now, &mut actions);
        self.carry_out(actions, &mut BTreeMap::new());
        self.check();
    }

    /// Replaces the filter.
    fn change(&mut self, kind: Kind) {
        let mut actions = Vec::new();
        self.filter.drain(&mut actions);
        self.carry_out(actions, &mut BTreeMap::new());
        assert!(self.held.is_empty(), "draining releases everything");
        assert_eq!(self.filter.next_deadline(), None);
        self.kind = kind;
        self.filter = kind.make(&self.rules);
        self.ends.clear();
        self.shown = 0;
        self.holds = 0;
    }

    fn check(&self) {
        let patience = self.kind.patience();
        for frame in self.held.values() {
            assert!(
                frame.at.after(patience) > self.now,
                "{frame:?} is held past its deadline"
            );
        }
        let due = self.filter.next_deadline();
        assert_eq!(due.is_some(), !self.held.is_empty());
        let members = self.kind.members();
        assert!(self.held.len() as u64 <= CAPS.held_frames as u64 * members);
        let octets: u64 = self
            .held
            .values()
            .map(|frame| u64::from(frame.meta.frame_len))
            .sum();
        assert!(octets <= CAPS.held_octets * members);
        let counters = self.filter.counters();
        assert_eq!(counters.frames, self.shown);
        assert!(counters.flows <= CAPS.flows as u64);
        if members == 1 {
            assert_eq!(counters.held, self.holds);
            let first = self.held.values().next().map(|frame| frame.at);
            assert_eq!(due, first.map(|at| at.after(patience)));
        }
    }
}
