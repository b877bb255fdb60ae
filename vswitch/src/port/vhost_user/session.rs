//! One peer's session: what its requests do to the port.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::message::{self, MessageError, Request};
use super::queue::{self, Kick};
use super::{Shared, features};
use crate::memory::{GuestMemory, MAX_REGIONS, MemoryError};
use crate::net_control::Limits;
use crate::ring::inflight::{Area, AreaError, Description};
use crate::ring::{MAX_QUEUE_SIZE, RingFault, feature};

/// The smallest MTU (RFC 791).
const MIN_MTU: u64 = 68;

/// A peer's session. Dropping it stops and forgets all that the peer set up.
pub(super) struct Session<'a> {
    port: &'a Shared,
    memory: Option<Arc<GuestMemory>>,
    protocol: u64,
    /// Where chains in hand are written down.
    inflight: Option<Area>,
    /// The device status (virtio 1.2, 2.1).
    status: u8,
    /// Where requests to the peer would go, see [`Session::set_backend_channel`].
    backend_channel: Option<File>,
}

/// What a request is answered with.
pub(super) enum Reply {
    Word([u8; 8]),
    /// The memory for chains in hand.
    Inflight([u8; 24], File),
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("features {0:#x} were agreed on that were not offered")]
    Features(u64),
    #[error("protocol features {0:#x} were agreed on that were not offered")]
    ProtocolFeatures(u64),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("queue {index} does not exist: the port has {queues}")]
    Queue { index: u32, queues: usize },
    #[error("queue {index}: {fault}")]
    Ring { index: usize, fault: RingFault },
    #[error("queue {index} starts at {base:#x}, which no split ring can")]
    Base { index: usize, base: u32 },
    #[error("queue {0} got a doorbell that is no eventfd")]
    Bell(usize),
    #[error(transparent)]
    Inflight(#[from] AreaError),
    #[error("a channel for requests to the peer that is no socket")]
    BackendChannel,
    #[error("an MTU of {asked}: the port has {mtu}")]
    Mtu { asked: u64, mtu: u16 },
}

impl SessionError {
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Message(error) => error.label(),
            Self::Features(_) => "features",
            Self::ProtocolFeatures(_) => "protocol_features",
            Self::Memory(_) => "memory_table",
            Self::Queue { .. } => "queue_index",
            Self::Ring { fault, .. } => fault.label(),
            Self::Base { .. } => "queue_base",
            Self::Bell(_) => "doorbell",
            Self::Inflight(_) => "inflight",
            Self::BackendChannel => "backend_channel",
            Self::Mtu { .. } => "mtu",
        }
    }
}

/// A request's answer, if it has one of its own.
pub(super) type Answer = Result<Option<Reply>, SessionError>;

impl<'a> Session<'a> {
    pub(super) fn new(port: &'a Shared) -> Self {
        Self {
            port,
            memory: None,
            protocol: 0,
            inflight: None,
            status: 0,
            backend_channel: None,
        }
    }

    /// Whether a peer that asks for acknowledgements gets them.
    pub(super) fn acknowledges(&self) -> bool {
        self.protocol & features::REPLY_ACK != 0
    }

    /// Does what a request asks for.
    pub(super) fn handle(&mut self, request: Request) -> Answer {
        match request {
            Request::GetFeatures => return Ok(Some(number(self.offered()))),
            Request::GetProtocolFeatures => {
                return Ok(Some(number(features::protocol(self.port.queue_pairs))));
            }
            Request::GetQueueNum => return Ok(Some(number(self.queue_num()))),
            Request::GetMaxMemSlots => return Ok(Some(number(MAX_REGIONS as u64))),
            Request::GetVringBase { index } => return self.get_base(index),
            Request::GetStatus => return Ok(Some(number(self.status.into()))),
            Request::GetInflightFd(asked) => return self.get_inflight(&asked),
            Request::SetInflightFd(description, file) => {
                self.inflight = Some(Area::map(description, file, self.rings())?);
            }
            Request::SetBackendReqFd(file) => self.set_backend_channel(file)?,
            Request::SetStatus(status) => self.set_status(status),
            Request::NetControl(command) => return self.net_control(&command),
            Request::SetOwner => {}
            Request::SetFeatures(agreed) => self.set_features(agreed)?,
            Request::SetProtocolFeatures(agreed) => self.set_protocol_features(agreed)?,
            Request::ResetRings => self.reset_rings(),
            Request::SetMemTable(table) => self.set_memory(GuestMemory::map(table)?)?,
            Request::AddMemReg(spec, file) => {
                self.set_memory(self.known_memory().with_region(spec, file)?)?;
            }
            Request::RemMemReg(spec) => self.set_memory(self.known_memory().without_region(spec)?)?,
            Request::SetVringNum { index, size } => self.set_size(index, size)?,
            Request::SetVringAddr { index, addresses } => {
                let index = self.index(index)?;
                self.port.queue(index).addresses = Some(addresses);
                self.refresh(index)?;
            }
            Request::SetVringBase { index, base } => self.set_base(index, base)?,
            Request::SetVringKick { index, file } => self.set_kick(index, file)?,
            Request::SetVringCall { index, file } => self.set_call(index, file)?,
            Request::SetVringErr { index, file } => {
                let index = self.index(index)?;
                let file = check(index, file)?;
                self.port.queue(index).err = file;
            }
            Request::SetVringEnable { index, enable } => {
                let index = self.index(index)?;
                let mut queue = self.port.queue(index);
                queue.enabled = enable;
                self.port.settle(index, &mut queue);
            }
            Request::SetMtu(asked) => self.set_mtu(asked)?,
        }
        Ok(None)
    }

