//! Endpoints: small IP hosts inside the switch.
//!
//! An endpoint is a smoltcp interface. It answers ARP, neighbour discovery and ping, offers echo and discard, and runs
//! the [`Application`]s that it is given. The worker that serves its port runs it, inside [`Backend::take`], with the
//! switch's own time; other workers only put frames into its inbox.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use introspection::Instant;
use offload::{MacAddr, VnetHeader};
use parking_lot::Mutex;
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::wire::{EthernetAddress, IpCidr};

use crate::counters::DropReason;
use crate::frame::{Burst, MAX_FRAME, Outgoing};
use crate::port::{Backend, BackendStatus, Capabilities, Delivery, Refusal, Waker};

mod address;
mod application;
mod device;
mod service;

pub use address::EndpointError;
pub use application::{Application, Host};
pub use service::{DISCARD_PORT, ECHO_PORT, MAX_CONNECTIONS, ServiceCounts};

use device::{Device, Inbox};

/// Times that the interface and its applications are run in one [`Backend::take`]. What is left then is due at
/// once, so that one busy endpoint does not keep its worker.
const ROUNDS: usize = 8;

/// [`EndpointPort::due`] when nothing is.
const NEVER: u64 = u64::MAX;

/// A small IP host inside the switch, as a port.
pub struct EndpointPort {
    addresses: Vec<IpCidr>,
    mac: MacAddr,
    inbox: Mutex<Inbox>,
    station: Mutex<Station>,
    waker: OnceLock<Arc<dyn Waker>>,
    counters: Arc<service::Counters>,
    /// Frames are in the inbox, or somebody poked: `take` has work whatever the time.
    pending: AtomicBool,
    /// The worker sleeps, or is about to: it has to be woken.
    armed: AtomicBool,
    /// When `take` next has work, in nanoseconds.
    due: AtomicU64,
    closed: AtomicBool,
    /// Frames that found the inbox full.
    full: AtomicU64,
}

/// The host itself.
struct Station {
    interface: Interface,
    device: Device,
    sockets: SocketSet<'static>,
    applications: Vec<Box<dyn Application>>,
    started: bool,
}

impl EndpointPort {
    /// Makes an endpoint.
    ///
    /// `cidrs` is an address with its prefix length, such as `192.0.2.1/24` or `2001:db8::1/64`, or up to three of them
    /// separated by commas; with an IPv6 one it has a link-local address too. `mtu` is in octets of IP. `applications`
    /// run beside the standard services.
    pub fn new(
        cidrs: &str,
        mac: MacAddr,
        mtu: u16,
        applications: Vec<Box<dyn Application>>,
    ) -> Result<Arc<Self>, EndpointError> {
        let addresses = address::parse(cidrs, mac, mtu)?;
        let counters = Arc::new(service::Counters::default());
        let mut all = service::standard(&counters);
        all.extend(applications);
        Ok(Arc::new(Self {
            station: Mutex::new(Station::new(&addresses, mac, mtu, all)),
            addresses,
            mac,
            inbox: Mutex::default(),
            waker: OnceLock::new(),
            counters,
            pending: AtomicBool::new(true),
            armed: AtomicBool::new(false),
            due: AtomicU64::new(NEVER),
            closed: AtomicBool::new(false),
            full: AtomicU64::new(0),
        }))
    }

    /// The hardware address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The addresses, as text.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(ToString::to_string).collect()
    }

    /// What the services have done.
    pub fn services(&self) -> ServiceCounts {
        self.counters.snapshot()
    }

    /// Has the applications polled soon, because something outside changed that they look at. From any thread.
    pub fn poke(&self) {
        self.pending.store(true, Ordering::Release);
        self.wake_if_armed();
    }

    /// Wakes the worker if it sleeps. Pairs with [`Backend::arm`]: either this sees that it is armed, or it saw what
    /// is pending.
    fn wake_if_armed(&self) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed)
            && self.armed.swap(false, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            waker.wake(0);
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.pending.load(Ordering::Acquire) || self.due.load(Ordering::Relaxed) <= now.0
    }
}

impl Backend for EndpointPort {
    fn attach(&self, waker: Arc<dyn Waker>) {
        // A second call would be the switch's mistake; the first waker stays.
        let _ = self.waker.set(waker);
    }

