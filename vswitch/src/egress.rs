//! The last step of a frame: into the receiver's hands, in a form that it takes.
//!
//! A frame that the receiver takes as it is goes straight from the sender's pages into the receiver's. One whose VLAN
//! tag has to change gets a new header and the same rest. What the receiver cannot do (checksums, large sends) is
//! done here on a private copy.
//!
//! A receiver without buffers gets a bounded backlog, which keeps order: while it is not empty, everything new
//! goes behind it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use offload::rss::HashReport;
use offload::{Checksum, FrameMeta, Offloads, Segmenter, VnetHeader, checksum};
use parking_lot::MutexGuard;

use crate::counters::{DropReason, PortCounters};
use crate::frame::{BURST, HEADER_COPY, Outgoing, Segment};
use crate::packet::{Arena, Packet, fits};
use crate::port::receive::ReceivePolicy;
use crate::port::{Backend, Capabilities, Refusal};
use crate::switch::Port;
use crate::vlan::{self, Shift, TagForm};

/// Octets kept for a receiver that takes none: two windows of a fast TCP flow.
const BACKLOG_OCTETS: usize = 8 << 20;
/// Frames kept for it.
const BACKLOG_FRAMES: usize = 8192;

/// Frames that wait for a receiver.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    frames: VecDeque<Kept>,
    octets: usize,
}

#[derive(Debug)]
struct Kept {
    vnet: VnetHeader,
    flow: Flow,
    octets: Vec<u8>,
}

/// A frame's hash for its receiver, and what it was taken over.
#[derive(Clone, Copy, Debug)]
struct Flow {
    hash: u32,
    report: HashReport,
}

/// Buffers for frames that have to change on their way out; used again and again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    plans: Vec<Plan>,
    headers: Vec<Header>,
    buffers: Buffers,
}

/// Private copies of frames that are changed in software.
#[derive(Debug, Default)]
struct Buffers {
    frame: Vec<u8>,
    segments: Vec<u8>,
}

/// A receiver that is being delivered to.
struct Line<'a> {
    port: &'a Port,
    can: Capabilities,
    policy: Option<&'a ReceivePolicy>,
    /// Whether the receiver chooses among queues by a frame's hash.
    spreads: bool,
    /// Whether anybody wants to know frames' hashes.
    hashes: bool,
    backlog: MutexGuard<'a, Backlog>,
}

/// A packet's first octets with another tag.
#[derive(Clone, Copy, Debug)]
struct Header {
    octets: [u8; HEADER_COPY + vlan::TAG_LEN],
    len: usize,
}

/// What has to be done to a packet for one receiver.
#[derive(Clone, Copy, Debug)]
enum Plan {
    AsIs,
    /// Header number so-and-so replaces the first octets.
    Retag {
        header: usize,
        vnet: VnetHeader,
        len: u32,
    },
    Rewrite(TagForm),
    Discard(DropReason),
}

type Run<'a> = ArrayVec<Outgoing<'a>, BURST>;

/// Delivers packets to a port, in order. True when a backlog began: the port's worker has to know before it sleeps.
#[must_use]
pub(crate) fn deliver<'p>(
    port: &Port,
    packets: impl Iterator<Item = &'p Packet> + Clone,
    arena: &Arena,
    scratch: &mut Scratch,
) -> bool {
    let can = port.backend.capabilities();
    let policy = port.backend.receive_policy();
    let spreads = port.backend.spreads();
    let mut line = Line {
        port,
        can,
        policy: policy.as_deref(),
        spreads,
        hashes: spreads || policy.as_ref().is_some_and(|policy| policy.hashes()),
        backlog: port.backlog.lock(),
    };
    let rest = line.pass(packets, arena);
    if rest.clone().next().is_some() {
        line.work(rest, arena, scratch);
    }
    let left = !line.backlog.frames.is_empty();
    !port.has_backlog.swap(left, Ordering::AcqRel) && left
}

/// Leaves of packets to a port those that its guest takes.
pub(crate) fn filter(port: &Port, packets: &mut Vec<Packet>) {
    let Some(policy) = port
        .backend
        .receive_policy()
        .filter(|policy| policy.is_selective())
    else {
        return;
    };
    let before = packets.len();
    packets.retain(|packet| {
        let form = port.vlans.egress(packet.vlan);
        form.is_none_or(|form| policy.takes(packet.meta.dst, form))
    });
    let left_out = before - packets.len();
    if left_out > 0 {
        PortCounters::add(&port.counters.filtered, left_out as u64);
    }
}

/// Tries to empty a port's backlog. True when frames moved.
pub(crate) fn drain(port: &Port) -> bool {
    let mut backlog = port.backlog.lock();
    let before = backlog.frames.len();
    backlog.drain(port.backend.as_ref(), &port.counters);
    port.has_backlog
        .store(!backlog.frames.is_empty(), Ordering::Release);
    backlog.frames.len() < before
}

