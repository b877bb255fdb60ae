//! A few transactions as they passed the filter: which frame met it when, and when it left it.
//!
//! Made from a capture on both sides of the filter's port. Nothing is modelled: a frame's two times are the
//! times at which the switch saw it on the two sides.

use std::collections::HashMap;

use introspection::Direction;
use introspection::stall::Point;
use offload::TcpFlags;
use serde::{Deserialize, Serialize};

use super::args::Workload;

/// Gaps shorter than this, in microseconds, are the path, not a policy.
pub const GAP_US: f64 = 5_000.0;
/// Frames drawn at most.
const MAX_HOPS: usize = 18;
/// Transactions drawn at most.
const MAX_TRANSACTIONS: usize = 3;
/// Transactions drawn at most where one has a gap in it, which takes room.
const MAX_WITH_GAP: usize = 2;

/// A stretch of a capture, ready to be drawn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Frames in the order in which they first met the filter's port.
    pub frames: Vec<Hop>,
    /// Stretches in which nothing moved.
    pub gaps: Vec<Gap>,
}

/// One frame's way past the filter. Times are microseconds since the first frame of the time-line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// Whether the client sent it.
    pub from_client: bool,
    /// When it met the filter.
    pub met_us: f64,
    /// When it left the filter; `None` when it did not while the capture ran.
    pub left_us: Option<f64>,
    /// Sequence number, counted from 1 at the first octet of the time-line.
    pub seq: u32,
    /// Acknowledgement number, counted the same way.
    pub ack: u32,
    /// Payload octets.
    pub len: u32,
    /// The flags, as in `PSH ACK`.
    pub flags: String,
    /// Which transaction it starts, counted from 1; 0 when it starts none.
    pub starts: u32,
}

impl Hop {
    /// How long the filter had it, in microseconds.
    pub fn held_us(&self) -> f64 {
        self.left_us.map_or(0.0, |left| left - self.met_us)
    }
}

/// A stretch in which nothing moved, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// Its start.
    pub from_us: f64,
    /// Its end.
    pub to_us: f64,
    /// The cause, as in [`super::report::Stalls`]; empty when the stall watcher named none.
    pub cause: String,
}

/// A TCP frame as a capture saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When, in nanoseconds on the switch's clock.
    pub at: u64,
    /// On which side of the filter.
    pub point: Point,
    /// Which way, seen from the client's guest.
    pub direction: Direction,
    /// The client's TCP port: what tells connections apart.
    pub connection: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Payload octets.
    pub len: u32,
}

/// A gap that the stall watcher named, in nanoseconds on the switch's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedGap {
    /// Its start.
    pub from: u64,
    /// Its end.
    pub to: u64,
    /// The cause, as in [`super::report::Stalls`].
    pub cause: String,
}

impl Seen {
    /// Reads a captured frame; `None` when it is not TCP.
    pub fn read(at: u64, point: Point, direction: Direction, bytes: &[u8], len: u32) -> Option<Self> {
        let meta = offload::parse(bytes, len as usize).ok()?;
        let tcp = meta.tcp()?;
        Some(Self {
            at,
            point,
            direction,
            connection: match direction {
                Direction::Tx => tcp.src_port,
                Direction::Rx => tcp.dst_port,
            },
            seq: tcp.seq,
            ack: tcp.ack,
            flags: tcp.flags.0,
            len: tcp.payload_len,
        })
    }

    /// Whether the frame is about to meet the filter, and not leaving it.
    const fn enters(&self) -> bool {
        matches!(
            (self.direction, self.point),
            (Direction::Tx, Point::Near) | (Direction::Rx, Point::Far)
        )
    }

    /// What both sightings of one frame have in common.
    const fn key(&self) -> (bool, u16, u32, u32, u8, u32) {
        (
            matches!(self.direction, Direction::Tx),
            self.connection,
            self.seq,
            self.ack,
            self.flags,
            self.len,
        )
    }
}

/// A frame with both its times.
#[derive(Clone, Copy, Debug)]
struct Passage {
    seen: Seen,
    left: Option<u64>,
}

impl Timeline {
    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Chooses a few whole transactions out of a capture, with a gap that was named if there is one.
    pub fn choose(seen: &[Seen], named: &[NamedGap], workload: Workload) -> Self {
        let passages = pair(seen);
        let starts = transaction_starts(&passages, workload);
        let window = window(&passages, &starts, named);
        let Some(chosen) = passages.get(window.clone()).filter(|chosen| !chosen.is_empty()) else {
            return Self::default();
        };
        let marks: Vec<usize> = starts
            .iter()
            .filter(|start| window.contains(start))
            .map(|start| start - window.start)
            .collect();
        draw(chosen, &marks, named)
    }

