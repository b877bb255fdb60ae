//! What the thread that runs a machine waits for: the end of the machine, its console, and its switches.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{Nic, Vm};
use crate::devices::net::Hangup;
use crate::devices::serial::{Input, SerialPort, Typed};
use crate::error::{VmError, host};
use crate::stop::StopReason;

/// What an event is about. Interfaces are `NIC` and up.
const STOP: u64 = 0;
const ENDED: u64 = 1;
const INPUT: u64 = 2;
const ROOM: u64 = 3;
const FLUSH: u64 = 4;
const NIC: u64 = 16;

/// How often a vanished switch is looked for, in milliseconds.
const RETRY_MS: i32 = 50;

/// Everything that is waited for.
pub(super) struct Events {
    epoll: Epoll,
    links: Vec<Link>,
    pub(super) hangups: Vec<Hangup>,
    input: InputState,
}

/// Whether the switch of one interface is there.
enum Link {
    /// It is; its socket is watched.
    Up(UnixStream),
    /// It vanished then, and this is what happened last.
    Down(Instant, String),
}

/// How the console's input is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InputState {
    /// By epoll.
    Watched,
    /// Not at all until the receiver has room.
    Full,
    /// It is a file, which epoll does not take because it always is readable.
    File,
    /// There is none, or it has ended.
    None,
}

impl Events {
    pub(super) fn new(vm: &Vm) -> Result<Self, VmError> {
        let epoll = Epoll::new().map_err(host("wait for events"))?;
        let hangups = vm
            .nics
            .iter()
            .map(|nic| nic.function.lock().device().hangup())
            .collect();
        let mut events = Self {
            epoll,
            links: Vec::new(),
            hangups,
            input: InputState::None,
        };
        events.watch_all(vm).map_err(host("wait for events"))?;
        Ok(events)
    }

    fn watch_all(&mut self, vm: &Vm) -> io::Result<()> {
        let serial = &vm.bus.serial;
        let fixed = [
            (vm.stop.as_raw_fd(), STOP),
            (vm.vcpus.ended().as_raw_fd(), ENDED),
            (serial.room_fd(), ROOM),
            (serial.flush_timer_fd(), FLUSH),
        ];
        for (fd, token) in fixed {
            self.add(fd, EventSet::IN, token)?;
        }
        if let Some(input) = &vm.input {
            self.input = match self.add(input.fd(), EventSet::IN, INPUT) {
                Ok(()) => InputState::Watched,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => InputState::File,
                Err(error) => return Err(error),
            };
        }
        for (nic, token) in vm.nics.iter().zip(NIC..) {
            let link = self.watch_link(nic, token);
            self.links.push(link);
        }
        Ok(())
    }

