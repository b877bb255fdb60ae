//! What the thread that runs a machine waits for: the end of the machine, what is typed and asked, and its switches.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::Vm;
use super::board::{Board, Nic};
use super::keyboard::Keyboard;
use super::requests::{Desk, Request, RequestError};
use crate::devices::Terminal;
use crate::devices::net::Hangup;
use crate::error::{VmError, host};
use crate::stop::{StopHandle, StopReason};

/// What an event is about. Interfaces are `NIC` and up, what types into the guest is `KEYBOARD` and up.
const STOP: u64 = 0;
const ENDED: u64 = 1;
const REQUEST: u64 = 2;
const ROOM: u64 = 3;
const FLUSH: u64 = 4;
const NIC: u64 = 16;
pub(super) const KEYBOARD: u64 = 1 << 32;

/// How often a vanished switch is looked for, in milliseconds.
const RETRY_MS: i32 = 50;
/// A connection that lasted so long was a good one.
const LASTING: Duration = Duration::from_secs(5);
/// Connections lost in a row, each after a short time, that are told of; those that follow are only counted.
const LOSSES_TOLD: u32 = 3;

/// Everything that is waited for.
pub(super) struct Events {
    epoll: Epoll,
    links: Vec<Link>,
    /// For each interface, connections lost in a row after a short time.
    losses: Vec<u32>,
    /// The interface whose switch is looked for first the next time.
    next_look: usize,
    pub(super) hangups: Vec<Hangup>,
    terminal: Arc<dyn Terminal>,
    desk: Arc<Desk>,
}

/// Whether the switch of one interface is there.
enum Link {
    /// It is, since then; its socket is watched.
    Up(UnixStream, Instant),
    /// It vanished then, and this is what happened last.
    Down(Instant, String),
}

/// How long to wait before a switch that was lost so often in a row is connected to again: one that hangs up on every
/// machine must not keep both busy.
fn pause_after(losses: u32) -> Duration {
    let retry = Duration::from_millis(RETRY_MS as u64);
    match losses {
        0 | 1 => Duration::ZERO,
        more => retry * (1 << more.min(6)),
    }
}

/// Why the machine is to stop; `None` inside: a processor ended it and knows why.
type End = Option<StopReason>;

impl Events {
    pub(super) fn new(
        board: &Board,
        keyboard: &mut Keyboard,
        desk: &Arc<Desk>,
        stop: &StopHandle,
    ) -> Result<Self, VmError> {
        let epoll = Epoll::new().map_err(host("wait for events"))?;
        let hangups = board
            .nics
            .iter()
            .map(|nic| nic.function.lock().device().hangup())
            .collect();
        let mut events = Self {
            epoll,
            links: Vec::new(),
            losses: vec![0; board.nics.len()],
            next_look: 0,
            hangups,
            terminal: board.terminal(),
            desk: Arc::clone(desk),
        };
        events
            .watch_all(board, keyboard, stop)
            .map_err(host("wait for events"))?;
        Ok(events)
    }

    fn watch_all(&mut self, board: &Board, keyboard: &mut Keyboard, stop: &StopHandle) -> io::Result<()> {
        let fixed = [
            (stop.as_raw_fd(), STOP),
            (board.vcpus.ended().as_raw_fd(), ENDED),
            (self.desk.bell(), REQUEST),
            (self.terminal.room_fd(), ROOM),
        ];
        let timers = board.flush_timers().into_iter().map(|fd| (fd, FLUSH));
        for (fd, token) in fixed.into_iter().chain(timers) {
            self.add(fd, EventSet::IN, token)?;
        }
        keyboard.watch(&self.epoll)?;
        for (nic, token) in board.nics.iter().zip(NIC..) {
            let link = self.watch_link(nic, token);
            self.links.push(link);
        }
        Ok(())
    }