    fn take(&self, _queue: u16, now: Instant, burst: &mut Burst) {
        if self.is_closed() || !self.is_due(now) {
            return;
        }
        // Before the inbox is emptied: what comes later makes it true again.
        self.pending.store(false, Ordering::Release);
        let mut station = self.station.lock();
        station.device.refill(burst);
        station.device.collect(&mut self.inbox.lock());
        let due = station.run(now);
        while burst.room() > 0
            && let Some(frame) = station.device.next_outgoing()
        {
            burst.push_owned(VnetHeader::default(), frame);
        }
        let due = if station.device.is_pending() {
            Some(now)
        } else {
            due
        };
        self.due.store(due.map_or(NEVER, |at| at.0), Ordering::Relaxed);
    }

    fn complete(&self, _queue: u16, _burst: &Burst) {}

    /// Large frames are cut for it although it could read them: it acknowledges by the segment, as a host
    /// on a wire would.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            checksum: true,
            ..Capabilities::default()
        }
    }

    fn deliver(&self, frames: &[Outgoing<'_>]) -> Delivery {
        let mut inbox = self.inbox.lock();
        for (accepted, frame) in frames.iter().enumerate() {
            let refusal = if self.is_closed() {
                Refusal::Drop(DropReason::PortDown)
            } else if frame.len as usize > MAX_FRAME {
                Refusal::Drop(DropReason::BadLength)
            } else if !inbox.has_room(frame.len as usize) {
                self.full.fetch_add(1, Ordering::Relaxed);
                Refusal::Full
            } else {
                inbox.push(frame);
                self.pending.store(true, Ordering::Release);
                continue;
            };
            return Delivery {
                accepted,
                refusal: Some(refusal),
            };
        }
        Delivery {
            accepted: frames.len(),
            refusal: None,
        }
    }

    fn notify(&self) {
        if self.pending.load(Ordering::Acquire) {
            self.wake_if_armed();
        }
    }

    fn arm(&self, _queue: u16, wants_room: bool) -> bool {
        if self.is_closed() {
            return false;
        }
        self.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        wants_room || self.pending.load(Ordering::Acquire)
    }

    fn disarm(&self, _queue: u16) {
        self.armed.store(false, Ordering::Relaxed);
    }

    fn woken(&self, _queue: u16) {}

    fn deadline(&self, _queue: u16, now: Instant) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        if self.pending.load(Ordering::Acquire) {
            return Some(now);
        }
        let due = self.due.load(Ordering::Relaxed);
        (due != NEVER).then_some(Instant(due).max(now))
    }

    fn status(&self) -> BackendStatus {
        let full = self.full.load(Ordering::Relaxed);
        let refusals: BTreeMap<String, u64> = (full > 0)
            .then(|| ("inbox_full".to_owned(), full))
            .into_iter()
            .collect();
        BackendStatus {
            up: !self.is_closed(),
            features: 0,
            connections: self.counters.snapshot().connections,
            last_error: None,
            refusals,
            served: None,
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.inbox.lock().clear();
    }
}

impl Station {
    fn new(addresses: &[IpCidr], mac: MacAddr, mtu: u16, applications: Vec<Box<dyn Application>>) -> Self {
        let mut device = Device::new(mtu);
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = RandomState::new().hash_one(mac);
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|list| {
            for cidr in addresses {
                // The list has room for as many as an endpoint may have, by a feature of smoltcp.
                let _ = list.push(*cidr);
            }
        });
        Self {
            interface,
            device,
            sockets: SocketSet::new(Vec::new()),
            applications,
            started: false,
        }
    }

    /// Runs the interface and the applications until neither has anything to do; returns when one of them will.
    fn run(&mut self, now: Instant) -> Option<Instant> {
        let time = smoltcp::time::Instant::from_micros((now.0 / 1_000).cast_signed());
        let mut wanted = None;
        for round in 0..ROUNDS {
            let result = self.interface.poll(time, &mut self.device, &mut self.sockets);
            if round > 0 && result == PollResult::None {
                let timer = self.interface.poll_at(time, &self.sockets);
                let timer = timer.map(|at| Instant(at.total_micros().max(0).unsigned_abs() * 1_000));
                return timer.into_iter().chain(wanted).min().map(|at| at.max(now));
            }
            wanted = self.run_applications(now);
        }
        Some(now)
    }

    fn run_applications(&mut self, now: Instant) -> Option<Instant> {
        let mut host = Host {
            sockets: &mut self.sockets,
            context: self.interface.context(),
        };
        if !std::mem::replace(&mut self.started, true) {
            for application in &mut self.applications {
                application.start(&mut host);
            }
        }
        self.applications
            .iter_mut()
            .filter_map(|application| application.poll(now, &mut host))
            .min()
    }
}

#[cfg(test)]
mod tests;
