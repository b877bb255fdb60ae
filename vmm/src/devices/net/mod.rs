//! The virtio network device: a vhost-user front end.
//!
//! Receive and transmit rings belong to the switch at the other end of the socket: it maps guest memory, is kicked
//! by KVM and interrupts through KVM. This process keeps what is left: features, the link's state and the control
//! queue (Virtio 1.2, 5.1).

mod control;
mod features;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod message;
mod packed;
mod remembered;
mod session;
#[cfg(test)]
mod tests;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use offload::MacAddr;
use offload::rss::{HashTypes, Indirection, Toeplitz};
use parking_lot::Mutex;
use serde::Serialize;

use super::lifecycle::{CannotExport, Lifecycle, SavedState};
use super::virtio::{ActiveQueue, F_RING_PACKED, VirtioDevice};
use crate::config::NicConfig;
use crate::memory::GuestRam;
use control::{ControlEffect, ControlQueue};
use packed::Positions;
use remembered::Remembered;
use session::Session;
pub use session::SessionError;

/// Descriptors that a data ring may have.
const RING_SIZE: u16 = 1024;
/// Descriptors that the control ring may have.
const CONTROL_SIZE: u16 = 64;

/// Conversations whose failure is told; those that follow are only counted.
const FAILURES_TOLD: u64 = 4;

/// A driver that accepted one of these may use all queue pairs (Virtio 1.2, 5.1.2).
const SEVERAL: u64 = features::MQ | features::RSS;

/// `virtio_net_config.status` bits.
const LINK_UP: u16 = 1;
const ANNOUNCE: u16 = 2;

/// One network interface.
pub(crate) struct Net {
    socket: PathBuf,
    mac: MacAddr,
    mtu: u16,
    max_pairs: u16,
    packed: bool,
    queue_sizes: Vec<u16>,
    offered: u64,
    session: Option<Session>,
    hangup: Hangup,
    active: Option<Active>,
    announce: bool,
    paused: bool,
    first_kick: Option<Instant>,
    ram: GuestRam,
    counts: NetCounts,
    failures: u64,
}

/// What a driver at work agreed to.
struct Active {
    features: u64,
    rings: Vec<ActiveQueue>,
    pairs: u16,
    control_index: u16,
    control: Option<ControlQueue>,
    /// Commands in force that a back end carried out, or will.
    commands: Remembered,
    /// Where the rings stand, if they are packed.
    positions: Option<Positions>,
}

/// What happened to an interface so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(default)]
pub struct NetCounts {
    /// Times that the back end was lost.
    pub disconnects: u64,
    /// Times that it was found again.
    pub reconnects: u64,
    /// Control commands that were carried out.
    pub commands: u64,
    /// Control commands that were refused, and control rings that broke the rules.
    pub refused_commands: u64,
}

/// Ends the conversation with the back end from another thread, whoever waits for an answer at the moment.
#[derive(Clone, Default)]
pub(crate) struct Hangup(Arc<Mutex<Option<UnixStream>>>);

