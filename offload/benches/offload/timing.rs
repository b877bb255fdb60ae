//! Contenders that take turns, and what their rounds came to.

use std::time::{Duration, Instant};

/// How long one contender is measured in one round.
const SLICE: Duration = Duration::from_millis(3);

/// Something whose speed is measured: runs a number of times and says how long it took.
pub(crate) struct Contender<'a> {
    pub(crate) name: String,
    run: Box<dyn FnMut(u64) -> Duration + 'a>,
    times: u64,
    /// Nanoseconds a time, by round.
    rounds: Vec<f64>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: &str, mut once: impl FnMut() + 'a) -> Self {
        Self::timed(name, move |times| {
            let start = Instant::now();
            for _ in 0..times {
                once();
            }
            start.elapsed()
        })
    }

    /// One that measures itself.
    pub(crate) fn timed(name: &str, run: impl FnMut(u64) -> Duration + 'a) -> Self {
        Self {
            name: name.to_owned(),
            run: Box::new(run),
            times: 0,
            rounds: Vec::new(),
        }
    }

    fn round(&mut self) {
        while self.times == 0 || (self.run)(self.times) < SLICE {
            self.times = (self.times * 2).max(16);
        }
        let taken = (self.run)(self.times);
        self.rounds.push(taken.as_nanos() as f64 / self.times as f64);
    }
}

/// A median with the smallest and the largest.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: at(values.len() / 2),
            min: at(0),
            max: at(values.len().saturating_sub(1)),
        }
    }
}

/// What a contender came to: nanoseconds a time, and how many times as long it took as the first one in the same round.
pub(crate) struct Result {
    pub(crate) name: String,
    pub(crate) nanoseconds: Spread,
    pub(crate) ratio: Spread,
}

/// Lets all contenders run in turn.
pub(crate) fn compare(mut contenders: Vec<Contender<'_>>, rounds: usize) -> Vec<Result> {
    for _ in 0..rounds {
        contenders.iter_mut().for_each(Contender::round);
    }
    let first = contenders
        .first()
        .map_or_else(Vec::new, |first| first.rounds.clone());
    contenders
        .into_iter()
        .map(|contender| Result {
            nanoseconds: Spread::of(contender.rounds.iter().copied()),
            ratio: Spread::of(
                contender
                    .rounds
                    .iter()
                    .zip(&first)
                    .map(|(own, first)| own / first),
            ),
            name: contender.name,
        })
        .collect()
}
