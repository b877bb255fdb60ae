//! Packed virtqueues (virtio 1.2, section 2.8).
//!
//! There is one ring of descriptors, which driver and device go round one behind the other. The driver makes a chain
//! available by writing its descriptors into the next slots, the first one's flags last. We use it by writing its identifier
//! over the first of its slots, and go on behind its last. Two flags of a descriptor, compared with a wrap counter that
//! changes at each round, tell whether it is available, used, or left over from the round before.
//!
//! Used descriptors are words that are written at once. Those of a burst are written as they come, except for the first:
//! the driver cannot see past it, and [`Format::publish`] writes it with release ordering after all the others.

mod layout;
pub(super) mod position;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use self::layout::Layout;
use self::position::{slot, wrap};
use super::chain::{self, Access, CHAIN_LIMIT, Chain, Descriptor, INDIRECT, NEXT, Single, Table, WRITE};
use super::format::Format;
use super::inflight::Region;
use super::inflight::packed::PackedLog;
use super::{Options, RingAddresses, RingFault, RingSetup};
use crate::frame::Segment;
use crate::memory::GuestMemory;

/// A descriptor's flags that are compared with the wrap counter (`VIRTQ_DESC_F_AVAIL` and `_USED`).
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Event suppression (virtio 1.2, 2.8.10): always, never, or at a position.
const ENABLE: u32 = 0;
const DISABLE: u32 = 1;
const AT_DESCRIPTOR: u32 = 2;

/// Descriptors that are fetched ahead: three cache lines.
const AHEAD: u16 = 12;

/// The device's side of a packed virtqueue.
#[derive(Debug)]
pub struct Packed {
    layout: Layout,
    options: Options,
    /// The first chain that is not consumed.
    next_avail: u16,
    /// Where the next used descriptor goes.
    next_used: u16,
    /// Where the driver will look for the next one.
    published: u16,
    /// The first used descriptor that the driver cannot see yet: its slot and word.
    first: Option<(u16, u64)>,
    /// Places published since the last decision to notify; `None` before the first.
    unnotified: Option<u32>,
    /// What our event suppression says, if that is known.
    asked: Option<u32>,
    log: Option<PackedLog>,
}

impl Format for Packed {
    type Head = Descriptor;

    /// What is between the positions of available and used chains when a ring stops is given back unused, so that both
    /// are `setup.base`.
    fn new(memory: &Arc<GuestMemory>, setup: &RingSetup, options: Options) -> Result<Self, RingFault> {
        let layout = Layout::resolve(memory, &setup.addresses, setup.size)?;
        if slot(setup.base) >= setup.size {
            return Err(RingFault::Position(slot(setup.base)));
        }
        Ok(Self {
            layout,
            options,
            next_avail: setup.base,
            next_used: setup.base,
            published: setup.base,
            first: None,
            unnotified: None,
            asked: None,
            log: None,
        })
    }

    fn relocate(&mut self, memory: &Arc<GuestMemory>, addresses: &RingAddresses) -> Result<(), RingFault> {
        self.layout = Layout::resolve(memory, addresses, self.layout.size())?;
        self.asked = None;
        Ok(())
    }

    fn size(&self) -> u16 {
        self.layout.size()
    }

    fn memory(&self) -> &Arc<GuestMemory> {
        self.layout.memory()
    }

    fn next_avail(&self) -> u16 {
        self.next_avail
    }

    fn after(&self, at: u16, slots: u16) -> u16 {
        position::after(at, slots, self.layout.size())
    }

    fn before(&self, at: u16, slots: u16) -> u16 {
        position::before(at, slots, self.layout.size())
    }

    fn look(&mut self) -> Result<(), RingFault> {
        Ok(())
    }

    /// A driver that makes more available than the ring has is not believed: nothing is there while all is in hand.
    #[allow(clippy::inline_always)] // kept out of line, it costs a small frame a fifth of its time
    #[inline(always)]
    fn head(&self, at: u16) -> Option<Descriptor> {
        let descriptor = self.layout.view().descriptor(slot(at));
        (is_available(&descriptor, at) && self.in_hand(at) < self.layout.size().into()).then_some(descriptor)
    }

    #[inline]
    fn prefetch(&self, at: u16) {
        let ahead = self.after(at, AHEAD.min(self.layout.size()));
        self.layout.view().prefetch_descriptor(slot(ahead));
    }

    /// Each look is at one descriptor.
    #[inline]
    fn has_seen(&self, _count: usize) -> bool {
        true
    }