    /// Microseconds from the first event to the last.
    pub fn span_us(&self) -> f64 {
        self.frames
            .iter()
            .map(|hop| hop.left_us.unwrap_or(hop.met_us).max(hop.met_us))
            .fold(0.0, f64::max)
    }
}

/// Joins the two sightings of each frame, in the order of the first.
fn pair(seen: &[Seen]) -> Vec<Passage> {
    let mut passages: Vec<Passage> = Vec::new();
    let mut open: HashMap<_, Vec<usize>> = HashMap::new();
    for &seen in seen {
        if seen.enters() {
            open.entry(seen.key()).or_default().insert(0, passages.len());
            passages.push(Passage { seen, left: None });
        } else if let Some(passage) = open
            .get_mut(&seen.key())
            .and_then(Vec::pop)
            .and_then(|index| passages.get_mut(index))
        {
            passage.left = Some(seen.at);
        }
    }
    passages
}

/// Where transactions start: at a client's payload after a server's, or, where the server goes on by itself, at
/// its first payload after a client's ACK.
fn transaction_starts(passages: &[Passage], workload: Workload) -> Vec<usize> {
    let server_driven = workload == Workload::Records;
    let mut starts = Vec::new();
    let mut other_side_moved = false;
    for (index, Passage { seen, .. }) in passages.iter().enumerate() {
        let from_client = seen.direction == Direction::Tx;
        let driver = from_client != server_driven;
        if !driver {
            other_side_moved |= server_driven || seen.len > 0;
        } else if seen.len > 0 && other_side_moved {
            starts.push(index);
            other_side_moved = false;
        }
    }
    starts
}

/// The passages to draw: whole transactions, with a named gap inside if there is one.
fn window(passages: &[Passage], starts: &[usize], named: &[NamedGap]) -> std::ops::Range<usize> {
    let time = |index: usize| passages.get(index).map_or(u64::MAX, |passage| passage.seen.at);
    let has_gap = |from: usize, to: usize| {
        let (from, to) = (time(from), time(to));
        named.iter().any(|gap| gap.from >= from && gap.to <= to)
    };
    // The first transaction of a capture may be cut off; the one after it is whole.
    let candidates = starts.windows(2).enumerate();
    // A filter's first moments may be unlike the rest: the one in the middle of those with a gap is typical.
    let gapped: Vec<usize> = candidates
        .clone()
        .filter(|(_, pair)| matches!(pair, [from, to] if has_gap(*from, *to)))
        .map(|(n, _)| n)
        .collect();
    let with_gap = gapped.get(gapped.len().saturating_sub(1) / 2).copied();
    let most = if with_gap.is_some() {
        MAX_WITH_GAP
    } else {
        MAX_TRANSACTIONS
    };
    let middle = starts.len().saturating_sub(most + 1) / 2;
    let Some(first) = with_gap.or_else(|| candidates.clone().nth(middle).map(|(n, _)| n)) else {
        return 0..passages.len().min(MAX_HOPS);
    };
    let Some(&start) = starts.get(first) else {
        return 0..0;
    };
    let end = starts
        .iter()
        .skip(first + 1)
        .take(most)
        .copied()
        .take_while(|end| end - start <= MAX_HOPS)
        .last()
        .unwrap_or(start + MAX_HOPS);
    start..end.min(passages.len())
}

fn draw(chosen: &[Passage], marks: &[usize], named: &[NamedGap]) -> Timeline {
    let Some(first) = chosen.first() else {
        return Timeline::default();
    };
    let zero = first.seen.at;
    let micros = |at: u64| at.saturating_sub(zero) as f64 / 1_000.0;
    let (client, server) = bases(chosen);
    let mut transaction = 0;
    let frames = chosen
        .iter()
        .enumerate()
        .map(|(index, Passage { seen, left })| {
            let from_client = seen.direction == Direction::Tx;
            let (own, other) = if from_client {
                (client, server)
            } else {
                (server, client)
            };
            let starts = marks.contains(&index);
            transaction += u32::from(starts);
            Hop {
                from_client,
                met_us: micros(seen.at),
                left_us: left.map(micros),
                seq: seen.seq.wrapping_sub(own).wrapping_add(1),
                ack: seen.ack.wrapping_sub(other).wrapping_add(1),
                len: seen.len,
                flags: flag_names(seen.flags),
                starts: if starts { transaction } else { 0 },
            }
        })
        .collect::<Vec<_>>();
    let gaps = gaps(&frames, zero, named);
    Timeline { frames, gaps }
}

