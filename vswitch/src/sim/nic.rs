//! A host's NIC: a vhost-user front end and its driver's rings.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use offload::VnetHeader;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::random::Random;
use crate::port::Capabilities;
use crate::ring::feature;
use crate::ring::mock::{MockGuest, MockQueue, Shape};

/// Octets of the largest IP packet that a stack makes: a large send's.
pub(super) const LARGE_MTU: u16 = 16_000;
const VNET: usize = VnetHeader::LEN;
/// Room for the largest frame and its header.
const ROOM: u32 = LARGE_MTU as u32 + 14 + VNET as u32;

/// What a driver negotiates, and how it works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) features: u64,
    /// What it takes.
    pub(super) takes: Capabilities,
    /// What it leaves to others: TCP over both IP versions alike.
    pub(super) leaves: Capabilities,
    pub(super) pairs: u16,
    tx_entries: u16,
    rx_entries: u16,
    shape: Shape,
    rx_buffer: u32,
}

impl Spec {
    /// Any that a driver might have.
    pub(super) fn any(random: &mut Random, mtu: u16) -> Self {
        let packed = random.coin();
        let mut entries = |least: u64| -> u16 {
            let power = 1 << random.below(11).clamp(least, 10);
            if packed && random.coin() {
                power + random.below(u64::from(power)) as u16
            } else {
                power
            }
        };
        let (tx_entries, rx_entries) = (entries(1).min(1024), entries(1).min(1024));
        let takes = any_abilities(random);
        let mut leaves = any_abilities(random);
        leaves.tso4 &= leaves.tso6;
        leaves.tso6 = leaves.tso4;
        leaves.uso6 = leaves.uso4;
        let large = takes.tso4 || takes.tso6 || takes.uso4 || takes.uso6;
        let least = if large {
            ROOM
        } else {
            u32::from(mtu) + 14 + VNET as u32
        };
        // Buffers may be small where all of them together hold the largest frame.
        let rx_buffer = random.pick(&[256, 1536, 4096]);
        let mergeable = random.coin() && u32::from(rx_entries) * rx_buffer >= least;
        let mut optional = |bit: u64| if random.coin() { bit } else { 0 };
        let features = feature::VERSION_1
            | optional(feature::INDIRECT_DESC)
            | optional(feature::EVENT_IDX)
            | optional(feature::IN_ORDER)
            | if packed { feature::RING_PACKED } else { 0 }
            | if mergeable { feature::MRG_RXBUF } else { 0 }
            | feature_bits(takes, leaves);
        let pieces = 1 + random.below(u64::from(tx_entries.min(4))) as usize;
        Self {
            features,
            takes,
            leaves,
            pairs: if tx_entries.max(rx_entries) <= 64 {
                random.pick(&[1, 2, 16])
            } else {
                random.pick(&[1, 3])
            },
            tx_entries,
            rx_entries,
            shape: if features & feature::INDIRECT_DESC == 0 {
                Shape::Chain(pieces)
            } else {
                Shape::Indirect(pieces)
            },
            rx_buffer: if mergeable { rx_buffer } else { least },
        }
    }
}

fn any_abilities(random: &mut Random) -> Capabilities {
    let checksum = !random.once_in(4);
    let mut also = || checksum && random.coin();
    Capabilities {
        checksum,
        tso4: also(),
        tso6: also(),
        uso4: also(),
        uso6: also(),
        ecn: also(),
    }
}

/// Virtio's bits (virtio 1.2, 5.1.3) of what the driver takes and leaves.
fn feature_bits(takes: Capabilities, leaves: Capabilities) -> u64 {
    let bits = [
        (leaves.checksum, 0),
        (takes.checksum, 1),
        (takes.tso4, 7),
        (takes.tso6, 8),
        (takes.ecn, 9),
        (leaves.tso4, 11),
        (leaves.tso6, 12),
        (leaves.ecn, 13),
        (takes.uso4, 54),
        (takes.uso6, 55),
        (leaves.uso4, 56),
    ];
    bits.into_iter().map(|(on, bit)| u64::from(on) << bit).sum()
}

/// A NIC whose rings run.
pub(super) struct Nic {
    pub(super) spec: Spec,
    /// Frames put into rings, and taken out.
    pub(super) sent: u64,
    pub(super) received: u64,
    tx: Vec<MockQueue>,
    rx: Vec<MockQueue>,
    /// Receive buffers that the device has.
    posted: Vec<u64>,
    frontend: Frontend,
    /// Nobody rings: the worker is stepped.
    doorbell: EventFd,
}