    fn offered(&self) -> u64 {
        features::offered(self.port.queue_pairs, self.passes_on())
    }

    /// Whether the peer passes its guest's control commands on.
    fn passes_on(&self) -> bool {
        self.protocol & features::NET_CONTROL != 0
    }

    /// Rings for front ends of whom nothing is known: those that read pairs find no less than they need. See
    /// [`features::protocol`].
    fn queue_num(&self) -> u64 {
        if self.passes_on() {
            self.port.queue_pairs.into()
        } else {
            self.port.queues.len() as u64
        }
    }

    /// Carries a command of the guest's out. One that is refused is the guest's fault, not the peer's.
    fn net_control(&self, command: &[u8]) -> Answer {
        if !self.passes_on() {
            return Err(MessageError::Unknown(message::NET_CONTROL).into());
        }
        let limits = Limits {
            features: self.port.features.load(Ordering::Relaxed),
            queue_pairs: self.port.queue_pairs,
        };
        let result = self.port.control.carry_out(command, limits);
        // What waits for room may go to another queue now.
        if let Some(waker) = self.port.waker.get() {
            waker.wake(0);
        }
        if let Err(error) = &result {
            self.port.refuse(error.label(), error.to_string());
        }
        Ok(Some(number(result.is_err().into())))
    }

    fn index(&self, index: u32) -> Result<usize, SessionError> {
        let queues = self.port.queues.len();
        let known = usize::try_from(index).ok().filter(|index| *index < queues);
        known.ok_or(SessionError::Queue { index, queues })
    }

    fn set_features(&mut self, agreed: u64) -> Result<(), SessionError> {
        let unknown = agreed & !self.offered();
        if unknown != 0 {
            return Err(SessionError::Features(unknown));
        }
        self.port.features.store(agreed, Ordering::Relaxed);
        self.port.control.begin(agreed, self.passes_on());
        if agreed & features::PROTOCOL_FEATURES == 0 {
            // Such a peer cannot enable rings one by one: they all are, from the start.
            for index in 0..self.port.queues.len() {
                let mut queue = self.port.queue(index);
                queue.enabled = true;
                self.port.settle(index, &mut queue);
            }
        }
        Ok(())
    }

    fn set_protocol_features(&mut self, agreed: u64) -> Result<(), SessionError> {
        let unknown = agreed & !features::protocol(self.port.queue_pairs);
        if unknown != 0 {
            return Err(SessionError::ProtocolFeatures(unknown));
        }
        self.protocol = agreed;
        Ok(())
    }

    fn reset_rings(&mut self) {
        for index in 0..self.port.queues.len() {
            let mut queue = self.port.queue(index);
            self.port.wait_for_worker(&mut queue);
            queue.enabled = false;
            self.port.stop(index, &mut queue);
        }
    }

    fn set_mtu(&self, asked: u64) -> Result<(), SessionError> {
        let mtu = self.port.mtu;
        if (MIN_MTU..=mtu.into()).contains(&asked) {
            return Ok(());
        }
        Err(SessionError::Mtu { asked, mtu })
    }

    fn known_memory(&self) -> Arc<GuestMemory> {
        self.memory.clone().unwrap_or_default()
    }

    fn rings(&self) -> u16 {
        2 * self.port.queue_pairs
    }

    /// Makes memory for chains in hand, for rings that start from now on.
    fn get_inflight(&mut self, asked: &Description) -> Answer {
        let (area, file) = Area::create(asked.queues, asked.entries, self.rings())?;
        let body = message::inflight(&area.description());
        self.inflight = Some(area);
        Ok(Some(Reply::Inflight(body, file)))
    }

    /// Takes a device status. Features are fine if they do not contradict each other; else the peer does not find its
    /// `FEATURES_OK` when it reads the status again (virtio 1.2, 3.1.1). 0 stops all rings.
    fn set_status(&mut self, status: u8) {
        if status == 0 {
            self.reset_rings();
        }
        let agreed = self.port.features.load(Ordering::Relaxed);
        let refused = if features::fit(agreed) {
            0
        } else {
            features::FEATURES_OK
        };
        self.status = status & !refused;
    }

