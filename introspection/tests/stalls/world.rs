//! Two ends, two taps with something between them, and a path, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use introspection::diagnosis::{Cause, Tap, Trace, TraceFrame};
use introspection::stall::{CauseTable, Point, StallWatcher};
use introspection::{Direction, Instant};

use super::endpoint::{Block, Endpoint, MS, MSS, Packet, Provenance, Step};
use super::middle::{Kept, Middle, Way};
use super::random::Random;
use super::wire::meta;

/// Shorter gaps are no stalls.
pub(crate) const THRESHOLD: u64 = 25 * MS;
/// A stall as the simulator knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truth {
    pub(crate) cause: Cause,
    pub(crate) from: usize,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Timer(usize),
    Application(usize),
    Middle,
    At(usize),
    Arrive(usize),
}

/// What a path does to whom.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Of a hundred data packets of the guest, behind the taps.
    pub(crate) drop_data: u64,
    /// Of a hundred pure acknowledgements of its peer.
    pub(crate) drop_acks: u64,
    /// From when on, and for how long, the path behind the taps keeps everything.
    pub(crate) spike: Option<(u64, u64)>,
}

pub(crate) struct World {
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    pub(crate) ends: [Endpoint; 2],
    pub(crate) middle: Middle,
    kept: Kept,
    packets: Vec<Packet>,
    pub(crate) faults: Faults,
    /// From the guest to the taps, and from there to its peer.
    pub(crate) links: [u64; 2],
    pub(crate) random: Random,
    pub(crate) rows: Vec<(u64, usize, Packet)>,
    pub(crate) truths: Vec<Truth>,
    thinned: bool,
    /// Until when the path is slow.
    slow: Option<u64>,
    /// Data sent again by a timer, by where it begins, on its way to the taps; what was acknowledged there.
    repeated: [Option<(u64, Truth)>; 2],
    acked_at_taps: [u64; 2],
    /// When data last left towards each end's peer, and when the path is free.
    last_out: [u64; 2],
    free: [[u64; 2]; 2],
}

impl World {
    pub(crate) fn new(ends: [Endpoint; 2], middle: Middle, links: [u64; 2], random: Random) -> Self {
        Self {
            now: 1_000 * MS,
            queue: BinaryHeap::new(),
            order: 0,
            ends,
            middle,
            kept: Kept::default(),
            packets: Vec::new(),
            faults: Faults::default(),
            links,
            random,
            rows: Vec::new(),
            truths: Vec::new(),
            thinned: false,
            slow: None,
            repeated: [None; 2],
            acked_at_taps: [0; 2],
            last_out: [0; 2],
            free: [[0; 2]; 2],
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((time, self.order, event)));
    }

    /// Records a handshake right before the ends begin.
    pub(crate) fn handshake(&mut self, client: usize) {
        let trip = self.links[0] + self.links[1];
        let begin = self.now - 3 * trip;
        for (number, from) in [client, 1 - client, client].into_iter().enumerate() {
            let packet = Packet {
                from,
                seq: 0,
                len: 0,
                ack: 0,
                window: 65_000,
                push: false,
                segments: 1,
                gso: true,
                syn: number < 2,
                opens: number == 0,
                how: Provenance::default(),
            };
            let at = begin + number as u64 * trip + self.links[from];
            self.rows.extend([(at, from, packet), (at, from + 2, packet)]);
        }
    }

    /// Runs until nothing is left to do.
    pub(crate) fn run(&mut self) {
        for end in [1, 0] {
            self.at(self.now, Event::Application(end));
        }
        let mut steps = 0;
        while let Some(Reverse((time, _, event))) = self.queue.pop() {
            steps += 1;
            assert!(steps < 2_000_000, "the world comes to rest");
            self.now = time;
            match event {
                Event::Timer(end) => self.timer(end),
                Event::Application(end) => self.application(end, None),
                Event::Middle => self.middle_due(),
                Event::At(packet) => self.enter_middle(packet),
                Event::Arrive(packet) => self.arrive(packet),
            }
        }
        for end in &self.ends {
            assert!(end.script.is_empty(), "an application waits for ever: {end:?}");
        }
    }

