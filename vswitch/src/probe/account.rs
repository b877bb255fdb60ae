//! What a filter adds to the stamped packets that pass it, part by part and flow by flow.

use introspection::flow::FlowCost;
use introspection::stage::{FilterHistograms, PartTime, PartTimes};
use introspection::{Direction, Instant};

use super::{Held, Inner};
use crate::attribution::FlowCosts;
use crate::packet::Packet;

/// What was recorded of a filter.
#[derive(Default)]
pub(super) struct Account {
    pub(super) histograms: FilterHistograms,
    pub(super) flows: FlowCosts,
    /// What the parts took for the burst in hand, and how many of its packets go on at once.
    burst: PartTimes,
    passed: u64,
}

impl Account {
    /// Starts anew.
    pub(super) fn reset(&mut self) {
        self.histograms.reset();
        self.flows.reset();
    }

    /// A burst took `spent` nanoseconds, of which the parts say that so much was theirs. What they do not say is the first one's,
    /// with the copy that is judged.
    pub(super) fn judged(&mut self, spent: u64, parts: &[u64]) {
        let told: u64 = parts.iter().skip(1).sum();
        let first = PartTime {
            filter: spent.saturating_sub(told),
            hold: 0,
        };
        let others = parts.iter().skip(1).map(|filter| PartTime {
            filter: *filter,
            hold: 0,
        });
        self.burst.clear();
        self.burst.push(first);
        self.burst.extend(others);
    }

    /// A packet of the burst is held: what was spent on it so far.
    pub(super) fn so_far(&self, packet: &Packet) -> PartTimes {
        if packet.times.is_stamped() {
            self.burst.clone()
        } else {
            PartTimes::new()
        }
    }

    /// A packet of the burst, which begins with `octets`, goes on.
    pub(super) fn forwarded(&mut self, now: Instant, packet: &Packet, octets: &[u8], direction: Direction) {
        if packet.times.is_stamped() {
            self.passed += 1;
            let cost = cost(packet, &self.burst);
            self.flows.note(now, direction, octets, &packet.meta, &cost);
        }
    }

    /// The burst is over.
    pub(super) fn settle(&mut self) {
        self.histograms
            .record(&self.burst, std::mem::take(&mut self.passed));
    }

    /// A packet that was held goes on, likewise. Nothing is known of one that another filter held.
    pub(super) fn released(
        &mut self,
        now: Instant,
        packet: &Packet,
        octets: &[u8],
        direction: Direction,
        parts: &PartTimes,
    ) {
        if packet.times.is_stamped() && !parts.is_empty() {
            self.histograms.record(parts, 1);
            let cost = cost(packet, parts);
            self.flows.note(now, direction, octets, &packet.meta, &cost);
        }
    }
}

fn cost(packet: &Packet, parts: &PartTimes) -> FlowCost {
    let (filter_ns, hold_ns) = parts.iter().fold((0, 0), |(filter, hold), part| {
        (filter + part.filter, hold + part.hold)
    });
    FlowCost {
        frames: 1,
        octets: packet.meta.frame_len.into(),
        total_ns: filter_ns + hold_ns,
        filter_ns,
        hold_ns,
        longest_ns: filter_ns + hold_ns,
    }
}

impl Held {
    /// It is let go, or waits on somewhere else: what nobody else claims of the time was the last part's.
    pub(super) fn let_go(&mut self, now: Instant) {
        let waited = now.since(self.since);
        self.packet.times.hold += waited;
        self.waited += waited;
        let claimed: u64 = self.parts.iter().map(|part| part.hold).sum();
        if let Some(last) = self.parts.last_mut() {
            last.hold += self.waited.saturating_sub(claimed);
        }
    }
}

impl Inner {
    /// Another filter comes: what the last one let go is none of its business.
    pub(super) fn begin_account(&mut self) {
        self.account.reset();
        for held in self.outboxes.values_mut().flatten() {
            held.parts.clear();
        }
    }

    /// Takes note of what the parts of a filter say that they held.
    pub(super) fn credit_holds(&mut self) {
        let Some(work) = self.filter.as_ref().and_then(|filter| filter.get().parts()) else {
            return;
        };
        for hold in &work.held {
            let part = self
                .held
                .get_mut(&hold.id)
                .and_then(|held| held.parts.get_mut(hold.part));
            if let Some(part) = part {
                part.hold += hold.ns;
            }
        }
    }
}
