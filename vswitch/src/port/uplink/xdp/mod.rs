//! AF_XDP: frames go from the interface's driver to the switch and back by rings in shared memory, past the kernel's stack.
//!
//! Each queue of the interface has a socket with memory of its own. A frame that came in stays where the kernel put it
//! until it is copied, once, to its receiver. There are no offloads: large sends are cut and checksums summed by the
//! switch, and frames that the kernel merged do not fit. Tags that a NIC takes out of frames are lost.

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use introspection::Instant;
use offload::VnetHeader;
use parking_lot::Mutex;
use rustix::net::xdp::XdpDesc;

use crate::control::PortConfig;
use crate::counters::DropReason;
use crate::frame::{BURST, Burst, HEADER_COPY, Outgoing};
use crate::port::{Backend, BackendStatus, Capabilities, Delivery, Refusal, Waker};

use super::link::{Link, LinkState};
use super::{REMOVED, RETRY, Station};

mod error;
mod partial;
mod program;
mod ring;
mod socket;

pub use error::XdpError;

use program::Redirect;
use ring::{Consumer, Producer};
use socket::{ENTRIES, Parts, Socket, Umem};

/// Largest IP packet in octets that a driver can hand to a program in one page: 4,096 less the kernel's headroom (256) and
/// its own data behind the frame (320), an Ethernet header and two tags.
pub(super) const MAX_MTU: u16 = 3498;
/// Calls after which a full transmit ring is left alone; in copy mode the kernel sends 32 frames in each.
const KICKS: u32 = ENTRIES / 32;
/// How often, and how far apart, a queue that is taken is tried.
const BIND_TRIES: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// An interface served by AF_XDP.
pub(super) struct XdpPort {
    station: Station,
    queues: Vec<Queue>,
    /// The program on the interface, until the port is closed.
    program: Mutex<Option<Redirect>>,
    zero_copy: bool,
    /// The interface was down when it was last tried.
    down: AtomicBool,
}

struct Queue {
    socket: Socket,
    umem: Umem,
    receive: Mutex<Receive>,
    transmit: Mutex<Transmit>,
    /// Frames are in the transmit ring that the kernel was not told of.
    unsent: AtomicBool,
    /// The kernel did not take them all, or has not given chunks back: to be tried again by whoever serves the queue.
    stuck: AtomicBool,
}

struct Receive {
    ring: Consumer<XdpDesc>,
    fill: Producer<u64>,
    /// Chunks of the frames that the switch has in hand.
    taken: Vec<u64>,
}

struct Transmit {
    ring: Producer<XdpDesc>,
    completion: Consumer<u64>,
    free: Vec<u64>,
}

impl XdpPort {
    /// Serves an interface, whose driver has to run the program itself unless `generic` allows for less.
    pub(super) fn open(link: Arc<Link>, config: &PortConfig, generic: bool) -> Result<Self, XdpError> {
        if config.mtu > MAX_MTU {
            return Err(XdpError::Mtu(config.mtu));
        }
        let there = link.receive_queues();
        if there != u32::from(config.queues) {
            return Err(XdpError::Queues {
                there,
                asked: config.queues,
            });
        }
        let program = Redirect::attach(link.index(), there, generic)
            .map_err(|source| XdpError::of("its program on the interface", source))?;
        let native = program.is_native();
        let mut queues = Vec::new();
        for number in 0..there {
            let queue = Queue::new().map_err(|source| XdpError::of("an AF_XDP socket", source))?;
            bind(&queue.socket, link.index(), number, !native)?;
            let inserted = program.insert(number, queue.socket.as_raw_fd());
            inserted.map_err(|source| XdpError::of("the program's map", source))?;
            queues.push(queue);
        }
        let zero_copy = queues.iter().all(|queue| queue.socket.is_zero_copy());
        let served = format!(
            "AF_XDP, its program {}, frames {}",
            if native {
                "in the driver"
            } else {
                "behind the driver (generic)"
            },
            if zero_copy { "not copied" } else { "copied" }
        );
        Ok(Self {
            station: Station::new(link, served),
            queues,
            program: Mutex::new(Some(program)),
            zero_copy,
            down: AtomicBool::new(false),
        })
    }

