//! Receive: from a sender's segments into the driver's buffers.

use offload::VnetHeader;
use offload::rss::HashReport;

use super::chain::{Access, CHAIN_LIMIT, Chain};
use super::device::DeviceRing;
use super::format::Format;
use super::scatter::Header;
use super::{HEADER_MAX, RingFault, gather, scatter};
use crate::counters::DropReason;
use crate::frame::{BURST, Outgoing};
use crate::port::{Delivery, Refusal};

impl<F: Format> DeviceRing<F> {
    /// Copies frames into the driver's buffers, up to the first that is refused, and makes them visible.
    ///
    /// The usual case, in which each frame fits the next chain and that is one buffer, is done in two passes: the first finds
    /// buffers and has the processor fetch them, the second fills them.
    pub fn deliver(&mut self, frames: &[Outgoing<'_>]) -> Delivery {
        let mut accepted = 0;
        let mut refusal = None;
        while let Some((first, _)) = frames.get(accepted..).and_then(<[_]>::split_first) {
            let rest = &frames[accepted..];
            let usual = self.find_buffers(rest);
            if usual > 0 {
                self.fill_buffers(&rest[..usual]);
                accepted += usual;
            } else {
                if let Some(next) = rest.get(1) {
                    gather::prefetch_tail(next.tail);
                }
                if let Err(reason) = self.receive(first) {
                    refusal = Some(reason);
                    break;
                }
                accepted += 1;
            }
        }
        self.format.publish_taken(&[]);
        Delivery { accepted, refusal }
    }

    /// First pass: lists the next chains, as long as each is one buffer that the frame of its turn fits; how many.
    fn find_buffers(&mut self, frames: &[Outgoing<'_>]) -> usize {
        self.scratch.buffers.0.clear();
        if self.fault.is_some() {
            return 0;
        }
        if !self.format.has_seen(frames.len())
            && let Err(fault) = self.format.look()
        {
            self.stop(fault);
            return 0;
        }
        let Self {
            format,
            options,
            scratch,
            ..
        } = self;
        format.prefetch_used(frames.len().min(BURST));
        let mut frames = frames.iter();
        format.singles(frames.len(), Access::Write, |buffer| {
            let Some(frame) = frames.next() else { return false };
            let need = options.header_len as u64 + u64::from(frame.len);
            let fits = need <= u64::from(buffer.segment.len);
            if fits {
                scatter::prefetch(buffer.segment.ptr, options.header_len, need);
                scratch.buffers.0.push(buffer);
            }
            fits
        });
        scratch.buffers.0.len()
    }

    /// Second pass: copies frames into the buffers that were listed for them.
    fn fill_buffers(&mut self, frames: &[Outgoing<'_>]) {
        self.starved_at = None;
        let header_len = self.options.header_len;
        let buffers = &self.scratch.buffers.0;
        for (at, (frame, buffer)) in frames.iter().zip(buffers).enumerate() {
            if let Some(next) = frames.get(at + 1) {
                gather::prefetch_tail(next.tail);
                // A private frame is in a cache near by, and what is waited for is the buffer.
                if let Some(buffer) = buffers.get(at + 1).filter(|_| next.tail.is_empty()) {
                    gather::prefetch_rest_to_write(buffer.segment.ptr, next.len.into());
                }
            }
            let len = frame.len as usize;
            let head = frame.head.get(..len).unwrap_or(frame.head);
            let left = len - head.len();
            if header_len == VnetHeader::LEN {
                let vnet = VnetHeader {
                    num_buffers: 1,
                    ..frame.vnet
                };
                let (low, high) = vnet.to_words();
                let header = Header::Words(low, high);
                scatter::fill(buffer.segment, header, head, frame.tail, left);
            } else {
                let header = header(frame, 1, header_len);
                let header = header.get(..header_len).unwrap_or(&header);
                scatter::fill(buffer.segment, Header::Octets(header), head, frame.tail, left);
            }
        }
        self.format.consume(buffers.len() as u16);
        let filled = frames.iter().zip(buffers);
        let used = filled.map(|(frame, buffer)| (buffer.id, header_len as u32 + frame.len));
        self.format.add_used_singles(used);
    }

    /// Copies a frame into the driver's buffers. It is visible when the burst is. When refused, nothing was
    /// consumed; a fault shows in [`DeviceRing::fault`] and refuses with [`DropReason::RingFault`].
    fn receive(&mut self, frame: &Outgoing<'_>) -> Result<(), Refusal> {
        if self.fault().is_some() {
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
        self.use_planned();
        Ok(())
    }

    /// Gathers chains into the plan until they hold the header and `len` octets: [`CHAIN_LIMIT`] of them at most, so that
    /// a guest with tiny buffers costs its sender's worker little.
    fn plan(&mut self, len: u32) -> Result<Result<(), Refusal>, RingFault> {
        let need = self.options.header_len as u64 + u64::from(len);
        self.scratch.plan.0.clear();
        self.scratch.chains.clear();
        let mut at = self.format.next_avail();
        let mut slots = 0;
        let mut room = 0;
        while room < need {
            let planned = self.scratch.chains.len();
            if planned > 0 && !self.options.mergeable || planned == usize::from(CHAIN_LIMIT) {
                return Ok(Err(Refusal::Drop(DropReason::BufferTooSmall)));
            }
            let Some(head) = self.head(at)? else {
                return Ok(Err(self.out_of_room(at, slots)));
            };
            self.format.prefetch(at);
            let plan = &mut self.scratch.plan.0;
            let chain = self.format.walk(at, head, Access::Write, plan)?;
            if chain.total == 0 {
                return Err(RingFault::EmptyBuffer);
            }
            at = self.format.after(at, chain.slots);
            slots += chain.slots;
            let used = chain.total.min(need - room);
            self.scratch.chains.push(Chain { total: used, ..chain });
            room += chain.total;
        }
        Ok(Ok(()))
    }

    /// The chain at a position, after a fresh look if there was none before.
    fn head(&mut self, at: u16) -> Result<Option<F::Head>, RingFault> {
        if let Some(head) = self.format.head(at) {
            return Ok(Some(head));
        }
        self.format.look()?;
        Ok(self.format.head(at))
    }

    /// The chains in `slots` places before `at` are all there are, and do not suffice.
    fn out_of_room(&mut self, at: u16, slots: u16) -> Refusal {
        if slots == self.format.size() {
            return Refusal::Drop(DropReason::BufferTooSmall);
        }
        self.starved_at = Some(at);
        Refusal::Full
    }

    /// Copies the frame into the plan.
    fn fill(&mut self, frame: &Outgoing<'_>) {
        let header = header(frame, self.scratch.chains.len() as u16, self.options.header_len);
        let mut writer = scatter::Writer::new(&self.scratch.plan.0);
        writer.write(header.get(..self.options.header_len).unwrap_or(&header));
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

    /// Lists the planned chains as used: each of them, even in order, for the driver wants to know their lengths.
    fn use_planned(&mut self) {
        for chain in &self.scratch.chains {
            self.format.consume(chain.slots);
            self.format.add_used(chain.id, chain.total as u32, chain.slots);
        }
    }
}

/// The virtio-net header of a frame in so many buffers, for a driver that gets the first `len` octets of it.
#[inline]
fn header(frame: &Outgoing<'_>, buffers: u16, len: usize) -> [u8; HEADER_MAX] {
    let vnet = VnetHeader {
        num_buffers: buffers,
        ..frame.vnet
    };
    let mut octets = [0; HEADER_MAX];
    let (first, rest) = octets.split_at_mut(VnetHeader::LEN);
    first.copy_from_slice(&vnet.to_bytes());
    if len == HEADER_MAX {
        rest.copy_from_slice(&hash_fields(frame));
    }
    octets
}

/// What a header with a hash ends in: the hash, what it was taken over, two octets of padding (virtio 1.2, 5.1.6).
fn hash_fields(frame: &Outgoing<'_>) -> [u8; HEADER_MAX - VnetHeader::LEN] {
    let hash = if frame.hash_report == HashReport::None {
        0
    } else {
        frame.flow_hash
    };
    let [h0, h1, h2, h3] = hash.to_le_bytes();
    [h0, h1, h2, h3, frame.hash_report as u8, 0, 0, 0]
}
