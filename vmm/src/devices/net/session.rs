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
use vhost::vhost_user::{self, Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, Le16};

use super::features::{NET_CONTROL, PROTOCOL_FEATURES, for_back_end};
use super::message::{self, CONTROL, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM};
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
    takes_commands: bool,
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
        let front_end = Frontend::from_stream(stream.try_clone().map_err(host)?, 2 * u64::from(pairs));
        let mut session = Self {
            socket: socket.to_owned(),
            stream,
            front_end,
            features: 0,
            acknowledges: false,
            takes_commands: false,
        };
        session.negotiate(pairs, packed)?;
        Ok(session)
    }

    /// The feature bits that the back end offers.
    pub(super) fn features(&self) -> u64 {
        self.features
    }

    /// Whether the back end carries control commands out.
    pub(super) fn takes_commands(&self) -> bool {
        self.takes_commands
    }

    /// The socket, for those who watch it.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Hands over features and guest memory, and for packed rings the memory in which chains in hand are noted.
    pub(super) fn share(
        &mut self,
        ram: &GuestRam,
        accepted: u64,
        rings: &[ActiveQueue],
        positions: Option<&mut Positions>,
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
        positions.map_or(Ok(()), |positions| self.share_log(&mut positions.log, rings))
    }

    /// Hands over the rings, each where its used index says that it stopped, or where `positions` does if rings are packed.
    /// Those of the first `pairs` pairs are enabled before they run: what waits in a ring that runs and is not enabled would
    /// be given back unsent.
    pub(super) fn start(
        &mut self,
        ram: &GuestRam,
        rings: &[ActiveQueue],
        pairs: u16,
        positions: Option<&Positions>,
    ) -> Result<(), SessionError> {
        self.enable_rings(rings, pairs)?;
        rings.iter().try_for_each(|ring| {
            // Each ring is five exchanges: a slow switch has time for one, not for all of many.
            let _deadline = self.deadline()?;
            let base = match positions {
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

    /// Has the back end carry control commands out, one after the other; how many it refused.
    pub(super) fn command<'a>(
        &mut self,
        commands: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<u64, SessionError> {
        let _deadline = self.deadline()?;
        let mut refused = 0;
        for command in commands {
            refused += u64::from(self.ask("carry out a command", CONTROL, command)? != 0);
        }
        Ok(refused)
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
        let mut offered = 1;
        if self.features & PROTOCOL_FEATURES != 0 {
            offered = self.negotiate_protocol(pairs, packed)?;
        }
        if offered < pairs.into() {
            return Err(SessionError::TooFewQueues {
                socket: self.socket.clone(),
                offered,
                wanted: pairs,
            });
        }
        self.exchange("take an owner", |front_end| front_end.set_owner())?;
        self.ask_for_acknowledgement(true);
        Ok(())
    }

    /// Agrees on the protocol's features, as far as the back end has them; how many queue pairs it serves.
    fn negotiate_protocol(&mut self, pairs: u16, packed: bool) -> Result<u64, SessionError> {
        let mut wanted = NET_CONTROL | VhostUserProtocolFeatures::REPLY_ACK.bits();
        if packed {
            wanted |= VhostUserProtocolFeatures::INFLIGHT_SHMFD.bits();
        }
        if pairs > 1 {
            wanted |= VhostUserProtocolFeatures::MQ.bits();
        }
        // The front end would leave features out that it does not know, and would take the number of pairs for one of rings.
        let accepted = wanted & self.ask("tell its protocol features", GET_PROTOCOL_FEATURES, &[])?;
        let features = VhostUserProtocolFeatures::from_bits_retain(accepted);
        self.exchange("accept the protocol features", |front_end| {
            front_end.set_protocol_features(features)
        })?;
        self.acknowledges = features.contains(VhostUserProtocolFeatures::REPLY_ACK);
        self.takes_commands = accepted & NET_CONTROL != 0;
        if self.takes_commands {
            self.features = self.exchange("tell its features", |front_end| front_end.get_features())?;
        }
        if !features.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD) {
            self.features &= !F_RING_PACKED;
        }
        if features.contains(VhostUserProtocolFeatures::MQ) {
            self.ask("tell its number of queues", GET_QUEUE_NUM, &[])
        } else {
            Ok(1)
        }
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

    /// Sends a request that is answered with one number.
    fn ask(&self, what: &'static str, request: u32, body: &[u8]) -> Result<u64, SessionError> {
        message::ask(&self.stream, request, body)
            .map_err(|error| self.failed(what, vhost_user::Error::SocketBroken(error).into()))
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
