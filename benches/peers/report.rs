//! What comes out: a table, a file to compare with later, a chart.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::chart;
use crate::generator::Slice;
use crate::rows::Row;
use crate::switches::Peer;

/// A slice in which the generator was this much slower than in its best one is left out, with its pair: the machine was
/// in one of its slow phases, in which all switches look alike.
const CEILING_SHARE: f64 = 0.7;

/// All rows.
pub(crate) struct Report {
    pub(crate) rows: Vec<RowResult>,
    seconds: u64,
}

/// One row against one peer.
pub(crate) struct RowResult {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) peer: Peer,
    pub(crate) goal: (f64, f64),
    pub(crate) pairs: Vec<(Slice, Slice)>,
}

/// Ratios of the pairs that count.
pub(crate) struct Ratios {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    pub(crate) counted: usize,
}

impl RowResult {
    pub(crate) fn new(row: &Row, peer: Peer) -> Self {
        Self {
            name: row.name,
            what: row.what,
            peer: if row.patterns.is_some() { Peer::Plain } else { peer },
            goal: row.goal,
            pairs: Vec::new(),
        }
    }

    /// `None` if no pair counts.
    pub(crate) fn ratios(&self) -> Option<Ratios> {
        let ceilings = self.pairs.iter().flat_map(|(a, b)| [a.ceiling, b.ceiling]);
        let best = ceilings.fold(0.0, f64::max);
        let good = |slice: &Slice| slice.ceiling >= CEILING_SHARE * best;
        let counted: Vec<_> = self.pairs.iter().filter(|(a, b)| good(a) && good(b)).collect();
        let ratios = sorted(counted.iter().map(|(ours, theirs)| ours.mpps / theirs.mpps));
        Some(Ratios {
            median: median(&ratios)?,
            least: *ratios.first()?,
            most: *ratios.last()?,
            ours: median(&sorted(counted.iter().map(|pair| pair.0.mpps)))?,
            theirs: median(&sorted(counted.iter().map(|pair| pair.1.mpps)))?,
            counted: counted.len(),
        })
    }

    fn json(&self) -> Value {
        let slice = |slice: &Slice| json!({"mpps": slice.mpps, "ceiling_mpps": slice.ceiling});
        let pairs: Vec<Value> = self
            .pairs
            .iter()
            .map(|(ours, theirs)| json!({"enlight": slice(ours), "peer": slice(theirs)}))
            .collect();
        let ratio = self.ratios().map(|ratios| {
            json!({
                "median": ratios.median, "least": ratios.least, "most": ratios.most, "pairs": ratios.counted,
                "enlight_mpps": ratios.ours, "peer_mpps": ratios.theirs,
            })
        });
        json!({
            "row": self.name, "load": self.what, "peer": self.peer.to_string(), "at_least": self.goal.0, "aim": self.goal.1,
            "ratio": ratio, "pairs": pairs,
        })
    }
}

impl fmt::Display for RowResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ratios) = self.ratios() else {
            return write!(
                f,
                "{} against {}: nothing could be measured",
                self.name, self.peer
            );
        };
        let verdict = match ratios.median {
            ratio if ratio >= self.goal.1 => "aim reached",
            ratio if ratio >= self.goal.0 => "goal reached",
            _ => "goal missed",
        };
        write!(
            f,
            "{} against {}: {:.2} ({:.2} to {:.2}, {} of {} pairs), at least {}, aim {}: {verdict}",
            self.name,
            self.peer,
            ratios.median,
            ratios.least,
            ratios.most,
            ratios.counted,
            self.pairs.len(),
            self.goal.0,
            self.goal.1
        )
    }
}

impl Report {
    pub(crate) fn new(seconds: u64) -> Self {
        Self {
            rows: Vec::new(),
            seconds,
        }
    }

    /// The table for docs/measuring.md.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "\n| load | peer | ours, Mpps | peer's, Mpps | ratio | smallest | largest | pairs | at least | aim |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let Some(ratios) = row.ratios() else { continue };
            text.push_str(&format!(
                "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {} | {} |\n",
                row.what,
                row.peer,
                ratios.ours,
                ratios.theirs,
                ratios.median,
                ratios.least,
                ratios.most,
                ratios.counted,
                row.goal.0,
                row.goal.1
            ));
        }
        text
    }

    /// Writes benches/results/peers.json and peers.svg; their paths.
    pub(crate) fn write(&self) -> Result<Vec<String>, String> {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results");
        std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let (file, picture) = (directory.join("peers.json"), directory.join("peers.svg"));
        let rows: Vec<Value> = self.rows.iter().map(RowResult::json).collect();
        let all = json!({"machine": machine(), "seconds": self.seconds, "rows": rows});
        let text = serde_json::to_string_pretty(&all).map_err(|error| error.to_string())?;
        std::fs::write(&file, text + "\n").map_err(|error| error.to_string())?;
        chart::draw(&picture, &self.rows).map_err(|error| error.to_string())?;
        Ok([file, picture].map(|path| path.display().to_string()).into())
    }
}

/// The processor's name and number, and the kernel.
fn machine() -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "processor": model, "processors": std::thread::available_parallelism().map_or(0, usize::from), "kernel": kernel.trim(),
    })
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}
