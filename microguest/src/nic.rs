//! The virtio network driver (virtio 1.2, 5.1) above its transport: rings, buffers, offloads, and the smoltcp device.
//!
//! One queue pair. Every frame is one descriptor; a received frame that the device spread over several buffers
//! (`VIRTIO_NET_F_MRG_RXBUF`) is put together in a scratch buffer, which only happens with frames beyond 4 KiB.

use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::num::{NonZeroU16, NonZeroUsize};

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
};

use crate::checksum;
use crate::station::Link;
use crate::virtqueue::{Queue, SharedMemory};

/// Index of the receive queue.
pub const RECEIVE_QUEUE: u16 = 0;
/// Index of the transmit queue.
pub const TRANSMIT_QUEUE: u16 = 1;
/// Most descriptors that the driver uses of a queue.
pub const MAX_QUEUE_SIZE: u16 = 256;

/// The device completes transmit checksums.
pub const F_CSUM: u64 = 1 << 0;
/// Received checksums may be partial.
pub const F_GUEST_CSUM: u64 = 1 << 1;
/// The device tells its MTU.
pub const F_MTU: u64 = 1 << 3;
/// The device tells its hardware address.
pub const F_MAC: u64 = 1 << 5;
/// Received TCP segments over IPv4 may be larger than the MTU.
pub const F_GUEST_TSO4: u64 = 1 << 7;
/// The device cuts TCP segments over IPv4 that are larger than the MTU.
pub const F_HOST_TSO4: u64 = 1 << 11;
/// Received frames may fill several buffers.
pub const F_MRG_RXBUF: u64 = 1 << 15;
/// The modern interface.
pub const F_VERSION_1: u64 = 1 << 32;
/// All features that the driver accepts.
pub const FEATURES: u64 = F_CSUM | F_GUEST_CSUM | F_MTU | F_MAC | F_MRG_RXBUF | F_VERSION_1;
/// What it accepts besides to send and receive segments that are larger than the MTU.
pub const LARGE_FEATURES: u64 = F_GUEST_TSO4 | F_HOST_TSO4;
/// What large segments need in all: large ones arrive in several buffers and with partial checksums.
const LARGE: u64 = LARGE_FEATURES | F_CSUM | F_GUEST_CSUM | F_MRG_RXBUF;

/// Octets of `struct virtio_net_hdr_v1`.
const HEADER: usize = 12;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`.
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_NONE`, `VIRTIO_NET_HDR_GSO_TCPV4`.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
/// Octets of an Ethernet header.
const ETHERNET: usize = 14;
/// Octets of an ARP packet for Ethernet and IPv4.
const ARP: usize = 28;
/// MTU of a device that tells none.
const DEFAULT_MTU: u16 = 1500;
/// Largest MTU in use; what a device offers beyond stays unused.
const MAX_MTU: u16 = 9216;
/// Smallest MTU that IPv4 allows (RFC 791).
const MIN_MTU: u16 = 68;
/// Octets of the largest frame that a device is to cut. A bridge of Linux' passes no larger one whole (`GSO_LEGACY_MAX_SIZE`).
const LARGE_FRAME: usize = 65535;
/// Most transmit buffers of that size.
const LARGE_QUEUE_SIZE: u16 = 32;
/// Octets of a receive buffer, if frames may fill several.
const MERGEABLE_BUFFER: usize = 4096;
/// Frames longer than this are not put together.
const MAX_FRAME: usize = 64 * 1024 + ETHERNET;

/// How the driver tells the device of new buffers.
pub trait Doorbell {
    /// Rings for `queue`.
    fn ring(&mut self, queue: u16);
}

/// What was negotiated with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicConfig {
    /// Feature bits that both sides have.
    pub features: u64,
    /// The device's hardware address.
    pub mac: [u8; 6],
    /// The device's MTU, if it tells one.
    pub mtu: Option<u16>,
    /// Descriptors in the receive and in the transmit queue.
    pub queue_sizes: (u16, u16),
}

