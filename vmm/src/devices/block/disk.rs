//! A disk: an opened image and the thread that does its input and output.
//!
//! It outlives the device that a guest sees: when the guest resets, the next device is given the same disk.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::counts::DiskCounts;
use super::error::DiskError;
use super::open;
use super::request::{ID_LEN, Limits};
use super::server::Server;
use super::worker::{Command, Session, WAKE, Worker};
use crate::config::DiskConfig;

/// Enough for a format's bookkeeping; only touched pages cost memory.
const STACK: usize = 512 << 10;

/// An opened image and its thread.
pub(crate) struct Disk {
    path: PathBuf,
    limits: Limits,
    counts: Arc<Mutex<DiskCounts>>,
    commands: Sender<Command>,
    /// Commands that were not obeyed yet.
    asked: Arc<AtomicUsize>,
    wake: Arc<EventFd>,
    /// Until its thread starts.
    worker: Mutex<Option<Worker>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Disk {
    /// Opens and locks the image.
    pub(crate) fn open(config: &DiskConfig) -> Result<Self, DiskError> {
        let image = open::open(config)?;
        let limits = Limits {
            sectors: image.sectors(),
            read_only: config.read_only,
        };
        let counts = Arc::new(Mutex::new(DiskCounts::default()));
        let asked = Arc::new(AtomicUsize::new(0));
        let server = Server {
            image,
            limits,
            id: id(&config.path),
            name: config.path.display().to_string(),
            counts: Arc::clone(&counts),
            asked: Arc::clone(&asked),
            told: false,
        };
        let host = |source: io::Error| DiskError::Host {
            path: config.path.clone(),
            source,
        };
        let wake = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)
            .map(Arc::new)
            .map_err(host)?;
        let epoll = Epoll::new().map_err(host)?;
        let waking = EpollEvent::new(EventSet::IN, WAKE);
        epoll
            .ctl(ControlOperation::Add, wake.as_raw_fd(), waking)
            .map_err(host)?;
        let (commands, receiver) = mpsc::channel();
        let worker = Worker::new(server, receiver, Arc::clone(&wake), epoll);
        Ok(Self {
            path: config.path.clone(),
            limits,
            counts,
            commands,
            asked,
            wake,
            worker: Mutex::new(Some(worker)),
            thread: Mutex::new(None),
        })
    }

    /// Starts the thread, whose first act is `prologue`, if it is not there yet. No driver can be served before.
    pub(crate) fn begin(&self, prologue: impl FnOnce() + Send + 'static) -> Result<(), DiskError> {
        let Some(worker) = self.worker.lock().take() else {
            return Ok(());
        };
        let run = move || {
            prologue();
            worker.run();
        };
        let thread = Builder::new().name("disk".to_owned()).stack_size(STACK);
        let thread = thread.spawn(run).map_err(|source| DiskError::Host {
            path: self.path.clone(),
            source,
        })?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// The image.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What happened to the disk so far.
    pub(crate) fn counts(&self) -> DiskCounts {
        *self.counts.lock()
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Begins to serve a driver's ring; one that was served is given up.
    pub(super) fn start(&self, session: Session) {
        self.ask(|done| Command::Start(Box::new(session), done));
    }

    /// Stops serving the ring; guest memory is not touched when this returns. Next available and next used entry.
    pub(super) fn pause(&self) -> Option<(u16, u16)> {
        self.ask(Command::Pause).flatten()
    }

    /// Serves the ring again.
    pub(super) fn resume(&self) {
        self.ask(Command::Resume);
    }

    /// Gives the ring up; guest memory is not touched, nor referred to, when this returns.
    pub(super) fn forget(&self) {
        self.ask(Command::Forget);
    }

    /// Sends a command and waits for its answer; `None` when the thread is no more.
    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Option<T> {
        let (done, answer) = mpsc::channel();
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.commands.send(command(done)).ok()?;
        // Fails only when the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
        answer.recv().ok()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Without a thread nobody would answer.
        drop(self.worker.lock().take());
        self.ask(Command::Stop);
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread has been reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// A serial number from the file's name: its last 20 characters, printable ASCII only.
fn id(path: &Path) -> [u8; ID_LEN] {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let printable: Vec<u8> = name
        .chars()
        .map(|letter| {
            if letter.is_ascii_graphic() {
                letter as u8
            } else {
                b'_'
            }
        })
        .collect();
    let mut id = [0; ID_LEN];
    let start = printable.len().saturating_sub(ID_LEN);
    for (place, octet) in id.iter_mut().zip(printable.iter().skip(start)) {
        *place = *octet;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_serial_numbers() {
        assert_eq!(&id(Path::new("/var/root.img"))[..9], b"root.img\0");
        assert_eq!(
            &id(Path::new("a-very-long-name-of-a-disk.img")),
            b"g-name-of-a-disk.img"
        );
        assert_eq!(&id(Path::new("ä b"))[..4], b"__b\0");
        assert_eq!(id(Path::new("/")), [0; ID_LEN]);
    }
}
