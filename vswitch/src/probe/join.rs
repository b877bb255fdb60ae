//! Making one frame of several that a filter lets go together.

use introspection::Instant;
use offload::coalesce::Coalescer;

use super::{Carrier, Held, Inner, Passed};
use crate::packet::Packet;

impl Inner {
    /// Lets go of held packets, one run of a flow: as one if the carrier is their origin and no receiver could tell, else one by one, to
    /// the carrier or to their origin's outbox. True when some went to an outbox.
    pub(super) fn release_run(
        &mut self,
        now: Instant,
        passed: &mut Passed,
        mut carrier: Option<&mut Carrier<'_>>,
    ) -> bool {
        let mut run = std::mem::take(&mut self.run);
        for held in &mut run {
            held.let_go(now);
        }
        let mut others = false;
        if run.len() > 1
            && let Some(carrier) = carrier.as_deref_mut()
            && run.iter().all(|held| held.origin == carrier.lane)
        {
            self.leave_as_one(now, &mut run, passed, carrier);
        }
        for held in run.drain(..) {
            match carrier.as_deref_mut() {
                Some(carrier) if carrier.lane == held.origin => self.resume(now, held, passed, carrier),
                _ => {
                    self.outbox(held);
                    others = true;
                }
            }
        }
        self.run = run;
        others
    }

    fn leave_as_one(
        &mut self,
        now: Instant,
        run: &mut Vec<Held>,
        passed: &mut Passed,
        carrier: &mut Carrier<'_>,
    ) {
        let Some((first, direction, parts)) = run
            .first_mut()
            .map(|held| (held.packet, held.direction, std::mem::take(&mut held.parts)))
        else {
            return;
        };
        let mut coalescer = self.joiner.take().unwrap_or_else(|| Box::new(Coalescer::new(1)));
        let arena = &mut *carrier.arena;
        let mut made = Vec::new();
        let mut keep = |done: offload::coalesce::Coalesced<'_>| {
            let mut octets = arena.burst.pool.empty(done.frame.len());
            octets.extend_from_slice(done.frame);
            made.push(Packet {
                meta: done.meta,
                offloads: done.offloads,
                octets: arena.adopt(octets),
                ..first
            });
        };
        for held in run.iter() {
            coalescer.push(&held.octets, &held.packet.meta, &held.packet.offloads, &mut keep);
        }
        coalescer.flush(&mut keep);
        self.joiner = Some(coalescer);
        for held in run.drain(..) {
            // Its buffer is used again.
            carrier.arena.adopt(held.octets);
        }
        for packet in made {
            let octets = carrier.arena.head(packet.octets);
            self.account.released(now, &packet, octets, direction, &parts);
            self.leave(now, direction, packet, passed, carrier);
        }
    }
}
