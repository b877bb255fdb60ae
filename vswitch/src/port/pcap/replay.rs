//! A file whose frames enter the switch, as they came or faster.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};
use introspection::Instant;
use offload::VnetHeader;
use parking_lot::Mutex;

use super::PcapPortError;
use crate::control::{Replay, ReplaySpeed};
use crate::frame::{Burst, MAX_FRAME, Outgoing};
use crate::pcap::{PcapError, Reader};
use crate::port::{Backend, BackendStatus, Capabilities, Delivery, Waker};

/// Frames read ahead.
const AHEAD: usize = 256;
/// How long the thread waits for room before it looks whether the port was closed.
const PATIENCE: Duration = Duration::from_millis(50);
/// Octets of an Ethernet header: no frame is shorter.
const SHORTEST: usize = 14;

/// A capture file as a port that only sends frames; what it is given it forgets.
pub struct ReplayPort {
    shared: Arc<Shared>,
    frames: Receiver<Due>,
    give: Sender<Vec<u8>>,
    /// The frame whose time has not come.
    next: Mutex<Option<Due>>,
    /// When the first frame was due.
    begun: OnceLock<Instant>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A frame and when it is due, in nanoseconds from the beginning.
struct Due {
    at: u64,
    octets: Vec<u8>,
}

struct Shared {
    replay: Replay,
    waker: OnceLock<Arc<dyn Waker>>,
    /// The worker sleeps, or is about to, without knowing of a frame.
    asleep: AtomicBool,
    closed: AtomicBool,
    /// Everything was read.
    read: AtomicBool,
    sent: AtomicU64,
    round: AtomicU32,
    /// Frames too short or too long for the switch, of which the file has a part only, and of other kinds of network.
    odd: AtomicU64,
    cut: AtomicU64,
    foreign: AtomicU64,
    error: Mutex<Option<String>>,
}

type FileReader = Reader<BufReader<File>>;

fn open(file: &Path) -> Result<FileReader, PcapPortError> {
    let opened = File::open(file).map_err(|source| PcapPortError::Open {
        file: file.to_owned(),
        source,
    })?;
    Reader::new(BufReader::new(opened)).map_err(|source| PcapPortError::Format {
        file: file.to_owned(),
        source,
    })
}

impl ReplayPort {
    /// Opens the file; its first frame is due when a worker first serves the port.
    pub fn open(replay: &Replay) -> Result<Arc<Self>, PcapPortError> {
        let reader = open(&replay.file)?;
        let (send, frames) = bounded(AHEAD);
        let (give, spare) = bounded(AHEAD);
        let shared = Arc::new(Shared {
            replay: replay.clone(),
            waker: OnceLock::new(),
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            read: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            round: AtomicU32::new(1),
            odd: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            error: Mutex::new(None),
        });
        let feeder = Feeder {
            shared: Arc::clone(&shared),
            send,
            spare,
            at: 0,
        };
        let thread = std::thread::Builder::new()
            .name("pcap-replay".to_owned())
            .spawn(move || feeder.run(reader))
            .map_err(|source| PcapPortError::Thread {
                file: replay.file.clone(),
                source,
            })?;
        Ok(Arc::new(Self {
            shared,
            frames,
            give,
            next: Mutex::new(None),
            begun: OnceLock::new(),
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// When the next frame is due, if one was read.
    fn next_due(&self, next: &mut Option<Due>, now: Instant) -> Option<Instant> {
        if next.is_none() {
            *next = self.frames.try_recv().ok();
        }
        let at = next.as_ref()?.at;
        let begun = *self.begun.get_or_init(|| now);
        Some(Instant(begun.0.saturating_add(at)))
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Whether all frames of all rounds are in the switch.
    fn is_over(&self) -> bool {
        self.shared.read.load(Ordering::Acquire) && self.frames.is_empty() && self.next.lock().is_none()
    }
}

impl Backend for ReplayPort {
    fn attach(&self, waker: Arc<dyn Waker>) {
        // A second call would be the switch's mistake; the first waker stays.
        let _ = self.shared.waker.set(waker);
    }

    fn take(&self, _queue: u16, now: Instant, burst: &mut Burst) {
        if self.is_closed() {
            return;
        }
        let mut next = self.next.lock();
        while burst.room() > 0 && self.next_due(&mut next, now).is_some_and(|at| at <= now) {
            let Some(due) = next.take() else { return };
            let mut octets = burst.pool.empty(due.octets.len());
            octets.extend_from_slice(&due.octets);
            burst.push_owned(VnetHeader::default(), octets);
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            let _ = self.give.try_send(due.octets);
        }
    }

    fn complete(&self, _queue: u16, _burst: &Burst) {}

    fn capabilities(&self) -> Capabilities {
        // What it is given is forgotten, so that no work has to be done for it.
        Capabilities {
            checksum: true,
            tso4: true,
            tso6: true,
            uso4: true,
            uso6: true,
            ecn: true,
        }
    }

    fn deliver(&self, frames: &[Outgoing<'_>]) -> Delivery {
        Delivery {
            accepted: frames.len(),
            refusal: None,
        }
    }

    fn notify(&self) {}

    fn arm(&self, _queue: u16, _wants_room: bool) -> bool {
        // Before the look: a frame that comes after it finds the flag.
        self.shared.asleep.store(true, Ordering::SeqCst);
        let now = crate::clock::now();
        let mut next = self.next.lock();
        !self.is_closed() && self.next_due(&mut next, now).is_some_and(|at| at <= now)
    }

    fn disarm(&self, _queue: u16) {
        self.shared.asleep.store(false, Ordering::Relaxed);
    }

    fn woken(&self, _queue: u16) {}

    fn deadline(&self, _queue: u16, now: Instant) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        self.next_due(&mut self.next.lock(), now)
    }

    fn status(&self) -> BackendStatus {
        let shared = &self.shared;
        let over = self.is_over();
        let up = !over && !self.is_closed();
        let counts = [
            ("frame_length", &shared.odd),
            ("frame_cut", &shared.cut),
            ("not_ethernet", &shared.foreign),
        ];
        let refusals: BTreeMap<String, u64> = counts
            .into_iter()
            .map(|(kind, counter)| (kind.to_owned(), counter.load(Ordering::Relaxed)))
            .filter(|(_, n)| *n > 0)
            .collect();
        let sent = shared.sent.load(Ordering::Relaxed);
        let round = shared.round.load(Ordering::Relaxed);
        let rounds = match shared.replay.loops {
            0 => "without end".to_owned(),
            loops => format!("of {loops}"),
        };
        let state = if over { "at its end" } else { "under way" };
        let error = shared.error.lock().clone();
        BackendStatus {
            up,
            features: 0,
            connections: u64::from(up),
            last_error: error.map(|error| format!("pcap-replay {}: {error}", shared.replay.file.display())),
            refusals,
            served: Some(format!("{state}: {sent} frames sent, round {round} {rounds}")),
        }
    }

    fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("a thread of pcap-replay had died");
        }
    }
}

impl Drop for ReplayPort {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread's side.
struct Feeder {
    shared: Arc<Shared>,
    send: Sender<Due>,
    spare: Receiver<Vec<u8>>,
    /// When the last frame is due.
    at: u64,
}

impl Feeder {
    fn run(mut self, first: FileReader) {
        if let Err(error) = self.rounds(first) {
            *self.shared.error.lock() = Some(error);
        }
        self.shared.read.store(true, Ordering::Release);
    }

    /// Reads the file as often as it is to be replayed.
    fn rounds(&mut self, first: FileReader) -> Result<(), String> {
        let loops = self.shared.replay.loops;
        let mut reader = first;
        loop {
            let read = self.round(&mut reader);
            self.shared.foreign.fetch_add(reader.foreign(), Ordering::Relaxed);
            let frames = read.map_err(|error| error.to_string())?;
            let round = self.shared.round.load(Ordering::Relaxed);
            // A file without frames would be read for ever.
            if self.is_closed() || round == loops || frames == 0 {
                return Ok(());
            }
            reader = open(&self.shared.replay.file).map_err(|error| error.to_string())?;
            self.shared
                .round
                .store(round.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Reads the file once; how many frames it gave.
    fn round(&mut self, reader: &mut FileReader) -> Result<u64, PcapError> {
        let (mut frames, mut last) = (0, None);
        while !self.is_closed() {
            let Some(record) = reader.next_record()? else {
                break;
            };
            let gap = last.map_or(0, |last| record.time_ns.saturating_sub(last));
            last = Some(record.time_ns);
            if let ReplaySpeed::Times(times) = self.shared.replay.speed {
                self.at = self.at.saturating_add(gap / u64::from(times.max(1)));
            }
            if record.octets.len() < record.len as usize {
                self.shared.cut.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if !(SHORTEST..=MAX_FRAME).contains(&record.octets.len()) {
                self.shared.odd.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let mut octets = self.spare.try_recv().unwrap_or_default();
            octets.clear();
            octets.extend_from_slice(record.octets);
            self.hand_over(Due { at: self.at, octets });
            frames += 1;
        }
        Ok(frames)
    }

    fn hand_over(&self, due: Due) {
        let mut due = due;
        while !self.is_closed() {
            match self.send.send_timeout(due, PATIENCE) {
                Ok(()) => break,
                Err(SendTimeoutError::Timeout(back)) => due = back,
                Err(SendTimeoutError::Disconnected(_)) => return,
            }
        }
        if self.shared.asleep.swap(false, Ordering::SeqCst)
            && let Some(waker) = self.shared.waker.get()
        {
            waker.wake(0);
        }
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }
}
