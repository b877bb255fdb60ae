//! What comes out: a table, and a file to compare with later.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

/// One figure.
pub(crate) struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    /// It has to be below this.
    target: Option<f64>,
}

/// All figures.
#[derive(Default)]
pub(crate) struct Report(Vec<Figure>);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what, value, unit, ..
        } = self;
        write!(f, "{what:<64} {value:>9.2} {unit}")?;
        match self.target {
            Some(target) if *value < target => write!(f, " (below {target}: met)"),
            Some(target) => write!(f, " (below {target}: MISSED)"),
            None => Ok(()),
        }
    }
}

impl Report {
    pub(crate) fn note(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.add(what.into(), value, unit, None);
    }

    pub(crate) fn judge(&mut self, what: impl Into<String>, value: f64, unit: &'static str, target: f64) {
        self.add(what.into(), value, unit, Some(target));
    }

    fn add(&mut self, what: String, value: f64, unit: &'static str, target: Option<f64>) {
        let figure = Figure {
            what,
            value,
            unit,
            target,
        };
        println!("{figure}");
        self.0.push(figure);
    }

    /// Writes benches/results/growth.json; its path.
    pub(crate) fn write(&self) -> std::io::Result<PathBuf> {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results");
        std::fs::create_dir_all(&directory)?;
        let figures: Vec<Value> = self
            .0
            .iter()
            .map(|figure| {
                json!({"what": figure.what, "value": figure.value, "unit": figure.unit, "below": figure.target})
            })
            .collect();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let all = json!({"figures": figures, "load-average": load.trim()});
        let file = directory.join("growth.json");
        std::fs::write(&file, format!("{all:#}\n"))?;
        Ok(file)
    }
}

/// The value below which `permille` of all values are.
pub(crate) fn quantile(values: &[f64], permille: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() * permille / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(0.0)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 500)
}
