//! Everything that can be measured: frames by a generator, traffic between virtual machines, and inspection between hosts.

use crate::generator;
use crate::guests::{self, Guests};
use crate::inline::{self, Inline};
use crate::report::{Figure, RowResult, Slice};
use crate::rows::{self, Row};
use crate::switches::{self, Peer};

/// One row.
pub(crate) enum Load {
    Frames(Row),
    Guests(Guests),
    Inline(Inline),
}

/// Every row.
pub(crate) fn all() -> Vec<Load> {
    let frames = rows::all().into_iter().map(Load::Frames);
    let guests = guests::all().map(Load::Guests);
    let inline = inline::all().map(Load::Inline);
    frames.chain(guests).chain(inline).collect()
}

/// The row of a name.
pub(crate) fn named(name: &str) -> Result<Load, String> {
    all().into_iter().find(|load| load.name() == name).ok_or_else(|| {
        let names: Vec<&str> = all().iter().map(Load::name).collect();
        format!("there is no row {name}; there are: {}", names.join(", "))
    })
}

impl Load {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Frames(row) => row.name,
            Self::Guests(row) => row.name,
            Self::Inline(row) => row.name,
        }
    }

    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::Frames(row) => row.what,
            Self::Guests(row) => row.what,
            Self::Inline(row) => row.what,
        }
    }

    /// Those of the peers asked for that this row is about.
    pub(crate) fn peers(&self, asked: &[Peer]) -> Vec<Peer> {
        match self {
            Self::Frames(row) => row.peers(asked),
            Self::Guests(row) => row.peers(asked),
            Self::Inline(_) => Inline::peers(asked),
        }
    }

    /// Why it cannot be measured here, if so.
    pub(crate) fn missing(&self, peers: &[Peer]) -> Option<String> {
        match self {
            Self::Frames(_) => switches::missing(peers),
            Self::Guests(_) => guests::missing(peers),
            Self::Inline(_) => inline::missing(),
        }
    }

    /// Places for what is measured against a peer, one for each figure.
    pub(crate) fn results(&self, peer: Peer) -> Vec<RowResult> {
        match self {
            Self::Frames(row) => {
                let figure = Figure {
                    name: row.name,
                    what: row.what,
                    unit: "Mpps",
                    goal: row.goal,
                };
                vec![RowResult::new(figure, peer.to_string())]
            }
            Self::Guests(row) => {
                let figures = row.figures.iter().cloned();
                figures
                    .map(|figure| RowResult::new(figure, format!("qemu+{peer}")))
                    .collect()
            }
            Self::Inline(row) => {
                let figures = row.figures().into_iter();
                figures
                    .map(|figure| RowResult::new(figure, row.against(peer)))
                    .collect()
            }
        }
    }

    /// A slice of ours, in the form that is compared with this peer.
    pub(crate) fn ours(&self, against: Peer, seconds: u64) -> Result<Vec<Slice>, String> {
        match self {
            Self::Frames(row) => frames(Peer::Enlight, row, seconds),
            Self::Guests(row) => row.ours(against, seconds),
            Self::Inline(row) => row.ours(seconds),
        }
    }

    /// A slice of a peer's.
    pub(crate) fn theirs(&self, peer: Peer, seconds: u64) -> Result<Vec<Slice>, String> {
        match self {
            Self::Frames(row) => frames(peer, row, seconds),
            Self::Guests(row) => row.theirs(peer, seconds),
            Self::Inline(_) => Inline::theirs(seconds),
        }
    }
}

/// One switch under one load.
fn frames(peer: Peer, row: &Row, seconds: u64) -> Result<Vec<Slice>, String> {
    let running = peer.start(row)?;
    let slice = generator::run(running.sockets(), row, seconds)?;
    Ok(vec![slice])
}
