//! A port that a VMM attaches to over a vhost-user socket.
//!
//! The port listens. A VMM (QEMU, Cloud Hypervisor, crosvm, DPDK's virtio-user, ours) connects and hands over its guest's
//! memory, its rings and their doorbells; from then on frames pass without it. One peer is served at a time: a
//! second one waits in the socket's queue until the first is gone. A peer that goes, or breaks the protocol, loses its connection, and the port listens on.
//!
//! # Threads
//! Each port has a small thread for the protocol. It shares the rings with the worker under one lock each, which nobody
//! else wants while frames flow. Three bit masks say, without a lock, which queue pairs transmit, which receive, and
//! which received since the last notification. Between [`Backend::take`] and [`Backend::complete`] the worker reads the
//! guest's pages without a lock: a ring that is stopped meanwhile waits a moment for the worker, and memory that is
//! replaced meanwhile stays mapped until [`Backend::complete`].
//!
//! Rings are numbered as the protocol does: 2 n is where the guest receives on queue pair n, 2 n + 1 where it transmits.

mod features;
mod message;
mod net_control;
mod queue;
mod server;
mod session;
mod socket;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use introspection::Instant;
use parking_lot::{Condvar, Mutex, MutexGuard};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::net_control::NetControl;
use self::queue::{Kick, Queue};
use super::receive::ReceivePolicy;
use super::{Backend, BackendStatus, Capabilities, Delivery, Refusal, Waker};
use crate::counters::DropReason;
use crate::frame::{BURST, Burst, Outgoing};
use crate::ring::Ring;

/// The most queue pairs that a port can have.
pub const MAX_QUEUE_PAIRS: u16 = 16;

/// How long a stopped ring waits for the worker to finish its burst.
const PATIENCE: Duration = Duration::from_millis(200);

