//! Captured frames as a pcapng file.
//!
//! A frame whose checksum its sender left to the hardware is written with the checksum finished, so that a reader does
//! not take it for a damaged one. A large send is written whole, as it passed, with a comment that says how it
//! is to be cut.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use introspection::Direction;
use introspection::stall::Point;
use offload::{Checksum, Offloads, checksum};
use vswitch::capture::{CapturePoints, CapturedFrame};

use vswitch::pcapng::{self, Packet, Way};

/// Octets kept of each frame unless the user wants fewer: more than the largest frame has.
pub const SNAP_LEN: u32 = 262_144;

/// Turns captured frames of one port into pcapng blocks.
#[derive(Clone, Debug)]
pub struct CaptureWriter {
    port: String,
    points: CapturePoints,
    snap_len: u32,
    frames: [u64; 2],
    lost: u64,
}

impl CaptureWriter {
    /// A writer for a port, captured on these sides of its filter.
    pub fn new(port: impl Into<String>, points: CapturePoints, snap_len: u32) -> Self {
        Self {
            port: port.into(),
            points,
            snap_len,
            frames: [0; 2],
            lost: 0,
        }
    }

    /// Appends what a file starts with.
    pub fn begin(&self, out: &mut Vec<u8>) {
        pcapng::section(out, concat!("enlight ", env!("CARGO_PKG_VERSION")));
        for point in self.sides() {
            let (name, description) = match (self.points, point) {
                (CapturePoints::Both, Point::Near) => {
                    (format!("{} (guest side)", self.port), "between guest and filter")
                }
                (CapturePoints::Both, Point::Far) => (
                    format!("{} (switch side)", self.port),
                    "between filter and switch",
                ),
                (_, Point::Near) => (self.port.clone(), "guest side of the port's filter"),
                (_, Point::Far) => (self.port.clone(), "switch side of the port's filter"),
            };
            pcapng::interface(out, &name, description, self.snap_len);
        }
    }

    /// Appends a frame. `lost` counts the frames that the capture has lost since it began.
    pub fn frame(&mut self, out: &mut Vec<u8>, frame: &CapturedFrame, lost: u64) {
        let interface = self.interface_of(frame.point);
        if let Some(count) = self.frames.get_mut(interface as usize) {
            *count += 1;
        }
        let comment = frame
            .offloads
            .gso
            .map(|gso| format!("large send, to be cut into segments of {} octets", gso.size));
        let packet = Packet {
            interface,
            time_ns: nanoseconds(frame.wall),
            bytes: &finished(&frame.bytes, frame.len, &frame.offloads),
            len: frame.len,
            way: match frame.direction {
                Direction::Tx => Way::Outbound,
                Direction::Rx => Way::Inbound,
            },
            lost: lost.saturating_sub(self.lost),
            comment: comment.as_deref(),
        };
        self.lost = lost;
        pcapng::packet(out, &packet);
    }

    /// Appends what a file ends with. Losses are not told apart by side; they stand with the first one.
    pub fn end(&self, out: &mut Vec<u8>, lost: u64) {
        let now = nanoseconds(SystemTime::now());
        for (interface, (_, frames)) in self.sides().zip(self.frames).enumerate() {
            let lost = if interface == 0 { lost } else { 0 };
            pcapng::statistics(out, interface as u32, now, frames + lost, lost);
        }
    }

    fn sides(&self) -> impl Iterator<Item = Point> + use<> {
        let sides: &[Point] = match self.points {
            CapturePoints::Near => &[Point::Near],
            CapturePoints::Far => &[Point::Far],
            CapturePoints::Both => &[Point::Near, Point::Far],
        };
        sides.iter().copied()
    }

    fn interface_of(&self, point: Point) -> u32 {
        u32::from(self.points == CapturePoints::Both && point == Point::Far)
    }
}

/// The frame with its checksum finished, when all of it is there.
fn finished<'a>(bytes: &'a [u8], len: u32, offloads: &Offloads) -> Cow<'a, [u8]> {
    let Checksum::Partial { start, offset } = offloads.checksum else {
        return Cow::Borrowed(bytes);
    };
    if bytes.len() != len as usize {
        return Cow::Borrowed(bytes);
    }
    let mut copy = bytes.to_vec();
    match checksum::finish_partial(&mut copy, start, offset) {
        Ok(()) => Cow::Owned(copy),
        Err(_) => Cow::Borrowed(bytes),
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use introspection::Instant;
    use offload::{Gso, GsoKind};

    use super::*;
    use vswitch::pcapng::Block;

    fn frame(point: Point, bytes: Vec<u8>, offloads: Offloads) -> CapturedFrame {
        CapturedFrame {
            at: Instant(0),
            wall: UNIX_EPOCH + Duration::from_nanos(1_000_000_007),
            point,
            direction: Direction::Tx,
            len: bytes.len() as u32,
            bytes,
            offloads,
        }
    }

    fn blocks(out: &[u8]) -> Vec<Block> {
        let mut stream = out;
        std::iter::from_fn(|| Block::read(&mut stream).expect("blocks")).collect()
    }

    #[test]
    fn both_sides_are_two_interfaces_and_losses_are_told_once() {
        let mut writer = CaptureWriter::new("v0", CapturePoints::Both, SNAP_LEN);
        let mut out = Vec::new();
        writer.begin(&mut out);
        writer.frame(&mut out, &frame(Point::Near, vec![0; 60], Offloads::default()), 0);
        writer.frame(&mut out, &frame(Point::Far, vec![0; 60], Offloads::default()), 4);
        writer.frame(&mut out, &frame(Point::Far, vec![0; 60], Offloads::default()), 4);
        writer.end(&mut out, 5);
        let blocks = blocks(&out);
        let packets: Vec<_> = blocks.iter().filter_map(Block::as_packet).collect();
        assert_eq!(packets, [(0, 0), (1, 4), (1, 0)]);
        assert_eq!(blocks.iter().filter(|block| block.is_statistics()).count(), 2);
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("v0 (guest side)") && text.contains("v0 (switch side)"));
    }

    #[test]
    fn a_partial_checksum_is_finished_only_when_the_frame_is_whole() {
        let bytes: Vec<u8> = (0..64).collect();
        let offloads = Offloads {
            checksum: Checksum::Partial {
                start: 34,
                offset: 16,
            },
            gso: None,
        };
        let mut expected = bytes.clone();
        checksum::finish_partial(&mut expected, 34, 16).unwrap();
        assert_ne!(expected, bytes);
        assert_eq!(&*finished(&bytes, 64, &offloads), expected);
        assert_eq!(&*finished(&bytes, 65, &offloads), bytes);
        let outside = Offloads {
            checksum: Checksum::Partial {
                start: 63,
                offset: 16,
            },
            gso: None,
        };
        assert_eq!(&*finished(&bytes, 64, &outside), bytes);
    }

    #[test]
    fn a_large_send_says_how_it_is_cut() {
        let gso = Gso {
            kind: GsoKind::Tcp4,
            size: 1448,
            ecn: false,
        };
        let mut out = Vec::new();
        let mut writer = CaptureWriter::new("v0", CapturePoints::Near, SNAP_LEN);
        writer.frame(
            &mut out,
            &frame(
                Point::Near,
                vec![0; 4000],
                Offloads {
                    gso: Some(gso),
                    ..Offloads::default()
                },
            ),
            0,
        );
        assert!(String::from_utf8_lossy(&out).contains("segments of 1448 octets"));
    }
}