/// A network device with one queue pair.
#[derive(Debug)]
pub struct Nic<D> {
    receiver: Receiver,
    transmitter: Transmitter,
    doorbell: D,
    config: NicConfig,
    mtu: usize,
}

impl<D: Doorbell> Nic<D> {
    /// Makes queues and buffers. The transport then tells the device where the [`queues`](Self::queues) are and starts
    /// it; [`fill`](Self::fill) follows.
    pub fn new(config: NicConfig, doorbell: D) -> Self {
        let mtu = usize::from(config.mtu.unwrap_or(DEFAULT_MTU).clamp(MIN_MTU, MAX_MTU));
        let whole = (HEADER + ETHERNET + mtu).next_multiple_of(64);
        let mergeable = config.features & F_MRG_RXBUF != 0;
        let stride = if mergeable { MERGEABLE_BUFFER } else { whole };
        let large = config.features & LARGE == LARGE;
        let transmit = match config.queue_sizes.1 {
            size if large => Ring::new(
                size.min(LARGE_QUEUE_SIZE),
                (HEADER + LARGE_FRAME).next_multiple_of(64),
            ),
            size => Ring::new(size, whole),
        };
        Self {
            receiver: Receiver {
                ring: Ring::new(config.queue_sizes.0, stride),
                scratch: Vec::new(),
                mergeable,
                verify: config.features & F_GUEST_CSUM != 0,
                invalid: 0,
            },
            transmitter: Transmitter {
                free: (0..transmit.queue.size()).collect(),
                ring: transmit,
                offload: config.features & F_CSUM != 0,
                large,
            },
            doorbell,
            config,
            mtu,
        }
    }

    /// The receive and the transmit queue.
    pub fn queues(&self) -> [&Queue; 2] {
        [&self.receiver.ring.queue, &self.transmitter.ring.queue]
    }

    /// What was negotiated.
    pub fn config(&self) -> &NicConfig {
        &self.config
    }

    /// Frames that were dropped because their checksum was wrong or their buffers made no sense.
    pub fn invalid_frames(&self) -> u64 {
        self.receiver.invalid
    }

    /// Gives the device all receive buffers. Transmission never interrupts; reception does once
    /// [`may_sleep`](Self::may_sleep) asked for it.
    pub fn fill(&mut self) {
        self.transmitter.ring.queue.set_interrupts(false);
        self.receiver.ring.queue.set_interrupts(false);
        for id in 0..self.receiver.ring.queue.size() {
            self.receiver.ring.publish_writable(id);
        }
        self.flush();
    }

    /// Sends a gratuitous ARP request: switches learn where `ip` is (RFC 5227, 1.1).
    pub fn announce(&mut self, ip: Ipv4Addr) {
        let mac = EthernetAddress(self.config.mac);
        let ethernet = EthernetRepr {
            src_addr: mac,
            dst_addr: EthernetAddress::BROADCAST,
            ethertype: EthernetProtocol::Arp,
        };
        let arp = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: mac,
            source_protocol_addr: ip,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: ip,
        };
        if let Some(token) = self.transmit(Instant::ZERO) {
            token.consume(ETHERNET + ARP, |frame| {
                let mut frame = EthernetFrame::new_unchecked(frame);
                ethernet.emit(&mut frame);
                arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
            });
        }
        self.flush();
    }

    /// Asks for interrupts. `false` if a frame came in meanwhile: do not sleep.
    pub fn may_sleep(&mut self) -> bool {
        self.receiver.ring.queue.set_interrupts(true);
        !self.receiver.ring.queue.has_used()
    }

    /// Asks for no interrupts: frames will be looked for.
    pub fn awake(&mut self) {
        self.receiver.ring.queue.set_interrupts(false);
    }
}

impl<D: Doorbell> Link for Nic<D> {
    fn flush(&mut self) {
        let rings = [
            (RECEIVE_QUEUE, &mut self.receiver.ring),
            (TRANSMIT_QUEUE, &mut self.transmitter.ring),
        ];
        for (index, ring) in rings {
            if core::mem::take(&mut ring.unannounced) && ring.queue.wants_doorbell() {
                self.doorbell.ring(index);
            }
        }
    }
}

