//! The classic packet picture: client, filter and server as vertical lines, frames as arrows, time downwards.
//!
//! Time is not to scale: where nothing moves for milliseconds the picture leaves a shaded band of fixed height
//! that bears the gap's length and name, and frames close together keep a readable distance.

use super::svg::{Anchor, Svg};
use crate::lab::format::micros;
use crate::lab::report::Run;
use crate::lab::timeline::{GAP_US, Gap, Hop, Timeline};

const WIDTH: f64 = 640.0;
const CLIENT: f64 = 92.0;
const NEAR: f64 = 284.0;
const FAR: f64 = 356.0;
const SERVER: f64 = 548.0;
const TOP: f64 = 58.0;
/// Height between two events that are close together.
const STEP: f64 = 26.0;
/// Height of a gap.
const GAP_HEIGHT: f64 = 82.0;
/// A transaction's first frame stands this much lower, under its name.
const HEADING: f64 = 20.0;
/// Frames that a filter has for less than this many microseconds are drawn as passing at once.
const HELD_US: f64 = 1_000.0;

/// Draws a run's time-line.
pub(super) fn draw(run: &Run) -> String {
    let line = &run.timeline;
    let mut svg = Svg::new(
        WIDTH,
        &format!("Frames of a few transactions with filter {}", run.filter),
    );
    let layout = Layout::of(line);
    for gap in &line.gaps {
        shade(&mut svg, &layout, gap, &note(line, gap));
    }
    lanes(&mut svg, run, layout.bottom);
    for (hop, heights) in line.frames.iter().zip(&layout.frames) {
        hold(&mut svg, hop, *heights, layout.bottom);
        frame(&mut svg, hop, *heights);
    }
    svg.finish(layout.bottom + 6.0)
}

/// Heights of a frame's two moments.
#[derive(Clone, Copy)]
struct Heights {
    met: f64,
    left: Option<f64>,
}

struct Layout {
    frames: Vec<Heights>,
    /// Time and height of every event, in order.
    events: Vec<(f64, f64)>,
    bottom: f64,
}

impl Layout {
    /// Gives each moment a height, in the order of time.
    fn of(line: &Timeline) -> Self {
        let mut moments: Vec<(f64, usize, bool)> = Vec::new();
        for (index, hop) in line.frames.iter().enumerate() {
            moments.push((hop.met_us, index, false));
            if let Some(left) = hop.left_us.filter(|_| is_held(hop)) {
                moments.push((left, index, true));
            }
        }
        // What comes in at a moment is the reason for what goes out at it.
        moments.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.2.cmp(&b.2)));
        let mut frames = vec![Heights { met: TOP, left: None }; line.frames.len()];
        let mut events: Vec<(f64, f64)> = Vec::with_capacity(moments.len());
        let mut y = TOP;
        for (at, index, leaves) in moments {
            if let Some((before, _)) = events.last() {
                y += if at - before >= GAP_US { GAP_HEIGHT } else { STEP };
            }
            if !leaves && line.frames.get(index).is_some_and(|hop| hop.starts > 0) {
                y += HEADING;
            }
            if let Some(heights) = frames.get_mut(index) {
                if leaves {
                    heights.left = Some(y);
                } else {
                    heights.met = y;
                }
            }
            events.push((at, y));
        }
        Self {
            frames,
            events,
            bottom: y + 26.0,
        }
    }

    /// Heights between which a gap lies.
    fn band(&self, gap: &Gap) -> Option<(f64, f64)> {
        let last = self.events.iter().rev().find(|(at, _)| *at <= gap.from_us)?;
        let next = self.events.iter().find(|(at, _)| *at >= gap.to_us)?;
        Some((last.1, next.1))
    }
}

/// What a gap is called: its cause, and whose it is.
fn note(line: &Timeline, gap: &Gap) -> String {
    let ends = |hop: &&Hop| hop.met_us.total_cmp(&gap.to_us).is_eq();
    let who = line
        .frames
        .iter()
        .find(ends)
        .map(|hop| if hop.from_client { "client" } else { "server" });
    match (gap.cause.as_str(), who) {
        ("delayed_ack", Some(who)) => format!("the {who}'s delayed ACK"),
        ("delayed_ack", None) => "delayed ACK".to_owned(),
        ("filter_hold", _) => "held by the filter".to_owned(),
        ("retransmission", _) => "until sent again".to_owned(),
        (_, Some(who)) => format!("the {who} was silent"),
        (_, None) => String::new(),
    }
}

fn is_held(hop: &Hop) -> bool {
    hop.held_us() >= HELD_US
}