/// Frames in a port's backlog.
pub(crate) fn backlog_len(port: &Port) -> usize {
    port.backlog.lock().frames.len()
}

/// Whether a packet goes to a port as it is.
#[inline]
fn passes(port: &Port, packet: &Packet, can: Capabilities) -> bool {
    let has_form = port
        .vlans
        .egress(packet.vlan)
        .is_some_and(|form| form.fits(packet.meta.vlan));
    if packet.offloads.are_none() {
        return has_form
            && packet.meta.frame_len <= u32::from(port.mtu) + u32::from(packet.meta.network_offset);
    }
    has_form && fits(&packet.offloads, &packet.meta, can) && !is_oversize(port, packet)
}

/// Whether a packet, or its longest segment, is longer than the port's guest takes.
#[inline]
fn is_oversize(port: &Port, packet: &Packet) -> bool {
    let ip_len = packet
        .offloads
        .max_segment_len(&packet.meta)
        .saturating_sub(u32::from(packet.meta.network_offset));
    ip_len > u32::from(port.mtu)
}

/// Decides what each packet needs.
fn plan<'p>(
    port: &Port,
    packets: impl Iterator<Item = &'p Packet>,
    arena: &Arena,
    can: Capabilities,
    scratch: &mut Scratch,
) {
    scratch.plans.clear();
    scratch.headers.clear();
    for packet in packets {
        let plan = plan_one(port, packet, arena, can, &mut scratch.headers);
        scratch.plans.push(plan);
    }
}

fn plan_one(
    port: &Port,
    packet: &Packet,
    arena: &Arena,
    can: Capabilities,
    headers: &mut Vec<Header>,
) -> Plan {
    let Some(form) = port.vlans.egress(packet.vlan) else {
        return Plan::Discard(DropReason::Vlan);
    };
    if is_oversize(port, packet) {
        return Plan::Discard(DropReason::Oversize);
    }
    if !fits(&packet.offloads, &packet.meta, can) {
        return Plan::Rewrite(form);
    }
    if form.fits(packet.meta.vlan) {
        return Plan::AsIs;
    }
    let mut header = Header {
        octets: [0; HEADER_COPY + vlan::TAG_LEN],
        len: 0,
    };
    let Some(len) = form.rewrite(arena.head(packet.octets), packet.meta.vlan, &mut header.octets) else {
        // All of the frame is private, and longer than a header.
        return Plan::Rewrite(form);
    };
    header.len = len;
    headers.push(header);
    let shift = form.shift(packet.meta.vlan);
    Plan::Retag {
        header: headers.len() - 1,
        vnet: shifted(header_for(packet.offloads, &packet.meta, can), shift),
        len: shift.len(packet.meta.frame_len),
    }
}

/// The virtio-net header towards a receiver. One without checksum offload must not be told that a checksum is valid
/// (virtio 1.2, 5.1.6.4.1).
fn header_for(mut offloads: Offloads, meta: &FrameMeta, can: Capabilities) -> VnetHeader {
    if !can.checksum && offloads.checksum == Checksum::Valid {
        offloads.checksum = Checksum::Complete;
    }
    offloads.to_header(meta)
}

/// A virtio-net header for a frame whose headers moved.
fn shifted(vnet: VnetHeader, shift: Shift) -> VnetHeader {
    let partial = vnet.flags & VnetHeader::NEEDS_CSUM != 0;
    VnetHeader {
        csum_start: if partial {
            shift.offset(vnet.csum_start)
        } else {
            vnet.csum_start
        },
        hdr_len: if vnet.hdr_len == 0 {
            0
        } else {
            shift.offset(vnet.hdr_len)
        },
        ..vnet
    }
}