/// Sequence numbers to count from: the client's and the server's first ones in the stretch.
fn bases(chosen: &[Passage]) -> (u32, u32) {
    let first = |direction| chosen.iter().find(|passage| passage.seen.direction == direction);
    let sent = |direction| first(direction).map(|passage| passage.seen.seq);
    // A side that sends nothing is known from what the other one acknowledges.
    let acked = |direction| first(direction).map(|passage| passage.seen.ack);
    (
        sent(Direction::Tx).or_else(|| acked(Direction::Rx)).unwrap_or(0),
        sent(Direction::Rx).or_else(|| acked(Direction::Tx)).unwrap_or(0),
    )
}

/// Stretches of at least [`GAP_US`] between events, with the watcher's name for them.
fn gaps(frames: &[Hop], zero: u64, named: &[NamedGap]) -> Vec<Gap> {
    let mut events: Vec<f64> = frames
        .iter()
        .flat_map(|hop| [Some(hop.met_us), hop.left_us])
        .flatten()
        .collect();
    events.sort_by(f64::total_cmp);
    let cause_of = |from: f64, to: f64| {
        let overlap = |gap: &&NamedGap| {
            let start = (gap.from as f64 - zero as f64) / 1_000.0;
            let end = (gap.to as f64 - zero as f64) / 1_000.0;
            end.min(to) - start.max(from)
        };
        named
            .iter()
            .max_by(|a, b| overlap(a).total_cmp(&overlap(b)))
            .filter(|gap| overlap(gap) * 2.0 >= to - from)
            .map(|gap| gap.cause.clone())
            .unwrap_or_default()
    };
    events
        .windows(2)
        .filter_map(|pair| match pair {
            [from, to] if to - from >= GAP_US => Some(Gap {
                from_us: *from,
                to_us: *to,
                cause: cause_of(*from, *to),
            }),
            _ => None,
        })
        .collect()
}