    /// Waits and reacts until the machine is to stop. `None`: a processor ended it and knows why.
    pub(super) fn serve(
        &mut self,
        nics: &[Nic],
        serial: &SerialPort,
        mut input: Option<&mut Input>,
    ) -> Result<Option<StopReason>, VmError> {
        if let Some(input) = input.as_deref_mut().filter(|_| self.input == InputState::File)
            && let Some(reason) = self.feed(serial, input)
        {
            return Ok(Some(reason));
        }
        let mut ready = [EpollEvent::default(); 16];
        loop {
            let down = self.links.iter().any(|link| matches!(link, Link::Down(..)));
            let count = match self.epoll.wait(if down { RETRY_MS } else { -1 }, &mut ready) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(source) => {
                    return Err(VmError::Host {
                        what: "wait for events",
                        source,
                    });
                }
            };
            for token in ready.iter().take(count).map(EpollEvent::data) {
                let reason = match token {
                    STOP => return Ok(Some(StopReason::Requested)),
                    ENDED => return Ok(None),
                    FLUSH => {
                        serial.flush();
                        None
                    }
                    INPUT => input.as_deref_mut().and_then(|input| self.feed(serial, input)),
                    ROOM => {
                        serial.clear_room();
                        input.as_deref_mut().and_then(|input| self.resume(serial, input))
                    }
                    _ => {
                        self.link_lost(nics, (token - NIC) as usize);
                        None
                    }
                };
                if reason.is_some() {
                    return Ok(reason);
                }
            }
            if let Some(reason) = self.look_for_switches(nics) {
                return Ok(Some(reason));
            }
        }
    }

    /// Hands the guest as much input as its receiver takes.
    fn feed(&mut self, serial: &SerialPort, input: &mut Input) -> Option<StopReason> {
        loop {
            let room = serial.room();
            if room == 0 {
                if self.input == InputState::Watched {
                    self.remove(input.fd());
                    self.input = InputState::Full;
                }
                return None;
            }
            match input.read(room) {
                Typed::Stop => return Some(StopReason::Requested),
                Typed::End => {
                    self.remove(input.fd());
                    self.input = InputState::None;
                    return None;
                }
                Typed::Octets(octets) => serial.receive(&octets),
            }
            if self.input != InputState::File {
                return None;
            }
        }
    }

    /// The receiver has room again.
    fn resume(&mut self, serial: &SerialPort, input: &mut Input) -> Option<StopReason> {
        match self.input {
            InputState::File => self.feed(serial, input),
            InputState::Full => {
                let watched = self.add(input.fd(), EventSet::IN, INPUT).is_ok();
                self.input = if watched {
                    InputState::Watched
                } else {
                    InputState::None
                };
                None
            }
            InputState::Watched | InputState::None => None,
        }
    }

    /// The conversation of an interface has ended.
    fn link_lost(&mut self, nics: &[Nic], index: usize) {
        let (Some(link), Some(nic)) = (self.links.get_mut(index), nics.get(index)) else {
            return;
        };
        let down = Link::Down(Instant::now(), "it closed the connection".to_owned());
        if let Link::Up(stream) = std::mem::replace(link, down) {
            self.remove(stream.as_raw_fd());
        }
        tracing::warn!(socket = %nic.config.socket.display(), "the switch closed the connection");
        let mut function = nic.function.lock();
        function.device_mut().disconnected();
        function.signal_config_change();
    }

    /// Tries to find the switches that vanished; the reason to stop when one stayed away too long.
    fn look_for_switches(&mut self, nics: &[Nic]) -> Option<StopReason> {
        for (index, nic) in nics.iter().enumerate() {
            let Some(Link::Down(since, reason)) = self.links.get_mut(index) else {
                continue;
            };
            if since.elapsed() >= nic.config.reconnect {
                let (socket, reason) = (nic.config.socket.clone(), std::mem::take(reason));
                return Some(StopReason::SwitchGone { socket, reason });
            }
            let result = nic.function.lock().device_mut().reconnect();
            match result {
                Ok(()) => {
                    tracing::info!(socket = %nic.config.socket.display(), "the switch is back");
                    self.links[index] = self.watch_link(nic, NIC + index as u64);
                    nic.function.lock().signal_config_change();
                }
                Err(error) => *reason = error.to_string(),
            }
        }
        None
    }

    fn watch_link(&self, nic: &Nic, token: u64) -> Link {
        let lost = || Link::Down(Instant::now(), "it closed the connection".to_owned());
        let Some(stream) = nic.function.lock().device().watched() else {
            return lost();
        };
        // Edge-triggered: what arrives is for the front end, only the end is for this thread.
        let end = EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        match self.add(stream.as_raw_fd(), end, token) {
            Ok(()) => Link::Up(stream),
            Err(_) => lost(),
        }
    }

    fn add(&self, fd: RawFd, events: EventSet, token: u64) -> io::Result<()> {
        self.epoll
            .ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))
    }

    fn remove(&self, fd: RawFd) {
        // Fails only for a descriptor that is not watched, which is what is wanted.
        let _ = self
            .epoll
            .ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }
}
