//! A file that keeps each frame that the port is given.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use introspection::Instant;
use parking_lot::Mutex;

use super::PcapPortError;
use crate::clock;
use crate::counters::DropReason;
use crate::frame::{Burst, MAX_FRAME, Outgoing};
use crate::pcapng::{self, Packet, Way};
use crate::port::{Backend, BackendStatus, Capabilities, Delivery, Refusal, Waker};

/// Frames that wait for the disk.
const QUEUE: usize = 4096;
/// Octets of them.
const QUEUE_OCTETS: u64 = 32 << 20;

/// A capture file as a port that only takes frames.
pub struct RecordPort {
    file: PathBuf,
    /// The way to the thread, until the port is closed.
    way: Mutex<Option<Desk>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The channel to the thread, and that by which buffers come back.
struct Desk {
    frames: Sender<Kept>,
    spare: Receiver<Vec<u8>>,
}

/// A frame to be written.
struct Kept {
    time_ns: u64,
    octets: Vec<u8>,
    /// Frames lost since the one before.
    lost: u64,
}

#[derive(Default)]
struct Shared {
    waiting: AtomicU64,
    written: AtomicU64,
    /// Frames that found the queue full, so far and since the last one that did not.
    lost: AtomicU64,
    lost_lately: AtomicU64,
    error: Mutex<Option<String>>,
}

impl RecordPort {
    /// Makes the file, or empties it, for the port of this name.
    pub fn create(file: &Path, port: &str) -> Result<Arc<Self>, PcapPortError> {
        let create = |source| PcapPortError::Create {
            file: file.to_owned(),
            source,
        };
        let mut out = File::create(file).map_err(create)?;
        let mut head = Vec::new();
        pcapng::section(&mut head, concat!("enlight ", env!("CARGO_PKG_VERSION")));
        pcapng::interface(&mut head, port, "frames for this port", MAX_FRAME as u32);
        out.write_all(&head).map_err(create)?;
        let (frames, todo) = bounded(QUEUE);
        let (give, spare) = bounded(QUEUE);
        let shared = Arc::new(Shared::default());
        let writer = Writer {
            out: BufWriter::new(out),
            todo,
            give,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("pcap-record".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| PcapPortError::Thread {
                file: file.to_owned(),
                source,
            })?;
        Ok(Arc::new(Self {
            file: file.to_owned(),
            way: Mutex::new(Some(Desk { frames, spare })),
            shared,
            thread: Mutex::new(Some(thread)),
        }))
    }
}

impl Desk {
    /// Hands a frame to the thread.
    fn keep(&self, frame: &Outgoing<'_>, time_ns: u64, shared: &Shared) -> Result<(), Refusal> {
        let len = u64::from(frame.len);
        if self.frames.is_full() || shared.waiting.load(Ordering::Relaxed) + len > QUEUE_OCTETS {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            shared.lost_lately.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::Drop(DropReason::ReceiverFull));
        }
        let mut octets = self.spare.try_recv().unwrap_or_default();
        octets.clear();
        octets.extend_from_slice(frame.head);
        for segment in frame.tail {
            crate::packet::append(*segment, segment.len as usize, &mut octets);
        }
        shared.waiting.fetch_add(octets.len() as u64, Ordering::Relaxed);
        let kept = Kept {
            time_ns,
            octets,
            lost: shared.lost_lately.swap(0, Ordering::Relaxed),
        };
        // There was room, and no other sender: the one way to the thread is locked. So the thread ended.
        self.frames
            .try_send(kept)
            .map_err(|_| Refusal::Drop(DropReason::PortDown))
    }
}

impl Backend for RecordPort {
    fn attach(&self, _waker: Arc<dyn Waker>) {}

    fn take(&self, _queue: u16, _now: Instant, _burst: &mut Burst) {}

    fn complete(&self, _queue: u16, _burst: &Burst) {}

    fn capabilities(&self) -> Capabilities {
        // The file has frames as they are on a wire.
        Capabilities::default()
    }

    fn deliver(&self, frames: &[Outgoing<'_>]) -> Delivery {
        let way = self.way.lock();
        let time_ns = nanoseconds(clock::wall(clock::now()));
        for (accepted, frame) in frames.iter().enumerate() {
            let kept = way
                .as_ref()
                .map_or(Err(Refusal::Drop(DropReason::PortDown)), |way| {
                    way.keep(frame, time_ns, &self.shared)
                });
            if let Err(refusal) = kept {
                return Delivery {
                    accepted,
                    refusal: Some(refusal),
                };
            }
        }
        Delivery {
            accepted: frames.len(),
            refusal: None,
        }
    }

    fn notify(&self) {}

    fn arm(&self, _queue: u16, _wants_room: bool) -> bool {
        false
    }

    fn disarm(&self, _queue: u16) {}

    fn woken(&self, _queue: u16) {}

    fn deadline(&self, _queue: u16, _now: Instant) -> Option<Instant> {
        None
    }

    fn status(&self) -> BackendStatus {
        let error = self.shared.error.lock().clone();
        let up = error.is_none() && self.way.lock().is_some();
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let refusals: BTreeMap<String, u64> = (lost > 0)
            .then(|| ("queue_full".to_owned(), lost))
            .into_iter()
            .collect();
        let written = self.shared.written.load(Ordering::Relaxed);
        BackendStatus {
            up,
            features: 0,
            connections: u64::from(up),
            last_error: error.map(|error| format!("pcap-record {}: {error}", self.file.display())),
            refusals,
            served: Some(format!("{written} frames written")),
        }
    }

    fn close(&self) {
        self.way.lock().take();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of pcap-record {} had died", self.file.display());
        }
    }
}

impl Drop for RecordPort {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread's side.
struct Writer {
    out: BufWriter<File>,
    todo: Receiver<Kept>,
    give: Sender<Vec<u8>>,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self) {
        if let Err(error) = self.write_all() {
            *self.shared.error.lock() = Some(error.to_string());
        }
    }

    /// Writes until the port is closed.
    fn write_all(&mut self) -> io::Result<()> {
        let mut block = Vec::new();
        loop {
            let kept = match self.todo.try_recv() {
                Ok(kept) => kept,
                Err(TryRecvError::Empty) => {
                    // What came is in the file before the thread waits.
                    self.out.flush()?;
                    match self.todo.recv() {
                        Ok(kept) => kept,
                        Err(_) => return self.finish(),
                    }
                }
                Err(TryRecvError::Disconnected) => return self.finish(),
            };
            block.clear();
            pcapng::packet(
                &mut block,
                &Packet {
                    interface: 0,
                    time_ns: kept.time_ns,
                    bytes: &kept.octets,
                    len: kept.octets.len() as u32,
                    way: Way::Inbound,
                    lost: kept.lost,
                    comment: None,
                },
            );
            self.out.write_all(&block)?;
            self.shared.written.fetch_add(1, Ordering::Relaxed);
            self.shared
                .waiting
                .fetch_sub(kept.octets.len() as u64, Ordering::Relaxed);
            let _ = self.give.try_send(kept.octets);
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        let (written, lost) = (
            self.shared.written.load(Ordering::Relaxed),
            self.shared.lost.load(Ordering::Relaxed),
        );
        let mut block = Vec::new();
        pcapng::statistics(
            &mut block,
            0,
            nanoseconds(SystemTime::now()),
            written + lost,
            lost,
        );
        self.out.write_all(&block)?;
        self.out.flush()
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
