//! Captures: copies of a port's frames for whoever asked, taken on either side of its filter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use introspection::stall::Point;
use introspection::{Direction, Instant};
use offload::Offloads;

use crate::clock;
use crate::packet::{Arena, Packet};

/// What to capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// Octets kept of each frame.
    pub snap_len: u32,
    /// On which sides of the port's filter.
    pub points: CapturePoints,
    /// Frames kept for a reader that lags; more are counted as lost.
    pub queue: usize,
}

/// Sides of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapturePoints {
    /// The guest's side.
    Near,
    /// The switch's side.
    Far,
    /// Both.
    Both,
}

/// A captured frame.
#[derive(Clone, Debug)]
pub struct CapturedFrame {
    /// When it passed, on the switch's clock.
    pub at: Instant,
    /// The same moment for people.
    pub wall: SystemTime,
    /// On which side of the filter.
    pub point: Point,
    /// Which way it went.
    pub direction: Direction,
    /// The frame's length in octets; `bytes` may be shorter.
    pub len: u32,
    /// Its first octets.
    pub bytes: Vec<u8>,
    /// What was still to be done to it.
    pub offloads: Offloads,
}

/// The reading end of a capture; dropping it ends the capture.
#[derive(Debug)]
pub struct CaptureReader {
    frames: Receiver<CapturedFrame>,
    shared: Arc<Shared>,
}

/// Why no frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// None within the time given.
    #[error("no frame came in time")]
    Timeout,
    /// The port is gone, and all frames were read.
    #[error("the port is gone")]
    Closed,
}

#[derive(Debug, Default)]
struct Shared {
    lost: AtomicU64,
    closed: AtomicBool,
}

impl CaptureReader {
    /// The next frame; waits for it.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<CapturedFrame, CaptureError> {
        self.frames.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => CaptureError::Timeout,
            RecvTimeoutError::Disconnected => CaptureError::Closed,
        })
    }

    /// Frames that were not kept because the reader lagged.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for CaptureReader {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

/// The writing end, in the port's probe.
#[derive(Debug)]
pub(crate) struct CaptureSink {
    frames: Sender<CapturedFrame>,
    shared: Arc<Shared>,
    options: CaptureOptions,
}

/// Makes both ends of a capture.
pub(crate) fn channel(options: CaptureOptions) -> (CaptureSink, CaptureReader) {
    let (sender, frames) = bounded(options.queue.max(1));
    let shared = Arc::new(Shared::default());
    (
        CaptureSink {
            frames: sender,
            shared: Arc::clone(&shared),
            options,
        },
        CaptureReader { frames, shared },
    )
}

impl CaptureSink {
    /// Whether its reader is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// Copies a packet, if it passes where this capture looks.
    pub(crate) fn take(
        &self,
        at: Instant,
        point: Point,
        direction: Direction,
        packet: &Packet,
        arena: &Arena,
    ) {
        let wanted = match self.options.points {
            CapturePoints::Both => true,
            CapturePoints::Near => point == Point::Near,
            CapturePoints::Far => point == Point::Far,
        };
        if !wanted {
            return;
        }
        if self.frames.is_full() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut bytes = Vec::new();
        arena.copy_out(packet.octets, self.options.snap_len as usize, &mut bytes);
        let frame = CapturedFrame {
            at,
            wall: clock::wall(at),
            point,
            direction,
            len: packet.meta.frame_len,
            bytes,
            offloads: packet.offloads,
        };
        if let Err(TrySendError::Full(_)) = self.frames.try_send(frame) {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