    fn tell(&mut self, cause: Cause, from: usize, start: u64, end: u64) {
        let start = start.max(self.ends[from].told);
        if end > start + THRESHOLD {
            self.truths.push(Truth {
                cause,
                from,
                start,
                end,
            });
            self.ends[from].told = end;
        }
    }

    fn application(&mut self, who: usize, how: Option<Provenance>) {
        loop {
            let end = &mut self.ends[who];
            if self.now < end.thinking_until {
                return;
            }
            match end.script.front().copied() {
                None => return,
                Some(Step::Write(octets)) => {
                    end.written += octets;
                    end.script.pop_front();
                    self.transmit(who, how);
                }
                Some(Step::WaitAck) => {
                    if end.una < end.written {
                        let since = end.last_sent;
                        end.blocked.get_or_insert((since, Block::Pending));
                        return;
                    }
                    end.script.pop_front();
                    let quick = matches!(end.script.front(), Some(Step::Think(time)) if *time < 5 * MS);
                    let goes_on = matches!(end.script.get(usize::from(quick)), Some(Step::Write(_)));
                    let blocked = end.blocked.take();
                    if let (true, Some((since, block)), Some(how)) = (goes_on, blocked, how) {
                        self.resolve(who, since, block, how);
                    }
                }
                Some(Step::Read(octets)) => {
                    let taken = end.unread.min(octets);
                    end.unread -= taken;
                    end.script.pop_front();
                    if taken < octets {
                        end.script.push_front(Step::Read(octets - taken));
                    }
                    // As Linux does: when the window would at least double (net/ipv4/tcp.c, `__tcp_cleanup_rbuf`).
                    let left = end.advertised.saturating_sub(end.rcv_nxt - end.advertised_at);
                    if end.window() >= 2 * MSS && end.window() >= 2 * left {
                        self.send_ack(who, false);
                    }
                    if taken < octets {
                        return;
                    }
                }
                Some(Step::Think(time)) => {
                    end.script.pop_front();
                    end.thinking_until = self.now + time;
                    self.at(self.now + time, Event::Application(who));
                    return;
                }
            }
        }
    }

    /// What ended a wait is known: whose fault was it?
    fn resolve(&mut self, who: usize, since: u64, block: Block, how: Provenance) {
        if block == Block::Closed {
            self.tell(Cause::ZeroWindow, who, since, self.now);
            return;
        }
        if how.spiked {
            self.tell(Cause::Unknown, who, since, self.now);
            return;
        }
        let since = since.max(self.ends[who].told);
        if let Some(from) = how.delayed_since
            && how.sent > since.max(from) + THRESHOLD
        {
            let cause = match block {
                _ if how.coalesced => Cause::Coalescing,
                Block::Nagle => Cause::NagleDelayedAck,
                _ => Cause::DelayedAck,
            };
            self.tell(cause, who, since.max(from), how.sent);
        }
        if how.filter_out > since.max(how.filter_in) + THRESHOLD {
            self.tell(Cause::FilterHold, who, since.max(how.filter_in), how.filter_out);
        }
    }

