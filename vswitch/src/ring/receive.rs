//! Receive: from a sender's segments into the driver's buffers.

use offload::VnetHeader;

use super::chain::{self, Access, CHAIN_LIMIT};
use super::{RingFault, SplitRing, scatter};
use crate::counters::DropReason;
use crate::frame::Outgoing;
use crate::port::Refusal;

impl SplitRing {
    /// Copies a frame into the driver's buffers. It is visible after [`SplitRing::publish`]. When refused, nothing was
    /// consumed; a fault shows in [`SplitRing::fault`] and refuses with [`DropReason::RingFault`].
    pub fn receive(&mut self, frame: &Outgoing<'_>) -> Result<(), Refusal> {
        if self.fault.is_some() {
            return Err(Refusal::Drop(DropReason::RingFault));
        }
        match self.plan(frame.len) {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => return Err(refusal),
            Err(fault) => {
                self.stop(fault);
                return Err(Refusal::Drop(DropReason::RingFault));
            }
        }
        self.starved_at = None;
        self.fill(frame);
        self.use_planned(self.options.header_len as u32 + frame.len);
        Ok(())
    }

    /// Gathers chains into the plan until they hold the header and `len` octets: [`CHAIN_LIMIT`] of them at most, so that
    /// a guest with tiny buffers costs its sender's worker little.
    fn plan(&mut self, len: u32) -> Result<Result<(), Refusal>, RingFault> {
        let need = self.options.header_len as u64 + u64::from(len);
        self.scratch.plan.0.clear();
        self.scratch.heads.clear();
        let mut room = 0;
        while room < need {
            let planned = self.scratch.heads.len() as u16;
            if planned > 0 && !self.options.mergeable || planned == CHAIN_LIMIT {
                return Ok(Err(Refusal::Drop(DropReason::BufferTooSmall)));
            }
            let entry = self.next_avail.wrapping_add(planned);
            if entry == self.seen_avail && self.look()? == planned {
                return Ok(Err(self.out_of_room(planned)));
            }
            let head = self.layout.avail_entry(entry);
            let plan = &mut self.scratch.plan.0;
            let chain = chain::walk(&self.layout, self.options.indirect, head, Access::Write, plan)?;
            if chain == 0 {
                return Err(RingFault::EmptyBuffer);
            }
            self.scratch.heads.push((head, chain.min(need - room) as u32));
            room += chain;
        }
        Ok(Ok(()))
    }

    /// `planned` chains are all there are, and do not suffice.
    fn out_of_room(&mut self, planned: u16) -> Refusal {
        if planned == self.layout.size() {
            return Refusal::Drop(DropReason::BufferTooSmall);
        }
        self.starved_at = Some(self.seen_avail);
        Refusal::Full
    }

    /// Copies the frame into the plan.
    fn fill(&mut self, frame: &Outgoing<'_>) {
        let vnet = VnetHeader {
            num_buffers: self.scratch.heads.len() as u16,
            ..frame.vnet
        };
        let raw = vnet.to_bytes();
        let mut writer = scatter::Writer::new(&self.scratch.plan.0);
        writer.write(&raw[..self.options.header_len.min(raw.len())]);
        let mut left = frame.len as usize;
        let head = frame.head.get(..left).unwrap_or(frame.head);
        writer.write(head);
        left -= head.len();
        for segment in frame.tail {
            let len = (segment.len as usize).min(left);
            writer.write_segment(*segment, len);
            left -= len;
        }
    }

    /// Lists the planned chains as used.
    fn use_planned(&mut self, total: u32) {
        let heads = std::mem::take(&mut self.scratch.heads);
        debug_assert_eq!(heads.iter().map(|(_, len)| *len).sum::<u32>(), total);
        for (head, len) in &heads {
            self.add_used(*head, *len);
        }
        self.next_avail = self.next_avail.wrapping_add(heads.len() as u16);
        self.scratch.heads = heads;
    }
}