fn flag_names(flags: u8) -> String {
    let names: Vec<&str> = [
        (TcpFlags::SYN, "SYN"),
        (TcpFlags::FIN, "FIN"),
        (TcpFlags::RST, "RST"),
        (TcpFlags::PSH, "PSH"),
        (TcpFlags::ACK, "ACK"),
    ]
    .into_iter()
    .filter(|(bit, _)| flags & bit != 0)
    .map(|(_, name)| name)
    .collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// One frame seen on both sides of the filter.
    fn passage(out: &mut Vec<Seen>, times: (u64, u64), direction: Direction, numbers: (u32, u32, u32)) {
        let (enter, leave) = match direction {
            Direction::Tx => (Point::Near, Point::Far),
            Direction::Rx => (Point::Far, Point::Near),
        };
        let seen = |at, point| Seen {
            at,
            point,
            direction,
            connection: 40_000,
            seq: numbers.0,
            ack: numbers.1,
            flags: TcpFlags::ACK | TcpFlags::PSH,
            len: numbers.2,
        };
        out.push(seen(times.0, enter));
        out.push(seen(times.1, leave));
    }

    /// A `wwr` capture in which each second write is held until an ACK comes 200 ms later.
    fn serialized(transactions: u32) -> (Vec<Seen>, Vec<NamedGap>) {
        let mut seen = Vec::new();
        let mut named = Vec::new();
        for n in 0..transactions {
            let at = 7_000 * MS + u64::from(n) * 201 * MS;
            let (client, server) = (5_000 + n * 64, 9_000 + n * 64);
            passage(&mut seen, (at, at), Direction::Tx, (client, server, 32));
            passage(
                &mut seen,
                (at + 10_000, at + 200 * MS),
                Direction::Tx,
                (client + 32, server, 32),
            );
            passage(
                &mut seen,
                (at + 200 * MS, at + 200 * MS),
                Direction::Rx,
                (server, client + 32, 0),
            );
            passage(
                &mut seen,
                (at + 201 * MS - 9, at + 201 * MS - 9),
                Direction::Rx,
                (server, client + 64, 64),
            );
            named.push(NamedGap {
                from: at,
                to: at + 200 * MS,
                cause: "delayed_ack".to_owned(),
            });
        }
        seen.sort_by_key(|seen| seen.at);
        (seen, named)
    }

    #[test]
    fn a_held_frame_has_both_its_times_and_the_gap_its_name() {
        let (seen, named) = serialized(5);
        let line = Timeline::choose(&seen, &named, Workload::Wwr);
        assert_eq!(line.frames.len(), 8, "two transactions of four frames");
        let starts: Vec<u32> = line.frames.iter().map(|hop| hop.starts).collect();
        assert_eq!(starts, [1, 0, 0, 0, 2, 0, 0, 0]);
        let held = &line.frames[1];
        assert!(held.from_client);
        assert_eq!((held.seq, held.ack, held.len), (33, 1, 32));
        assert!((held.held_us() - 199_990.0).abs() < 0.01, "{held:?}");
        assert_eq!(line.gaps.len(), 2);
        assert!(
            line.gaps.iter().all(|gap| gap.cause == "delayed_ack"),
            "{:?}",
            line.gaps
        );
    }

    #[test]
    fn a_quiet_path_has_no_gaps_and_nothing_held() {
        let mut seen = Vec::new();
        for n in 0..40_u32 {
            let at = MS + u64::from(n) * 50_000;
            passage(&mut seen, (at, at), Direction::Tx, (n * 64, n * 64, 32));
            passage(
                &mut seen,
                (at + 5_000, at + 5_000),
                Direction::Tx,
                (n * 64 + 32, n * 64, 32),
            );
            passage(
                &mut seen,
                (at + 30_000, at + 30_000),
                Direction::Rx,
                (n * 64, n * 64 + 64, 64),
            );
        }
        let line = Timeline::choose(&seen, &[], Workload::Wwr);
        assert_eq!(line.frames.len(), 9);
        assert!(line.gaps.is_empty());
        assert!(line.frames.iter().all(|hop| hop.held_us() == 0.0));
        assert!((line.span_us() - 130.0).abs() < 0.01);
    }

    #[test]
    fn a_frame_that_never_leaves_stays_open_and_an_orphan_is_left_out() {
        let mut seen = Vec::new();
        passage(&mut seen, (10, 10), Direction::Tx, (1, 1, 32));
        let mut orphan = Vec::new();
        passage(&mut orphan, (0, 5), Direction::Tx, (0, 1, 1));
        seen.insert(0, orphan[1]);
        let mut stuck = Vec::new();
        passage(&mut stuck, (20, 30), Direction::Tx, (33, 1, 32));
        seen.push(stuck[0]);
        let line = Timeline::choose(&seen, &[], Workload::Wwr);
        assert_eq!(line.frames.len(), 2);
        assert_eq!(line.frames[0].left_us, Some(0.0));
        assert_eq!(line.frames[1].left_us, None);
    }

    #[test]
    fn a_repeated_frame_is_paired_in_order() {
        let mut seen = Vec::new();
        passage(&mut seen, (0, 100), Direction::Tx, (1, 1, 32));
        passage(&mut seen, (50, 150), Direction::Tx, (1, 1, 32));
        seen.sort_by_key(|seen| seen.at);
        let line = Timeline::choose(&seen, &[], Workload::Wwr);
        let left: Vec<_> = line.frames.iter().map(|hop| hop.left_us).collect();
        assert_eq!(left, [Some(0.1), Some(0.15)]);
    }

    #[test]
    fn records_start_with_the_server() {
        let mut seen = Vec::new();
        for n in 0..6_u32 {
            let at = u64::from(n) * 200 * MS;
            passage(&mut seen, (at, at), Direction::Rx, (n * 3_000, 1, 1_460));
            passage(
                &mut seen,
                (at + 9, at + 9),
                Direction::Rx,
                (n * 3_000 + 1_460, 1, 1_540),
            );
            passage(
                &mut seen,
                (at + 199 * MS, at + 199 * MS),
                Direction::Tx,
                (1, (n + 1) * 3_000, 0),
            );
        }
        let line = Timeline::choose(&seen, &[], Workload::Records);
        assert_eq!(
            line.frames.first().map(|hop| (hop.starts, hop.from_client)),
            Some((1, false))
        );
        assert_eq!(line.frames.len(), 9);
    }

    #[test]
    fn an_empty_capture_draws_nothing() {
        assert!(Timeline::choose(&[], &[], Workload::Rr).is_empty());
    }
}