    /// Sends what may be sent. `how` tells of the acknowledgement that came just now.
    fn transmit(&mut self, who: usize, how: Option<Provenance>) {
        loop {
            let end = &self.ends[who];
            let available = end.written - end.nxt;
            if available == 0 {
                return;
            }
            let len = available.min(MSS);
            let room = (end.una + end.peer_window.min(end.cwnd)).saturating_sub(end.nxt);
            let window = (end.una + end.peer_window).saturating_sub(end.nxt);
            let block = if end.peer_window == 0 || (window < len && end.peer_window < 2 * MSS) {
                Some(Block::Closed)
            } else if room < len {
                Some(Block::Full)
            } else if len < MSS && end.nagle && end.small > end.una && end.nxt >= end.sent {
                Some(Block::Nagle)
            } else {
                None
            };
            let now = self.now;
            let end = &mut self.ends[who];
            if let Some(block) = block {
                match (end.blocked, block) {
                    (Some((_, Block::Closed)), _) => {}
                    (_, Block::Closed) => {
                        end.blocked = Some((end.closed_since.unwrap_or(now).max(end.last_sent), block));
                    }
                    (None, _) => end.blocked = Some((end.last_sent, block)),
                    _ => {}
                }
                return;
            }
            let (seq, repeated) = (end.nxt, end.nxt < end.sent);
            let blocked = end.blocked.take_if(|(_, block)| *block != Block::Pending);
            if let (Some((since, block)), Some(how), false) = (blocked, how, repeated) {
                self.resolve(who, since, block, how);
            }
            self.ends[who].nxt += len;
            self.send_data(who, seq, len);
        }
    }

    fn send_data(&mut self, who: usize, seq: u64, len: u64) {
        let now = self.now;
        let end = &mut self.ends[who];
        if len < MSS {
            end.small = end.small.max(seq + len);
        }
        end.last_sent = now;
        end.sent = end.sent.max(seq + len);
        let how = end.acknowledge(now, false);
        let push = end.nxt == end.written && !matches!(self.middle, Middle::Real(_));
        self.send(who, seq, len, push, how);
        self.arm(who);
    }

    fn send_ack(&mut self, who: usize, by_timer: bool) {
        let how = self.ends[who].acknowledge(self.now, by_timer);
        let seq = self.ends[who].nxt;
        self.send(who, seq, 0, false, how);
    }

    fn send(&mut self, who: usize, seq: u64, len: u64, push: bool, how: Provenance) {
        let end = &mut self.ends[who];
        end.advertised = end.window();
        end.advertised_at = end.rcv_nxt;
        let packet = Packet {
            from: who,
            seq,
            len,
            ack: end.rcv_nxt,
            window: end.advertised,
            push,
            segments: 1,
            gso: true,
            syn: false,
            opens: false,
            how,
        };
        self.packets.push(packet);
        let id = self.packets.len() - 1;
        let lost = who == 1 && len == 0 && self.random.percent(self.faults.drop_acks);
        if lost {
            return;
        }
        let at = self.on_path(who, self.links[who], who == 1, id);
        self.at(at, Event::At(id));
    }

    /// When a packet that starts now is across a link; frames keep their order.
    fn on_path(&mut self, from: usize, latency: u64, outer: bool, id: usize) -> u64 {
        let jitter = self.random.range(0, latency / 20 + 1);
        let mut at = self.now + latency + jitter;
        if outer && let Some(end) = self.slow_until(from) {
            at = end + latency;
            self.packets[id].how.spiked = true;
        }
        let slot = &mut self.free[from][usize::from(outer)];
        at = at.max(*slot + 1);
        *slot = at;
        at
    }

    /// Until when the path keeps what comes, if it does. It begins when the guest has a good deal under way: with one segment a
    /// slow path and a delayed acknowledgement look alike.
    fn slow_until(&mut self, from: usize) -> Option<u64> {
        let (start, time) = self.faults.spike.filter(|(start, _)| *start <= self.now)?;
        let guest = &self.ends[0];
        if self.slow.is_none() && from == 0 && guest.nxt - guest.una >= 4 * MSS {
            self.slow = Some(self.now.max(start) + time);
        }
        self.slow.filter(|end| self.now < *end)
    }

    fn arm(&mut self, who: usize) {
        let end = &mut self.ends[who];
        if !end.outstanding() {
            end.timer = None;
            return;
        }
        let wait = end.probe().map_or(end.rto(), |probe| probe.min(end.rto()));
        end.timer = Some(self.now + wait);
        let at = self.now + wait;
        self.at(at, Event::Timer(who));
    }

