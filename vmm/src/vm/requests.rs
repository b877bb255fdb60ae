//! What other threads ask of a running machine. The thread that runs it answers between two of its events.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::devices::lifecycle::CannotExport;
use crate::report::VmInfo;
use crate::stop::StopHandle;
use crate::vcpu::VcpuError;

/// Requests that may wait.
const CROWD: usize = 64;
/// How long an answer may take. Pausing waits for processors and disks, so this is longer than either may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a machine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It does not run.
    #[error("the machine has stopped or not started yet")]
    Stopped,
    /// It has too many requests already.
    #[error("{CROWD} requests wait already; try again")]
    Crowded,
    /// It did not answer.
    #[error("the machine did not answer within {} s", PATIENCE.as_secs())]
    NoAnswer,
    /// A processor does not come out of the guest.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A device keeps its state to itself.
    #[error(transparent)]
    Export(#[from] CannotExport),
    /// The guest has not set up what the request needs.
    #[error("{0}")]
    Unready(&'static str),
    /// The host refused.
    #[error("cannot attach a console: {0}")]
    Console(io::Error),
}

/// Asks a machine from other threads, also while its guest starts anew.
#[derive(Clone)]
pub struct VmHandle {
    stop: StopHandle,
    desk: Arc<Desk>,
}

/// Where requests are put down and picked up.
pub(super) struct Desk {
    waiting: Mutex<Option<VecDeque<Request>>>,
    bell: EventFd,
}

/// Something asked, and where the answer goes.
pub(super) enum Request {
    PowerButton(Reply<()>),
    Pause(Reply<()>),
    Resume(Reply<()>),
    Info(Reply<VmInfo>),
    Export(Reply<Value>),
    Attach(UnixStream, &'static str, Reply<()>),
}

/// Takes one answer.
pub(super) type Reply<T> = SyncSender<Result<T, RequestError>>;

impl VmHandle {
    pub(super) fn new(stop: StopHandle) -> io::Result<Self> {
        Ok(Self {
            stop,
            desk: Arc::new(Desk {
                waiting: Mutex::new(None),
                bell: EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            }),
        })
    }

    pub(super) fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk)
    }

    /// Stops the machine at once, as if its power cord were pulled.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Presses the ACPI power button: the guest's operating system decides what that means.
    pub fn press_power_button(&self) -> Result<(), RequestError> {
        self.ask(Request::PowerButton)
    }

    /// Holds the machine still: processors first, then devices. Does nothing to one that is paused.
    pub fn pause(&self) -> Result<(), RequestError> {
        self.ask(Request::Pause)
    }

    /// Lets a paused machine go on.
    pub fn resume(&self) -> Result<(), RequestError> {
        self.ask(Request::Resume)
    }

    /// What the machine is, costs and does.
    pub fn info(&self) -> Result<VmInfo, RequestError> {
        self.ask(Request::Info)
    }

    /// The state of all devices of a paused machine, as JSON.
    pub fn export(&self) -> Result<Value, RequestError> {
        self.ask(Request::Export)
    }

    /// Connects a stream to the guest's terminal: `greeting`, then what was printed lately, then both ways until either
    /// end closes it. A stream that is refused is told nothing.
    pub fn attach_console(&self, stream: UnixStream, greeting: &'static str) -> Result<(), RequestError> {
        self.ask(|reply| Request::Attach(stream, greeting, reply))
    }

    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, RequestError> {
        let (reply, answer) = sync_channel(1);
        self.desk.put(request(reply))?;
        match answer.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(RequestError::NoAnswer),
            Err(RecvTimeoutError::Disconnected) => Err(RequestError::Stopped),
        }
    }
}

impl Desk {
    /// Readable when there is a request.
    pub(super) fn bell(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// From now on requests are taken.
    pub(super) fn open(&self) {
        self.waiting.lock().get_or_insert_default();
    }

    /// From now on requests are refused, those that wait too.
    pub(super) fn close(&self) {
        self.waiting.lock().take();
    }

    /// The next request.
    pub(super) fn take(&self) -> Option<Request> {
        // Fails only when the bell has not rung, and then there may still be a request.
        let _ = self.bell.read();
        self.waiting.lock().as_mut()?.pop_front()
    }

    fn put(&self, request: Request) -> Result<(), RequestError> {
        let mut waiting = self.waiting.lock();
        let waiting = waiting.as_mut().ok_or(RequestError::Stopped)?;
        if waiting.len() == CROWD {
            return Err(RequestError::Crowded);
        }
        waiting.push_back(request);
        // Fails only when the counter is full, and then the bell has rung already.
        let _ = self.bell.write(1);
        Ok(())
    }
}
