//! What a filter adds to the frames that pass it, and which of its parts adds how much.

use core::fmt;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::series::{Distribution, Series};

/// What one part of a filter took of a frame's time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartTime {
    /// Judging, of the frame and of those that it came with, and the copy that is judged.
    pub filter: u64,
    /// Held.
    pub hold: u64,
}

impl PartTime {
    const fn sum(self) -> u64 {
        self.filter.saturating_add(self.hold)
    }
}

/// What each part took, in the order in which they see frames. A filter of one profile has one part.
pub type PartTimes = SmallVec<[PartTime; 2]>;

/// What frames left a filter with, and what each part of the filter added. Stages of the parts sum to what is added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilterStages {
    /// Frames recorded: those that left it, in both directions.
    pub frames: u64,
    /// What the filter as a whole added to each.
    pub added: Distribution,
    /// What each part did.
    pub parts: Vec<PartStages>,
}

/// What one part of a filter added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartStages {
    /// Its profile, with the direction that it acts on if it is one only.
    pub part: String,
    /// Frames of these that it held.
    pub held: u64,
    /// Judging.
    pub filter: Distribution,
    /// Held; 0 for frames that were not.
    pub hold: Distribution,
}

/// Histograms of what a filter adds. The first record takes the memory, about 40 KiB and 80 KiB a part.
#[derive(Clone, Default)]
pub struct FilterHistograms {
    recorded: Option<Box<Recorded>>,
}

#[derive(Clone)]
struct Recorded {
    frames: u64,
    added: Series,
    parts: Vec<Part>,
}

#[derive(Clone)]
struct Part {
    held: u64,
    filter: Series,
    hold: Series,
}

impl fmt::Debug for FilterHistograms {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frames = self.recorded.as_ref().map_or(0, |recorded| recorded.frames);
        out.debug_struct("FilterHistograms")
            .field("frames", &frames)
            .finish_non_exhaustive()
    }
}

impl FilterHistograms {
    /// Counts `frames` frames that left the filter, each part of which took so much of each one's time.
    pub fn record(&mut self, times: &[PartTime], frames: u64) {
        if frames > 0 {
            self.recorded.get_or_insert_default().record(times, frames);
        }
    }

    /// Forgets what was recorded, and the parts.
    pub fn reset(&mut self) {
        self.recorded = None;
    }

    /// What was recorded so far, of parts of these names.
    pub fn summary(&self, names: &[String]) -> FilterStages {
        let Some(recorded) = &self.recorded else {
            return FilterStages::default();
        };
        let frames = recorded.frames;
        let part = |(index, part): (usize, &Part)| PartStages {
            part: names.get(index).cloned().unwrap_or_default(),
            held: part.held,
            filter: part.filter.summary(frames),
            hold: part.hold.summary(frames),
        };
        FilterStages {
            frames,
            added: recorded.added.summary(frames),
            parts: recorded.parts.iter().enumerate().map(part).collect(),
        }
    }
}

impl Default for Recorded {
    fn default() -> Self {
        Self {
            frames: 0,
            added: Series::new(),
            parts: Vec::new(),
        }
    }
}

impl Recorded {
    fn record(&mut self, times: &[PartTime], frames: u64) {
        while self.parts.len() < times.len() {
            // Frames that came before it did not wait for it.
            let mut part = Part {
                held: 0,
                filter: Series::new(),
                hold: Series::new(),
            };
            if self.frames > 0 {
                part.filter.record(0, self.frames);
                part.hold.record(0, self.frames);
            }
            self.parts.push(part);
        }
        for (index, part) in self.parts.iter_mut().enumerate() {
            let time = times.get(index).copied().unwrap_or_default();
            part.filter.record(time.filter, frames);
            part.hold.record(time.hold, frames);
            part.held += if time.hold > 0 { frames } else { 0 };
        }
        let added = times
            .iter()
            .fold(0, |sum: u64, time| sum.saturating_add(time.sum()));
        self.added.record(added, frames);
        self.frames = self.frames.saturating_add(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_sum_to_what_is_added(
            records in proptest::collection::vec(
                (proptest::collection::vec((0u64..1 << 36, 0u64..1 << 36), 0..4), 1u64..33), 1..50)
        ) {
            let mut histograms = FilterHistograms::default();
            let mut frames = 0;
            for (times, count) in &records {
                let times: PartTimes =
                    times.iter().map(|&(filter, hold)| PartTime { filter, hold }).collect();
                histograms.record(&times, *count);
                frames += count;
            }
            let names = ["a", "b", "c"].map(str::to_owned);
            let summary = histograms.summary(&names);
            prop_assert_eq!(summary.frames, frames);
            let sum: u64 = summary.parts.iter().map(|part| part.filter.total_ns + part.hold.total_ns).sum();
            prop_assert_eq!(sum, summary.added.total_ns);
            for (part, name) in summary.parts.iter().zip(&names) {
                prop_assert_eq!(&part.part, name);
                prop_assert_eq!(part.filter.count, frames);
            }
        }
    }

    #[test]
    fn what_is_not_held_counts_as_held_for_no_time() {
        let mut histograms = FilterHistograms::default();
        let time = |hold| PartTime { filter: 1_000, hold };
        histograms.record(&[time(0)], 99);
        histograms.record(&[time(50_000_000)], 1);
        let summary = histograms.summary(&["hold".to_owned()]);
        let [part] = summary.parts.as_slice() else {
            panic!("one part: {summary:?}")
        };
        assert_eq!((part.held, part.hold.count), (1, 100));
        assert!(part.hold.p50.abs() < f64::EPSILON);
        assert!((summary.added.max - 50_001.0).abs() < f64::EPSILON);
        histograms.reset();
        assert_eq!(histograms.summary(&[]), FilterStages::default());
    }
}