fn shade(svg: &mut Svg, layout: &Layout, gap: &Gap, note: &str) {
    let Some((from, to)) = layout.band(gap) else {
        return;
    };
    let class = if gap.cause.is_empty() { "gap idle" } else { "gap" };
    svg.rect(
        class,
        (CLIENT, from + 12.0),
        (SERVER - CLIENT, to - from - 28.0),
        4.0,
    );
    let middle = f64::midpoint(from, to);
    let length = micros(gap.to_us - gap.from_us);
    svg.text(
        "gapname",
        (f64::midpoint(FAR, SERVER), middle - 4.0),
        Anchor::Middle,
        &length,
    );
    svg.text(
        "gapnote",
        (f64::midpoint(FAR, SERVER), middle + 12.0),
        Anchor::Middle,
        note,
    );
}

fn lanes(svg: &mut Svg, run: &Run, bottom: f64) {
    svg.rect("filterlane", (NEAR, 26.0), (FAR - NEAR, bottom - 26.0), 0.0);
    for x in [CLIENT, SERVER] {
        svg.line("lane", (x, 26.0), (x, bottom));
    }
    for x in [NEAR, FAR] {
        svg.line("lane thin", (x, 26.0), (x, bottom));
    }
    svg.text("lanename", (CLIENT, 16.0), Anchor::Middle, "client");
    svg.text("lanename", (SERVER, 16.0), Anchor::Middle, "server");
    let middle = f64::midpoint(NEAR, FAR);
    svg.text(
        &format!("lanename p-{}", run.filter),
        (middle, 16.0),
        Anchor::Middle,
        &run.filter.to_string(),
    );
}

/// The block inside the filter's lane from the moment a held frame meets it to the moment it leaves.
fn hold(svg: &mut Svg, hop: &Hop, heights: Heights, bottom: f64) {
    let to = match heights.left {
        Some(left) => left,
        None if hop.left_us.is_none() => bottom,
        None => return,
    };
    let from = heights.met;
    svg.rect("held", (NEAR + 10.0, from), (FAR - NEAR - 20.0, to - from), 3.0);
    let middle = f64::midpoint(from, to);
    let centre = f64::midpoint(NEAR, FAR);
    if hop.left_us.is_some() {
        svg.text("heldname", (centre, middle - 2.0), Anchor::Middle, "held");
        svg.text(
            "heldname",
            (centre, middle + 11.0),
            Anchor::Middle,
            &micros(hop.held_us()),
        );
    }
}

fn frame(svg: &mut Svg, hop: &Hop, heights: Heights) {
    let (start, near_edge, far_edge, end) = if hop.from_client {
        (CLIENT, NEAR, FAR, SERVER)
    } else {
        (SERVER, FAR, NEAR, CLIENT)
    };
    let class = if hop.len == 0 { "arrow pure" } else { "arrow data" };
    let met = heights.met;
    match (heights.left, hop.left_us) {
        (None, Some(_)) => svg.arrow(class, (start, met), (end, met)),
        (Some(left), _) => {
            svg.arrow(class, (start, met), (near_edge, met));
            svg.arrow(class, (far_edge, left), (end, left));
            svg.text(
                "frame",
                (f64::midpoint(far_edge, end), left - 5.0),
                Anchor::Middle,
                &payload(hop),
            );
            time(svg, hop.left_us.unwrap_or(hop.met_us), end, left);
        }
        (None, None) => svg.arrow(class, (start, met), (near_edge, met)),
    }
    svg.text(
        "frame",
        (f64::midpoint(start, near_edge), met - 5.0),
        Anchor::Middle,
        &describe(hop),
    );
    time(svg, hop.met_us, start, met);
    if hop.starts > 0 {
        let name = format!("transaction {}", hop.starts);
        svg.text("transaction", (CLIENT - 84.0, met - 24.0), Anchor::Start, &name);
        svg.line(
            "transactionline",
            (CLIENT - 84.0, met - 20.0),
            (SERVER + 84.0, met - 20.0),
        );
    }
}

/// A moment beside the lane at which it was.
fn time(svg: &mut Svg, us: f64, lane: f64, y: f64) {
    let text = format!("{:.3} ms", us / 1_000.0);
    if lane < NEAR {
        svg.text("time", (lane - 9.0, y + 4.0), Anchor::End, &text);
    } else {
        svg.text("time", (lane + 9.0, y + 4.0), Anchor::Start, &text);
    }
}

fn describe(hop: &Hop) -> String {
    if hop.len == 0 {
        format!("{}  ack {}", hop.flags, hop.ack)
    } else {
        format!("seq {}  ack {}  len {}", hop.seq, hop.ack, hop.len)
    }
}

fn payload(hop: &Hop) -> String {
    format!("seq {}  len {}", hop.seq, hop.len)
}
