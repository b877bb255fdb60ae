//! The matrix as a table of docs/conformance.md.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::cell::{Blank, Cell, Family, Kind, MTUS, Offload, Setting, Tag};

/// What became of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Passed,
    Failed,
    Blank(Blank),
}

impl Mark {
    fn letter(self) -> char {
        match self {
            Self::Passed => '\u{2713}',
            Self::Failed => 'X',
            Self::Blank(reason) => reason.letter(),
        }
    }
}

/// The table, with its legend.
pub(crate) fn table(marks: &HashMap<Cell, Mark>) -> String {
    let columns: Vec<_> = Family::ALL
        .into_iter()
        .flat_map(|family| MTUS.into_iter().map(move |mtu| (family, mtu)))
        .flat_map(|(family, mtu)| Tag::ALL.map(|tag| (family, mtu, tag)))
        .collect();
    let mut text = String::from("| port | offloads |");
    for (family, mtu, tag) in &columns {
        let tag = if *tag == Tag::Tagged { " VLAN" } else { "" };
        let _ = write!(text, " {family} {mtu}{tag} |");
    }
    text += "\n|---|---|";
    text += &"---|".repeat(columns.len());
    text.push('\n');
    for kind in Kind::ALL {
        for offload in Offload::ALL {
            let _ = write!(text, "| {kind} | {offload} |");
            for &(family, mtu, tag) in &columns {
                let setting = Setting {
                    kind,
                    offload,
                    mtu,
                    tag,
                };
                let mark = marks[&Cell { setting, family }].letter();
                let _ = write!(text, " {mark} |");
            }
            text.push('\n');
        }
    }
    let _ = write!(text, "\n{}: passed, in both directions.", Mark::Passed.letter());
    for blank in Blank::ALL
        .into_iter()
        .filter(|blank| marks.values().any(|mark| *mark == Mark::Blank(*blank)))
    {
        let _ = write!(text, " {}: {blank}.", blank.letter());
    }
    text.push('\n');
    text
}
