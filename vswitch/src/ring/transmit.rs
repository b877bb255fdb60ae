//! Transmit: from the ring into a burst, and back.

use offload::VnetHeader;

use super::chain::{self, Access};
use super::{RingFault, SplitRing, gather, layout};
use crate::frame::{Body, Burst, Frame, HEADER_COPY, MAX_FRAME};

/// The shortest frame: an Ethernet header.
const MIN_FRAME: u64 = 14;

/// A chain that holds a frame, between the two passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    head: u16,
    first: u32,
    count: u32,
    /// Octets of the frame, without its virtio-net header.
    len: u32,
}

impl SplitRing {
    /// Takes frames until the burst is full or the ring is empty; returns how many. The chains stay ours until
    /// [`SplitRing::complete`]. `queue` is noted in each frame.
    ///
    /// A fault ends it, and shows in [`SplitRing::fault`]; frames before it are good.
    pub fn take(&mut self, queue: u16, burst: &mut Burst) -> usize {
        let mut chains = std::mem::take(&mut self.scratch.chains);
        chains.clear();
        if let Err(fault) = self.collect(burst, &mut chains) {
            self.stop(fault);
        }
        for chain in &chains {
            self.push_frame(chain, queue, burst);
        }
        let taken = chains.len();
        self.scratch.chains = chains;
        taken
    }

    /// Gives all taken chains back to the driver and makes that visible; returns how many.
    pub fn complete(&mut self) -> usize {
        let taken = std::mem::take(&mut self.taken);
        for head in &taken {
            self.add_used(*head, 0);
        }
        let count = taken.len();
        self.taken = taken;
        self.taken.clear();
        self.publish();
        count
    }

    /// Gives back up to `limit` chains unread, which is what a disabled queue's frames get; returns how many.
    pub fn discard(&mut self, limit: usize) -> usize {
        if self.fault.is_some() {
            return 0;
        }
        let pending = match self.look() {
            Ok(pending) => usize::from(pending).min(limit),
            Err(fault) => {
                self.stop(fault);
                return 0;
            }
        };
        for _ in 0..pending {
            let head = self.layout.avail_entry(self.next_avail);
            self.next_avail = self.next_avail.wrapping_add(1);
            self.add_used(head, 0);
        }
        self.publish();
        pending
    }

    /// First pass: walks chains into the burst's segments.
    fn collect(&mut self, burst: &mut Burst, chains: &mut Vec<Chain>) -> Result<(), RingFault> {
        if self.fault.is_some() {
            return Ok(());
        }
        let pending = usize::from(self.look()?).min(burst.room());
        for turn in 0..pending {
            let head = self.layout.avail_entry(self.next_avail);
            if turn + 1 < pending {
                self.layout
                    .prefetch_descriptor(self.layout.avail_entry(self.next_avail.wrapping_add(1)));
            }
            let first = burst.segments.len();
            let walked = chain::walk(
                &self.layout,
                self.options.indirect,
                head,
                Access::Read,
                &mut burst.segments,
            );
            let total = walked.inspect_err(|_| burst.segments.truncate(first))?;
            self.next_avail = self.next_avail.wrapping_add(1);
            self.taken.push(head);
            if !self.admit(total) {
                burst.segments.truncate(first);
                continue;
            }
            let count = burst.segments.len() - first;
            if let Some(segment) = burst.segments.get(first) {
                layout::prefetch(segment.ptr);
            }
            let len = total - self.options.header_len as u64;
            chains.push(Chain {
                head,
                first: first as u32,
                count: count as u32,
                len: len as u32,
            });
        }
        Ok(())
    }

    /// Whether a chain's length is one that a frame can have.
    fn admit(&mut self, total: u64) -> bool {
        let header = self.options.header_len as u64;
        if total < header + MIN_FRAME {
            self.refused.too_short += 1;
            return false;
        }
        if total > header + MAX_FRAME as u64 {
            self.refused.too_long += 1;
            return false;
        }
        true
    }

    /// Second pass: copies a frame's first octets, and leaves the rest as segments.
    fn push_frame(&self, chain: &Chain, queue: u16, burst: &mut Burst) {
        let first = chain.first as usize;
        let Some(segments) = burst.segments.get_mut(first..first + chain.count as usize) else {
            return;
        };
        let mut reader = gather::Reader::new(segments);
        let mut raw = [0; VnetHeader::LEN];
        let header_len = self.options.header_len.min(VnetHeader::LEN);
        reader.read(&mut raw[..header_len]);
        let mut header = [0; HEADER_COPY];
        let copied = (chain.len as usize).min(HEADER_COPY);
        reader.read(&mut header[..copied]);
        let skipped = reader.finish() as u32;
        burst.frames.push(Frame {
            vnet: VnetHeader::from_bytes(&raw),
            len: chain.len,
            token: chain.head,
            queue,
            body: Body::Shared {
                header,
                header_len: copied as u16,
                first: chain.first + skipped,
                count: chain.count - skipped,
            },
        });
    }
}
