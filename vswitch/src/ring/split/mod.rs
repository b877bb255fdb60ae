//! Split virtqueues (virtio 1.2, section 2.7).

mod layout;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use self::layout::Layout;
use super::chain::{self, Access, CHAIN_LIMIT, Chain, Descriptor, INDIRECT, NEXT, Single, Table};
use super::format::Format;
use super::inflight::Region;
use super::inflight::split::SplitLog;
use super::{Options, RingAddresses, RingFault, RingSetup};
use crate::frame::Segment;
use crate::memory::GuestMemory;

/// Places by which descriptors are fetched ahead.
const AHEAD: u16 = 12;

/// The device's side of a split virtqueue. Positions are free-running indices.
#[derive(Debug)]
pub struct Split {
    layout: Layout,
    options: Options,
    /// The first available entry that is not consumed.
    next_avail: u16,
    /// The available index as last read.
    seen_avail: u16,
    /// Where the next used entry goes.
    next_used: u16,
    /// The used index as published.
    published: u16,
    /// The used index at the last decision to notify; `None` before the first.
    notified: Option<u16>,
    log: Option<SplitLog>,
}

impl Format for Split {
    type Head = u16;

    fn new(memory: &Arc<GuestMemory>, setup: &RingSetup, options: Options) -> Result<Self, RingFault> {
        let layout = Layout::resolve(memory, &setup.addresses, setup.size, options.event_idx)?;
        let used = layout.used_index();
        Ok(Self {
            layout,
            options,
            next_avail: setup.base,
            seen_avail: setup.base,
            next_used: used,
            published: used,
            notified: None,
            log: None,
        })
    }

    fn relocate(&mut self, memory: &Arc<GuestMemory>, addresses: &RingAddresses) -> Result<(), RingFault> {
        self.layout = Layout::resolve(memory, addresses, self.layout.size(), self.options.event_idx)?;
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
        at.wrapping_add(slots)
    }

    fn before(&self, at: u16, slots: u16) -> u16 {
        at.wrapping_sub(slots)
    }

    fn look(&mut self) -> Result<(), RingFault> {
        self.seen_avail = self.layout.avail_index();
        if self.seen_avail.wrapping_sub(self.next_avail) > self.layout.size() {
            return Err(RingFault::AvailIndex {
                next: self.next_avail,
                index: self.seen_avail,
            });
        }
        Ok(())
    }

    #[inline]
    fn head(&self, at: u16) -> Option<u16> {
        (at != self.seen_avail).then(|| self.layout.view().avail_entry(at))
    }

    #[inline]
    fn prefetch(&self, at: u16) {
        // An entry that the driver has not filled yet leads to some descriptor, too.
        let view = self.layout.view();
        view.prefetch_descriptor(view.avail_entry(at.wrapping_add(AHEAD)));
    }

    #[inline]
    fn has_seen(&self, count: usize) -> bool {
        usize::from(self.seen_avail.wrapping_sub(self.next_avail)) >= count
    }

    #[inline]
    fn singles(&self, limit: usize, access: Access, mut take: impl FnMut(Single) -> bool) {
        let view = self.layout.view();
        let mut memory = self.layout.memory().nearby();
        let mut at = self.next_avail;
        let seen = usize::from(self.seen_avail.wrapping_sub(at));
        for _ in 0..limit.min(seen) {
            let head = view.avail_entry(at);
            view.prefetch_descriptor(view.avail_entry(at.wrapping_add(AHEAD)));
            if head >= view.size() {
                return;
            }
            let single = Single::of(&mut memory, &view.descriptor(head), access, head);
            if !single.is_some_and(&mut take) {
                return;
            }
            at = at.wrapping_add(1);
        }
    }

    #[inline]
    fn walk(
        &self,
        _at: u16,
        head: u16,
        access: Access,
        segments: &mut Vec<Segment>,
    ) -> Result<Chain, RingFault> {
        let size = self.layout.size();
        let chain = |total| Chain {
            id: head,
            slots: 1,
            total,
        };
        let mut index = head;
        let mut total = 0;
        for _ in 0..size.min(CHAIN_LIMIT) {
            if index >= size {
                return Err(RingFault::DescriptorIndex(index));
            }
            let descriptor = self.layout.view().descriptor(index);
            if descriptor.has(INDIRECT) {
                return Ok(chain(
                    total + self.walk_table(&descriptor, head, access, segments)?,
                ));
            }
            total += chain::add(self.layout.memory(), &descriptor, access, segments)?;
            if !descriptor.has(NEXT) {
                return Ok(chain(total));
            }
            index = descriptor.tag;
        }
        Err(RingFault::ChainTooLong(head))
    }

