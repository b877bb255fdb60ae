//! What happens to one burst, from the ring that it came from to the rings that it goes to.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use introspection::{Direction, Instant};

use crate::attribution::{Pick, Sampler};
use crate::clock;
use crate::counters::{DropReason, PortCounters};
use crate::egress::{self, Scratch};
use crate::frame::BURST;
use crate::lane::{Lane, LaneId};
use crate::packet::{Arena, Octets, Packet, Times};
use crate::port::PortId;
use crate::probe::{Carrier, Passed, Wakes};
use crate::switch::{Port, PortTable, Shared};
use crate::vmq::VmQueue;

use super::judge::judge;
use super::recent::Recent;
use super::rsc::Rsc;
use super::seconds;
use super::stamps::StampLog;

/// Which of the packets in hand are stamped.
#[derive(Clone, Copy, Debug)]
enum Stamping {
    /// None.
    Nothing,
    /// All, and they passed all stages together.
    All,
    /// It has to be looked at each.
    Each,
}

/// A worker's tools for carrying bursts; all of it is used again for each burst.
pub(crate) struct Carriage {
    shared: Arc<Shared>,
    worker: usize,
    /// The lane whose frames are being carried.
    lane: LaneId,
    #[allow(clippy::redundant_allocation)]
    // the table's own count is on a line that all workers would write to
    table: Rc<Arc<PortTable>>,
    arena: Arena,
    /// Packets of the burst as they came; places that are written again and again.
    fresh: Box<[Packet]>,
    /// Packets on their way through the sender's probe.
    packets: Vec<Packet>,
    /// The packets of a burst that go to one port, as indices into it, by [`PortId`].
    groups: Vec<Vec<u16>>,
    /// Ports whose groups are not empty.
    used: Vec<PortId>,
    group: Vec<Packet>,
    passed: Passed,
    /// Packets that a destination's filter let go towards the switch while others were delivered.
    more: Vec<(PortId, Packet)>,
    scratch: Scratch,
    stamps: StampLog,
    rsc: Rsc,
    touched: Vec<PortId>,
    recent: Recent,
    stamping: Stamping,
    pub(super) sampler: Sampler,
    backlog_began: bool,
    /// Nanoseconds spent on other lanes than the one whose frames are being carried.
    elsewhere: u64,
}

