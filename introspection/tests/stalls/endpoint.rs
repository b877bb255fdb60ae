//! An end of a connection: a TCP with a published policy of acknowledging, and an application that follows a script.

use std::collections::VecDeque;

use offload::TcpFlags;

pub(crate) const US: u64 = 1_000;
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const MSS: u64 = 1_448;

/// When an end acknowledges.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Policy {
    /// At once when more than a segment's octets are unacknowledged, or while it has quick acknowledgements left; else after its
    /// delay, 40 to 200 ms (net/ipv4/tcp_input.c, `__tcp_ack_snd_check`).
    Linux,
    /// Every second segment, or at 200 ms (TcpAckFrequency = 2, TcpDelAckTicks = 2).
    Windows,
    /// Every second segment, or at 40 ms, before 2020 at 100 ms.
    FreeBsd,
    /// Past a segment's octets, or after `set_ack_delay`.
    Smoltcp,
}

/// What an application does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Write(u64),
    /// Until everything written is acknowledged.
    WaitAck,
    Read(u64),
    Think(u64),
}

/// Why data waits at its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Nagle,
    Pending,
    Closed,
    Full,
}

/// How an acknowledgement came about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Provenance {
    pub(crate) sent: u64,
    /// Sent by the timer, for data that came then.
    pub(crate) delayed_since: Option<u64>,
    /// The timer had not been needed without merging.
    pub(crate) coalesced: bool,
    pub(crate) filter_in: u64,
    pub(crate) filter_out: u64,
    /// The path was slow.
    pub(crate) spiked: bool,
}

/// A segment; positions count octets from the start of their stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) seq: u64,
    pub(crate) len: u64,
    pub(crate) ack: u64,
    pub(crate) window: u64,
    pub(crate) push: bool,
    /// Segments that were merged into it, and whether their size is known.
    pub(crate) segments: u64,
    pub(crate) gso: bool,
    /// Whether it is one of a handshake, and the first.
    pub(crate) syn: bool,
    pub(crate) opens: bool,
    pub(crate) how: Provenance,
}

impl Packet {
    pub(crate) fn flags(&self) -> u8 {
        let syn = if self.syn { TcpFlags::SYN } else { 0 };
        let ack = if self.opens { 0 } else { TcpFlags::ACK };
        syn | ack
    }
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) policy: Policy,
    pub(crate) ack_delay: u64,
    pub(crate) quick: u64,
    pub(crate) nagle: bool,
    pub(crate) probes: bool,
    pub(crate) srtt: u64,
    pub(crate) script: VecDeque<Step>,
    pub(crate) thinking_until: u64,
    pub(crate) una: u64,
    pub(crate) nxt: u64,
    /// Behind the last octet that was ever sent.
    pub(crate) sent: u64,
    pub(crate) written: u64,
    /// Behind the last small segment that was sent.
    pub(crate) small: u64,
    pub(crate) peer_window: u64,
    pub(crate) closed_since: Option<u64>,
    pub(crate) cwnd: u64,
    pub(crate) duplicates: u64,
    pub(crate) timer: Option<u64>,
    pub(crate) probed: bool,
    pub(crate) backoff: u32,
    pub(crate) rcv_nxt: u64,
    pub(crate) early: Vec<(u64, u64)>,
    pub(crate) unread: u64,
    pub(crate) buffer: u64,
    pub(crate) advertised: u64,
    /// What had come when it was advertised.
    pub(crate) advertised_at: u64,
    pub(crate) octets: u64,
    pub(crate) frames: u64,
    pub(crate) segments: u64,
    pub(crate) rcv_mss: u64,
    pub(crate) ack_at: Option<u64>,
    pub(crate) ack_since: u64,
    /// The last acknowledgement.
    pub(crate) acknowledged: Option<(u64, Provenance)>,
    pub(crate) spiked: bool,
    pub(crate) blocked: Option<(u64, Block)>,
    pub(crate) last_sent: u64,
    pub(crate) last_arrival: u64,
    pub(crate) told: u64,
}