    /// Whether the kernel copies frames between the driver's memory and the sockets'.
    pub(super) fn copies(&self) -> bool {
        !self.zero_copy
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

    /// Whether frames may go: the interface is up, as far as is known, or is up again.
    fn is_up(&self) -> bool {
        if self.station.is_gone() {
            return false;
        }
        if !self.down.load(Ordering::Relaxed) {
            return true;
        }
        match self.station.link.state() {
            LinkState::Up => self.down.store(false, Ordering::Relaxed),
            LinkState::Down => {}
            LinkState::Gone => self.station.go(REMOVED, self.fds()),
        }
        !self.down.load(Ordering::Relaxed)
    }

    /// Has the kernel send what is in a queue's transmit ring.
    fn kick(&self, queue: &Queue) {
        queue.unsent.store(false, Ordering::Relaxed);
        let transmit = queue.transmit.lock();
        let mut left = transmit.ring.pending();
        for _ in 0..KICKS {
            if left == 0 || !transmit.ring.wants_wakeup() {
                return;
            }
            let error = queue.socket.kick_transmit().err();
            let before = std::mem::replace(&mut left, transmit.ring.pending());
            match error.as_ref().and_then(io::Error::raw_os_error) {
                None => return,
                // In copy mode: some were sent, or the interface's queue is full.
                Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS) if left != before => {}
                Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS) => break,
                Some(_) => return self.heed(error.as_ref()),
            }
        }
        queue.stuck.store(true, Ordering::Relaxed);
    }

    /// The interface is down, or gone.
    fn heed(&self, error: Option<&io::Error>) {
        self.down.store(true, Ordering::Relaxed);
        if let Some(error) = error {
            self.station.note(&self.station.faults.link_down, error);
        }
        self.is_up();
    }
}

/// Binds a socket. The kernel lets go of a queue some time after the last socket on it was closed.
fn bind(socket: &Socket, interface: u32, queue: u32, copy: bool) -> Result<(), XdpError> {
    let mut bound = socket.bind(interface, queue, copy);
    for _ in 0..BIND_TRIES {
        match &bound {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(BIND_PAUSE);
                bound = socket.bind(interface, queue, copy);
            }
            _ => break,
        }
    }
    bound.map_err(|source| XdpError::of("the interface's queue", source))
}

impl Queue {
    fn new() -> io::Result<Self> {
        let Parts {
            socket,
            umem,
            mut fill,
            receive,
            transmit,
            completion,
        } = Parts::new()?;
        for chunk in Umem::receive_chunks() {
            // The ring has an entry for each.
            let _ = fill.push(chunk);
        }
        fill.publish();
        Ok(Self {
            socket,
            umem,
            receive: Mutex::new(Receive {
                ring: receive,
                fill,
                taken: Vec::with_capacity(BURST),
            }),
            transmit: Mutex::new(Transmit {
                ring: transmit,
                completion,
                free: Umem::transmit_chunks().collect(),
            }),
            unsent: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
        })
    }

    /// Puts frames into the transmit ring, as many as there is room for.
    fn send<'f>(&self, frames: impl Iterator<Item = &'f Outgoing<'f>>) -> (usize, Option<Refusal>) {
        let mut transmit = self.transmit.lock();
        let (mut sent, mut refusal) = (0, None);
        for frame in frames {
            let Some(chunk) = transmit.chunk() else {
                refusal = Some(Refusal::Full);
                break;
            };
            let Some(descriptor) = self.umem.write(chunk, frame) else {
                transmit.free.push(chunk);
                refusal = Some(Refusal::Drop(DropReason::Oversize));
                break;
            };
            // There are as many entries as chunks.
            let _ = transmit.ring.push(descriptor);
            sent += 1;
        }
        transmit.ring.publish();
        self.unsent.store(true, Ordering::Relaxed);
        (sent, refusal)
    }
}

impl Transmit {
    /// A chunk that is free, or that the kernel has sent meanwhile.
    fn chunk(&mut self) -> Option<u64> {
        if self.free.is_empty() {
            while let Some(chunk) = self.completion.pop() {
                self.free.push(chunk);
            }
            self.completion.publish();
        }
        self.free.pop()
    }
}