impl Line<'_> {
    /// Offers packets up to the first that cannot go as it is; what is left.
    fn pass<'p, P>(&mut self, mut packets: P, arena: &Arena) -> P
    where
        P: Iterator<Item = &'p Packet> + Clone,
    {
        let mut run = Run::new();
        loop {
            let rest = packets.clone();
            match packets.next() {
                Some(packet) if passes(self.port, packet, self.can) => {
                    run.push(self.as_it_is(packet, arena));
                }
                _ => {
                    self.offer(&run);
                    return rest;
                }
            }
            if run.is_full() {
                self.offer(&run);
                run.clear();
            }
        }
    }

    /// Offers packets of which some have to change.
    fn work<'p>(
        &mut self,
        packets: impl Iterator<Item = &'p Packet> + Clone,
        arena: &Arena,
        scratch: &mut Scratch,
    ) {
        plan(self.port, packets.clone(), arena, self.can, scratch);
        let Scratch {
            plans,
            headers,
            buffers,
        } = scratch;
        let mut run = Run::new();
        for (packet, plan) in packets.zip(plans.iter()) {
            match *plan {
                Plan::AsIs => run.push(self.as_it_is(packet, arena)),
                Plan::Retag { header, vnet, len } => run.push(self.flow(packet, arena).outgoing(
                    vnet,
                    len,
                    headers.get(header).map_or(&[], Header::octets),
                    arena.tail(packet.octets),
                )),
                Plan::Discard(reason) => self.port.counters.drop_rx(reason),
                Plan::Rewrite(form) => {
                    self.offer(&run);
                    run.clear();
                    self.rewrite(packet, form, arena, buffers);
                }
            }
            if run.is_full() {
                self.offer(&run);
                run.clear();
            }
        }
        self.offer(&run);
    }

    /// A packet that need not change.
    #[allow(clippy::inline_always)] // what a call returns in memory is loaded again only after a wait
    #[inline(always)]
    fn as_it_is<'a>(&self, packet: &Packet, arena: &'a Arena) -> Outgoing<'a> {
        let vnet = if packet.offloads.are_none() {
            VnetHeader::default()
        } else {
            header_for(packet.offloads, &packet.meta, self.can)
        };
        self.flow(packet, arena).outgoing(
            vnet,
            packet.meta.frame_len,
            arena.head(packet.octets),
            arena.tail(packet.octets),
        )
    }

    /// A packet's hash by the receiver's key, if it has one and the frame is one that it wants hashed; else by ours, if it
    /// matters.
    #[inline]
    fn flow(&self, packet: &Packet, arena: &Arena) -> Flow {
        if self.hashes {
            self.hash(packet, arena)
        } else {
            Flow::NONE
        }
    }

    fn hash(&self, packet: &Packet, arena: &Arena) -> Flow {
        let none = Flow::NONE;
        let Some(policy) = self.policy.filter(|policy| policy.hashes()) else {
            return if self.spreads {
                Flow {
                    hash: packet.flow_hash(arena),
                    ..none
                }
            } else {
                none
            };
        };
        let meta = packet.whole_meta(arena);
        match policy.hash(&meta, arena.head(packet.octets)) {
            Some((hash, report)) => Flow { hash, report },
            None => Flow {
                hash: packet.flow_hash(arena),
                ..none
            },
        }
    }

    /// Does in software, on a private copy, what the receiver cannot do, and offers the result.
    fn rewrite(&mut self, packet: &Packet, form: TagForm, arena: &Arena, buffers: &mut Buffers) {
        if let Err(reason) = self.try_rewrite(packet, form, arena, buffers) {
            self.port.counters.drop_rx(reason);
        }
    }

    fn try_rewrite(
        &mut self,
        packet: &Packet,
        form: TagForm,
        arena: &Arena,
        buffers: &mut Buffers,
    ) -> Result<(), DropReason> {
        let Buffers { frame, segments } = buffers;
        gather(packet, form, arena, frame).ok_or(DropReason::BadLength)?;
        let meta = offload::parse(frame, frame.len()).map_err(|_| DropReason::BadLength)?;
        let mut offloads = packet.offloads;
        if let Checksum::Partial { start, .. } = &mut offloads.checksum {
            *start = form.shift(packet.meta.vlan).offset(*start);
        }
        let flow = self.flow(packet, arena);
        if let Some(gso) = offloads.gso.filter(|_| !fits(&offloads, &meta, self.can)) {
            let segmenter = Segmenter::new(frame, &meta, gso).map_err(|_| DropReason::BadOffload)?;
            PortCounters::add(&self.port.counters.segmented, 1);
            self.cut(segmenter, segments, flow);
            return Ok(());
        }
        if !self.can.checksum && matches!(offloads.checksum, Checksum::Partial { .. }) {
            checksum::finish(frame, &offloads).map_err(|_| DropReason::BadOffload)?;
            PortCounters::add(&self.port.counters.checksummed, 1);
            offloads.checksum = Checksum::Complete;
        }
        let vnet = header_for(offloads, &meta, self.can);
        self.offer(&[flow.outgoing(vnet, frame.len() as u32, frame, &[])]);
        Ok(())
    }

    /// Cuts a large send and offers its segments.
    fn cut(&mut self, mut segmenter: Segmenter<'_>, segments: &mut Vec<u8>, flow: Flow) {
        loop {
            segments.clear();
            let mut ends = ArrayVec::<usize, BURST>::new();
            while let Some(len) = segmenter.next_len().filter(|_| !ends.is_full()) {
                let start = segments.len();
                segments.resize(start + len, 0);
                if segmenter.next_into(&mut segments[start..]).is_none() {
                    segments.truncate(start);
                    break;
                }
                ends.push(start + len);
            }
            if ends.is_empty() {
                return;
            }
            let mut start = 0;
            let mut run = Run::new();
            for end in ends {
                let head = segments.get(start..end).unwrap_or(&[]);
                run.push(flow.outgoing(VnetHeader::default(), head.len() as u32, head, &[]));
                start = end;
            }
            self.offer(&run);
        }
    }

    /// Gives frames to the receiver, or keeps them for it.
    fn offer(&mut self, frames: &[Outgoing<'_>]) {
        let Self { port, backlog, .. } = self;
        if !backlog.frames.is_empty() {
            backlog.drain(port.backend.as_ref(), &port.counters);
        }
        let mut rest = frames;
        while !rest.is_empty() && backlog.frames.is_empty() {
            let delivery = port.backend.deliver(rest);
            let (accepted, left) = rest.split_at(delivery.accepted.min(rest.len()));
            count(&port.counters, accepted.iter().map(|frame| frame.len));
            rest = left;
            match delivery.refusal {
                None => return,
                Some(Refusal::Full) => break,
                Some(Refusal::Drop(reason)) => {
                    port.counters.drop_rx(reason);
                    rest = rest.get(1..).unwrap_or(&[]);
                }
            }
        }
        for frame in rest {
            backlog.keep(frame, &port.counters);
        }
    }
}