    #[inline]
    fn singles(&self, limit: usize, access: Access, mut take: impl FnMut(Single) -> bool) {
        let view = self.layout.view();
        let size = view.size();
        let mut memory = self.layout.memory().nearby();
        let mut at = self.next_avail;
        let room = u32::from(size).saturating_sub(self.in_hand(at)) as usize;
        for _ in 0..limit.min(room) {
            let descriptor = view.descriptor(slot(at));
            if !is_available(&descriptor, at) {
                return;
            }
            view.prefetch_descriptor(slot(position::after(at, AHEAD.min(size), size)));
            let single = Single::of(&mut memory, &descriptor, access, descriptor.tag);
            if !single.is_some_and(&mut take) {
                return;
            }
            at = position::after(at, 1, size);
        }
    }

    #[allow(clippy::inline_always)] // kept out of line, it costs a small frame a fifth of its time
    #[inline(always)]
    fn walk(
        &self,
        at: u16,
        head: Descriptor,
        access: Access,
        segments: &mut Vec<Segment>,
    ) -> Result<Chain, RingFault> {
        let (id, slots) = (head.tag, 1);
        if head.has(INDIRECT) {
            let total = self.walk_table(&head, access, segments)?;
            return Ok(Chain { id, slots, total });
        }
        let mut total = chain::add(self.layout.memory(), &head, access, segments)?;
        if !head.has(NEXT) {
            return Ok(Chain { id, slots, total });
        }
        let chain = self.follow(at, head, |descriptor| {
            total += chain::add(self.layout.memory(), descriptor, access, segments)?;
            Ok(())
        })?;
        Ok(Chain { total, ..chain })
    }

    fn skip(&self, at: u16, head: Descriptor) -> Result<Chain, RingFault> {
        self.follow(at, head, |_| Ok(()))
    }

    /// They are where the available ones were just read.
    fn prefetch_used(&self, _count: usize) {}

    #[inline]
    fn consume(&mut self, slots: u16) {
        self.next_avail = self.after(self.next_avail, slots);
    }

    #[inline]
    fn add_used(&mut self, id: u16, len: u32, slots: u16) {
        let at = self.next_used;
        if self.first.is_none() {
            self.first = Some((slot(at), used_word(at, id, len)));
        } else {
            self.layout.view().write(slot(at), used_word(at, id, len));
        }
        self.next_used = self.after(at, slots);
    }

    #[inline]
    fn add_used_singles(&mut self, mut used: impl Iterator<Item = (u16, u32)>) {
        if self.first.is_none()
            && let Some((id, len)) = used.next()
        {
            self.add_used(id, len, 1);
        }
        let view = self.layout.view();
        let mut at = self.next_used;
        for (id, len) in used {
            view.write(slot(at), used_word(at, id, len));
            at = position::after(at, 1, view.size());
        }
        self.next_used = at;
    }

    fn track(&mut self, region: Region) {
        let waits = |at| is_available(&self.layout.view().descriptor(slot(at)), at);
        let (log, at) = PackedLog::open(region, self.layout.size(), self.published, waits);
        self.log = Some(log);
        self.next_avail = at;
        self.next_used = at;
        self.published = at;
    }

    fn note_taken(&mut self, from: u16, chains: &[Chain]) {
        let Some(log) = &mut self.log else { return };
        let mut at = from;
        for chain in chains {
            log.taken(at, chain, |slot| self.layout.view().descriptor(slot));
            at = position::after(at, chain.slots, self.layout.size());
        }
    }

    fn publish_taken(&mut self, chains: &[Chain]) {
        let from = self.published;
        if let Some(log) = &self.log {
            log.returning(from, self.next_used);
        }
        self.publish();
        if let Some(log) = &self.log {
            log.returned(from, chains, self.published);
        }
    }

    fn untrack(&mut self) {
        if let Some(log) = self.log.take() {
            log.close();
        }
    }

    fn publish(&mut self) {
        if let Some((slot, word)) = self.first.take() {
            self.layout.view().write_last(slot, word);
            let slots = position::distance(self.published, self.next_used, self.layout.size());
            self.published = self.next_used;
            self.unnotified = self.unnotified.map(|before| before.saturating_add(slots));
        }
    }

    fn unannounced(&self) -> Option<u32> {
        self.unnotified
    }

    fn wants_notification(&self) -> bool {
        if self.unnotified == Some(0) {
            return false;
        }
        // Either the driver sees the descriptor that was just published when it looks again after changing its wish,
        // or the wish is seen here (virtio 1.2, 2.8.21.3.1).
        fence(Ordering::SeqCst);
        let event = self.layout.driver_event();
        match event >> 16 & 3 {
            ENABLE => true,
            AT_DESCRIPTOR if self.options.event_idx => self
                .unnotified
                .is_none_or(|slots| self.stepped_over(event as u16, slots)),
            _ => false,
        }
    }