impl Receive {
    /// Gives the kernel the chunks of frames that the switch is done with.
    fn give_back(&mut self, socket: &Socket) {
        for chunk in self.taken.drain(..) {
            // The ring has an entry for each chunk there is.
            let _ = self.fill.push(chunk);
        }
        self.fill.publish();
        if self.fill.wants_wakeup() {
            // What went wrong with the interface, transmitting and the state of the link tell.
            let _ = socket.kick_fill();
        }
    }
}

impl Backend for XdpPort {
    fn attach(&self, waker: Arc<dyn Waker>) {
        self.station.attach(waker, self.fds());
    }

    fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    fn take(&self, queue: u16, _now: Instant, burst: &mut Burst) {
        let Some(queue) = self.queue(queue) else { return };
        if queue.stuck.load(Ordering::Relaxed) && self.is_up() {
            queue.stuck.store(false, Ordering::Relaxed);
            self.kick(queue);
        }
        let mut receive = queue.receive.lock();
        let receive = &mut *receive;
        while burst.room() > 0
            && let Some(descriptor) = receive.ring.pop()
        {
            receive.taken.push(Umem::chunk_of(&descriptor));
            let mut header = [0; HEADER_COPY];
            let Some((copied, rest)) = queue.umem.received(&descriptor, &mut header) else {
                self.station.faults.read.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let vnet = if self.zero_copy {
                VnetHeader::default()
            } else {
                let head = header.get(..copied).unwrap_or(&header);
                partial::header(head, descriptor.len as usize)
            };
            burst.push_shared(vnet, header, copied, rest);
        }
        receive.ring.publish();
        if burst.frames().is_empty() && !receive.taken.is_empty() {
            receive.give_back(&queue.socket);
        }
    }

    fn complete(&self, queue: u16, _burst: &Burst) {
        if let Some(queue) = self.queues.get(usize::from(queue)) {
            queue.receive.lock().give_back(&queue.socket);
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn deliver(&self, frames: &[Outgoing<'_>]) -> Delivery {
        let mut accepted = 0;
        while let Some(rest) = frames.get(accepted..).filter(|rest| !rest.is_empty()) {
            let number = rest.first().map_or(0, |frame| self.queue_of(frame));
            let queue = self.queues.get(number).filter(|_| self.is_up());
            let Some(queue) = queue else {
                let refusal = Some(Refusal::Drop(DropReason::PortDown));
                return Delivery { accepted, refusal };
            };
            let run = || rest.iter().take_while(|frame| self.queue_of(frame) == number);
            let (sent, mut refusal) = queue.send(run());
            accepted += sent;
            if refusal == Some(Refusal::Full) {
                self.kick(queue);
                let (more, still) = queue.send(run().skip(sent));
                accepted += more;
                refusal = still;
            }
            if refusal == Some(Refusal::Full) {
                // Nobody rings when the kernel is done with a chunk: the queue is tried again.
                queue.stuck.store(true, Ordering::Relaxed);
            }
            if refusal.is_some() {
                return Delivery { accepted, refusal };
            }
        }
        Delivery {
            accepted,
            refusal: None,
        }
    }

    fn notify(&self) {
        for queue in &self.queues {
            if queue.unsent.load(Ordering::Relaxed) && self.is_up() {
                self.kick(queue);
            }
        }
    }

    fn arm(&self, queue: u16, _wants_room: bool) -> bool {
        self.queue(queue)
            .is_some_and(|queue| !queue.receive.lock().ring.is_empty())
    }

    fn disarm(&self, _queue: u16) {}

    fn woken(&self, _queue: u16) {
        // Readiness is a level: taking frames is what ends it.
    }

    fn deadline(&self, queue: u16, now: Instant) -> Option<Instant> {
        let stuck = |queue: &Queue| queue.stuck.load(Ordering::Relaxed) && !self.down.load(Ordering::Relaxed);
        self.queue(queue).is_some_and(stuck).then(|| now.after(RETRY))
    }

    fn status(&self) -> BackendStatus {
        let missed = self.queues.iter().map(|queue| queue.socket.missed());
        self.station.status(missed.sum())
    }

    fn close(&self) {
        self.station.go("closed", self.fds());
        // The program first, so that frames go to the host's stack again.
        self.program.lock().take();
        for queue in &self.queues {
            if let Err(error) = queue.socket.release() {
                self.station.note(&self.station.faults.read, &error);
            }
        }
    }
}