    fn skip(&self, _at: u16, head: u16) -> Result<Chain, RingFault> {
        Ok(Chain {
            id: head,
            slots: 1,
            total: 0,
        })
    }

    #[inline]
    fn prefetch_used(&self, count: usize) {
        for entry in (0..count as u16).step_by(8) {
            self.layout.prefetch_used(self.next_used.wrapping_add(entry));
        }
    }

    #[inline]
    fn consume(&mut self, slots: u16) {
        self.next_avail = self.next_avail.wrapping_add(slots);
    }

    #[inline]
    fn add_used(&mut self, id: u16, len: u32, slots: u16) {
        self.layout.view().write_used(self.next_used, id, len);
        self.next_used = self.next_used.wrapping_add(slots);
    }

    #[inline]
    fn add_used_singles(&mut self, used: impl Iterator<Item = (u16, u32)>) {
        let view = self.layout.view();
        let mut next = self.next_used;
        for (id, len) in used {
            view.write_used(next, id, len);
            next = next.wrapping_add(1);
        }
        self.next_used = next;
    }

    fn track(&mut self, region: Region) {
        let (log, resumes) = SplitLog::open(region, self.layout.size(), self.published);
        if resumes {
            self.next_avail = self.published;
            self.seen_avail = self.published;
        }
        self.log = Some(log);
    }

    fn note_taken(&mut self, _from: u16, chains: &[Chain]) {
        let Some(log) = &mut self.log else { return };
        for chain in chains {
            log.taken(chain);
        }
    }

    fn publish_taken(&mut self, chains: &[Chain]) {
        if let Some(log) = &self.log {
            log.returning(chains);
        }
        self.publish();
        if let Some(log) = &self.log {
            log.returned(chains, self.published);
        }
    }

    fn untrack(&mut self) {
        if let Some(log) = self.log.take() {
            log.close();
        }
    }

    fn publish(&mut self) {
        if self.published != self.next_used {
            self.layout.publish_used(self.next_used);
            self.published = self.next_used;
        }
    }

    fn unannounced(&self) -> Option<u32> {
        self.notified
            .map(|before| self.published.wrapping_sub(before).into())
    }

    fn wants_notification(&self) -> bool {
        let new = self.published;
        if self.notified == Some(new) {
            return false;
        }
        // Either the driver sees the index that was just published when it looks again after changing its wish,
        // or the wish is seen here (virtio 1.2, 2.7.7.2).
        fence(Ordering::SeqCst);
        if self.options.notify_on_empty && self.layout.avail_index() == self.next_avail {
            return true;
        }
        match self.notified {
            Some(old) if self.options.event_idx => passed(self.layout.used_event(), new, old),
            None if self.options.event_idx => true,
            _ => !self.layout.driver_suppresses(),
        }
    }

    fn announced(&mut self) {
        self.notified = Some(self.published);
    }

    fn ask_at(&mut self, at: u16) -> bool {
        if self.options.event_idx {
            self.layout.set_avail_event(at);
        } else {
            self.layout.suppress_driver(false);
        }
        fence(Ordering::SeqCst);
        self.layout.avail_index() != at
    }

    fn ask_for_more(&mut self) -> bool {
        self.ask_at(self.layout.avail_index())
    }

    /// With an event index the wish simply stays behind.
    fn suppress(&mut self) {
        if !self.options.event_idx {
            self.layout.suppress_driver(true);
        }
    }
}

impl Split {
    /// Walks an indirect table (virtio 1.2, 2.7.5.3), whose entries are chained like the ring's.
    fn walk_table(
        &self,
        descriptor: &Descriptor,
        head: u16,
        access: Access,
        segments: &mut Vec<Segment>,
    ) -> Result<u64, RingFault> {
        if !self.options.indirect {
            return Err(RingFault::IndirectUnexpected);
        }
        let memory = self.layout.memory();
        let table = Table::find(memory, descriptor, self.layout.size())?;
        let mut index = 0;
        let mut total = 0;
        for _ in 0..table.entries() {
            let (low, high) = table.words(index)?;
            let entry = Descriptor::of_split(low, high);
            if entry.has(INDIRECT) {
                return Err(RingFault::IndirectNested);
            }
            total += chain::add(memory, &entry, access, segments)?;
            if !entry.has(NEXT) {
                return Ok(total);
            }
            index = entry.tag;
        }
        Err(RingFault::ChainTooLong(head))
    }
}

/// Whether an index that went from `old` to `new` passed `event` (virtio 1.2, 2.7.10.1, `vring_need_event`).
pub const fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
