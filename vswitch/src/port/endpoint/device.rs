//! The frames that go into and come out of an endpoint, and smoltcp's view of them.

use std::collections::VecDeque;

use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::frame::{Burst, MAX_FRAME, Outgoing};

/// Frames that wait for an endpoint at most.
pub(super) const INBOX_FRAMES: usize = 512;

/// Octets that wait for an endpoint at most.
pub(super) const INBOX_OCTETS: usize = 1 << 20;

/// Frames that an endpoint has ready to send at most; it makes no more until the switch took them.
const OUTBOX_FRAMES: usize = 256;

/// Empty buffers that are kept, and the largest that is.
const SPARE_BUFFERS: usize = 64;
const SPARE_CAPACITY: usize = 16 * 1024;

/// Asking the switch's pool for a buffer of more than this gets one with room for the largest frame.
const SMALL_BUFFER: usize = 2048;

/// Frames that any worker delivered and the endpoint has not looked at.
#[derive(Default)]
pub(super) struct Inbox {
    frames: VecDeque<Vec<u8>>,
    octets: usize,
    spare: Vec<Vec<u8>>,
}

impl Inbox {
    /// Whether a frame of `len` octets has room.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.frames.len() < INBOX_FRAMES && self.octets + len <= INBOX_OCTETS
    }

    /// Copies a frame in.
    pub(super) fn push(&mut self, frame: &Outgoing<'_>) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.reserve(frame.len as usize);
        buffer.extend_from_slice(frame.head);
        for segment in frame.tail {
            crate::packet::append(*segment, segment.len as usize, &mut buffer);
        }
        self.octets += buffer.len();
        self.frames.push_back(buffer);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// smoltcp's device: both queues, seen from inside.
pub(super) struct Device {
    mtu: u16,
    received: VecDeque<Vec<u8>>,
    /// Buffers of frames that were read.
    used: Vec<Vec<u8>>,
    outbox: VecDeque<Vec<u8>>,
    /// Buffers from the switch's pool for frames that are to be sent.
    blank: Vec<Vec<u8>>,
}

impl Device {
    pub(super) fn new(mtu: u16) -> Self {
        Self {
            mtu,
            received: VecDeque::new(),
            used: Vec::new(),
            outbox: VecDeque::new(),
            blank: Vec::new(),
        }
    }

    /// Takes what is in the inbox, if all that was taken before has been read, and gives read buffers back.
    pub(super) fn collect(&mut self, inbox: &mut Inbox) {
        let kept = |buffer: &Vec<u8>| buffer.capacity() <= SPARE_CAPACITY;
        let room = SPARE_BUFFERS.saturating_sub(inbox.spare.len());
        inbox.spare.extend(self.used.drain(..).filter(kept).take(room));
        if self.received.is_empty() {
            std::mem::swap(&mut self.received, &mut inbox.frames);
            inbox.octets = 0;
        }
    }

    /// Fetches buffers for as many frames as the burst will take.
    pub(super) fn refill(&mut self, burst: &mut Burst) {
        while self.blank.len() < burst.room() {
            let large = usize::from(self.mtu) + phy_header() > SMALL_BUFFER;
            self.blank
                .push(burst.buffer(if large { SMALL_BUFFER + 1 } else { 0 }));
        }
    }

    /// The next frame to send.
    pub(super) fn next_outgoing(&mut self) -> Option<Vec<u8>> {
        self.outbox.pop_front()
    }

    /// Whether frames wait in either queue.
    pub(super) fn is_pending(&self) -> bool {
        !self.outbox.is_empty() || !self.received.is_empty()
    }
}

/// Octets of an Ethernet header.
const fn phy_header() -> usize {
    smoltcp::wire::EthernetFrame::<&[u8]>::header_len()
}

impl phy::Device for Device {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _timestamp: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        // A frame may be answered by one: it waits until there is room for that.
        if self.outbox.len() >= OUTBOX_FRAMES {
            return None;
        }
        let frame = self.received.pop_front()?;
        let rx = RxToken {
            frame,
            used: &mut self.used,
        };
        Some((
            rx,
            TxToken {
                outbox: &mut self.outbox,
                blank: &mut self.blank,
            },
        ))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<TxToken<'_>> {
        (self.outbox.len() < OUTBOX_FRAMES).then_some(TxToken {
            outbox: &mut self.outbox,
            blank: &mut self.blank,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // Transport checksums are made, not checked: a frame's may be partial, and it never left memory.
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = Checksum::Tx;
        checksum.udp = Checksum::Tx;
        checksum.icmpv4 = Checksum::Tx;
        checksum.icmpv6 = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.mtu) + phy_header();
        capabilities.checksum = checksum;
        capabilities
    }
}

/// A frame that is about to be read.
pub(super) struct RxToken<'a> {
    frame: Vec<u8>,
    used: &'a mut Vec<Vec<u8>>,
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(&self.frame);
        self.used.push(self.frame);
        result
    }
}

/// Room for a frame that is about to be written.
pub(super) struct TxToken<'a> {
    outbox: &'a mut VecDeque<Vec<u8>>,
    blank: &'a mut Vec<Vec<u8>>,
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = self.blank.pop().unwrap_or_default();
        frame.clear();
        frame.resize(len.min(MAX_FRAME), 0);
        let result = write(&mut frame);
        self.outbox.push_back(frame);
        result
    }
}