    /// The timers of retransmission and of delayed acknowledgements.
    fn timer(&mut self, who: usize) {
        if self.ends[who].ack_at.is_some_and(|at| at <= self.now) {
            self.send_ack(who, true);
        }
        if self.ends[who].timer.is_none_or(|at| at > self.now) {
            return;
        }
        let end = &mut self.ends[who];
        let probe = end.probe().is_some();
        let (seq, len) = if probe {
            end.probed = true;
            let len = (end.nxt - end.una).min(MSS);
            (end.nxt - len, len)
        } else {
            end.backoff += 1;
            end.cwnd = MSS;
            (end.una, (end.nxt - end.una).min(MSS))
        };
        self.explain_timer(who, seq, len);
        if !probe {
            self.ends[who].nxt = seq + len;
        }
        self.send_data(who, seq, len);
    }

    /// A retransmission timer ran out: was that the filter's doing?
    fn explain_timer(&mut self, who: usize, seq: u64, len: u64) {
        let end = &self.ends[who];
        let start = end.last_sent.max(end.last_arrival).max(self.last_out[who]);
        if self.kept.has(who, seq, seq + len) {
            return;
        }
        let acked = self.ends[1 - who].rcv_nxt >= seq + len;
        let (cause, start) = match self.kept.has_ack(1 - who, seq + len).filter(|_| acked) {
            Some(since) => (Cause::FilterHold, start.max(since)),
            None if acked && self.thinned => (Cause::FilterHold, start),
            None => (Cause::Retransmission, start),
        };
        self.repeated[who] = Some((
            seq,
            Truth {
                cause,
                from: who,
                start,
                end: self.now,
            },
        ));
    }

    /// Repeated data comes to the taps. An acknowledgement that passed them before it was what ended the wait there.
    fn tell_repetition(&mut self, packet: &Packet) {
        let who = packet.from;
        let Some((_, truth)) = self.repeated[who].take_if(|(seq, _)| packet.len > 0 && *seq == packet.seq)
        else {
            return;
        };
        if self.acked_at_taps[who] >= packet.seq + packet.len {
            return;
        }
        self.tell(truth.cause, who, truth.start, truth.end);
        if let Some((since, _)) = self.ends[who]
            .blocked
            .as_mut()
            .filter(|(_, block)| *block == Block::Full)
        {
            *since = truth.end.max(*since);
        }
    }

    fn enter_middle(&mut self, id: usize) {
        let mut packet = self.packets[id];
        packet.how.filter_in = self.now;
        self.rows.push((self.now, packet.from, packet));
        self.tell_repetition(&packet);
        let chance = self.random.range(0, 99);
        let mut out = Vec::new();
        let mut middle = std::mem::replace(&mut self.middle, Middle::Off);
        if self.kept.pass(&mut middle, self.now, packet, chance, &mut out) {
            self.thinned &= packet.len > 0 || packet.from == 0;
        } else {
            self.thinned = true;
        }
        self.middle = middle;
        self.leave_middle(out);
    }

    fn middle_due(&mut self) {
        let mut middle = std::mem::replace(&mut self.middle, Middle::Off);
        let mut out = Vec::new();
        if self.kept.due(&middle).is_some_and(|at| at <= self.now) {
            self.kept.expire(&mut middle, self.now, &mut out);
        }
        self.middle = middle;
        self.leave_middle(out);
    }