impl Nic {
    pub(super) fn attach(socket: &Path, spec: Spec) -> Self {
        let per_pair = u64::from(spec.tx_entries) * u64::from(ROOM + 64)
            + u64::from(spec.rx_entries) * u64::from(spec.rx_buffer + 64)
            + u64::from(spec.tx_entries + spec.rx_entries) * 1024
            + 0x1_0000;
        let memory = MockGuest::new((u64::from(spec.pairs) * per_pair).next_multiple_of(4096));
        let queues = |entries, buffer: u32| -> Vec<MockQueue> {
            let queue = |_| MockQueue::new(&memory, entries, buffer.into(), spec.features, 0);
            (0..spec.pairs).map(queue).collect()
        };
        let doorbell = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let mut nic = Self {
            spec,
            sent: 0,
            received: 0,
            tx: queues(spec.tx_entries, ROOM),
            rx: queues(spec.rx_entries, spec.rx_buffer),
            posted: vec![0; spec.pairs.into()],
            frontend: Frontend::connect(socket, 2 * u64::from(spec.pairs)).expect("the port listens"),
            doorbell,
        };
        nic.negotiate(&memory).expect("the port agrees");
        for pair in 0..nic.rx.len() {
            nic.refill(pair);
        }
        nic
    }

    fn negotiate(&mut self, memory: &Arc<MockGuest>) -> vhost::Result<()> {
        let frontend = &mut self.frontend;
        frontend.get_features()?;
        let wanted = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ;
        let agreed = frontend.get_protocol_features()? & wanted;
        frontend.set_protocol_features(agreed)?;
        frontend.set_owner()?;
        frontend.set_features(self.spec.features | 1 << 30)?;
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let spec = memory.region();
        frontend.set_mem_table(&[VhostUserMemoryRegionInfo {
            guest_phys_addr: spec.guest,
            memory_size: spec.size,
            userspace_addr: spec.user,
            mmap_offset: spec.offset,
            mmap_handle: memory.file().as_raw_fd(),
        }])?;
        let queues = self.rx.iter().zip(&self.tx).flat_map(|(rx, tx)| [rx, tx]);
        for (index, queue) in queues.enumerate() {
            let setup = queue.setup();
            frontend.set_vring_num(index, setup.size)?;
            frontend.set_vring_base(index, setup.base)?;
            frontend.set_vring_addr(
                index,
                &VringConfigData {
                    queue_max_size: setup.size,
                    queue_size: setup.size,
                    flags: 0,
                    desc_table_addr: setup.addresses.descriptors,
                    used_ring_addr: setup.addresses.used,
                    avail_ring_addr: setup.addresses.available,
                    log_addr: None,
                },
            )?;
            frontend.set_vring_call(index, &self.doorbell)?;
            frontend.set_vring_kick(index, &self.doorbell)?;
            frontend.set_vring_enable(index, true)?;
        }
        Ok(())
    }

    /// Sends a frame on the queue of its flow; false if that is full.
    pub(super) fn send(&mut self, flow: u64, vnet: VnetHeader, frame: &[u8]) -> bool {
        let queue = (flow % u64::from(self.spec.pairs)) as usize;
        let queue = &mut self.tx[queue];
        while queue.used().is_some() {}
        let sent = queue.send(&[&vnet.to_bytes(), frame].concat(), self.spec.shape);
        self.sent += u64::from(sent);
        sent
    }

    /// The next frame of any queue.
    pub(super) fn receive(&mut self) -> Option<(VnetHeader, Vec<u8>)> {
        let mergeable = self.spec.features & feature::MRG_RXBUF != 0;
        let (pair, octets) =
            (0..self.rx.len()).find_map(|pair| Some((pair, self.rx[pair].receive(VNET)?)))?;
        let (header, frame) = octets.split_first_chunk().expect("a header");
        let vnet = VnetHeader::from_bytes(header);
        let buffers = if mergeable {
            octets.len().div_ceil(self.spec.rx_buffer as usize)
        } else {
            1
        };
        assert_eq!(
            usize::from(vnet.num_buffers),
            buffers,
            "as many buffers as the frame fills"
        );
        self.posted[pair] -= buffers as u64;
        self.received += 1;
        let frame = frame.to_vec();
        self.refill(pair);
        Some((vnet, frame))
    }

    fn refill(&mut self, pair: usize) {
        while self.rx[pair].post(self.spec.rx_buffer, Shape::Chain(1)) {
            self.posted[pair] += 1;
        }
    }

    /// Shows that no buffer was lost: all that were sent are back, all that were posted are there.
    pub(super) fn settle(&mut self) {
        for queue in &mut self.tx {
            while queue.used().is_some() {}
            assert_eq!(
                queue.free(),
                usize::from(self.spec.tx_entries),
                "a transmit buffer is lost"
            );
        }
        for (queue, posted) in self.rx.iter().zip(&self.posted) {
            assert_eq!(
                (queue.free(), *posted),
                (0, self.spec.rx_entries.into()),
                "a receive buffer is lost"
            );
        }
    }
}
