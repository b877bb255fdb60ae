//! AF_PACKET: works with every interface, and carries large sends and partial checksums whole, in both directions.
//!
//! Each queue is a socket of a fanout group, in which the kernel hands all frames of a flow to the same socket. A burst
//! is received by one system call and sent by one, straight out of the sender's guest memory.

use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use introspection::Instant;
use offload::VnetHeader;
use parking_lot::Mutex;

use crate::counters::DropReason;
use crate::frame::{BURST, Burst, Outgoing};
use crate::port::{Backend, BackendStatus, Capabilities, Delivery, Refusal, Waker};
use crate::vlan::TAG_LEN;

use super::link::{Link, LinkState};
use super::{REMOVED, Station, UplinkError};

mod socket;

use socket::{Received, Socket, Tag};

/// Where a VLAN tag stands in a frame (IEEE 802.1Q, 9.1): after both addresses.
const TAG_OFFSET: usize = 12;

/// An interface served by AF_PACKET.
pub(super) struct PacketPort {
    station: Station,
    queues: Vec<Queue>,
    uso: bool,
}

struct Queue {
    socket: Socket,
    /// Buffers for the next frames.
    spare: Mutex<Vec<Vec<u8>>>,
    /// Frames that came in while the socket had no room.
    missed: AtomicU64,
}

impl Queue {
    fn missed(&self) -> u64 {
        let news = self.socket.missed();
        self.missed.fetch_add(news, Ordering::Relaxed) + news
    }
}

impl PacketPort {
    /// Serves an interface with so many sockets.
    pub(super) fn open(link: Arc<Link>, queues: u16, served: String) -> Result<Self, UplinkError> {
        let sockets = socket::open_group(&link, queues)?;
        let queue = |socket| Queue {
            socket,
            spare: Mutex::default(),
            missed: AtomicU64::new(0),
        };
        Ok(Self {
            station: Station::new(link, served),
            queues: sockets.into_iter().map(queue).collect(),
            uso: socket::has_uso(),
        })
    }

    fn fds(&self) -> impl Iterator<Item = RawFd> {
        self.queues.iter().map(|queue| queue.socket.as_raw_fd())
    }

    fn queue(&self, queue: u16) -> Option<&Queue> {
        self.queues
            .get(usize::from(queue))
            .filter(|_| !self.station.is_gone())
    }

    /// The queue that a flow leaves by.
    fn queue_of(&self, frame: &Outgoing<'_>) -> usize {
        frame.flow_hash as usize % self.queues.len().max(1)
    }

    /// Says what an error of a socket means for the port.
    fn heed_down(&self) {
        if self.station.link.state() == LinkState::Gone {
            self.station.go(REMOVED, self.fds());
        }
    }

    fn refusal(&self, error: &std::io::Error) -> Refusal {
        let faults = &self.station.faults;
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => {
                self.station.full.store(true, Ordering::Relaxed);
                Refusal::Full
            }
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                self.station.note(&faults.link_down, error);
                self.heed_down();
                Refusal::Drop(DropReason::PortDown)
            }
            Some(libc::EMSGSIZE) => Refusal::Drop(DropReason::Oversize),
            Some(libc::EFAULT) => Refusal::Drop(DropReason::MemoryLost),
            _ => {
                self.station.note(&faults.refused, error);
                Refusal::Drop(DropReason::DeviceError)
            }
        }
    }

    fn accept(&self, received: &Received, frame: Vec<u8>, burst: &mut Burst) {
        if received.truncated {
            self.station.faults.too_long.fetch_add(1, Ordering::Relaxed);
            burst.pool.give(frame);
            return;
        }
        let mut frame = frame;
        let vnet = match received.tag {
            Some(tag) => insert(tag, received.vnet, &mut frame),
            None => received.vnet,
        };
        burst.push_owned(vnet, frame);
    }
}

/// Puts a tag back that the interface took out of the frame.
fn insert(tag: Tag, vnet: VnetHeader, frame: &mut Vec<u8>) -> VnetHeader {
    let len = frame.len();
    if len < TAG_OFFSET {
        return vnet;
    }
    frame.resize(len + TAG_LEN, 0);
    frame.copy_within(TAG_OFFSET..len, TAG_OFFSET + TAG_LEN);
    let [p0, p1] = tag.protocol.to_be_bytes();
    let [c0, c1] = tag.control.to_be_bytes();
    if let Some(place) = frame.get_mut(TAG_OFFSET..TAG_OFFSET + TAG_LEN) {
        place.copy_from_slice(&[p0, p1, c0, c1]);
    }
    let shift = |offset: u16| {
        if offset == 0 {
            0
        } else {
            offset.saturating_add(TAG_LEN as u16)
        }
    };
    VnetHeader {
        hdr_len: shift(vnet.hdr_len),
        csum_start: shift(vnet.csum_start),
        ..vnet
    }
}