    fn leave_middle(&mut self, out: Vec<(Packet, Way)>) {
        for (mut packet, way) in out {
            packet.how.filter_out = self.now;
            // Seen at the other tap: 2 is the guest's, 3 the path's.
            self.rows.push((self.now, packet.from + 2, packet));
            let from = packet.from;
            self.acked_at_taps[1 - from] = self.acked_at_taps[1 - from].max(packet.ack);
            if packet.len > 0 {
                let start = packet.how.filter_in.max(self.last_out[from]);
                match way {
                    Way::Through => {}
                    Way::Satisfied if self.serialises() => {
                        self.tell(Cause::FilterSerialised, from, start, self.now);
                    }
                    _ => self.tell(Cause::FilterHold, from, start, self.now),
                }
                self.last_out[from] = self.now;
            }
            if from == 0 && packet.len > 0 && self.random.percent(self.faults.drop_data) {
                continue;
            }
            self.packets.push(packet);
            let id = self.packets.len() - 1;
            let at = self.on_path(from, self.links[1 - from], from == 0, id);
            self.at(at, Event::Arrive(id));
        }
        if let Some(at) = self.kept.due(&self.middle) {
            self.at(at, Event::Middle);
        }
    }

    fn serialises(&self) -> bool {
        matches!(&self.middle, Middle::Real(filter) if filter.profile() == introspection::Profile::Serialize)
    }

    fn arrive(&mut self, id: usize) {
        let packet = self.packets[id];
        let who = 1 - packet.from;
        let now = self.now;
        self.acknowledged(who, &packet);
        if packet.len > 0 {
            let end = &mut self.ends[who];
            let holes = !end.early.is_empty();
            let new = end.receive(packet.seq, packet.seq + packet.len);
            if new == 0 || holes || end.note(&packet, now) {
                self.send_ack(who, false);
            } else if let Some(at) = end.ack_at {
                self.at(at, Event::Timer(who));
            }
        }
        self.transmit(who, Some(packet.how));
        self.application(who, Some(packet.how));
    }

    fn acknowledged(&mut self, who: usize, packet: &Packet) {
        let now = self.now;
        let end = &mut self.ends[who];
        end.last_arrival = now;
        if packet.ack > end.una {
            end.cwnd = (end.cwnd + packet.ack - end.una).min(60_000);
            end.una = packet.ack;
            end.nxt = end.nxt.max(end.una);
            (end.duplicates, end.probed, end.backoff) = (0, false, 0);
            self.arm(who);
        } else if packet.ack == end.una
            && packet.len == 0
            && end.outstanding()
            && packet.window == end.peer_window
        {
            end.duplicates += 1;
            if end.duplicates == 3 {
                let (seq, len) = (end.una, (end.nxt - end.una).min(MSS));
                self.send_data(who, seq, len);
            }
        }
        let end = &mut self.ends[who];
        if packet.ack >= end.una {
            end.peer_window = packet.window;
            if packet.window > 0 {
                end.closed_since = None;
            } else {
                end.closed_since.get_or_insert(now);
            }
        }
    }

    /// What a watcher of the port says of it.
    pub(crate) fn watch(&self) -> CauseTable {
        let mut watcher = StallWatcher::default();
        for (at, place, packet) in &self.rows {
            let (point, direction) = match place {
                0 => (Point::Near, Direction::Tx),
                1 => (Point::Far, Direction::Rx),
                2 => (Point::Far, Direction::Tx),
                _ => (Point::Near, Direction::Rx),
            };
            watcher.observe(Instant(*at), point, direction, &meta(packet));
        }
        watcher.settle(Instant(u64::MAX), usize::MAX);
        watcher.summary().causes
    }

    /// The trace as it would have been captured at these taps.
    pub(crate) fn trace(&self, trace: &mut Trace, two_taps: bool) {
        let mut number = [0; 2];
        for (at, place, packet) in &self.rows {
            // Places: 0 from the guest, 1 from its peer, 2 and 3 the same as they leave.
            let tap = match place {
                0 | 3 => Tap::First,
                _ => Tap::Second,
            };
            if !two_taps && tap == Tap::Second {
                continue;
            }
            number[tap as usize] += 1;
            let frame = TraceFrame {
                number: number[tap as usize],
                at: Instant(*at),
                tap,
                meta: &meta(packet),
                mss: None,
            };
            trace.add(&frame);
        }
    }
}