impl<D: Doorbell> Device for Nic<D> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Transmission<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Transmission<'_>)> {
        // An answer must find a buffer.
        self.transmitter.reap();
        if self.transmitter.free.is_empty() {
            return None;
        }
        let place = self.receiver.next()?;
        let received = Received {
            receiver: &mut self.receiver,
            place,
        };
        Some((received, Transmission::new(&mut self.transmitter)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Transmission<'_>> {
        if self.transmitter.free.is_empty() {
            self.transmitter.reap();
        }
        (!self.transmitter.free.is_empty()).then(|| Transmission::new(&mut self.transmitter))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + ETHERNET;
        if self.transmitter.large {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(LARGE_FRAME);
        }
        let transport = match (self.transmitter.offload, self.receiver.verify) {
            (false, false) => Checksum::Both,
            (false, true) => Checksum::Tx,
            (true, false) => Checksum::Rx,
            (true, true) => Checksum::None,
        };
        capabilities.checksum.tcp = transport;
        // smoltcp must write a UDP checksum field for the device to complete, so it is treated alike.
        capabilities.checksum.udp = transport;
        capabilities
    }
}

/// A queue and its buffers.
#[derive(Debug)]
struct Ring {
    queue: Queue,
    buffers: SharedMemory,
    stride: usize,
    /// Buffers were published that the device was not told of.
    unannounced: bool,
}

impl Ring {
    fn new(size: u16, stride: usize) -> Self {
        Self {
            queue: Queue::new(size),
            buffers: SharedMemory::new(usize::from(size) * stride),
            stride,
            unannounced: false,
        }
    }

    fn offset(&self, id: u16) -> usize {
        usize::from(id) * self.stride
    }

    fn publish_writable(&mut self, id: u16) {
        self.publish(id, self.stride, true);
    }

    fn publish(&mut self, id: u16, len: usize, writable: bool) {
        let address = self.buffers.address() + self.offset(id) as u64;
        self.queue.publish(id, address, len as u32, writable);
        self.unannounced = true;
    }
}

#[derive(Debug)]
struct Receiver {
    ring: Ring,
    /// A frame put together from several buffers.
    scratch: Vec<u8>,
    mergeable: bool,
    /// smoltcp does not verify checksums: done here for frames that nobody vouches for.
    verify: bool,
    invalid: u64,
}

/// Where a received frame is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In buffer `id`, with so many octets.
    Buffer { id: u16, len: usize },
    /// In the scratch buffer.
    Scratch,
}

impl Receiver {
    /// The next good frame. Bad ones are counted and their buffers given back.
    fn next(&mut self) -> Option<Place> {
        loop {
            let (id, used) = self.ring.queue.take_used()?;
            let used = (used as usize).min(self.ring.stride);
            let header = self.header(id);
            let buffers = if self.mergeable {
                usize::from(u16::from_le_bytes([header[10], header[11]])).max(1)
            } else {
                1
            };
            let place = if buffers == 1 {
                let len = used.saturating_sub(HEADER);
                Some(Place::Buffer { id, len })
            } else {
                self.merge(id, used, buffers)
            };
            match place {
                Some(place) if self.is_good(place, header[0]) => return Some(place),
                Some(Place::Buffer { id, .. }) => self.ring.publish_writable(id),
                Some(Place::Scratch) | None => {}
            }
            self.invalid += 1;
        }
    }

    fn header(&self, id: u16) -> [u8; HEADER] {
        let octets = self.ring.buffers.octets(self.ring.offset(id), HEADER);
        octets.try_into().unwrap_or_default()
    }

    /// Puts a frame together and gives its buffers back. The device returns all of them at once (5.1.6.3.2).
    fn merge(&mut self, first: u16, used: usize, buffers: usize) -> Option<Place> {
        self.scratch.clear();
        self.take_part(first, HEADER, used);
        for _ in 1..buffers {
            let (id, used) = self.ring.queue.take_used()?;
            self.take_part(id, 0, used as usize);
        }
        (self.scratch.len() <= MAX_FRAME).then_some(Place::Scratch)
    }