    fn announced(&mut self) {
        self.unnotified = Some(0);
    }

    fn ask_at(&mut self, at: u16) -> bool {
        self.set_event(if self.options.event_idx {
            AT_DESCRIPTOR << 16 | u32::from(at)
        } else {
            ENABLE << 16
        });
        fence(Ordering::SeqCst);
        is_available(&self.layout.view().descriptor(slot(at)), at)
    }

    /// Where the driver goes on is not written anywhere, so every ring is asked for; then there is nothing to look for.
    fn ask_for_more(&mut self) -> bool {
        self.set_event(ENABLE << 16);
        fence(Ordering::SeqCst);
        false
    }

    fn suppress(&mut self) {
        self.set_event(DISABLE << 16);
    }
}

impl Packed {
    /// Places that were consumed, or are before `at`, and that the driver does not know to be used.
    #[inline]
    fn in_hand(&self, at: u16) -> u32 {
        position::distance(self.published, at, self.layout.size())
    }

    /// Goes through a chain from its second descriptor on; its last one has the identifier.
    fn follow(
        &self,
        at: u16,
        head: Descriptor,
        mut next: impl FnMut(&Descriptor) -> Result<(), RingFault>,
    ) -> Result<Chain, RingFault> {
        let mut last = head;
        let mut slots = 1;
        while last.has(NEXT) {
            let room = u32::from(self.layout.size()) - self.in_hand(at).min(self.layout.size().into());
            if u32::from(slots) >= room.min(CHAIN_LIMIT.into()) {
                return Err(RingFault::ChainTooLong(slot(at)));
            }
            last = self.layout.view().descriptor(slot(self.after(at, slots)));
            if last.has(INDIRECT) {
                return Err(RingFault::IndirectNested);
            }
            next(&last)?;
            slots += 1;
        }
        Ok(Chain {
            id: last.tag,
            slots,
            total: 0,
        })
    }

    /// Walks an indirect table (virtio 1.2, 2.8.7): all of its entries, one after the other.
    fn walk_table(
        &self,
        descriptor: &Descriptor,
        access: Access,
        segments: &mut Vec<Segment>,
    ) -> Result<u64, RingFault> {
        if !self.options.indirect {
            return Err(RingFault::IndirectUnexpected);
        }
        let memory = self.layout.memory();
        let table = Table::find(memory, descriptor, self.layout.size())?;
        let mut total = 0;
        for index in 0..table.entries() {
            let (low, high) = table.words(index)?;
            let entry = Descriptor::of_packed(low, high);
            if entry.has(INDIRECT) {
                return Err(RingFault::IndirectNested);
            }
            total += chain::add(memory, &entry, access, segments)?;
        }
        Ok(total)
    }

    /// Whether a position is among the last `slots` places that were published. One that is not in the ring is the
    /// driver's mistake, and it is told rather once too often.
    fn stepped_over(&self, event: u16, slots: u32) -> bool {
        let size = self.layout.size();
        slot(event) >= size || (1..=slots).contains(&position::distance(event, self.published, size))
    }

    fn set_event(&mut self, event: u32) {
        if self.asked != Some(event) {
            self.layout.set_device_event(event);
            self.asked = Some(event);
        }
    }
}

/// The second word of a used descriptor at a position.
#[inline]
fn used_word(at: u16, id: u16, len: u32) -> u64 {
    let round = if wrap(at) { AVAIL | USED } else { 0 };
    let flags = round | if len > 0 { WRITE } else { 0 };
    u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48
}

/// Whether the driver has written a descriptor in the round that a position belongs to.
#[inline]
fn is_available(descriptor: &Descriptor, at: u16) -> bool {
    descriptor.has(AVAIL) == wrap(at) && descriptor.has(USED) != wrap(at)
}

#[cfg(test)]
mod tests {
    use super::position::WRAP;
    use super::*;

    #[test]
    fn a_descriptor_is_available_in_one_round_only() {
        let with = |flags| Descriptor {
            address: 0,
            len: 0,
            flags,
            tag: 0,
        };
        let rounds = |flags| [WRAP | 3, 3].map(|at| is_available(&with(flags), at));
        assert_eq!(rounds(AVAIL), [true, false]);
        assert_eq!(rounds(USED), [false, true]);
        assert_eq!(rounds(0), [false, false]);
        assert_eq!(rounds(AVAIL | USED), [false, false]);
    }
}