impl Backend for PacketPort {
    fn attach(&self, waker: Arc<dyn Waker>) {
        self.station.attach(waker, self.fds());
    }

    fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    fn take(&self, queue: u16, _now: Instant, burst: &mut Burst) {
        let Some(Queue { socket, spare, .. }) = self.queue(queue) else {
            return;
        };
        let mut spare = spare.lock();
        let room = burst.room();
        while spare.len() < room {
            spare.push(burst.large_buffer());
        }
        match socket.receive(spare.get_mut(..room).unwrap_or_default()) {
            Ok(received) => {
                // Without the ones at the front, which are filled, the order of the rest does not matter.
                for (received, frame) in received.iter().zip(spare.drain(..received.len())) {
                    self.accept(received, frame, burst);
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => {}
                // Told once; when the interface is up again, frames come again.
                Some(libc::ENETDOWN) => self.heed_down(),
                _ => self.station.note(&self.station.faults.read, &error),
            },
        }
    }

    fn complete(&self, _queue: u16, _burst: &Burst) {}

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            checksum: true,
            tso4: true,
            tso6: true,
            uso4: self.uso,
            uso6: self.uso,
            ecn: true,
        }
    }

    fn deliver(&self, frames: &[Outgoing<'_>]) -> Delivery {
        let mut accepted = 0;
        while let Some(rest) = frames.get(accepted..).filter(|rest| !rest.is_empty()) {
            if self.station.is_gone() {
                return Delivery {
                    accepted,
                    refusal: Some(Refusal::Drop(DropReason::PortDown)),
                };
            }
            let queue = rest.first().map_or(0, |frame| self.queue_of(frame));
            let run = rest
                .iter()
                .take(BURST)
                .take_while(|frame| self.queue_of(frame) == queue);
            let run = rest.get(..run.count()).unwrap_or(rest);
            let Some(Queue { socket, .. }) = self.queues.get(queue) else {
                break;
            };
            match socket.send(run) {
                Ok(sent) => {
                    accepted += sent;
                    self.station.full.store(false, Ordering::Relaxed);
                }
                Err(error) => {
                    let refusal = Some(self.refusal(&error));
                    return Delivery { accepted, refusal };
                }
            }
        }
        Delivery {
            accepted,
            refusal: None,
        }
    }

    fn notify(&self) {}

    fn arm(&self, queue: u16, _wants_room: bool) -> bool {
        self.queue(queue).is_some_and(|queue| queue.socket.is_ready())
    }

    fn disarm(&self, _queue: u16) {}

    fn woken(&self, _queue: u16) {
        // Readiness is a level: reading is what ends it, an error included.
    }

    fn deadline(&self, _queue: u16, now: Instant) -> Option<Instant> {
        self.station.deadline(now)
    }

    fn status(&self) -> BackendStatus {
        let missed = self.queues.iter().map(Queue::missed);
        self.station.status(missed.sum())
    }

    fn close(&self) {
        self.station.go("closed", self.fds());
        for queue in &self.queues {
            if let Err(error) = queue.socket.release() {
                self.station.note(&self.station.faults.read, &error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_goes_back_to_where_it_stood() {
        let tag = Tag {
            protocol: 0x8100,
            control: 0x600a,
        };
        let vnet = VnetHeader {
            csum_start: 34,
            csum_offset: 16,
            hdr_len: 54,
            ..VnetHeader::default()
        };
        let mut frame: Vec<u8> = (0..60).collect();
        let shifted = insert(tag, vnet, &mut frame);
        assert_eq!(
            (shifted.csum_start, shifted.csum_offset, shifted.hdr_len),
            (38, 16, 58)
        );
        let whole: Vec<u8> = (0..12).chain([0x81, 0, 0x60, 10]).chain(12..60).collect();
        assert_eq!(frame, whole);
        let none = insert(tag, VnetHeader::default(), &mut frame);
        assert_eq!(none, VnetHeader::default());
        let mut short = vec![0; 11];
        insert(tag, vnet, &mut short);
        assert_eq!(short, [0; 11], "a frame without addresses stays as it is");
    }
}
