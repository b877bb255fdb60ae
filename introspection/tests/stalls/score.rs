//! Comparing what was found with what was so.

use std::collections::BTreeMap;
use std::fmt;

use introspection::diagnosis::{Cause, Finding};

use super::scenario::Outcome;
use super::world::Truth;

/// Findings by what was so and what was found; `None` stands for no stall.
#[derive(Default)]
pub(crate) struct Matrix {
    cells: BTreeMap<(Option<Cause>, Option<Cause>), u64>,
    flows: u64,
}

impl Matrix {
    pub(crate) fn add(&mut self, outcome: &Outcome, verbose: Option<u64>) {
        self.flows += 1;
        let findings: &[Finding] = outcome.diagnosis.as_ref().map_or(&[], |flow| &flow.findings);
        let mut open: Vec<&Finding> = findings.iter().collect();
        let mut wrong = Vec::new();
        for truth in &outcome.truths {
            let place = best(&open, truth);
            let found = place.map(|place| open.remove(place));
            let cause = found.map(|finding| finding.cause);
            if cause != Some(truth.cause) {
                wrong.push(format!(
                    "  was {truth:?}\n  found {:?}",
                    found.map(|f| (f.cause, f.start, f.end()))
                ));
            }
            *self.cells.entry((Some(truth.cause), cause)).or_default() += 1;
        }
        for finding in open {
            wrong.push(format!(
                "  was nothing, found {:?} {:?} {:?} {}",
                finding.cause,
                finding.start,
                finding.end(),
                finding.explain()
            ));
            *self.cells.entry((None, Some(finding.cause))).or_default() += 1;
        }
        let quiet = outcome.thoughts;
        *self.cells.entry((None, None)).or_default() += quiet;
        if verbose.is_some() && !wrong.is_empty() {
            println!("{}\n{}", outcome.name, wrong.join("\n"));
        }
    }

    fn cell(&self, was: Option<Cause>, found: Option<Cause>) -> u64 {
        self.cells.get(&(was, found)).copied().unwrap_or(0)
    }

    /// Precision, recall and number of cases of each cause.
    pub(crate) fn scores(&self) -> Vec<(Cause, f64, f64, u64)> {
        let all: Vec<Option<Cause>> = Cause::ALL.into_iter().map(Some).chain([None]).collect();
        let score = |cause: Cause| {
            let right = self.cell(Some(cause), Some(cause)) as f64;
            let found: u64 = all.iter().map(|was| self.cell(*was, Some(cause))).sum();
            let were: u64 = all.iter().map(|found| self.cell(Some(cause), *found)).sum();
            (
                cause,
                right / found.max(1) as f64,
                right / were.max(1) as f64,
                were,
            )
        };
        Cause::ALL.into_iter().map(score).collect()
    }
}

/// The finding that overlaps most, by at least half of the shorter one.
fn best(open: &[&Finding], truth: &Truth) -> Option<usize> {
    let overlap = |finding: &Finding| {
        let (start, end) = (finding.start.0, finding.end().0);
        if finding.direction as usize != truth.from {
            return 0;
        }
        end.min(truth.end).saturating_sub(start.max(truth.start))
    };
    let enough = |finding: &Finding| overlap(finding) * 2 >= finding.gap_ns.min(truth.end - truth.start);
    let candidates = open.iter().enumerate().filter(|(_, finding)| enough(finding));
    candidates
        .max_by_key(|(_, finding)| (finding.cause == truth.cause, overlap(finding)))
        .map(|(place, _)| place)
}

impl fmt::Display for Matrix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<Option<Cause>> = Cause::ALL.into_iter().map(Some).chain([None]).collect();
        let name = |cause: &Option<Cause>| cause.map_or("no stall", Cause::name);
        write!(out, "{} flows\n\n| was \\ found |", self.flows)?;
        for column in &columns {
            write!(out, " {} |", name(column))?;
        }
        writeln!(
            out,
            " recall | precision |\n|---|{}",
            "---|".repeat(columns.len() + 2)
        )?;
        for was in &columns {
            write!(out, "| {} |", name(was))?;
            for found in &columns {
                match self.cell(*was, *found) {
                    0 => write!(out, " |")?,
                    n => write!(out, " {n} |")?,
                }
            }
            let score = self.scores().into_iter().find(|score| Some(score.0) == *was);
            match score {
                Some((_, precision, recall, _)) => writeln!(out, " {recall:.4} | {precision:.4} |")?,
                None => writeln!(out, " | |")?,
            }
        }
        Ok(())
    }
}
