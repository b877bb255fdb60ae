//! The loads of frames, and what they are to show.

use crate::goal::Goal;
use crate::switches::Peer;

/// One load.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) frames: Frames,
    /// More of the virtio-user devices' arguments.
    pub(crate) device: &'static str,
    /// The largest packet that the ports carry.
    pub(crate) mtu: u16,
    /// Our filter; then the peer is our own switch without one.
    pub(crate) filter: Option<Filter>,
    pub(crate) goal: Goal,
}

/// `inspect`, with patterns that no frame has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter {
    pub(crate) patterns: usize,
    /// How many of the two ports have it, and so how often each frame is inspected.
    pub(crate) ports: usize,
}

/// Which frames go round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frames {
    /// All of this many octets, of one flow each way.
    Size(u16),
    /// Seven of 64 octets to four of 594 and one of 1,518, of 1,000 flows between 64 addresses a side.
    Imix,
}

const fn row(
    name: &'static str,
    what: &'static str,
    octets: u16,
    device: &'static str,
    (required, aim): (f64, f64),
) -> Row {
    Row {
        name,
        what,
        frames: Frames::Size(octets),
        device,
        mtu: 1500,
        filter: None,
        goal: Goal::at_least(required, aim),
    }
}

/// 1,000 patterns on so many ports.
const fn inspected(name: &'static str, what: &'static str, ports: usize) -> Row {
    let filter = Filter {
        patterns: 1000,
        ports,
    };
    Row {
        filter: Some(filter),
        ..row(name, what, 1500, SPLIT, (0.5, 0.8))
    }
}

const SPLIT: &str = "mrg_rxbuf=1,in_order=0";

/// Every row.
pub(crate) fn all() -> Vec<Row> {
    let (split, packed) = (SPLIT, "mrg_rxbuf=1,in_order=0,packed_vq=1");
    vec![
        row("split-64", "64 B, split rings", 64, split, (1.2, 1.6)),
        row("packed-64", "64 B, packed rings", 64, packed, (1.1, 1.4)),
        row("split-512", "512 B, split rings", 512, split, (1.3, 1.8)),
        row("split-1500", "1500 B, split rings", 1500, split, (1.5, 2.0)),
        row("packed-1500", "1500 B, packed rings", 1500, packed, (1.5, 2.0)),
        Row {
            mtu: 9000,
            ..row(
                "jumbo-9000",
                "9000 B, mergeable receive buffers, split rings",
                9000,
                split,
                (1.5, 2.0),
            )
        },
        Row {
            frames: Frames::Imix,
            ..row(
                "imix",
                "IMIX, 1,000 flows, 64 addresses a side, split rings",
                0,
                split,
                (1.2, 1.5),
            )
        },
        inspected(
            "inspect-1500",
            "1500 B, inspect with 1,000 patterns, against off",
            1,
        ),
        inspected("inspect-1500-twice", "the same with the filter on both ports", 2),
    ]
}

impl Row {
    /// Those of the peers asked for that this row is about.
    pub(crate) fn peers(&self, asked: &[Peer]) -> Vec<Peer> {
        if self.filter.is_some() {
            return vec![Peer::Plain];
        }
        let switches = [Peer::Ovs, Peer::Wire];
        switches.into_iter().filter(|peer| asked.contains(peer)).collect()
    }
}
