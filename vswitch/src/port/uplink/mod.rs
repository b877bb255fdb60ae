//! Uplinks: network interfaces of the host as ports of the switch, with the wire behind them.
//!
//! What the interface receives enters the switch, and what the switch delivers to the port leaves by the interface. The
//! host's own network stack still sees what comes in; an interface that is an uplink should have no address.
//!
//! Two ways lead to its frames: AF_XDP, the faster one for small frames, and AF_PACKET, which works everywhere and carries large
//! sends whole. `uplink-mode` chooses.
//!
//! `pnet_datalink` finds the interface. Its channels carry frames without virtio-net headers, so that a large send
//! would have to be cut and summed in software; therefore the sockets are the switch's own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use introspection::Instant;
use parking_lot::Mutex;

use super::{Backend, BackendStatus, Waker};
use crate::control::{PortConfig, Uplink, UplinkMode, VlanMode};

mod error;
mod link;
mod packet;
#[cfg(test)]
mod tests;
mod xdp;

pub use error::UplinkError;
pub use xdp::XdpError;

use link::{Link, LinkState};
use packet::PacketPort;
use xdp::XdpPort;

/// When an interface that took no more frames is tried again: its queue drains by itself, and nobody rings when it has.
const RETRY: Duration = Duration::from_micros(50);

/// Opens an interface of the calling thread's network namespace as the port of this configuration.
pub fn open(uplink: &Uplink, config: &PortConfig) -> Result<Arc<dyn Backend>, UplinkError> {
    let link = Arc::new(Link::find(&uplink.interface)?);
    link.check(config.mtu)?;
    let packet = |served: String| -> Result<Arc<dyn Backend>, UplinkError> {
        Ok(Arc::new(PacketPort::open(
            Arc::clone(&link),
            config.queues,
            served,
        )?))
    };
    match uplink.mode {
        UplinkMode::AfPacket => packet("AF_PACKET, as asked for".to_owned()),
        UplinkMode::AfXdp => match XdpPort::open(Arc::clone(&link), config, true) {
            Ok(port) => Ok(Arc::new(port)),
            Err(reason) => Err(UplinkError::NoXdp {
                name: link.name().to_owned(),
                reason,
            }),
        },
        UplinkMode::Auto => match automatic(&link, config) {
            Ok(port) => Ok(Arc::new(port)),
            Err(reason) => packet(format!("AF_PACKET, and not AF_XDP: {reason}")),
        },
    }
}

/// AF_XDP where nothing is lost by it.
fn automatic(link: &Arc<Link>, config: &PortConfig) -> Result<XdpPort, XdpError> {
    if matches!(config.vlan, VlanMode::Trunk(_)) {
        return Err(XdpError::Trunk);
    }
    let port = XdpPort::open(Arc::clone(link), config, false)?;
    if port.copies() {
        port.close();
        return Err(XdpError::Copied);
    }
    Ok(port)
}

/// What every uplink keeps, however its frames are carried.
struct Station {
    link: Arc<Link>,
    /// How the port is served, and why so.
    served: String,
    waker: OnceLock<Arc<dyn Waker>>,
    /// The port was closed, or the interface was removed: nothing moves any more.
    gone: AtomicBool,
    /// The interface took no more frames when it was last asked.
    full: AtomicBool,
    faults: Faults,
}

/// What went wrong.
#[derive(Default)]
struct Faults {
    /// Frames that the kernel would not take.
    refused: AtomicU64,
    /// Frames for an interface that was down.
    link_down: AtomicU64,
    /// Reads that failed.
    read: AtomicU64,
    /// Frames that came in longer than the switch carries.
    too_long: AtomicU64,
    /// The last one, in words.
    last: Mutex<Option<String>>,
}

impl Station {
    fn new(link: Arc<Link>, served: String) -> Self {
        Self {
            link,
            served,
            waker: OnceLock::new(),
            gone: AtomicBool::new(false),
            full: AtomicBool::new(false),
            faults: Faults::default(),
        }
    }

    /// Keeps the waker and has it watch one descriptor for each queue.
    fn attach(&self, waker: Arc<dyn Waker>, fds: impl Iterator<Item = RawFd>) {
        for (queue, fd) in (0..).zip(fds) {
            if let Err(error) = waker.watch(queue, fd) {
                self.note(&self.faults.read, &error);
            }
        }
        // A second call would be the switch's mistake; the first waker stays.
        let _ = self.waker.set(waker);
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Nothing moves any more: nobody may watch the descriptors.
    fn go(&self, why: &str, fds: impl Iterator<Item = RawFd>) {
        if self.gone.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(waker) = self.waker.get() {
            for (queue, fd) in (0..).zip(fds) {
                waker.unwatch(queue, fd);
            }
        }
        *self.faults.last.lock() = Some(format!("uplink {}: {why}", self.link.name()));
    }

    fn note(&self, counter: &AtomicU64, error: &io::Error) {
        // The words are for the first of each kind; the rest is counted.
        if counter.fetch_add(1, Ordering::Relaxed) == 0 {
            *self.faults.last.lock() = Some(format!("uplink {}: {error}", self.link.name()));
        }
    }

    /// When the interface is to be tried again, if it was full.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        (self.full.load(Ordering::Relaxed) && !self.is_gone()).then(|| now.after(RETRY))
    }

    /// The state of the port, whose queues have missed so many frames.
    fn status(&self, missed: u64) -> BackendStatus {
        let state = self.link.state();
        let up = state == LinkState::Up && !self.is_gone();
        let counts = [
            ("frame_refused", &self.faults.refused),
            ("link_down", &self.faults.link_down),
            ("read_failed", &self.faults.read),
            ("frame_too_long", &self.faults.too_long),
        ];
        let refusals: BTreeMap<String, u64> = counts
            .into_iter()
            .map(|(kind, counter)| (kind, counter.load(Ordering::Relaxed)))
            .chain([("frame_missed", missed)])
            .map(|(kind, n)| (kind.to_owned(), n))
            .filter(|(_, n)| *n > 0)
            .collect();
        let name = self.link.name();
        let last_error = match state {
            LinkState::Down => Some(format!(
                "uplink {name}: the interface is down; bring it up: ip link set {name} up"
            )),
            LinkState::Gone if !self.is_gone() => Some(format!("uplink {name}: {REMOVED}")),
            LinkState::Up | LinkState::Gone => self.faults.last.lock().clone(),
        };
        BackendStatus {
            up,
            features: 0,
            connections: u64::from(up),
            last_error,
            refusals,
            served: Some(self.served.clone()),
        }
    }
}

const REMOVED: &str = "the interface was removed; remove the port, then add it again";