impl Hangup {
    /// Shuts the socket down; the thread that waits on it gets an error.
    pub(crate) fn hang_up(&self) {
        if let Some(stream) = &*self.0.lock() {
            // Fails only when the other end was faster.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Net {
    /// Connects to the back end that `config` names and asks what it can do.
    pub(crate) fn connect(config: &NicConfig, ram: GuestRam) -> Result<Self, SessionError> {
        let max_pairs = u16::from(config.queue_pairs);
        let mut queue_sizes = vec![RING_SIZE; 2 * usize::from(max_pairs)];
        queue_sizes.push(CONTROL_SIZE);
        let mut net = Self {
            socket: config.socket.clone(),
            mac: config.mac,
            mtu: config.mtu,
            max_pairs,
            packed: config.packed,
            queue_sizes,
            offered: 0,
            session: None,
            hangup: Hangup::default(),
            active: None,
            announce: false,
            paused: false,
            first_kick: None,
            ram,
            counts: NetCounts::default(),
            failures: 0,
        };
        net.open_session()?;
        Ok(net)
    }

    /// Ends waiting for the back end from outside.
    pub(crate) fn hangup(&self) -> Hangup {
        self.hangup.clone()
    }

    /// When the driver first notified a transmit queue.
    pub(crate) fn first_kick(&self) -> Option<Instant> {
        self.first_kick
    }

    pub(crate) fn counts(&self) -> NetCounts {
        self.counts
    }

    /// The features that the driver accepted, while one is at work.
    pub(crate) fn accepted(&self) -> Option<u64> {
        self.active.as_ref().map(|active| active.features)
    }

    /// The socket to watch for the end of the conversation; `None` when it has ended.
    pub(crate) fn watched(&self) -> Option<UnixStream> {
        self.session
            .as_ref()
            .and_then(|session| session.stream().try_clone().ok())
    }

    /// Number of the control queue: behind all pairs, or behind the only one of a driver without multiqueue.
    fn control_index(&self, features: u64) -> u16 {
        if features & SEVERAL != 0 {
            2 * self.max_pairs
        } else {
            2
        }
    }

    /// The conversation has ended: the link is down until [`Net::reconnect`] succeeds.
    pub(crate) fn disconnected(&mut self) {
        if self.session.take().is_some() {
            self.counts.disconnects += 1;
        }
        *self.hangup.0.lock() = None;
    }

    /// Starts a new conversation and hands over what the driver set up, rings where they stopped.
    pub(crate) fn reconnect(&mut self) -> Result<(), SessionError> {
        self.open_session()?;
        let resumed = self.start_rings();
        if resumed.is_err() {
            self.session = None;
            *self.hangup.0.lock() = None;
        }
        resumed?;
        self.counts.reconnects += 1;
        self.announce = self
            .accepted()
            .is_some_and(|features| features & features::GUEST_ANNOUNCE != 0);
        Ok(())
    }

    fn serve_control(&mut self, mut control: ControlQueue, features: u64) {
        control.serve(&self.ram.clone(), |command| self.carry_out(features, command));
        self.counts.refused_commands += control.take_broken();
        if let Some(active) = &mut self.active {
            active.control = Some(control);
        }
    }

    fn carry_out(&mut self, features: u64, command: &[u8]) -> bool {
        let effect = control::decode(command, features);
        let done = match effect {
            Some(ControlEffect::Announced) => {
                self.announce = false;
                true
            }
            _ => self.pass_on(command, effect) && self.take_effect(effect),
        };
        if done {
            self.counts.commands += 1;
        } else {
            self.counts.refused_commands += 1;
        }
        done
    }

    /// Has the back end carry a command out, if it does that: also one that is none, for it is the back end that judges. Without
    /// a back end, what need not be judged is kept for it.
    fn pass_on(&mut self, command: &[u8], effect: Option<ControlEffect>) -> bool {
        if command.is_empty() {
            return false;
        }
        let may_wait = match effect {
            Some(ControlEffect::Deliver | ControlEffect::Steer(_)) | None => false,
            Some(ControlEffect::SetPairs(pairs)) => (1..=self.max_pairs).contains(&pairs),
            Some(_) => true,
        };
        let session = self.session.as_mut().filter(|_| !self.paused);
        let carried_out = match session {
            Some(session) if session.takes_commands() => match session.command([command]) {
                Ok(refused) => refused == 0,
                Err(error) => {
                    self.lose_session(&error);
                    may_wait
                }
            },
            _ => may_wait,
        };
        // The address goes to each back end anyway.
        if carried_out
            && !matches!(effect, Some(ControlEffect::SetMac(_)) | None)
            && let Some(active) = &mut self.active
        {
            active.commands.note(command);
        }
        carried_out
    }

    /// What a command changes in this process.
    fn take_effect(&mut self, effect: Option<ControlEffect>) -> bool {
        match effect {
            Some(ControlEffect::SetMac(mac)) => self.mac = mac,
            Some(ControlEffect::SetPairs(pairs)) => return self.set_pairs(pairs),
            Some(ControlEffect::Steer(pairs)) => return self.set_pairs(pairs.min(self.max_pairs)),
            _ => {}
        }
        true
    }

    fn set_pairs(&mut self, pairs: u16) -> bool {
        let Some(active) = self
            .active
            .as_mut()
            .filter(|_| (1..=self.max_pairs).contains(&pairs))
        else {
            return false;
        };
        active.pairs = pairs;
        if let Some(session) = self.session.as_mut().filter(|_| !self.paused)
            && let Err(error) = session.enable_rings(&active.rings, pairs)
        {
            self.lose_session(&error);
        }
        true
    }

    fn open_session(&mut self) -> Result<(), SessionError> {
        let session = Session::connect(&self.socket, self.max_pairs, self.packed)?;
        let takes_commands = session.takes_commands();
        let offered = features::offer(session.features(), self.max_pairs, takes_commands, self.packed);
        let missing = self.accepted().unwrap_or(0) & !offered;
        if missing != 0 {
            return Err(SessionError::FeaturesLost {
                socket: self.socket.clone(),
                missing,
            });
        }
        *self.hangup.0.lock() = session.stream().try_clone().ok();
        self.offered = offered;
        self.session = Some(session);
        Ok(())
    }

    fn start_rings(&mut self) -> Result<(), SessionError> {
        match (&mut self.session, &mut self.active) {
            (Some(session), Some(active)) if !self.paused => {
                let positions = active.positions.as_mut();
                session.share(&self.ram, active.features, &active.rings, positions)?;
                if session.takes_commands() {
                    let address = [control::MAC_ADDRESS.as_slice(), &self.mac.0].concat();
                    let commands = active.commands.commands().iter().map(AsRef::as_ref);
                    self.counts.refused_commands +=
                        session.command([address.as_slice()].into_iter().chain(commands))?;
                }
                session.start(&self.ram, &active.rings, active.pairs, active.positions.as_ref())
            }
            _ => Ok(()),
        }
    }

    /// Gives up a conversation that failed; whoever watches the socket sees its end and reconnects.
    fn lose_session(&mut self, error: &SessionError) {
        self.failures += 1;
        // A guest can bring about as many as it likes.
        if self.failures <= FAILURES_TOLD {
            tracing::warn!(%error, "conversation with the switch failed");
        }
        self.hangup.hang_up();
    }

    fn status(&self) -> u16 {
        let link = if self.session.is_some() { LINK_UP } else { 0 };
        link | if self.announce { ANNOUNCE } else { 0 }
    }
}

/// What a driver set up, as it is exported.
#[derive(Serialize)]
struct SavedNet {
    mac: [u8; 6],
    mtu: u16,
    max_pairs: u16,
    offered: u64,
    announce: bool,
    driver: Option<SavedDriver>,
}

/// The rings themselves are in guest memory: each goes on where its used index says, or its position if it is packed.
#[derive(Serialize)]
struct SavedDriver {
    features: u64,
    pairs: u16,
    /// Next available and next used entry of the control queue.
    control: Option<(u16, u16)>,
    /// Where each packed ring stopped.
    positions: Option<std::collections::BTreeMap<u16, u16>>,
    /// Control commands in force, those that came first first.
    commands: Vec<Box<[u8]>>,
}

impl Lifecycle for Net {
    /// Takes the rings back from the switch; the link stays up.
    fn pause(&mut self) {
        if std::mem::replace(&mut self.paused, true) {
            return;
        }
        if let (Some(session), Some(active)) = (&mut self.session, &mut self.active)
            && let Err(error) = session.stop(&active.rings, active.positions.as_mut())
        {
            self.lose_session(&error);
        }
    }

    fn resume(&mut self) {
        if std::mem::replace(&mut self.paused, false)
            && let Err(error) = self.start_rings()
        {
            self.lose_session(&error);
        }
    }

    fn reset(&mut self) {
        let Some(active) = self.active.take() else { return };
        self.announce = false;
        if let Some(session) = self.session.as_mut().filter(|_| !self.paused)
            && let Err(error) = session.stop(&active.rings, None)
        {
            self.lose_session(&error);
        }
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        const KIND: &str = "virtio-net";
        if !self.paused {
            return Err(CannotExport::Running(KIND));
        }
        let driver = self.active.as_ref().map(|active| SavedDriver {
            features: active.features,
            pairs: active.pairs,
            control: active.control.as_ref().map(ControlQueue::position),
            positions: active.positions.as_ref().map(|positions| positions.all().clone()),
            commands: active.commands.commands().to_vec(),
        });
        let state = SavedNet {
            mac: self.mac.0,
            mtu: self.mtu,
            max_pairs: self.max_pairs,
            offered: self.offered,
            announce: self.announce,
            driver,
        };
        SavedState::new(KIND, 1, state)
    }
}

impl VirtioDevice for Net {
    fn device_id(&self) -> u16 {
        1
    }

    fn class(&self) -> u32 {
        0x02_0000
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// `virtio_net_config`: MAC, status, queue pairs, MTU, nothing for speed and duplex, the longest key and indirection table,
    /// hash types (Virtio 1.2, 5.1.4).
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut octets = [0; 24];
        octets[..6].copy_from_slice(&self.mac.0);
        octets[6..8].copy_from_slice(&self.status().to_le_bytes());
        octets[8..10].copy_from_slice(&self.max_pairs.to_le_bytes());
        octets[10..12].copy_from_slice(&self.mtu.to_le_bytes());
        if self.offered & (features::RSS | features::HASH_REPORT) != 0 {
            octets[17] = Toeplitz::KEY_LEN as u8;
            octets[18..20].copy_from_slice(&(Indirection::MAX_LEN as u16).to_le_bytes());
            octets[20..].copy_from_slice(&HashTypes::ALL.0.to_le_bytes());
        }
        let mut rest = octets.get(offset..).unwrap_or_default().iter();
        data.fill_with(|| rest.next().copied().unwrap_or(0));
    }

    fn activate(&mut self, features: u64, queues: &[ActiveQueue]) -> Result<(), String> {
        let control_index = self.control_index(features);
        let pairs = if features & SEVERAL != 0 {
            self.max_pairs
        } else {
            1
        };
        let rings: Vec<_> = queues
            .iter()
            .filter(|queue| queue.index < 2 * pairs)
            .cloned()
            .collect();
        if rings.len() < 2 {
            return Err("the driver enabled less than one queue pair".to_owned());
        }
        let control = queues
            .iter()
            .find(|queue| queue.index == control_index && features & features::CTRL_VQ != 0)
            .map(|queue| ControlQueue::new(queue, features & features::EVENT_IDX != 0))
            .transpose()?;
        self.active = Some(Active {
            features,
            rings,
            pairs: 1,
            control_index,
            control,
            commands: Remembered::default(),
            positions: (features & F_RING_PACKED != 0).then(Positions::default),
        });
        if let Err(error) = self.start_rings() {
            self.lose_session(&error);
        }
        Ok(())
    }

    fn serve(&mut self, queue: u16) -> bool {
        let Some(active) = &mut self.active else {
            return false;
        };
        if queue != active.control_index {
            return false;
        }
        let features = active.features;
        if let Some(control) = active.control.take() {
            self.serve_control(control, features);
        }
        true
    }

    fn first_notification(&mut self, queue: u16) {
        if queue % 2 == 1 {
            self.first_kick.get_or_insert_with(Instant::now);
        }
    }
}
