//! A capture as the body of an answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;
use vswitch::capture::{CaptureError, CaptureOptions, CaptureReader, CapturedFrame};

use super::api::{ApiError, CaptureRequest};
use super::routes::Context;
use crate::capture::CaptureWriter;

/// Frames that wait for a client that lags; more are lost, and counted.
const QUEUE: usize = 4096;
/// Pieces of the answer on their way.
const PIECES: usize = 8;
/// Octets that a piece has at least while frames are waiting.
const PIECE: usize = 64 << 10;
/// How often a capture without frames looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(100);

/// Starts a capture; it ends with the body that it returns.
pub(crate) fn start(
    context: &Context,
    port: String,
    request: CaptureRequest,
) -> Result<impl Body<Data = Bytes, Error = Infallible> + Send + 'static, ApiError> {
    let place = Arc::clone(&context.captures).try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "as many captures are running as can; stop one of them",
        )
    })?;
    let options = CaptureOptions {
        snap_len: request.snap_len,
        points: request.points,
        queue: QUEUE,
    };
    let reader = context.switch.capture(&port, options)?;
    let (pieces, body) = mpsc::channel(PIECES);
    let pump = Pump {
        reader,
        writer: CaptureWriter::new(port, request.points, request.snap_len),
        pieces,
        left: request.count.unwrap_or(u64::MAX),
        until: request
            .seconds
            .and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds))),
        stopping: Arc::clone(&context.stopping),
    };
    tokio::task::spawn_blocking(move || {
        pump.run();
        drop(place);
    });
    Ok(Pieces(body).boxed())
}

/// Carries frames from the switch to the answer.
struct Pump {
    reader: CaptureReader,
    writer: CaptureWriter,
    pieces: mpsc::Sender<Bytes>,
    left: u64,
    until: Option<Instant>,
    stopping: Arc<AtomicBool>,
}

impl Pump {
    fn run(mut self) {
        let mut out = Vec::new();
        self.writer.begin(&mut out);
        while self.left > 0 && self.send(&mut out) {
            match self.reader.recv_timeout(self.patience()) {
                Ok(frame) => self.take(&mut out, &frame),
                Err(CaptureError::Timeout) => {}
                Err(CaptureError::Closed) => break,
            }
        }
        self.writer.end(&mut out, self.reader.lost());
        self.send(&mut out);
    }

    /// Writes a frame and those that wait behind it, until there is enough for a piece.
    fn take(&mut self, out: &mut Vec<u8>, first: &CapturedFrame) {
        let lost = self.reader.lost();
        self.writer.frame(out, first, lost);
        self.left -= 1;
        while self.left > 0 && out.len() < PIECE {
            let Ok(frame) = self.reader.recv_timeout(Duration::ZERO) else {
                break;
            };
            self.writer.frame(out, &frame, lost);
            self.left -= 1;
        }
    }

    /// Sends what is there; false when nobody wants it any more or the time is over.
    fn send(&self, out: &mut Vec<u8>) -> bool {
        if !out.is_empty() && self.pieces.blocking_send(std::mem::take(out).into()).is_err() {
            return false;
        }
        let over = self.until.is_some_and(|until| Instant::now() >= until);
        !over && !self.pieces.is_closed() && !self.stopping.load(Ordering::Relaxed)
    }

    fn patience(&self) -> Duration {
        let left = self
            .until
            .map(|until| until.saturating_duration_since(Instant::now()));
        left.map_or(TICK, |left| left.min(TICK))
    }
}

/// A body made of pieces as they come.
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
