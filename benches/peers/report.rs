//! What comes out: a table, a file to compare with later, a chart.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::chart;
use crate::goal::Goal;
use crate::inspectors;

/// A slice in which the generator was this much slower than in the best one with the same switch is left out, with its pair: the machine
/// was in one of its slow phases, in which all switches look alike. What a frame costs the generator depends on the switch, too.
const CEILING_SHARE: f64 = 0.7;

/// All rows.
pub(crate) struct Report {
    pub(crate) rows: Vec<RowResult>,
    seconds: u64,
}

/// What is compared.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// What it is measured in.
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
}

/// A figure of one slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// In the figure's unit.
    pub(crate) value: f64,
    /// What the generator could have done at most, in the same unit, where one is in the way: near it, the generator is the
    /// limit and not the switch.
    pub(crate) ceiling: Option<f64>,
}

impl Slice {
    /// A figure that no generator is in the way of.
    pub(crate) const fn of(value: f64) -> Self {
        Self { value, ceiling: None }
    }
}

/// One figure against one peer.
pub(crate) struct RowResult {
    pub(crate) figure: Figure,
    pub(crate) peer: String,
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
    pub(crate) const fn new(figure: Figure, peer: String) -> Self {
        Self {
            figure,
            peer,
            pairs: Vec::new(),
        }
    }

    /// `None` if no pair counts.
    pub(crate) fn ratios(&self) -> Option<Ratios> {
        let best = |side: fn(&(Slice, Slice)) -> &Slice| {
            let ceilings = self.pairs.iter().filter_map(|pair| side(pair).ceiling);
            ceilings.fold(0.0, f64::max)
        };
        let (ours, theirs) = (best(|pair| &pair.0), best(|pair| &pair.1));
        let good = |slice: &Slice, best: f64| slice.ceiling.is_none_or(|most| most >= CEILING_SHARE * best);
        let counted: Vec<_> = self
            .pairs
            .iter()
            .filter(|(a, b)| good(a, ours) && good(b, theirs))
            .collect();
        let ratios = sorted(counted.iter().map(|(ours, theirs)| ours.value / theirs.value));
        Some(Ratios {
            median: median(&ratios)?,
            least: *ratios.first()?,
            most: *ratios.last()?,
            ours: median(&sorted(counted.iter().map(|pair| pair.0.value)))?,
            theirs: median(&sorted(counted.iter().map(|pair| pair.1.value)))?,
            counted: counted.len(),
        })
    }

    fn json(&self) -> Value {
        let slice = |slice: &Slice| json!({"value": slice.value, "ceiling": slice.ceiling});
        let pairs: Vec<Value> = self
            .pairs
            .iter()
            .map(|(ours, theirs)| json!({"enlight": slice(ours), "peer": slice(theirs)}))
            .collect();
        let ratio = self.ratios().map(|ratios| {
            json!({
                "median": ratios.median, "least": ratios.least, "most": ratios.most, "pairs": ratios.counted,
                "enlight": ratios.ours, "peer": ratios.theirs,
            })
        });
        let Figure {
            name,
            what,
            unit,
            goal,
        } = &self.figure;
        json!({
            "row": name, "load": what, "peer": self.peer, "unit": unit, "better": goal.better(), "required": goal.required,
            "aim": goal.aim, "ratio": ratio, "pairs": pairs,
        })
    }
}

impl fmt::Display for RowResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figure { name, goal, .. } = &self.figure;
        write!(f, "{name} against {}: ", self.peer)?;
        let Some(ratios) = self.ratios() else {
            return f.write_str("nothing could be measured");
        };
        let Ratios {
            median,
            least,
            most,
            counted,
            ..
        } = ratios;
        let (pairs, verdict) = (self.pairs.len(), goal.verdict(median));
        write!(
            f,
            "{median:.2} ({least:.2} to {most:.2}, {counted} of {pairs} pairs), {goal}: {verdict}"
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
            "\n| load | peer | ours | peer's | | ratio | smallest | largest | pairs | wanted |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let Some(ratios) = row.ratios() else { continue };
            let Figure { what, unit, goal, .. } = &row.figure;
            text.push_str(&format!(
                "| {what} | {} | {:.2} | {:.2} | {unit} | {:.2} | {:.2} | {:.2} | {} | {goal} |\n",
                row.peer,
                ratios.ours,
                ratios.theirs,
                ratios.median,
                ratios.least,
                ratios.most,
                ratios.counted,
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
        "suricata": inspectors::version(),
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