    /// Keeps the channel for requests to the peer open as long as the session. There is nothing to ask for: what a
    /// network device could say there is the business of protocol features that this port does not offer.
    fn set_backend_channel(&mut self, file: File) -> Result<(), SessionError> {
        let is_socket = file
            .metadata()
            .is_ok_and(|metadata| metadata.file_type().is_socket());
        if !is_socket {
            return Err(SessionError::BackendChannel);
        }
        self.backend_channel = Some(file);
        Ok(())
    }

    /// Puts other memory in the place of the present one. Rings that are not in it stop.
    fn set_memory(&mut self, memory: GuestMemory) -> Result<(), SessionError> {
        let memory = Arc::new(memory);
        self.memory = Some(Arc::clone(&memory));
        let mut first = Ok(());
        for index in 0..self.port.queues.len() {
            if let Err(error) = self.refresh(index) {
                first = first.and(Err(error));
            }
        }
        first
    }

    /// Brings a ring in line with the memory and addresses that are now known: starts it, moves it or stops it.
    fn refresh(&self, index: usize) -> Result<(), SessionError> {
        let features = self.port.features.load(Ordering::Relaxed);
        let mut queue = self.port.queue(index);
        let result = match (&self.memory, queue.ring.is_some()) {
            (Some(memory), true) => queue.relocate(memory),
            (memory, _) => {
                let region = self.inflight.as_ref().and_then(|area| area.region(index));
                queue.start(memory.as_ref(), features, index.is_multiple_of(2), region)
            }
        };
        if result.is_err() {
            self.port.stop(index, &mut queue);
        } else {
            self.port.settle(index, &mut queue);
        }
        result.map_err(|fault| SessionError::Ring { index, fault })
    }

    fn set_size(&mut self, index: u32, size: u32) -> Result<(), SessionError> {
        let index = self.index(index)?;
        let packed = self.has_packed_rings();
        let fair = u16::try_from(size)
            .ok()
            .filter(|size| (1..=MAX_QUEUE_SIZE).contains(size) && (packed || size.is_power_of_two()));
        let size = fair.ok_or(SessionError::Ring {
            index,
            fault: RingFault::Size(size),
        })?;
        self.port.queue(index).size = size;
        Ok(())
    }

    fn has_packed_rings(&self) -> bool {
        self.port.features.load(Ordering::Relaxed) & feature::RING_PACKED != 0
    }

    /// Says where a ring starts. For a packed ring the peer gives two positions: that of the first chain which is not
    /// consumed, and in bits 16 to 31 that of the first which is not used. Chains are used in order here, so that a
    /// ring that stopped has both in one place, and DPDK leaves the second one zero.
    fn set_base(&mut self, index: u32, base: u32) -> Result<(), SessionError> {
        let index = self.index(index)?;
        let base = if self.has_packed_rings() {
            base as u16
        } else {
            u16::try_from(base).map_err(|_| SessionError::Base { index, base })?
        };
        self.port.queue(index).base = base;
        Ok(())
    }

    fn get_base(&mut self, index: u32) -> Answer {
        let known = self.index(index)?;
        let mut queue = self.port.queue(known);
        self.port.wait_for_worker(&mut queue);
        self.port.stop(known, &mut queue);
        let base = u32::from(queue.base);
        let both = if self.has_packed_rings() { base << 16 } else { 0 };
        Ok(Some(Reply::Word(message::vring_state(index, base | both))))
    }

    fn set_kick(&mut self, index: u32, file: Option<File>) -> Result<(), SessionError> {
        let index = self.index(index)?;
        let file = check(index, file)?;
        let mut queue = self.port.queue(index);
        self.port.unwatch(index, &mut queue);
        queue.kick = file.map_or(Kick::Poll, Kick::Event);
        drop(queue);
        self.refresh(index)
    }

    fn set_call(&mut self, index: u32, file: Option<File>) -> Result<(), SessionError> {
        let index = self.index(index)?;
        let file = check(index, file)?;
        self.port.queue(index).call = file;
        Ok(())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        for index in 0..self.port.queues.len() {
            let mut queue = self.port.queue(index);
            self.port.unwatch(index, &mut queue);
            queue.reset();
            self.port.settle(index, &mut queue);
        }
        self.port.features.store(0, Ordering::Relaxed);
        self.port.control.begin(0, false);
    }
}

/// Lets nothing but an eventfd be a doorbell.
fn check(index: usize, file: Option<File>) -> Result<Option<File>, SessionError> {
    match file {
        Some(file) if !queue::check_bell(&file) => Err(SessionError::Bell(index)),
        file => Ok(file),
    }
}

fn number(number: u64) -> Reply {
    Reply::Word(number.to_ne_bytes())
}
