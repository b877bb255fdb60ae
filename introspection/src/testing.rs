//! Frames and a port for tests.

use std::collections::HashMap;

use offload::{FrameMeta, Network, TcpFlags, Transport, UdpMeta};

use crate::stall::{Point, StallWatcher};
use crate::{
    Action, Direction, Filter, FilterCounters, FilterOptions, FrameId, FrameRef, Instant, Profile,
    ReleaseCause, build,
};

#[path = "../tests/common/frames.rs"]
mod frames;

const GUEST: [u8; 4] = [192, 0, 2, 1];
const PEER: [u8; 4] = [192, 0, 2, 2];

/// A TCP segment between 192.0.2.1:4000 (the guest) and 192.0.2.2:80.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    to_guest: bool,
    port: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    len: u32,
    /// Octets of TCP options.
    options: u16,
    gso_size: u16,
    window: u16,
}

impl Segment {
    /// An empty one that leaves the guest.
    pub(crate) fn tx() -> Self {
        Self {
            to_guest: false,
            port: 4000,
            seq: 0,
            ack: 0,
            flags: TcpFlags::ACK,
            len: 0,
            options: 0,
            gso_size: 0,
            window: 65_000,
        }
    }

    /// An empty one that enters the guest.
    pub(crate) fn rx() -> Self {
        Self {
            to_guest: true,
            ..Self::tx()
        }
    }

    /// With another port of the guest's.
    pub(crate) fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// With payload.
    pub(crate) fn data(self, seq: u32, len: u32) -> Self {
        Self { seq, len, ..self }
    }

    /// With an acknowledgement number.
    pub(crate) fn ack(self, ack: u32) -> Self {
        Self { ack, ..self }
    }

    /// With exactly these flags.
    pub(crate) fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// With so many octets of TCP options.
    pub(crate) fn options(self, options: u16) -> Self {
        Self { options, ..self }
    }

    /// A large send, to be cut into segments of this size.
    pub(crate) fn gso(self, gso_size: u16) -> Self {
        Self { gso_size, ..self }
    }

    /// With a window of this size.
    pub(crate) fn window(self, window: u16) -> Self {
        Self { window, ..self }
    }

    /// Which way it goes.
    pub(crate) fn direction(self) -> Direction {
        if self.to_guest {
            Direction::Rx
        } else {
            Direction::Tx
        }
    }

    /// Its metadata.
    pub(crate) fn meta(self) -> FrameMeta {
        let tcp = frames::Tcp {
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            len: self.len,
        };
        let mut meta = frames::tcp(self.to_guest, [(GUEST, self.port), (PEER, 80)], false, tcp);
        if let Network::Ipv4(ip) = &mut meta.network
            && let Transport::Tcp(tcp) = &mut ip.transport
        {
            tcp.payload_offset += self.options;
            ip.end += u32::from(self.options);
            meta.frame_len = ip.end;
        }
        meta
    }
}

/// A UDP datagram that leaves the guest for port 53.
pub(crate) fn udp(payload: &[u8]) -> FrameMeta {
    let len = payload.len() as u32;
    let transport = Transport::Udp(UdpMeta {
        src_port: 4000,
        dst_port: 53,
        payload_offset: 42,
        payload_len: len,
    });
    frames::ipv4(false, [GUEST, PEER], 17, false, transport, 42 + len)
}

/// A port with a filter and a watcher on both sides of it, in virtual time.
pub(crate) struct Port {
    filter: Option<Box<dyn Filter>>,
    pub(crate) watcher: StallWatcher,
    held: HashMap<FrameId, (Direction, FrameMeta)>,
    shown: u64,
    /// What left the filter, and when.
    pub(crate) passed: Vec<(Instant, Direction, FrameMeta)>,
    /// Why held frames went on.
    pub(crate) causes: Vec<ReleaseCause>,
}

impl Port {
    pub(crate) fn new(profile: Profile) -> Self {
        Self::with(build(profile, FilterOptions::default()))
    }

    pub(crate) fn with(filter: Option<Box<dyn Filter>>) -> Self {
        Self {
            filter,
            watcher: StallWatcher::default(),
            held: HashMap::new(),
            shown: 0,
            passed: Vec::new(),
            causes: Vec::new(),
        }
    }

    /// What left the filter since the last call: direction, sequence number and payload octets.
    pub(crate) fn left(&mut self) -> Vec<(Direction, u32, u32)> {
        let left = self.passed.drain(..).filter_map(|(_, direction, meta)| {
            let tcp = meta.tcp()?;
            Some((direction, tcp.seq, tcp.payload_len))
        });
        left.collect()
    }

    /// What the filter has counted.
    pub(crate) fn counters(&self) -> FilterCounters {
        self.filter
            .as_ref()
            .map(|filter| filter.counters())
            .unwrap_or_default()
    }

    /// Removes the filter.
    pub(crate) fn switch_off(&mut self, us: u64) {
        if let Some(mut filter) = self.filter.take() {
            let mut actions = Vec::new();
            filter.drain(&mut actions);
            self.carry_out(Instant(us * 1000), actions, None);
            assert_eq!(filter.next_deadline(), None);
            assert!(self.held.is_empty());
        }
    }

    /// Releases what is due until `us` microseconds.
    pub(crate) fn wait(&mut self, us: u64) {
        let until = Instant(us * 1000);
        while let Some(filter) = &mut self.filter
            && let Some(at) = filter.next_deadline().filter(|at| *at <= until)
        {
            let mut actions = Vec::new();
            filter.expire(at, &mut actions);
            assert!(!actions.is_empty(), "something was due");
            self.carry_out(at, actions, None);
        }
    }

    /// Carries a segment at `us` microseconds.
    pub(crate) fn carry(&mut self, us: u64, segment: Segment) {
        self.wait(us);
        let now = Instant(us * 1000);
        let direction = segment.direction();
        let meta = segment.meta();
        self.watcher
            .observe(now, Point::entry(direction), direction, &meta);
        let id = FrameId(self.shown);
        self.shown += 1;
        let frame = FrameRef {
            id,
            direction,
            meta: &meta,
            payload: &[],
            gso_size: segment.gso_size,
        };
        let mut actions = Vec::new();
        match &mut self.filter {
            Some(filter) => filter.inspect(now, &[frame], &mut actions),
            None => actions.push(Action::Forward(id)),
        }
        self.carry_out(now, actions, Some((direction, meta)));
    }

    fn carry_out(&mut self, now: Instant, actions: Vec<Action>, frame: Option<(Direction, FrameMeta)>) {
        for action in actions {
            let (direction, meta) = match action {
                Action::Forward(_) => frame.expect("a burst"),
                Action::Hold(id) => {
                    self.held.insert(id, frame.expect("a burst"));
                    continue;
                }
                Action::Release(id, cause) | Action::Join(id, cause) => {
                    self.causes.push(cause);
                    self.held.remove(&id).expect("held")
                }
                Action::Drop(id, _) => {
                    self.held.remove(&id);
                    continue;
                }
                Action::Reset(_) | Action::Mirror(..) => continue,
            };
            self.watcher
                .observe(now, Point::exit(direction), direction, &meta);
            self.passed.push((now, direction, meta));
        }
    }
}