/// Why a port could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VhostUserError {
    /// Something accepts connections there.
    #[error("{} is in use: another process listens on it; stop that one or choose another path", .0.display())]
    InUse(PathBuf),
    /// A file that is no socket is there.
    #[error("{} exists and is no socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// Longer than a socket's address can be.
    #[error("{} is longer than the 107 octets that a socket's path may have", .0.display())]
    PathTooLong(PathBuf),
    /// The directory is missing.
    #[error("{}: the directory {} does not exist; create it first", path.display(), directory.display())]
    NoDirectory {
        /// The socket's path.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// Not allowed.
    #[error(
        "{}: permission denied; choose a path where this user may create files, or allow it to write to {}",
        path.display(), directory.display()
    )]
    Permission {
        /// The socket's path.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// Anything else that went wrong with the socket.
    #[error("cannot listen on {}: {source}", path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// 1 to [`MAX_QUEUE_PAIRS`] are possible.
    #[error("{0} queue pairs: 1 to {MAX_QUEUE_PAIRS} are possible")]
    QueuePairs(u16),
    /// The thread or its doorbell could not be made.
    #[error("no thread for the port at {}: {source}", path.display())]
    Thread {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A port that listens on a vhost-user socket.
#[derive(Debug)]
pub struct VhostUserPort {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the worker, other ports' workers and the protocol's thread have in common. It shares no cache line with another port's.
#[repr(align(128))]
struct Shared {
    path: PathBuf,
    queue_pairs: u16,
    mtu: u16,
    waker: OnceLock<Arc<dyn Waker>>,
    queues: Box<[Mutex<Queue>]>,
    /// Told when the worker has completed a burst.
    completed: Condvar,
    /// Queue pairs whose transmit ring runs.
    transmitting: AtomicU64,
    /// Queue pairs whose receive ring runs and is enabled.
    receiving: AtomicU64,
    /// Queue pairs that received since the last notification.
    delivered: AtomicU64,
    features: AtomicU64,
    control: NetControl,
    /// Wakes the protocol's thread to look at `stopping` and `hang_up`.
    event: EventFd,
    stopping: AtomicBool,
    hang_up: AtomicBool,
    waiting: AtomicU32,
    status: Mutex<Status>,
}

/// What people are told.
#[derive(Debug, Default)]
struct Status {
    connections: u64,
    last_error: Option<String>,
    refusals: BTreeMap<&'static str, u64>,
}

impl VhostUserPort {
    /// Listens on `path` for a peer with up to `queue_pairs` queue pairs and an MTU of up to `mtu` octets.
    pub fn listen(path: &Path, queue_pairs: u16, mtu: u16) -> Result<Arc<Self>, VhostUserError> {
        if !(1..=MAX_QUEUE_PAIRS).contains(&queue_pairs) {
            return Err(VhostUserError::QueuePairs(queue_pairs));
        }
        let failed = |source| VhostUserError::Thread {
            path: path.into(),
            source,
        };
        let bound = socket::bind(path)?;
        let shared = Arc::new(Shared::new(path, queue_pairs, mtu).map_err(failed)?);
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("vhost-user".into())
            .stack_size(256 * 1024)
            .spawn(move || server::run(&served, &bound))
            .map_err(failed)?;
        Ok(Arc::new(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Serves one peer on a connection in this thread, until it goes; for fuzzing.
    #[doc(hidden)]
    pub fn serve_one(stream: UnixStream) -> io::Result<BackendStatus> {
        let shared = Arc::new(Shared::new(Path::new("-"), 2, 1500)?);
        server::serve(&shared, stream);
        Ok(shared.status())
    }
}

impl Drop for VhostUserPort {
    fn drop(&mut self) {
        self.close();
    }
}

impl Backend for VhostUserPort {
    fn attach(&self, waker: Arc<dyn Waker>) {
        self.shared.attach(waker);
    }

    fn queues(&self) -> u16 {
        self.shared.queue_pairs
    }

    fn take(&self, queue: u16, now: Instant, burst: &mut Burst) {
        self.shared.take(queue.into(), now, burst);
    }

    fn complete(&self, queue: u16, _burst: &Burst) {
        self.shared.complete(queue.into());
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.control.capabilities()
    }

    fn receive_policy(&self) -> Option<Arc<ReceivePolicy>> {
        self.shared.control.policy()
    }

    fn is_selective(&self) -> bool {
        self.shared
            .control
            .policy()
            .is_some_and(|policy| policy.is_selective())
    }

    fn spreads(&self) -> bool {
        !self.shared.receiving.load(Ordering::Relaxed).is_power_of_two()
    }

    fn deliver(&self, frames: &[Outgoing<'_>]) -> Delivery {
        self.shared.deliver(frames)
    }

    fn notify(&self) {
        let shared = &self.shared;
        for pair in bits(shared.delivered.swap(0, Ordering::Relaxed)) {
            shared.queue(2 * pair).notify();
        }
    }

    fn arm(&self, queue: u16, wants_room: bool) -> bool {
        self.shared.arm(queue.into(), wants_room)
    }

    fn rings_reliably(&self) -> bool {
        true
    }

    fn disarm(&self, queue: u16) {
        self.shared.disarm(queue.into());
    }

    fn woken(&self, queue: u16) {
        for ring in rings(queue.into()) {
            self.shared.queue(ring).clear_kick();
        }
    }

    fn deadline(&self, queue: u16, _now: Instant) -> Option<Instant> {
        self.shared.queue(2 * usize::from(queue) + 1).due()
    }

    fn status(&self) -> BackendStatus {
        self.shared.status()
    }

    fn close(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let _ = self.shared.event.write(1);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("path", &self.path)
            .field("queue_pairs", &self.queue_pairs)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(path: &Path, queue_pairs: u16, mtu: u16) -> io::Result<Self> {
        Ok(Self {
            path: path.into(),
            queue_pairs,
            mtu,
            waker: OnceLock::new(),
            queues: (0..2 * queue_pairs).map(|_| Mutex::default()).collect(),
            completed: Condvar::new(),
            transmitting: AtomicU64::new(0),
            receiving: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            features: AtomicU64::new(0),
            control: NetControl::default(),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            stopping: AtomicBool::new(false),
            hang_up: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            status: Mutex::default(),
        })
    }

    /// A ring, locked. `index` is below `2 * queue_pairs`: callers get it from the masks or have checked it.
    fn queue(&self, index: usize) -> MutexGuard<'_, Queue> {
        self.queues[index].lock()
    }

    fn attach(&self, waker: Arc<dyn Waker>) {
        let _ = self.waker.set(waker);
        for index in 0..self.queues.len() {
            self.settle(index, &mut self.queue(index));
        }
    }

    fn take(&self, pair: usize, now: Instant, burst: &mut Burst) {
        if is_in(&self.transmitting, pair) {
            let mut queue = self.queue(2 * pair + 1);
            queue.moderate(now);
            self.take_from(pair, &mut queue, burst);
        }
    }

    fn take_from(&self, pair: usize, queue: &mut Queue, burst: &mut Burst) {
        let enabled = queue.enabled;
        let Some(ring) = queue.ring.as_mut() else { return };
        let mut frames = 0;
        if enabled {
            frames = ring.take(pair as u16, burst);
        } else if !queue.busy {
            ring.discard(BURST);
        }
        let refused = ring.take_refused();
        if refused.any() {
            self.count("frame_too_short", refused.too_short);
            self.count("frame_too_long", refused.too_long);
        }
        if frames > 0 {
            queue.busy = true;
        } else if !queue.busy {
            // Nothing, or only frames of impossible lengths.
            ring.complete();
        }
        self.check(2 * pair + 1, queue);
    }

    fn complete(&self, pair: usize) {
        let mut queue = self.queue(2 * pair + 1);
        if let Some(ring) = queue.ring.as_mut() {
            ring.complete();
        }
        queue.release();
        drop(queue);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.completed.notify_all();
        }
    }

    fn deliver(&self, frames: &[Outgoing<'_>]) -> Delivery {
        let receiving = self.receiving.load(Ordering::Acquire);
        let policy = self.control.policy().filter(|policy| policy.steers());
        let pair_of = |frame: &Outgoing<'_>| steer(receiving, policy.as_deref(), frame);
        let mut accepted = 0;
        while let Some(frame) = frames.get(accepted) {
            let Some(pair) = pair_of(frame) else {
                return Delivery {
                    accepted,
                    refusal: Some(Refusal::Drop(DropReason::PortDown)),
                };
            };
            let rest = &frames[accepted..];
            let same = |frame: &&Outgoing<'_>| pair_of(frame) == Some(pair);
            let run = if receiving.is_power_of_two() {
                rest.len()
            } else {
                rest.iter().take_while(same).count()
            };
            let mut queue = self.queue(2 * pair);
            let delivery = self.deliver_to(pair, &mut queue, &rest[..run]);
            accepted += delivery.accepted;
            if delivery.refusal.is_some() {
                return Delivery { accepted, ..delivery };
            }
        }
        Delivery {
            accepted,
            refusal: None,
        }
    }

    /// Delivers frames to one queue pair.
    fn deliver_to(&self, pair: usize, queue: &mut Queue, frames: &[Outgoing<'_>]) -> Delivery {
        let Some(ring) = queue.enabled_ring() else {
            return Delivery {
                accepted: 0,
                refusal: Some(Refusal::Drop(DropReason::PortDown)),
            };
        };
        let delivery = ring.deliver(frames);
        self.delivered.fetch_or(1 << pair, Ordering::Relaxed);
        self.check(2 * pair, queue);
        delivery
    }

    fn arm(&self, pair: usize, wants_room: bool) -> bool {
        let mut work = false;
        if is_in(&self.transmitting, pair) {
            let mut queue = self.queue(2 * pair + 1);
            let polled = matches!(queue.kick, Kick::Poll);
            work |= polled | queue.ring.as_mut().is_some_and(Ring::enable_notifications);
        }
        if is_in(&self.receiving, pair)
            && let Some(ring) = self.queue(2 * pair).ring.as_mut()
        {
            if wants_room {
                work |= ring.enable_room_notifications();
            } else {
                ring.disable_notifications();
            }
        }
        work
    }

    fn disarm(&self, pair: usize) {
        for (mask, index) in [&self.receiving, &self.transmitting].into_iter().zip(rings(pair)) {
            if is_in(mask, pair)
                && let Some(ring) = self.queue(index).ring.as_mut()
            {
                ring.disable_notifications();
            }
        }
    }

    fn status(&self) -> BackendStatus {
        let status = self.status.lock();
        let up =
            self.transmitting.load(Ordering::Relaxed) != 0 && self.receiving.load(Ordering::Relaxed) != 0;
        BackendStatus {
            up,
            features: self.features.load(Ordering::Relaxed),
            connections: status.connections,
            last_error: status.last_error.clone(),
            refusals: status
                .refusals
                .iter()
                .map(|(kind, n)| ((*kind).to_owned(), *n))
                .collect(),
            served: None,
        }
    }

    /// Counts refusals of one kind.
    fn count(&self, kind: &'static str, n: u64) {
        if n > 0 {
            *self.status.lock().refusals.entry(kind).or_default() += n;
        }
    }

    /// Counts a refusal, and keeps its reason for people.
    fn refuse(&self, kind: &'static str, reason: String) {
        let mut status = self.status.lock();
        *status.refusals.entry(kind).or_default() += 1;
        status.last_error = Some(reason);
    }

    /// After work on a ring: stops it if it broke the rules, and lets the peer go if its memory vanished.
    fn check(&self, index: usize, queue: &mut Queue) {
        let Some(ring) = &queue.ring else { return };
        if ring.memory().is_lost() {
            self.hang_up.store(true, Ordering::Release);
            let _ = self.event.write(1);
            self.stop(index, queue);
        } else if ring.is_faulty()
            && let Some(fault) = ring.fault()
        {
            self.refuse(fault.label(), format!("queue {index} stopped: {fault}"));
            if let Some(err) = &queue.err {
                queue::ring_bell(err);
            }
            self.stop(index, queue);
        }
    }

    /// Stops a ring.
    fn stop(&self, index: usize, queue: &mut Queue) {
        self.unwatch(index, queue);
        queue.stop();
        self.settle(index, queue);
    }

    /// Waits until the worker has no frames of a ring in hand, for [`PATIENCE`] at most.
    fn wait_for_worker(&self, queue: &mut MutexGuard<'_, Queue>) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.completed.wait_while_for(queue, |queue| queue.busy, PATIENCE);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Brings the masks and the worker's watch in line with a ring's state.
    fn settle(&self, index: usize, queue: &mut Queue) {
        let bit = 1 << (index / 2);
        let (mask, on) = if index.is_multiple_of(2) {
            (&self.receiving, queue.ring.is_some() && queue.enabled)
        } else {
            (&self.transmitting, queue.ring.is_some())
        };
        if on {
            mask.fetch_or(bit, Ordering::Release);
        } else {
            mask.fetch_and(!bit, Ordering::Release);
        }
        let Some(waker) = self.waker.get() else { return };
        if let Some(fd) = queue.kick_fd()
            && !queue.watched
        {
            match waker.watch(pair_of(index), fd) {
                Ok(()) => queue.watched = true,
                Err(error) => {
                    self.refuse(
                        "kick_unwatchable",
                        format!("queue {index}: its kick cannot be watched: {error}"),
                    );
                }
            }
        }
        // Also when a ring stopped: what waits for it goes to another one, or nowhere.
        waker.wake(pair_of(index));
    }

    /// Makes the worker forget a ring's kick.
    fn unwatch(&self, index: usize, queue: &mut Queue) {
        if let (true, Some(fd), Some(waker)) = (queue.watched, queue.kick_fd(), self.waker.get()) {
            waker.unwatch(pair_of(index), fd);
        }
        queue.watched = false;
    }
}

/// The rings of a queue pair: where the guest receives, and where it transmits.
fn rings(pair: usize) -> [usize; 2] {
    [2 * pair, 2 * pair + 1]
}

/// The queue pair of a ring.
fn pair_of(ring: usize) -> u16 {
    (ring / 2) as u16
}

/// Whether a mask of queue pairs has this one.
fn is_in(mask: &AtomicU64, pair: usize) -> bool {
    mask.load(Ordering::Acquire) & 1 << pair != 0
}

/// The numbers of the bits that are set, from the lowest.
fn bits(mask: u64) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(mask), |mask| Some(mask & mask.wrapping_sub(1)))
        .take_while(|mask| *mask != 0)
        .map(|mask| mask.trailing_zeros() as usize)
}

/// The queue pair of a frame, among those in a mask: the one that the guest has chosen, if it receives.
fn steer(mask: u64, policy: Option<&ReceivePolicy>, frame: &Outgoing<'_>) -> Option<usize> {
    policy
        .and_then(|policy| policy.queue_pair(frame.flow_hash, frame.hash_report))
        .map(usize::from)
        .filter(|pair| mask.checked_shr(*pair as u32).is_some_and(|mask| mask & 1 != 0))
        .or_else(|| choose(mask, frame.flow_hash))
}

/// The queue pair of a flow, among those in a mask.
fn choose(mask: u64, flow_hash: u32) -> Option<usize> {
    if mask.is_power_of_two() {
        return Some(mask.trailing_zeros() as usize);
    }
    let index = (u64::from(flow_hash) * u64::from(mask.count_ones())) >> 32;
    bits(mask).nth(index as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_spread_over_the_queue_pairs_that_are_there() {
        assert_eq!(choose(0, 7), None);
        assert_eq!(choose(0b100, u32::MAX), Some(2));
        let chosen: Vec<_> = [0, 0x5555_5554, 0x5555_5556, 0xaaaa_aaab, u32::MAX]
            .iter()
            .map(|hash| choose(0b1_0110, *hash).unwrap())
            .collect();
        assert_eq!(chosen, [1, 1, 2, 4, 4]);
    }

    #[test]
    fn bits_come_from_the_lowest() {
        assert_eq!(bits(0).count(), 0);
        assert_eq!(bits(1 << 63 | 0b101).collect::<Vec<_>>(), [0, 2, 63]);
    }

    #[test]
    fn the_number_of_queue_pairs_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        for pairs in [0, 17] {
            let result = VhostUserPort::listen(&directory.path().join("s"), pairs, 1500);
            assert!(matches!(result, Err(VhostUserError::QueuePairs(n)) if n == pairs));
        }
    }
}