impl Endpoint {
    pub(crate) fn new(policy: Policy, ack_delay: u64, srtt: u64) -> Self {
        Self {
            policy,
            ack_delay,
            quick: 0,
            nagle: false,
            probes: matches!(policy, Policy::Linux),
            srtt,
            script: VecDeque::new(),
            thinking_until: 0,
            una: 0,
            nxt: 0,
            sent: 0,
            written: 0,
            small: 0,
            peer_window: 65_000,
            closed_since: None,
            cwnd: 10 * MSS,
            duplicates: 0,
            timer: None,
            probed: false,
            backoff: 0,
            rcv_nxt: 0,
            early: Vec::new(),
            unread: 0,
            buffer: 65_000,
            advertised: 65_000,
            advertised_at: 0,
            octets: 0,
            frames: 0,
            segments: 0,
            rcv_mss: MSS,
            ack_at: None,
            ack_since: 0,
            acknowledged: None,
            spiked: false,
            blocked: None,
            last_sent: 0,
            last_arrival: 0,
            told: 0,
        }
    }

    /// The window to advertise; none of less than a segment (RFC 9293, 3.8.6.2.2).
    pub(crate) fn window(&self) -> u64 {
        let free = self.buffer.saturating_sub(self.unread);
        if free < MSS { 0 } else { free }
    }

    /// The retransmission timer: RFC 6298 with each stack's least (Linux 200 ms, FreeBSD 30 ms and 200 ms of slop, Windows
    /// 300 ms), in ticks of 4 ms.
    pub(crate) fn rto(&self) -> u64 {
        let least = match self.policy {
            Policy::Linux => 204,
            Policy::FreeBsd => 230,
            Policy::Windows | Policy::Smoltcp => 300,
        };
        (least * MS + 2 * self.srtt) << self.backoff.min(6)
    }

    /// The tail-loss probe: two round trips, and the longest delay of an acknowledgement when one segment is out.
    pub(crate) fn probe(&self) -> Option<u64> {
        let single = self.nxt - self.una <= MSS;
        let wait = 2 * self.srtt + if single { 204 * MS } else { 8 * MS };
        (self.probes && !self.probed && self.backoff == 0).then_some(wait)
    }

    pub(crate) fn outstanding(&self) -> bool {
        self.una < self.nxt
    }

    /// Whether so much is acknowledged at once.
    fn is_enough(&self, octets: u64, segments: u64, rcv_mss: u64) -> bool {
        match self.policy {
            Policy::Linux | Policy::Smoltcp => octets > rcv_mss,
            Policy::Windows | Policy::FreeBsd => segments >= 2,
        }
    }

    /// Takes data that came in its place into account; whether to acknowledge at once.
    pub(crate) fn note(&mut self, packet: &Packet, now: u64) -> bool {
        self.octets += packet.len;
        self.frames += 1;
        self.segments += packet.segments;
        self.spiked |= packet.how.spiked;
        if matches!(self.policy, Policy::Linux) && packet.segments > 1 && !packet.gso {
            self.rcv_mss = self.rcv_mss.max(packet.len);
        }
        if self.quick > 0 {
            self.quick -= 1;
            return true;
        }
        if self.is_enough(self.octets, self.frames, self.rcv_mss) {
            return true;
        }
        if self.ack_at.is_none() {
            self.ack_at = Some(now + self.ack_delay);
            self.ack_since = now;
        }
        false
    }

    /// What is told about an acknowledgement that is sent now.
    pub(crate) fn acknowledge(&mut self, now: u64, by_timer: bool) -> Provenance {
        let repeats = self.acknowledged.filter(|(ack, _)| *ack == self.rcv_nxt);
        let how = Provenance {
            sent: now,
            delayed_since: by_timer.then_some(self.ack_since),
            coalesced: by_timer && self.is_enough(self.octets, self.segments, MSS),
            spiked: self.spiked,
            ..Provenance::default()
        };
        (self.octets, self.frames, self.segments) = (0, 0, 0);
        self.ack_at = None;
        self.spiked = false;
        // What it says was said before.
        let how = repeats.map_or(how, |(_, first)| Provenance {
            spiked: how.spiked,
            ..first
        });
        self.acknowledged = Some((self.rcv_nxt, how));
        how
    }

    /// Takes octets in; how many came into their place.
    pub(crate) fn receive(&mut self, seq: u64, end: u64) -> u64 {
        let before = self.rcv_nxt;
        self.early.push((seq, end));
        self.early.sort_unstable();
        self.early.retain(|(first, behind)| {
            if *first <= self.rcv_nxt {
                self.rcv_nxt = self.rcv_nxt.max(*behind);
                return false;
            }
            true
        });
        self.unread += self.rcv_nxt - before;
        self.rcv_nxt - before
    }
}