    fn take_part(&mut self, id: u16, skip: usize, used: usize) {
        let used = used.min(self.ring.stride);
        if self.scratch.len() <= MAX_FRAME {
            let offset = self.ring.offset(id);
            let part = self.ring.buffers.octets(offset + skip, used.saturating_sub(skip));
            self.scratch.extend_from_slice(part);
        }
        self.ring.publish_writable(id);
    }

    fn is_good(&self, place: Place, flags: u8) -> bool {
        let vouched_for = flags & (NEEDS_CSUM | DATA_VALID) != 0;
        !self.verify || vouched_for || checksum::is_valid(self.frame(place))
    }

    fn frame(&self, place: Place) -> &[u8] {
        match place {
            Place::Buffer { id, len } => self.ring.buffers.octets(self.ring.offset(id) + HEADER, len),
            Place::Scratch => &self.scratch,
        }
    }
}

/// A received frame; its buffer goes back to the device when it was looked at.
#[derive(Debug)]
pub struct Received<'a> {
    receiver: &'a mut Receiver,
    place: Place,
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(self.receiver.frame(self.place));
        if let Place::Buffer { id, .. } = self.place {
            self.receiver.ring.publish_writable(id);
        }
        result
    }
}

#[derive(Debug)]
struct Transmitter {
    ring: Ring,
    free: Vec<u16>,
    /// The device completes checksums.
    offload: bool,
    /// The device cuts large TCP segments.
    large: bool,
}

impl Transmitter {
    fn reap(&mut self) {
        while let Some((id, _)) = self.ring.queue.take_used() {
            // There is room: each buffer is either free or with the device.
            if self.free.len() < self.free.capacity() {
                self.free.push(id);
            }
        }
    }
}

/// Room for a frame to transmit.
#[derive(Debug)]
pub struct Transmission<'a> {
    transmitter: &'a mut Transmitter,
    /// Octets of payload that the device is to cut a TCP segment to.
    cut_to: Option<NonZeroU16>,
}

impl<'a> Transmission<'a> {
    const fn new(transmitter: &'a mut Transmitter) -> Self {
        Self {
            transmitter,
            cut_to: None,
        }
    }
}

impl TxToken for Transmission<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Self { transmitter, cut_to } = self;
        // A token is only made while a buffer is free.
        let id = transmitter.free.pop().unwrap_or(0);
        let ring = &mut transmitter.ring;
        let offset = ring.offset(id);
        let len = len.min(ring.stride - HEADER);
        let (header, frame) = ring.buffers.octets_mut(offset, HEADER + len).split_at_mut(HEADER);
        header.fill(0);
        let result = f(frame);
        if transmitter.offload
            && let Some((start, offset)) = checksum::make_partial(frame)
        {
            let [s0, s1] = start.to_le_bytes();
            let [o0, o1] = offset.to_le_bytes();
            let cut = cut_to.and_then(|payload| Some((headers(frame, start)?, payload.get())));
            let kind = if cut.is_some() { GSO_TCPV4 } else { GSO_NONE };
            let (headers, payload) = cut.unwrap_or_default();
            let ([h0, h1], [p0, p1]) = (headers.to_le_bytes(), payload.to_le_bytes());
            header.copy_from_slice(&[NEEDS_CSUM, kind, h0, h1, p0, p1, s0, s1, o0, o1, 0, 0]);
        }
        ring.publish(id, HEADER + len, false);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.cut_to = meta.segmentation_offload_size;
    }
}

/// Octets of a frame's headers, of which TCP's begins at `start`.
fn headers(frame: &[u8], start: u16) -> Option<u16> {
    let length = frame.get(usize::from(start) + 12)? >> 4;
    Some(start + u16::from(length) * 4)
}

#[cfg(test)]
mod tests;
