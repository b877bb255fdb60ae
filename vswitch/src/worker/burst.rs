//! What happens to one burst, from the ring that it came from to the rings that it goes to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use introspection::{Direction, Instant};
use offload::Offloads;

use crate::clock;
use crate::counters::{DropReason, PortCounters};
use crate::egress::{self, Scratch};
use crate::frame::{BURST, MAX_FRAME};
use crate::lane::{Lane, LaneId};
use crate::packet::{Arena, Octets, Packet, Times};
use crate::port::PortId;
use crate::probe::{Carrier, Passed, Wakes};
use crate::switch::{Port, PortTable, Shared};
use crate::vmq::VmQueue;

use super::rsc::Rsc;
use super::seconds;
use super::stamps::StampLog;

/// A worker's tools for carrying bursts; all of it is used again for each burst.
pub(crate) struct Carriage {
    shared: Arc<Shared>,
    worker: usize,
    /// The lane whose frames are being carried.
    lane: LaneId,
    table: Arc<PortTable>,
    arena: Arena,
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
    /// Nanoseconds spent on other lanes than the one whose frames are being carried.
    elsewhere: u64,
}

impl Carriage {
    pub(crate) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let table = shared.table();
        Self {
            shared,
            worker,
            lane: LaneId::home(PortId(0)),
            table,
            arena: Arena::default(),
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
            elsewhere: 0,
        }
    }

    /// Uses this port table from now on.
    pub(crate) fn use_table(&mut self, table: Arc<PortTable>) {
        self.table = table;
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
        self.parse(
            port,
            Times {
                start,
                doorbell: begun,
                wait: taken,
                ..Times::default()
            },
        );
        if port.probe.is_active() {
            self.pass(port);
        }
        let packets = std::mem::take(&mut self.packets);
        self.forward(port.id, &packets);
        self.packets = packets;
        self.finish(Some(port));
        frames
    }

    /// Carries on what a port's filter lets go by itself, of a lane.
    pub(crate) fn poll_probe(&mut self, port: &Port, lane: LaneId) -> bool {
        self.lane = lane;
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

    /// Judges the burst's headers; what may go on becomes packets.
    fn parse(&mut self, port: &Port, times: Times) {
        self.packets.clear();
        let mut octets = 0;
        let now = seconds(times.wait);
        for (index, frame) in self.arena.burst.frames.iter().enumerate() {
            octets += u64::from(frame.len);
            let name = Octets::Burst(index as u16);
            match judge(port, self.arena.head(name), frame.len, &frame.vnet) {
                Ok((meta, offloads, vlan)) => {
                    self.shared.forwarding.learn(meta.src, vlan, port.id, now);
                    self.packets.push(Packet {
                        meta,
                        offloads,
                        vlan,
                        ingress: port.id,
                        octets: name,
                        times,
                    });
                }
                Err(reason) => port.counters.drop_tx(reason),
            }
        }
        PortCounters::add(&port.counters.tx_frames, self.arena.burst.frames.len() as u64);
        PortCounters::add(&port.counters.tx_octets, octets);
        let parsed = clock::now();
        for packet in &mut self.packets {
            packet.times.parse = parsed;
        }
        if port.first_frame.load(Ordering::Relaxed) == 0 {
            port.first_frame.store(parsed.0.max(1), Ordering::Relaxed);
        }
    }

    /// Shows `self.packets`, which its guest sent, to a port's probe; what leaves towards the switch takes their place, and what it lets go
    /// towards the guest is delivered.
    fn pass(&mut self, port: &Port) {
        let mut carrier = Carrier {
            lane: self.lane,
            arena: &mut self.arena,
            counters: &port.counters,
        };
        let wakes = port
            .probe
            .pass(Direction::Tx, &mut self.packets, &mut self.passed, &mut carrier);
        self.heed(wakes, port);
        self.packets.append(&mut self.passed.tx);
        self.deliver_passed(port);
    }

    /// Delivers what a port's probe let go towards its guest.
    fn deliver_passed(&mut self, port: &Port) {
        if self.passed.rx.is_empty() {
            return;
        }
        let packets = std::mem::take(&mut self.passed.rx);
        self.deliver(port, &packets);
        self.passed.rx = packets;
        self.passed.rx.clear();
    }

    /// Carries a burst of what uplinks left in a port's VM queue. Returns how many frames that were.
    pub(crate) fn carry_sorted(&mut self, port: &Port, lane: LaneId, queue: &VmQueue) -> usize {
        self.lane = lane;
        self.group.clear();
        queue.take(clock::now(), &mut self.arena, &mut self.group);
        let frames = self.group.len();
        if frames > 0 {
            self.more.clear();
            self.coalesce(port);
            self.deliver_group(port);
            self.forward_more();
            queue.give_back(self.arena.disown());
            self.finish(None);
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
        self.group_by_destination(ingress, packets);
        let mut used = std::mem::take(&mut self.used);
        let table = Arc::clone(&self.table);
        let sorts = table.get(ingress).is_some_and(|port| port.is_uplink);
        for id in used.drain(..) {
            self.group.clear();
            if let Some(members) = self.groups.get_mut(usize::from(id.0)) {
                let chosen = members.drain(..);
                self.group
                    .extend(chosen.filter_map(|index| packets.get(usize::from(index))));
            }
            if let Some(port) = table.get(id) {
                match port.vm_lane().filter(|_| sorts) {
                    Some(lane) => self.sort_into(port, lane),
                    None => self.deliver_group(port),
                }
            }
        }
        self.used = used;
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
            let mut passed = std::mem::take(&mut self.passed);
            let mut carrier = Carrier {
                lane: self.lane,
                arena: &mut self.arena,
                counters: &port.counters,
            };
            let wakes = port
                .probe
                .pass(Direction::Rx, &mut group, &mut passed, &mut carrier);
            self.heed(wakes, port);
            self.more
                .extend(passed.tx.drain(..).map(|packet| (port.id, packet)));
            self.deliver(port, &passed.rx);
            passed.rx.clear();
            self.passed = passed;
        } else {
            self.deliver(port, &group);
        }
        self.group = group;
    }

    fn deliver(&mut self, port: &Port, packets: &[Packet]) {
        if packets.is_empty() {
            return;
        }
        if egress::deliver(port, packets, &self.arena, &mut self.scratch) {
            self.wake_servers(port);
        }
        self.stamps.copied(clock::now(), packets);
        if !self.touched.contains(&port.id) {
            self.touched.push(port.id);
        }
    }

    fn group_by_destination(&mut self, ingress: PortId, packets: &[Packet]) {
        let Some(from) = self.table.get(ingress).cloned() else {
            return;
        };
        let now = seconds(clock::now());
        for (index, packet) in packets.iter().enumerate() {
            let dst = packet.meta.dst;
            let found = if dst.is_multicast() {
                None
            } else {
                self.shared
                    .forwarding
                    .lookup(dst, packet.vlan, now)
                    .filter(|port| self.table.get(*port).is_some())
            };
            match found {
                Some(port) if port == ingress => from.counters.drop_tx(DropReason::SamePort),
                Some(port) => self.add_to_group(port, index as u16),
                None => self.flood(&from, packet, index as u16),
            }
        }
    }

    fn flood(&mut self, from: &Port, packet: &Packet, index: u16) {
        let table = Arc::clone(&self.table);
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

    /// Hands the sender its buffers back, notifies each receiver once, and records the stamps.
    fn finish(&mut self, sender: Option<&Port>) {
        if let Some(sender) = sender {
            sender.backend.complete(self.lane.queue, &self.arena.burst);
        }
        for id in self.touched.drain(..) {
            if let Some(port) = self.table.get(id) {
                port.backend.notify();
            }
        }
        self.stamps.notified(clock::now(), &self.table);
        self.arena.clear();
    }

    /// Wakes whom a probe left something to do.
    fn heed(&self, wakes: Wakes, port: &Port) {
        if wakes.others {
            self.tell_releases();
        }
        if wakes.owner {
            self.wake_owner(port);
        }
    }

    /// Wakes the worker that sees to the port, if that is another one: it may sleep without knowing of a deadline.
    fn wake_owner(&self, port: &Port) {
        self.wake(port.home());
    }

    /// Wakes all workers that serve queues of the port, but for this one: each has to know of a backlog before it sleeps,
    /// to ask for room in the receive rings of its queues.
    fn wake_servers(&self, port: &Port) {
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

/// Decides whether a frame may enter the switch.
fn judge(
    port: &Port,
    head: &[u8],
    len: u32,
    vnet: &offload::VnetHeader,
) -> Result<(offload::FrameMeta, Offloads, u16), DropReason> {
    if len as usize > MAX_FRAME {
        return Err(DropReason::BadLength);
    }
    let meta = offload::parse(head, len as usize).map_err(|_| DropReason::BadLength)?;
    if meta.src.is_multicast() {
        return Err(DropReason::BadSource);
    }
    let vlan = port.vlans.ingress(meta.vlan)?;
    let offloads = Offloads::from_header(vnet, &meta).map_err(|_| DropReason::BadOffload)?;
    Ok((meta, offloads, vlan))
}