    /// Waits and reacts until the machine is to stop. `None`: a processor ended it and knows why.
    pub(super) fn serve(
        &mut self,
        vm: &mut Vm,
        board: &Board,
        keyboard: &mut Keyboard,
    ) -> Result<End, VmError> {
        if keyboard.feed_files(&*self.terminal, &self.epoll) {
            return Ok(Some(StopReason::Requested));
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
                if let Some(end) = self.react(token, vm, board, keyboard) {
                    return Ok(end);
                }
            }
            if let Some(reason) = self.look_for_switches(&board.nics) {
                return Ok(Some(reason));
            }
        }
    }

    /// Reacts to one event; the end of the machine if that is what it means.
    fn react(&mut self, token: u64, vm: &mut Vm, board: &Board, keyboard: &mut Keyboard) -> Option<End> {
        let stop = match token {
            STOP => true,
            ENDED => return Some(None),
            REQUEST => {
                self.answer(vm, board, keyboard);
                false
            }
            FLUSH => {
                board.flush_consoles();
                false
            }
            ROOM => {
                self.terminal.clear_room();
                keyboard.room(&*self.terminal, &self.epoll)
            }
            _ if keyboard.owns(token) => keyboard.ready(token, &*self.terminal, &self.epoll),
            _ => {
                self.link_lost(&board.nics, (token - NIC) as usize);
                false
            }
        };
        stop.then_some(Some(StopReason::Requested))
    }

    /// Answers everything that was asked. Nobody minds an answer that came too late.
    fn answer(&mut self, vm: &mut Vm, board: &Board, keyboard: &mut Keyboard) {
        while let Some(request) = self.desk.take() {
            match request {
                Request::PowerButton(reply) => {
                    let heard = board.bus.power.press_button();
                    let deaf = RequestError::Unready("the guest has not enabled the power button (yet)");
                    drop(reply.send(if heard { Ok(()) } else { Err(deaf) }));
                }
                Request::Pause(reply) => drop(reply.send(vm.pause(board))),
                Request::Resume(reply) => {
                    vm.resume(board);
                    drop(reply.send(Ok(())));
                }
                Request::Info(reply) => drop(reply.send(Ok(vm.info(board)))),
                Request::Export(reply) => drop(reply.send(export(board))),
                Request::Attach(stream, greeting, reply) => {
                    drop(
                        reply.send(
                            self.attach(stream, greeting, vm, keyboard)
                                .map_err(RequestError::Console),
                        ),
                    );
                }
            }
        }
    }

    fn attach(&self, stream: UnixStream, greeting: &str, vm: &Vm, keyboard: &mut Keyboard) -> io::Result<()> {
        vm.output.show(stream.try_clone()?, greeting)?;
        keyboard.attach(stream, &self.epoll)
    }

    /// The conversation of an interface has ended.
    fn link_lost(&mut self, nics: &[Nic], index: usize) {
        let places = (self.links.get_mut(index), self.losses.get_mut(index));
        let ((Some(link), Some(losses)), Some(nic)) = (places, nics.get(index)) else {
            return;
        };
        let down = Link::Down(Instant::now(), "it closed the connection".to_owned());
        if let Link::Up(stream, since) = std::mem::replace(link, down) {
            *losses = if since.elapsed() < LASTING {
                losses.saturating_add(1)
            } else {
                1
            };
            if *losses <= LOSSES_TOLD {
                let again = if *losses == LOSSES_TOLD {
                    " again, and is told of no more"
                } else {
                    ""
                };
                tracing::warn!(socket = %nic.config.socket.display(), "the switch closed the connection{again}");
            }
            self.remove(stream.as_raw_fd());
        }
        let mut function = nic.function.lock();
        function.device_mut().disconnected();
        function.signal_config_change();
    }

    /// Tries to find one of the switches that vanished; the reason to stop when one stayed away too long. Not more than one,
    /// for each may take its time, and a machine must still do meanwhile what it is told.
    fn look_for_switches(&mut self, nics: &[Nic]) -> Option<StopReason> {
        for (link, nic) in self.links.iter_mut().zip(nics) {
            if let Link::Down(since, reason) = link
                && since.elapsed() >= nic.config.reconnect
            {
                let (socket, reason) = (nic.config.socket.clone(), std::mem::take(reason));
                return Some(StopReason::SwitchGone { socket, reason });
            }
        }
        let count = self.links.len().max(1);
        let due = (0..count)
            .map(|more| (self.next_look + more) % count)
            .find(|index| self.is_due(*index, nics))?;
        self.next_look = due + 1;
        self.look_for(due, nics.get(due)?);
        None
    }

    /// Whether it is time to look for the switch of an interface.
    fn is_due(&self, index: usize, nics: &[Nic]) -> bool {
        let (Some(Link::Down(since, _)), Some(nic)) = (self.links.get(index), nics.get(index)) else {
            return false;
        };
        let losses = self.losses.get(index).copied().unwrap_or(0);
        since.elapsed() >= pause_after(losses).min(nic.config.reconnect / 2)
    }

    fn look_for(&mut self, index: usize, nic: &Nic) {
        let result = nic.function.lock().device_mut().reconnect();
        let link = match result {
            Ok(()) => {
                tracing::info!(socket = %nic.config.socket.display(), "the switch is back");
                let link = self.watch_link(nic, NIC + index as u64);
                nic.function.lock().signal_config_change();
                link
            }
            Err(error) => match self.links.get(index) {
                Some(Link::Down(since, _)) => Link::Down(*since, error.to_string()),
                _ => return,
            },
        };
        if let Some(place) = self.links.get_mut(index) {
            *place = link;
        }
    }

    fn watch_link(&self, nic: &Nic, token: u64) -> Link {
        let lost = || Link::Down(Instant::now(), "it closed the connection".to_owned());
        let Some(stream) = nic.function.lock().device().watched() else {
            return lost();
        };
        // Edge-triggered: what arrives is for the front end, only the end is for this thread.
        let end = EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        match self.add(stream.as_raw_fd(), end, token) {
            Ok(()) => Link::Up(stream, Instant::now()),
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

/// The state of all devices, by their kinds.
fn export(board: &Board) -> Result<Value, RequestError> {
    let states = board.export()?;
    serde_json::to_value(states).map_err(|_| RequestError::Unready("a device's state is no JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_hangs_up_is_tried_at_once_and_then_ever_later() {
        let pauses = [0, 1, 2, 3, 6, 7, u32::MAX].map(|losses| pause_after(losses).as_millis());
        assert_eq!(pauses, [0, 0, 200, 400, 3200, 3200, 3200]);
    }
}
