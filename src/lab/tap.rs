//! A short look at the filter's port, on both sides of the filter, before each measured phase.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use vswitch::Switch;
use vswitch::capture::{CaptureError, CaptureOptions, CapturePoints, CapturedFrame};

use super::session::FILTER_PORT;
use super::timeline::Seen;
use crate::capture::CaptureWriter;

/// Octets kept of each frame.
const SNAP_LEN: u32 = 2048;
/// Frames kept of each look.
const MAX_FRAMES: usize = 600;

/// Captures until there are enough frames or the time is over. `tick` is called now and then.
pub(super) fn look(
    switch: &Switch,
    port: &str,
    limit: Duration,
    mut tick: impl FnMut(),
) -> Result<Vec<CapturedFrame>> {
    let options = CaptureOptions {
        snap_len: SNAP_LEN,
        points: CapturePoints::Both,
        queue: MAX_FRAMES,
    };
    let reader = switch
        .capture(port, options)
        .context("capturing on the filter's port")?;
    let deadline = Instant::now() + limit;
    let mut frames = Vec::new();
    while frames.len() < MAX_FRAMES && Instant::now() < deadline {
        tick();
        match reader.recv_timeout(Duration::from_millis(50)) {
            Ok(frame) => frames.push(frame),
            Err(CaptureError::Timeout) => {}
            Err(CaptureError::Closed) => break,
        }
    }
    Ok(frames)
}

/// The TCP frames among captured ones.
pub(super) fn tcp_frames(frames: &[CapturedFrame]) -> Vec<Seen> {
    frames
        .iter()
        .filter_map(|frame| Seen::read(frame.at.0, frame.point, frame.direction, &frame.bytes, frame.len))
        .collect()
}

/// Captured frames as a file for Wireshark, with one interface for each side of the filter.
pub(super) fn pcapng<'a>(frames: impl Iterator<Item = &'a CapturedFrame>) -> Vec<u8> {
    let mut writer = CaptureWriter::new(FILTER_PORT, CapturePoints::Both, SNAP_LEN);
    let mut file = Vec::new();
    writer.begin(&mut file);
    for frame in frames {
        writer.frame(&mut file, frame, 0);
    }
    file
}
