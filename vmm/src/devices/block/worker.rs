//! What a disk's thread does: waits for notifications of the driver and for commands of the machine.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use virtio_queue::QueueT;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::server::{Ring, Server};
use crate::memory::GuestRam;

/// What an event is about.
pub(super) const WAKE: u64 = 0;
const KICK: u64 = 1;

/// What a driver at work set up.
pub(super) struct Session {
    pub(super) ram: GuestRam,
    pub(super) ring: Ring,
    pub(super) kick: Arc<EventFd>,
}

/// What the machine asks of the thread; each is answered when it is done.
pub(super) enum Command {
    Start(Box<Session>, Sender<()>),
    /// Answered with the ring's next available and next used entry, if there is a ring.
    Pause(Sender<Option<(u16, u16)>>),
    Resume(Sender<()>),
    Forget(Sender<()>),
    Stop(Sender<()>),
}

/// The thread's state.
pub(super) struct Worker {
    server: Server,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    epoll: Epoll,
    session: Option<Box<Session>>,
    paused: bool,
}

impl Worker {
    /// `epoll` watches `wake` already.
    pub(super) fn new(server: Server, commands: Receiver<Command>, wake: Arc<EventFd>, epoll: Epoll) -> Self {
        Self {
            server,
            commands,
            wake,
            epoll,
            session: None,
            paused: false,
        }
    }

    /// Serves until told to stop.
    pub(super) fn run(mut self) {
        let mut ready = [EpollEvent::default(); 2];
        loop {
            let more = match &mut self.session {
                Some(session) if !self.paused => {
                    // Fails only when there is no notification to clear. What comes after is not missed.
                    let _ = session.kick.read();
                    self.server.serve(&mut session.ring, &session.ram)
                }
                _ => false,
            };
            // Fails only when a signal came, and then looking once more does no harm.
            let _ = self.epoll.wait(if more { 0 } else { -1 }, &mut ready);
            // Fails when nobody woke this thread.
            let _ = self.wake.read();
            while let Ok(command) = self.commands.try_recv() {
                if let Command::Stop(done) = command {
                    // The asker waits for the end of the thread as well.
                    let _ = done.send(());
                    return;
                }
                self.obey(command);
                self.server.asked.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        // Answers are lost only when the asker is, and then nobody misses them.
        match command {
            Command::Start(session, done) => {
                self.unwatch();
                self.session = Some(session);
                self.watch();
                let _ = done.send(());
            }
            Command::Pause(done) => {
                self.unwatch();
                self.paused = true;
                let position = self.session.as_ref().map(|session| {
                    let queue = &session.ring.queue;
                    (queue.next_avail(), queue.next_used())
                });
                let _ = done.send(position);
            }
            Command::Resume(done) => {
                self.unwatch();
                self.paused = false;
                self.watch();
                let _ = done.send(());
            }
            Command::Forget(done) => {
                self.unwatch();
                self.session = None;
                let _ = done.send(());
            }
            Command::Stop(_) => {}
        }
    }

    /// Waits for the driver's notifications, unless paused.
    fn watch(&self) {
        if let Some(session) = self.session.as_ref().filter(|_| !self.paused) {
            let event = EpollEvent::new(EventSet::IN, KICK);
            let added = self
                .epoll
                .ctl(ControlOperation::Add, session.kick.as_raw_fd(), event);
            if let Err(error) = added {
                tracing::error!(disk = self.server.name, %error, "the disk cannot be notified");
            }
        }
    }

    fn unwatch(&self) {
        if let Some(session) = &self.session {
            let nothing = EpollEvent::default();
            // Fails when it was not watched because of a pause.
            let _ = self
                .epoll
                .ctl(ControlOperation::Delete, session.kick.as_raw_fd(), nothing);
        }
    }
}
