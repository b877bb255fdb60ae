//! Transmit: from the ring into a burst, and back.

use offload::VnetHeader;

use super::chain::{Access, Chain};
use super::device::DeviceRing;
use super::format::Format;
use super::{HEADER_MAX, RingFault, gather};
use crate::frame::{Body, Burst, Frame, HEADER_COPY, MAX_FRAME};

/// The shortest frame: an Ethernet header.
const MIN_FRAME: u64 = 14;

/// A chain that holds a frame, between the two passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    id: u16,
    first: u32,
    count: u32,
    /// Octets of the frame, without its virtio-net header.
    len: u32,
}

impl<F: Format> DeviceRing<F> {
    /// Takes frames until the burst is full or the ring is empty; returns how many. The chains stay ours until
    /// [`DeviceRing::complete`]. `queue` is noted in each frame.
    ///
    /// A fault ends it, and shows in [`DeviceRing::fault`]; frames before it are good.
    pub fn take(&mut self, queue: u16, burst: &mut Burst) -> usize {
        let mut frames = std::mem::take(&mut self.scratch.frames);
        frames.clear();
        let (from, before) = (self.format.next_avail(), self.taken.len());
        if let Err(fault) = self.collect(burst, &mut frames) {
            self.stop(fault);
        }
        self.format
            .note_taken(from, self.taken.get(before..).unwrap_or_default());
        self.format.prefetch_used(frames.len());
        for frame in &frames {
            self.push_frame(frame, queue, burst);
        }
        let taken = frames.len();
        self.scratch.frames = frames;
        taken
    }

    /// Gives all taken chains back to the driver and makes that visible; returns how many.
    pub fn complete(&mut self) -> usize {
        let mut taken = std::mem::take(&mut self.taken);
        self.use_unread(&taken);
        self.format.publish_taken(&taken);
        let count = taken.len();
        taken.clear();
        self.taken = taken;
        count
    }

    /// Gives back up to `limit` chains unread, which is what a disabled queue's frames get; returns how many.
    pub fn discard(&mut self, limit: usize) -> usize {
        if self.fault().is_some() {
            return 0;
        }
        let mut chains = std::mem::take(&mut self.scratch.chains);
        chains.clear();
        if let Err(fault) = self.skip(limit, &mut chains) {
            self.stop(fault);
        }
        self.use_unread(&chains);
        self.format.publish_taken(&[]);
        let count = chains.len();
        self.scratch.chains = chains;
        count
    }

    fn skip(&mut self, limit: usize, chains: &mut Vec<Chain>) -> Result<(), RingFault> {
        self.format.look()?;
        while chains.len() < limit {
            let at = self.format.next_avail();
            let Some(head) = self.format.head(at) else { break };
            let chain = self.format.skip(at, head)?;
            self.format.consume(chain.slots);
            chains.push(chain);
        }
        Ok(())
    }

    /// Lists chains as used; in order, the last one stands for all (virtio 1.2, 2.7.9 and 2.8.9).
    fn use_unread(&mut self, chains: &[Chain]) {
        if !self.options.in_order {
            for chain in chains {
                self.format.add_used(chain.id, 0, chain.slots);
            }
        } else if let Some(last) = chains.last() {
            let slots = chains.iter().map(|chain| chain.slots).sum();
            self.format.add_used(last.id, 0, slots);
        }
    }

    /// First pass: walks chains into the burst's segments.
    fn collect(&mut self, burst: &mut Burst, frames: &mut Vec<Admitted>) -> Result<(), RingFault> {
        if self.fault().is_some() {
            return Ok(());
        }
        self.format.look()?;
        for _ in 0..burst.room() {
            let at = self.format.next_avail();
            let Some(head) = self.format.head(at) else { break };
            self.format.prefetch(at);
            let first = burst.segments.len();
            let chain = if let Some((segment, chain)) = self.format.single(head, Access::Read) {
                burst.segments.push(segment);
                chain
            } else {
                let walked = self.format.walk(at, head, Access::Read, &mut burst.segments);
                walked.inspect_err(|_| burst.segments.truncate(first))?
            };
            self.format.consume(chain.slots);
            self.taken.push(chain);
            if !self.admit(chain.total) {
                burst.segments.truncate(first);
                continue;
            }
            let count = burst.segments.len() - first;
            if let Some(segment) = burst.segments.get(first) {
                gather::prefetch(segment.ptr);
                gather::prefetch(segment.ptr.wrapping_add(64));
            }
            let len = chain.total - self.options.header_len as u64;
            frames.push(Admitted {
                id: chain.id,
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
    #[inline]
    fn push_frame(&self, frame: &Admitted, queue: u16, burst: &mut Burst) {
        let first = frame.first as usize;
        let Some((header, segments)) = burst.next_header() else {
            return;
        };
        let Some(segments) = segments.get_mut(first..first + frame.count as usize) else {
            return;
        };
        let mut reader = gather::Reader::new(segments);
        let vnet = reader.header(self.options.header_len).unwrap_or_else(|| {
            // What a header with a hash ends in means nothing here.
            let mut raw = [0; HEADER_MAX];
            reader.read(&mut raw[..self.options.header_len.min(HEADER_MAX)]);
            raw.first_chunk().map(VnetHeader::from_bytes).unwrap_or_default()
        });
        let copied = (frame.len as usize).min(HEADER_COPY);
        reader.read(&mut header[..copied]);
        let skipped = reader.finish() as u32;
        burst.frames.push(Frame {
            vnet,
            len: frame.len,
            token: frame.id,
            queue,
            body: Body::Shared {
                header_len: copied as u16,
                first: frame.first + skipped,
                count: frame.count - skipped,
            },
        });
    }
}
