//! Transmit: from the ring into a burst, and back.

use offload::VnetHeader;

use super::chain::{Access, Chain, Single};
use super::device::DeviceRing;
use super::format::Format;
use super::{HEADER_MAX, Options, RefusedFrames, RingFault, gather};
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
            self.list_used(chains);
        } else if let Some(last) = chains.last() {
            let slots = chains.iter().map(|chain| chain.slots).sum();
            self.format.add_used(last.id, 0, slots);
        }
    }

    /// Lists chains as used, one by one.
    fn list_used(&mut self, chains: &[Chain]) {
        if chains.iter().all(|chain| chain.slots == 1) {
            let used = chains.iter().map(|chain| (chain.id, 0));
            return self.format.add_used_singles(used);
        }
        for chain in chains {
            self.format.add_used(chain.id, 0, chain.slots);
        }
    }

    /// First pass: walks chains into the burst's segments.
    fn collect(&mut self, burst: &mut Burst, frames: &mut Vec<Admitted>) -> Result<(), RingFault> {
        if self.fault().is_some() {
            return Ok(());
        }
        self.format.look()?;
        let mut room = burst.room();
        loop {
            room -= self.collect_singles(room, burst, frames);
            let at = self.format.next_avail();
            let Some(head) = self.format.head(at).filter(|_| room > 0) else {
                return Ok(());
            };
            let first = burst.segments.len();
            let walked = self.format.walk(at, head, Access::Read, &mut burst.segments);
            let chain = walked.inspect_err(|_| burst.segments.truncate(first))?;
            self.format.consume(chain.slots);
            self.taken.push(chain);
            room -= 1;
            if let Some(len) = self.options.admit(chain.total, &mut self.refused) {
                frames.push(Admitted {
                    id: chain.id,
                    first: first as u32,
                    count: (burst.segments.len() - first) as u32,
                    len,
                });
            } else {
                burst.segments.truncate(first);
            }
        }
    }

    /// The usual chains, which are one buffer each; how many there were.
    fn collect_singles(&mut self, room: usize, burst: &mut Burst, frames: &mut Vec<Admitted>) -> usize {
        let Self {
            format,
            options,
            refused,
            taken,
            ..
        } = self;
        let before = taken.len();
        format.singles(room, Access::Read, |Single { segment, id }| {
            let total = u64::from(segment.len);
            taken.push(Chain { id, slots: 1, total });
            if let Some(len) = options.admit(total, refused) {
                let frame = segment.ptr.wrapping_add(options.header_len);
                gather::prefetch(if options.requests { segment.ptr } else { frame });
                gather::prefetch(frame.wrapping_add(63));
                frames.push(Admitted {
                    id,
                    first: burst.segments.len() as u32,
                    count: 1,
                    len,
                });
                burst.segments.push(segment);
            }
            true
        });
        let count = taken.len() - before;
        format.consume(count as u16);
        count
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
        let vnet = self.options.read_header(&mut reader);
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

impl Options {
    /// What a frame's header asks for. A driver that agreed on nothing that it could ask for leaves it empty (virtio 1.2,
    /// 5.1.6.2.1), and it is not looked at.
    #[allow(clippy::inline_always)] // what a call returns in memory is loaded again only after a wait
    #[inline(always)]
    fn read_header(&self, reader: &mut gather::Reader<'_>) -> VnetHeader {
        if !self.requests {
            reader.skip(self.header_len);
            return VnetHeader::default();
        }
        reader.header(self.header_len).unwrap_or_else(|| {
            // What a header with a hash ends in means nothing here.
            let mut raw = [0; HEADER_MAX];
            reader.read(&mut raw[..self.header_len.min(HEADER_MAX)]);
            raw.first_chunk().map(VnetHeader::from_bytes).unwrap_or_default()
        })
    }

    /// Octets of the frame in a chain of so many octets, if that is a length that a frame can have.
    #[inline]
    fn admit(&self, total: u64, refused: &mut RefusedFrames) -> Option<u32> {
        let header = self.header_len as u64;
        if total < header + MIN_FRAME {
            refused.too_short += 1;
            return None;
        }
        if total > header + MAX_FRAME as u64 {
            refused.too_long += 1;
            return None;
        }
        Some((total - header) as u32)
    }
}
