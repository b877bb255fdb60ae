//! The conversation with a vhost-user back end.
//!
//! Source: QEMU's `docs/interop/vhost-user.rst`. Every exchange has a deadline: a back end that stops answering
//! loses the conversation, it does not stop the machine.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserInflight};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, Le16};

use super::features::{PROTOCOL_FEATURES, for_back_end};
use super::packed::Positions;
use crate::devices::virtio::{ActiveQueue, F_RING_PACKED, F_VERSION_1};
use crate::memory::GuestRam;
use crate::sandbox::{self, Thread};

/// How long the back end may take for one exchange of messages.
const PATIENCE: Duration = Duration::from_secs(3);
/// The used ring's index field.
const USED_INDEX: u64 = 2;

/// Why a back end cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Nobody listens.
    #[error("cannot connect to {socket}: {source}; start the switch, or check the path", socket = .socket.display())]
    Connect {
        /// The back end's socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The back end refused, went away or did not answer in time.
    #[error("{socket}: the switch failed to {what}: {source}", socket = .socket.display())]
    Exchange {
        /// The back end's socket.
        socket: PathBuf,
        /// What it was asked to do.
        what: &'static str,
        /// How that ended.
        source: vhost::Error,
    },
    /// A back end from before Virtio 1.0.
    #[error("{socket}: the switch does not offer VIRTIO_F_VERSION_1; use one that does", socket = .0.display())]
    TooOld(PathBuf),
    /// Not enough queues.
    #[error("{socket}: the switch serves {offered} queue pairs, {wanted} are wanted; lower queues=", socket = .socket.display())]
    TooFewQueues {
        /// The back end's socket.
        socket: PathBuf,
        /// Pairs that it serves.
        offered: u64,
        /// Pairs that the configuration asks for.
        wanted: u16,
    },
    /// The back end came back without features that the guest already uses.
    #[error("{socket}: the switch came back without features {missing:#x}, which the guest uses", socket = .socket.display())]
    FeaturesLost {
        /// The back end's socket.
        socket: PathBuf,
        /// The feature bits.
        missing: u64,
    },
    /// The host is out of threads or descriptors.
    #[error("{socket}: {source}", socket = .socket.display())]
    Host {
        /// The back end's socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A back end that answers.
pub(super) struct Session {
    socket: PathBuf,
    stream: UnixStream,
    front_end: Frontend,
    features: u64,
    acknowledges: bool,
}

impl Session {
    /// Connects, and negotiates everything that does not depend on the driver. With `packed`, the back end is asked to note
    /// chains in hand, and has packed rings only if it does.
    pub(super) fn connect(socket: &Path, pairs: u16, packed: bool) -> Result<Self, SessionError> {
        let connect = |source| SessionError::Connect {
            socket: socket.to_owned(),
            source,
        };
        let host = |source| SessionError::Host {
            socket: socket.to_owned(),
            source,
        };
        let stream = UnixStream::connect(socket).map_err(connect)?;
        let _deadline = Deadline::set(&stream).map_err(host)?;
        if pairs > 1 {
            let offered = queue_pairs(socket, stream.try_clone().map_err(host)?)?;
            if offered < pairs.into() {
                return Err(SessionError::TooFewQueues {
                    socket: socket.to_owned(),
                    offered,
                    wanted: pairs,
                });
            }
        }
        let front_end = Frontend::from_stream(stream.try_clone().map_err(host)?, 2 * u64::from(pairs));
        let mut session = Self {
            socket: socket.to_owned(),
            stream,
            front_end,
            features: 0,
            acknowledges: false,
        };
        session.negotiate(pairs, packed)?;
        Ok(session)
    }

    /// The feature bits that the back end offers.
    pub(super) fn features(&self) -> u64 {
        self.features
    }

    /// The socket, for those who watch it.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Hands over features, guest memory and rings, each ring where its used index says that it stopped, or where
    /// `positions` does if rings are packed. Those of the first `pairs` pairs are enabled before they run: what waits in
    /// a ring that runs and is not enabled would be given back unsent.
    pub(super) fn start(
        &mut self,
        ram: &GuestRam,
        accepted: u64,
        rings: &[ActiveQueue],
        pairs: u16,
        mut positions: Option<&mut Positions>,
    ) -> Result<(), SessionError> {
        let _deadline = self.deadline()?;
        let features = for_back_end(accepted, self.features);
        self.exchange("accept the features", |front_end| {
            front_end.set_features(features)
        })?;
        let regions = ram
            .iter()
            .map(VhostUserMemoryRegionInfo::from_guest_region)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.failed("describe guest memory", error))?;
        self.exchange("map guest memory", |front_end| {
            front_end.set_mem_table(&regions).map(drop)
        })?;
        if let Some(positions) = &mut positions {
            self.share_log(&mut positions.log, rings)?;
        }
        self.enable_rings(rings, pairs)?;
        rings.iter().try_for_each(|ring| {
            let base = match &positions {
                Some(positions) => positions.of(ring.index),
                None => used_index(ram, ring),
            };
            self.start_ring(ram, ring, base)
        })
    }

    /// Hands over the memory in which chains in hand are noted; the back end makes it when there is none yet.
    fn share_log(
        &mut self,
        log: &mut Option<(VhostUserInflight, File)>,
        rings: &[ActiveQueue],
    ) -> Result<(), SessionError> {
        if let Some((description, file)) = log {
            return self.exchange("take the memory for chains in hand", |front_end| {
                front_end.set_inflight_fd(description, file.as_raw_fd())
            });
        }
        let queues = rings.iter().map(|ring| ring.index + 1).max().unwrap_or(0);
        let size = rings.iter().map(|ring| ring.size).max().unwrap_or(0);
        let wanted = VhostUserInflight::new(0, 0, queues, size);
        // As for `GET_VRING_BASE`.
        self.ask_for_acknowledgement(false);
        let made = self.exchange("make memory for chains in hand", |front_end| {
            front_end.get_inflight_fd(&wanted)
        });
        self.ask_for_acknowledgement(true);
        *log = Some(made?);
        Ok(())
    }

    /// Lets the back end use the rings of the first `pairs` pairs and no others.
    pub(super) fn enable_rings(&mut self, rings: &[ActiveQueue], pairs: u16) -> Result<(), SessionError> {
        if self.features & PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        let _deadline = self.deadline()?;
        for ring in rings {
            let enable = ring.index < 2 * pairs;
            self.exchange("enable a ring", |front_end| {
                front_end.set_vring_enable(ring.index.into(), enable)
            })?;
        }
        Ok(())
    }

    /// Takes the rings back, and notes where packed ones stopped; afterwards the back end touches them no more.
    pub(super) fn stop(
        &mut self,
        rings: &[ActiveQueue],
        mut positions: Option<&mut Positions>,
    ) -> Result<(), SessionError> {
        self.enable_rings(rings, 0)?;
        let _deadline = self.deadline()?;
        // This request has an answer of its own; asking for an acknowledgement as well confuses some back ends.
        self.ask_for_acknowledgement(false);
        for ring in rings {
            let base = self.exchange("stop a ring", |front_end| {
                front_end.get_vring_base(ring.index.into())
            })?;
            if let Some(positions) = &mut positions {
                positions.stopped(ring.index, base);
            }
        }
        self.ask_for_acknowledgement(true);
        Ok(())
    }

    fn negotiate(&mut self, pairs: u16, packed: bool) -> Result<(), SessionError> {
        self.features = self.exchange("tell its features", |front_end| front_end.get_features())?;
        if self.features & F_VERSION_1 == 0 {
            return Err(SessionError::TooOld(self.socket.clone()));
        }
        if self.features & PROTOCOL_FEATURES != 0 {
            // The front end only takes protocol messages after it has set the feature that allows them.
            let offered = self.exchange(
                "tell its protocol features",
                VhostUserFrontend::get_protocol_features,
            )?;
            let mut wanted = VhostUserProtocolFeatures::REPLY_ACK;
            wanted.set(VhostUserProtocolFeatures::MQ, pairs > 1);
            wanted.set(VhostUserProtocolFeatures::INFLIGHT_SHMFD, packed);
            let accepted = offered & wanted;
            if !accepted.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD) {
                self.features &= !F_RING_PACKED;
            }
            self.exchange("accept the protocol features", |front_end| {
                front_end.set_protocol_features(accepted)
            })?;
            self.acknowledges = accepted.contains(VhostUserProtocolFeatures::REPLY_ACK);
        }
        self.exchange("take an owner", |front_end| front_end.set_owner())?;
        self.ask_for_acknowledgement(true);
        Ok(())
    }

    fn start_ring(&mut self, ram: &GuestRam, ring: &ActiveQueue, base: u16) -> Result<(), SessionError> {
        let index = usize::from(ring.index);
        let address = |guest| host_address(ram, guest).unwrap_or(0);
        let config = VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: address(ring.descriptors),
            used_ring_addr: address(ring.device),
            avail_ring_addr: address(ring.driver),
            log_addr: None,
        };
        self.exchange("size a ring", |front_end| {
            front_end.set_vring_num(index, ring.size)
        })?;
        self.exchange("position a ring", |front_end| {
            front_end.set_vring_base(index, base)
        })?;
        self.exchange("place a ring", |front_end| {
            front_end.set_vring_addr(index, &config)
        })?;
        self.exchange("take a call doorbell", |front_end| {
            front_end.set_vring_call(index, &ring.call)
        })?;
        self.exchange("take a kick doorbell", |front_end| {
            front_end.set_vring_kick(index, &ring.kick)
        })
    }

    fn ask_for_acknowledgement(&self, ask: bool) {
        let flags = if ask && self.acknowledges {
            VhostUserHeaderFlag::NEED_REPLY
        } else {
            VhostUserHeaderFlag::empty()
        };
        self.front_end.set_hdr_flags(flags);
    }

    fn exchange<T>(
        &mut self,
        what: &'static str,
        request: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> Result<T, SessionError> {
        request(&mut self.front_end).map_err(|source| self.failed(what, source))
    }

    fn failed(&self, what: &'static str, source: vhost::Error) -> SessionError {
        SessionError::Exchange {
            socket: self.socket.clone(),
            what,
            source,
        }
    }

    fn deadline(&self) -> Result<Deadline, SessionError> {
        Deadline::set(&self.stream).map_err(|source| SessionError::Host {
            socket: self.socket.clone(),
            source,
        })
    }
}

