//! The matrix as a table of docs/conformance.md.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::cell::{Blank, Cell, Family, Kind, MTUS, Offload, Setting, Tag};

/// A variable that has the document rewritten instead of compared.
const REWRITE: &str = "ENLIGHT_MATRIX_DOC";
const BEGIN: &str =
    "<!-- ports: begin, written by `ENLIGHT_MATRIX_DOC=1 cargo test -p vswitch --test matrix` -->\n";
const END: &str = "<!-- ports: end -->";

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

/// Puts the table into the document, or tells how it differs.
pub(crate) fn publish(table: &str) -> Result<(), String> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let parts = text
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?)));
    let Some((before, (present, after))) = parts else {
        return Err(format!("{} has no place for the table", file.display()));
    };
    if present == table {
        return Ok(());
    }
    if std::env::var_os(REWRITE).is_none() {
        return Err(format!(
            "docs/conformance.md has another table; {REWRITE}=1 writes this one:\n{table}"
        ));
    }
    let text = [before, BEGIN, table, END, after].concat();
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
}