/// Copies a whole packet into `frame`, in this form.
fn gather(packet: &Packet, form: TagForm, arena: &Arena, frame: &mut Vec<u8>) -> Option<()> {
    let head = arena.head(packet.octets);
    frame.clear();
    frame.resize(head.len() + vlan::TAG_LEN, 0);
    let len = form.rewrite(head, packet.meta.vlan, frame)?;
    frame.truncate(len);
    for segment in arena.tail(packet.octets) {
        crate::packet::append(*segment, segment.len as usize, frame);
    }
    Some(())
}

fn count(counters: &PortCounters, lens: impl Iterator<Item = u32>) {
    let (frames, octets) = lens.fold((0, 0), |(frames, octets), len| {
        (frames + 1, octets + u64::from(len))
    });
    if frames > 0 {
        PortCounters::add(&counters.rx_frames, frames);
        PortCounters::add(&counters.rx_octets, octets);
    }
}

impl Backlog {
    fn keep(&mut self, frame: &Outgoing<'_>, counters: &PortCounters) {
        if self.frames.len() >= BACKLOG_FRAMES || self.octets + frame.len as usize > BACKLOG_OCTETS {
            return counters.drop_rx(DropReason::ReceiverFull);
        }
        let mut octets = Vec::with_capacity(frame.len as usize);
        octets.extend_from_slice(frame.head);
        for segment in frame.tail {
            crate::packet::append(*segment, segment.len as usize, &mut octets);
        }
        self.octets += octets.len();
        self.frames.push_back(Kept {
            vnet: frame.vnet,
            flow: Flow {
                hash: frame.flow_hash,
                report: frame.hash_report,
            },
            octets,
        });
        PortCounters::add(&counters.backlogged, 1);
    }

    fn drain(&mut self, backend: &dyn Backend, counters: &PortCounters) {
        while !self.frames.is_empty() {
            let run: Run<'_> = self.frames.iter().take(BURST).map(Kept::outgoing).collect();
            let delivery = backend.deliver(&run);
            let accepted = delivery.accepted.min(run.len());
            count(counters, run.iter().take(accepted).map(|frame| frame.len));
            drop(run);
            self.forget(accepted);
            match delivery.refusal {
                None => {}
                Some(Refusal::Full) => return,
                Some(Refusal::Drop(reason)) => {
                    counters.drop_rx(reason);
                    self.forget(1);
                }
            }
        }
    }

    fn forget(&mut self, frames: usize) {
        for kept in self.frames.drain(..frames.min(self.frames.len())) {
            self.octets -= kept.octets.len();
        }
    }
}

impl Header {
    fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or(&self.octets)
    }
}

impl Flow {
    const NONE: Self = Self {
        hash: 0,
        report: HashReport::None,
    };

    const fn outgoing<'a>(
        self,
        vnet: VnetHeader,
        len: u32,
        head: &'a [u8],
        tail: &'a [Segment],
    ) -> Outgoing<'a> {
        Outgoing {
            vnet,
            len,
            flow_hash: self.hash,
            hash_report: self.report,
            head,
            tail,
        }
    }
}

impl Kept {
    fn outgoing(&self) -> Outgoing<'_> {
        self.flow
            .outgoing(self.vnet, self.octets.len() as u32, &self.octets, &[])
    }
}
