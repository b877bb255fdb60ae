//! Ports: where a NIC, a tap, an uplink or an endpoint meets the switch.
//!
//! A [`Backend`] is what differs between them. It is asked for bursts and given bursts; inside a burst no
//! dynamic call is made.

use std::os::fd::RawFd;
use std::sync::Arc;

use introspection::Instant;
use serde::{Deserialize, Serialize};

use self::receive::ReceivePolicy;
use crate::counters::DropReason;
use crate::frame::{Burst, Outgoing};

pub mod endpoint;
pub mod pcap;
pub mod receive;
mod syscall;
pub mod tap;
pub mod uplink;
pub mod vhost_user;

/// A port's number in its switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortId(pub u16);

/// What a port's other side does with frames. Directions are the guest's: it transmits, the switch takes.
///
/// A backend has one or more queues that can be served separately. `take`, `complete`, `arm`, `disarm` and `woken` of a queue
/// are called by the worker that serves it only; `deliver`, `notify` and the rest by any. Implementations lock no more
/// than their own rings.
pub trait Backend: Send + Sync {
    /// Gives the backend the means to have its worker woken. Called once, before anything else.
    fn attach(&self, waker: Arc<dyn Waker>);

    /// Queues that can be served separately, 1 or more; the same for as long as the backend lives.
    fn queues(&self) -> u16 {
        1
    }

    /// Takes frames that the guest transmitted on a queue until the burst is full; the guest's buffers stay its own
    /// until [`Backend::complete`].
    fn take(&self, queue: u16, now: Instant, burst: &mut Burst);

    /// Hands the buffers of all frames that the last [`Backend::take`] of this queue put into `burst` back to the
    /// guest. Called after the burst's last frame was copied or discarded. The guest hears of it now, or at a later
    /// [`Backend::take`], for which [`Backend::deadline`] asks.
    fn complete(&self, queue: u16, burst: &Burst);

    /// What the receiving guest can take now.
    fn capabilities(&self) -> Capabilities;

    /// Which frames the guest wants and how they are hashed for it; `None` where it has no say.
    fn receive_policy(&self) -> Option<Arc<ReceivePolicy>> {
        None
    }

    /// Whether the guest takes some frames only.
    fn is_selective(&self) -> bool {
        false
    }

    /// Whether frames are spread over queues by their hash; [`Outgoing::flow_hash`] means nothing otherwise.
    fn spreads(&self) -> bool {
        self.queues() > 1
    }

    /// Copies frames into the guest's receive buffers and makes them visible, in order.
    fn deliver(&self, frames: &[Outgoing<'_>]) -> Delivery;

    /// Interrupts the guest if frames were delivered since the last call and it wants to know.
    fn notify(&self);

    /// The worker is about to sleep: asks the guest to ring for this queue. True when there is work already, so that
    /// the worker must not sleep. `wants_room` asks for a ring also when receive buffers appear; those that came since
    /// a frame found too few are work.
    fn arm(&self, queue: u16, wants_room: bool) -> bool;

    /// Whether a queue that is armed rings for everything that its worker has to know, so that the worker may leave it alone
    /// until then, busy as it may be with others.
    fn rings_reliably(&self) -> bool {
        false
    }

    /// The worker is awake and polls: the guest need not ring.
    fn disarm(&self, queue: u16);

    /// Clears the queue's doorbells after a wake-up.
    fn woken(&self, queue: u16);

    /// When the queue next wants [`Backend::take`] called although nobody rings.
    fn deadline(&self, queue: u16, now: Instant) -> Option<Instant>;

    /// The peer's state, for people.
    fn status(&self) -> BackendStatus;

    /// The port goes: release sockets, files and threads.
    fn close(&self);
}

/// How a backend reaches the workers that serve its queues.
pub trait Waker: Send + Sync {
    /// Watches a descriptor; when it becomes readable the queue's worker wakes and calls [`Backend::woken`].
    fn watch(&self, queue: u16, fd: RawFd) -> std::io::Result<()>;
    /// Watches a descriptor for room to write as well.
    fn watch_writable(&self, queue: u16, fd: RawFd, on: bool) -> std::io::Result<()>;
    /// Stops watching. The descriptor is still open.
    fn unwatch(&self, queue: u16, fd: RawFd);
    /// Wakes the queue's worker now.
    fn wake(&self, queue: u16);
}

/// What became of frames given to [`Backend::deliver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Frames delivered, counted from the first.
    pub accepted: usize,
    /// Why the next one was not; `None` when all were.
    pub refusal: Option<Refusal>,
}

/// Why a frame was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No receive buffers now; try again when there is room.
    Full,
    /// This frame will never do; the ones after it may.
    Drop(DropReason),
}

/// What a receiver takes without help from the switch.
// Each is a feature bit of its own in virtio, and no two depend on each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Partial checksums.
    pub checksum: bool,
    /// Large TCP over IPv4.
    pub tso4: bool,
    /// Large TCP over IPv6.
    pub tso6: bool,
    /// Large UDP over IPv4.
    pub uso4: bool,
    /// Large UDP over IPv6.
    pub uso6: bool,
    /// Large TCP with ECN's CWR.
    pub ecn: bool,
}

/// A peer's state, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Whether frames can flow.
    pub up: bool,
    /// Virtio feature bits agreed with the peer; 0 where there are none.
    pub features: u64,
    /// Peers that connected so far.
    pub connections: u64,
    /// The last thing that went wrong, in one line.
    pub last_error: Option<String>,
    /// Messages, ring faults and the like that were refused, by kind.
    pub refusals: std::collections::BTreeMap<String, u64>,
    /// How the port is served, and why so, where there is more than one way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<String>,
}