/// Asks how many queue pairs the back end serves. The answer limits the queue numbers that the asking front end
/// takes from then on, as if it counted queues instead of pairs, so a front end of its own asks.
fn queue_pairs(socket: &Path, stream: UnixStream) -> Result<u64, SessionError> {
    let mut front_end = Frontend::from_stream(stream, 2);
    let mut ask = || {
        front_end.get_features()?;
        let offered = front_end.get_protocol_features()?;
        if !offered.contains(VhostUserProtocolFeatures::MQ) {
            return Ok(1);
        }
        front_end.set_protocol_features(offered & VhostUserProtocolFeatures::MQ)?;
        front_end.get_queue_num()
    };
    let what = "tell its number of queues";
    ask().map_err(|source| SessionError::Exchange {
        socket: socket.to_owned(),
        what,
        source,
    })
}

/// Where a split ring goes on.
fn used_index(ram: &GuestRam, ring: &ActiveQueue) -> u16 {
    ram.read_obj::<Le16>(GuestAddress(ring.device + USED_INDEX))
        .map_or(0, u16::from)
}

/// Where this process has mapped a guest-physical address.
fn host_address(ram: &GuestRam, guest: u64) -> Option<u64> {
    let region = ram.find_region(GuestAddress(guest))?;
    Some(region.as_ptr() as u64 + (guest - region.start_addr().0))
}

/// Shuts a socket down unless it is dropped within [`PATIENCE`]. The front end retries reads that time out, so a
/// receive timeout on the socket would not end them.
struct Deadline {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Deadline {
    fn set(stream: &UnixStream) -> io::Result<Self> {
        let stream = stream.try_clone()?;
        let (done, expired) = channel();
        let watch = move || {
            sandbox::enter(Thread::Deadline);
            if expired.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                // Fails only when the other end was faster.
                let _ = stream.shutdown(Shutdown::Both);
            }
        };
        let thread = Builder::new()
            .name("deadline".to_owned())
            .stack_size(64 << 10)
            .spawn(watch)?;
        Ok(Self {
            done: Some(done),
            thread: Some(thread),
        })
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.done.take();
        if let Some(thread) = self.thread.take() {
            // The thread does not panic, and nothing depends on how it ended.
            let _ = thread.join();
        }
    }
}