impl Carriage {
    pub(crate) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let table = Rc::new(shared.table());
        Self {
            shared,
            worker,
            lane: LaneId::home(PortId(0)),
            table,
            arena: Arena::default(),
            fresh: vec![Packet::NOTHING; BURST].into(),
            packets: Vec::with_capacity(BURST),
            groups: Vec::new(),
            used: Vec::new(),
            group: Vec::with_capacity(BURST),
            passed: Passed::default(),
            more: Vec::new(),
            scratch: Scratch::default(),
            stamps: StampLog::default(),
            rsc: Rsc::default(),
            touched: Vec::new(),
            recent: Recent::default(),
            stamping: Stamping::Each,
            sampler: Sampler::default(),
            backlog_began: false,
            elsewhere: 0,
        }
    }

    /// Uses this port table from now on.
    pub(crate) fn use_table(&mut self, table: Arc<PortTable>) {
        self.table = Rc::new(table);
        self.sampler.set(self.shared.attribution());
    }

    /// Carries one burst of a port's lane. Returns how many frames its guest had sent.
    pub(crate) fn carry(
        &mut self,
        port: &Port,
        lane: LaneId,
        start: Instant,
        begun: Instant,
        taken: Instant,
    ) -> usize {
        self.lane = lane;
        port.backend.take(lane.queue, taken, &mut self.arena.burst);
        let frames = self.arena.burst.frames.len();
        if frames == 0 {
            return 0;
        }
        let count = self.parse(port, taken);
        let pick = self.sampler.pick(taken, count);
        if pick != Pick::None {
            let parsed = clock::now();
            self.stamp(
                pick,
                count,
                Times {
                    start,
                    doorbell: begun,
                    wait: taken,
                    parse: parsed,
                    ..Times::default()
                },
            );
        }
        let fresh = std::mem::take(&mut self.fresh);
        let packets = fresh.get(..count).unwrap_or(&[]);
        if port.probe.is_active() {
            self.packets.clear();
            self.packets.extend_from_slice(packets);
            self.pass(port);
            let passed = std::mem::take(&mut self.packets);
            self.forward(port.id, &passed);
            self.packets = passed;
        } else {
            self.stamping = match pick {
                Pick::None => Stamping::Nothing,
                Pick::All => Stamping::All,
                Pick::Each { .. } => Stamping::Each,
            };
            self.forward(port.id, packets);
            self.stamping = Stamping::Each;
        }
        self.fresh = fresh;
        self.finish(Some(port));
        frames
    }

    /// Carries on what a port's filter lets go by itself, of a lane.
    pub(crate) fn poll_probe(&mut self, port: &Port, lane: LaneId) -> bool {
        self.lane = lane;
        self.recent.begin(&self.shared.forwarding, seconds(clock::now()));
        let mut carrier = Carrier {
            lane: self.lane,
            arena: &mut self.arena,
            counters: &port.counters,
        };
        if port.probe.poll(clock::now(), &mut self.passed, &mut carrier) {
            self.tell_releases();
        }
        let busy = !(self.passed.tx.is_empty() && self.passed.rx.is_empty());
        self.packets.clear();
        self.packets.append(&mut self.passed.tx);
        self.deliver_passed(port);
        let packets = std::mem::take(&mut self.packets);
        self.forward(port.id, &packets);
        self.packets = packets;
        self.finish(None);
        busy
    }

    /// Judges the burst's headers; what may go on becomes packets, in the first places of `self.fresh`. Returns how many.
    fn parse(&mut self, port: &Port, taken: Instant) -> usize {
        let mut octets = 0;
        let mut count = 0;
        let deep = port.is_uplink || port.probe.is_active();
        let forwarding = &self.shared.forwarding;
        self.recent.begin(forwarding, seconds(taken));
        for (index, frame) in self.arena.burst.frames.iter().enumerate() {
            octets += u64::from(frame.len);
            let Some(packet) = self.fresh.get_mut(count) else {
                break;
            };
            match judge(port, self.arena.burst.head(index), frame, deep, packet) {
                Ok(src) => {
                    packet.ingress = port.id;
                    packet.octets = Octets::Burst(index as u16);
                    packet.times.parse = Instant(0);
                    self.recent.learn(forwarding, src, packet.vlan, port.id);
                    count += 1;
                }
                Err(reason) => port.counters.drop_tx(reason),
            }
        }
        PortCounters::add(&port.counters.tx_frames, self.arena.burst.frames.len() as u64);
        PortCounters::add(&port.counters.tx_octets, octets);
        if port.first_frame.load(Ordering::Relaxed) == 0 {
            port.first_frame.store(taken.0.max(1), Ordering::Relaxed);
        }
        count
    }

    /// Stamps packets of those that were just parsed.
    fn stamp(&mut self, pick: Pick, count: usize, times: Times) {
        let (first, step) = match pick {
            Pick::None => return,
            Pick::All => (0, 1),
            Pick::Each { first, step } => (first, step),
        };
        for packet in self.fresh.iter_mut().take(count).skip(first).step_by(step) {
            packet.times = times;
        }
    }

    /// Shows `self.packets`, which its guest sent, to a port's probe; what leaves towards the switch takes their place, and what it lets go
    /// towards the guest is delivered.
    fn pass(&mut self, port: &Port) {
        for packet in &mut self.packets {
            packet.complete(&self.arena);
        }
        let mut carrier = Carrier {
            lane: self.lane,
            arena: &mut self.arena,
            counters: &port.counters,
        };
        let wakes = port
            .probe
            .pass(Direction::Tx, &mut self.packets, &mut self.passed, &mut carrier);
        self.heed(wakes, port);
        std::mem::swap(&mut self.packets, &mut self.passed.tx);
        self.deliver_passed(port);
    }

    /// Delivers what a port's probe let go towards its guest.
    fn deliver_passed(&mut self, port: &Port) {
        if self.passed.rx.is_empty() {
            return;
        }
        let packets = std::mem::take(&mut self.passed.rx);
        self.deliver(port, packets.iter());
        self.passed.rx = packets;
        self.passed.rx.clear();
    }

    /// Carries a burst of what uplinks left in a port's VM queue. Returns how many frames that were.
    pub(crate) fn carry_sorted(&mut self, port: &Port, lane: LaneId, queue: &VmQueue) -> usize {
        self.lane = lane;
        self.group.clear();
        let now = clock::now();
        self.recent.begin(&self.shared.forwarding, seconds(now));
        queue.take(now, &mut self.arena, &mut self.group);
        let frames = self.group.len();
        if frames > 0 {
            self.more.clear();
            self.coalesce(port);
            self.deliver_group(port);
            self.forward_more();
            self.conclude(None);
            queue.give_back(self.arena.disown());
            self.arena.clear();
        }
        frames
    }

    /// Nanoseconds since the last call that were spent on other lanes than those that were carried.
    pub(crate) fn take_elsewhere(&mut self) -> u64 {
        std::mem::take(&mut self.elsewhere)
    }

    /// Looks destinations up and delivers, group by group.
    fn forward(&mut self, ingress: PortId, packets: &[Packet]) {
        self.more.clear();
        for chunk in packets.chunks(BURST) {
            self.forward_chunk(ingress, chunk);
        }
        self.forward_more();
    }

    fn forward_more(&mut self) {
        // Frames towards other ports that filters on the way let go: each was held before, so this ends.
        while !self.more.is_empty() {
            let mut more = std::mem::take(&mut self.more);
            for (from, packet) in more.drain(..) {
                self.forward_chunk(from, &[packet]);
            }
            if self.more.is_empty() {
                self.more = more;
            }
        }
    }

    fn forward_chunk(&mut self, ingress: PortId, packets: &[Packet]) {
        let table = Rc::clone(&self.table);
        let Some(from) = table.get(ingress) else { return };
        if let Some(port) = self.common_destination(&table, from, packets) {
            return self.deliver_chosen(from, port, packets.iter());
        }
        self.group_by_destination(from, packets);
        let mut used = std::mem::take(&mut self.used);
        for id in used.drain(..) {
            let Some(members) = self.groups.get_mut(usize::from(id.0)) else {
                continue;
            };
            let mut members = std::mem::take(members);
            if let Some(port) = table.get(id) {
                let chosen = members
                    .iter()
                    .filter_map(|index| packets.get(usize::from(*index)));
                self.deliver_chosen(from, port, chosen);
            }
            members.clear();
            if let Some(slot) = self.groups.get_mut(usize::from(id.0)) {
                *slot = members;
            }
        }
        self.used = used;
    }

    /// Delivers the packets of a chunk that go to one port: at once if nothing is between, else as a group of their own.
    fn deliver_chosen<'p>(
        &mut self,
        from: &Port,
        port: &Port,
        packets: impl Iterator<Item = &'p Packet> + Clone,
    ) {
        if from.is_uplink || port.probe.is_active() || port.backend.is_selective() {
            self.group.clear();
            self.group.extend(packets);
            match port.vm_lane().filter(|_| from.is_uplink) {
                Some(lane) => self.sort_into(port, lane),
                None => self.deliver_group(port),
            }
        } else {
            self.deliver(port, packets);
        }
    }

    /// Merges segments of `self.group`, which came by an uplink, if the port takes large sends.
    fn coalesce(&mut self, port: &Port) {
        let fewer = self
            .rsc
            .merge(port.backend.capabilities(), &mut self.group, &mut self.arena);
        if fewer > 0 {
            PortCounters::add(&port.counters.coalesced, fewer as u64);
        }
    }

    /// Gives a group that came by an uplink to the port's VM queue, or, if that is this worker's and empty, to the port.
    fn sort_into(&mut self, port: &Port, lane: &Lane) {
        let Some(queue) = &lane.vm_queue else { return };
        let now = clock::now();
        if lane.owner() == self.worker && queue.is_empty() {
            let carried = std::mem::replace(&mut self.lane, lane.id);
            let frames = self.group.len() as u64;
            self.coalesce(port);
            self.deliver_group(port);
            self.lane = carried;
            let spent = clock::now().since(now);
            lane.meter.add(frames, spent);
            self.elsewhere += spent;
            return;
        }
        for _ in 0..queue.push(now, &self.group, &self.arena) {
            port.counters.drop_rx(DropReason::VmQueueFull);
        }
        if let Some(owner) = self.shared.workers.get(lane.owner()) {
            owner.rouse();
        }
    }

    /// Past the destination's probe, then into its hands.
    fn deliver_group(&mut self, port: &Port) {
        let mut group = std::mem::take(&mut self.group);
        egress::filter(port, &mut group);
        if port.probe.is_active() {
            for packet in &mut group {
                packet.complete(&self.arena);
            }
            let mut passed = std::mem::take(&mut self.passed);
            let mut carrier = Carrier {
                lane: self.lane,
                arena: &mut self.arena,
                counters: &port.counters,
            };
            let stamping = std::mem::replace(&mut self.stamping, Stamping::Each);
            let wakes = port
                .probe
                .pass(Direction::Rx, &mut group, &mut passed, &mut carrier);
            self.heed(wakes, port);
            self.more
                .extend(passed.tx.drain(..).map(|packet| (port.id, packet)));
            self.deliver(port, passed.rx.iter());
            self.stamping = stamping;
            passed.rx.clear();
            self.passed = passed;
        } else {
            self.deliver(port, group.iter());
        }
        self.group = group;
    }

    fn deliver<'p>(&mut self, port: &Port, packets: impl Iterator<Item = &'p Packet> + Clone) {
        if packets.clone().next().is_none() {
            return;
        }
        if egress::deliver(port, packets.clone(), &self.arena, &mut self.scratch) {
            self.wake_servers(port);
        }
        match self.stamping {
            Stamping::Nothing => {}
            Stamping::All => self.stamps.copied(clock::now(), packets),
            Stamping::Each => {
                let mut stamped = packets.filter(|packet| packet.times.is_stamped()).peekable();
                if stamped.peek().is_some() {
                    self.stamps.copied(clock::now(), stamped);
                }
            }
        }
        if !self.touched.contains(&port.id) {
            self.touched.push(port.id);
        }
    }

    /// The port that all packets of a chunk go to, which is what most do; no groups are made for it.
    fn common_destination<'t>(
        &mut self,
        table: &'t PortTable,
        from: &Port,
        packets: &[Packet],
    ) -> Option<&'t Port> {
        let mut common = None;
        for packet in packets {
            let port = self.destination(packet)?;
            if *common.get_or_insert(port) != port {
                return None;
            }
        }
        let port = common.filter(|port| *port != from.id)?;
        table.get(port).map(AsRef::as_ref)
    }

    /// Where the forwarding table sends a packet; `None` for everywhere.
    #[inline]
    fn destination(&mut self, packet: &Packet) -> Option<PortId> {
        let dst = packet.meta.dst;
        if dst.is_multicast() {
            return None;
        }
        self.recent.lookup(&self.shared.forwarding, dst, packet.vlan)
    }

    fn group_by_destination(&mut self, from: &Port, packets: &[Packet]) {
        for (index, packet) in packets.iter().enumerate() {
            let found = self.destination(packet);
            match found.filter(|port| self.table.get(*port).is_some()) {
                Some(port) if port == from.id => from.counters.drop_tx(DropReason::SamePort),
                Some(port) => self.add_to_group(port, index as u16),
                None => self.flood(from, packet, index as u16),
            }
        }
    }

    fn flood(&mut self, from: &Port, packet: &Packet, index: u16) {
        let table = Rc::clone(&self.table);
        let mut any = false;
        for port in table
            .ports()
            .filter(|port| port.id != from.id && port.vlans.egress(packet.vlan).is_some())
        {
            self.add_to_group(port.id, index);
            any = true;
        }
        if any {
            PortCounters::add(&from.counters.flooded, 1);
        } else {
            from.counters.drop_tx(DropReason::NoDestination);
        }
    }

    fn add_to_group(&mut self, port: PortId, index: u16) {
        let slot = usize::from(port.0);
        if self.groups.len() <= slot {
            self.groups.resize_with(slot + 1, Vec::new);
        }
        if let Some(members) = self.groups.get_mut(slot) {
            if members.is_empty() {
                self.used.push(port);
            }
            members.push(index);
        }
    }

    /// Hands the sender its buffers back, notifies each receiver once, records the stamps, and lets go of the packets.
    fn finish(&mut self, sender: Option<&Port>) {
        self.conclude(sender);
        self.arena.clear();
    }

    /// The same, but for the packets' octets.
    fn conclude(&mut self, sender: Option<&Port>) {
        if let Some(sender) = sender {
            sender.backend.complete(self.lane.queue, &self.arena.burst);
        }
        for id in self.touched.drain(..) {
            if let Some(port) = self.table.get(id) {
                port.backend.notify();
            }
        }
        if !self.stamps.is_empty() {
            let now = clock::now();
            self.stamps.notified(now, &self.table, &self.arena);
            self.sampler.recorded(now);
        }
    }

    /// Wakes whom a probe left something to do.
    fn heed(&self, wakes: Wakes, port: &Port) {
        if wakes.others {
            self.tell_releases();
        }
        if wakes.owner {
            // It may sleep without knowing of a deadline.
            self.wake(port.home());
        }
    }

    /// Whether a receiver's backlog began since the last call.
    pub(crate) fn take_backlog(&mut self) -> bool {
        std::mem::take(&mut self.backlog_began)
    }

    /// Wakes all workers that serve queues of the port, and notes it for this one: each has to know of a backlog before it
    /// sleeps or leaves those queues alone, to ask for room in their receive rings.
    fn wake_servers(&mut self, port: &Port) {
        self.backlog_began = true;
        for lane in &port.lanes {
            self.wake(lane.owner());
        }
    }

    fn wake(&self, worker: usize) {
        if worker != self.worker
            && let Some(other) = self.shared.workers.get(worker)
        {
            other.wake();
        }
    }

    /// Tells all workers that packets of other lanes were let go: this one may serve those lanes as well.
    fn tell_releases(&self) {
        for worker in &self.shared.workers {
            if worker.index == self.worker {
                worker.note_releases();
            } else {
                worker.releases();
            }
        }
    }
}
