//! A filter that may break without harm: a panic ends it and not its worker, and its time is measured.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use introspection::{Filter, Instant};

use crate::clock;

/// What a filter may take for a burst unless told otherwise.
const BUDGET: Duration = Duration::from_millis(20);
/// After so many bursts in a row over budget a filter is taken out.
const PATIENCE: u32 = 8;
/// Characters kept of a panic's message.
const MESSAGE: usize = 200;

/// Why a filter is taken out.
#[derive(Debug)]
pub(super) enum Failure {
    /// It cannot be used any more.
    Panicked(String),
    /// It still keeps its contract, but for time.
    Slow(String),
}

/// A filter in force.
pub(super) struct Guarded {
    filter: Box<dyn Filter>,
    budget: Duration,
    over: u64,
    in_a_row: u32,
    /// When the last call ended.
    ended: Instant,
}

impl Guarded {
    pub(super) fn new(filter: Box<dyn Filter>, budget: Option<Duration>) -> Self {
        Self {
            filter,
            budget: budget.unwrap_or(BUDGET),
            over: 0,
            in_a_row: 0,
            ended: Instant(0),
        }
    }

    pub(super) fn get(&self) -> &dyn Filter {
        self.filter.as_ref()
    }

    /// Calls that took more than the budget.
    pub(super) const fn over_budget(&self) -> u64 {
        self.over
    }

    /// When it was last done with a burst; when that began, if it panicked.
    pub(super) const fn ended(&self) -> Instant {
        self.ended
    }

    /// Has the filter do some work for a burst.
    pub(super) fn attempt(&mut self, work: impl FnOnce(&mut dyn Filter)) -> Result<(), Failure> {
        let since = clock::now();
        self.ended = since;
        let filter = self.filter.as_mut();
        // What the filter leaves behind when it panics is never looked at again.
        catch_unwind(AssertUnwindSafe(|| work(filter)))
            .map_err(|panic| Failure::Panicked(format!("panicked: {}", message(panic.as_ref()))))?;
        self.ended = clock::now();
        let spent = self.ended - since;
        if spent <= self.budget {
            self.in_a_row = 0;
            return Ok(());
        }
        self.over += 1;
        self.in_a_row += 1;
        if self.in_a_row < PATIENCE {
            return Ok(());
        }
        Err(Failure::Slow(format!(
            "took longer than {:?} for a burst {PATIENCE} times in a row, {spent:?} the last time",
            self.budget
        )))
    }

    /// Ends a filter that may panic once more.
    pub(super) fn end(self) {
        let filter = self.filter;
        // There is nothing to be done about a panic here, and it harms nobody.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(filter)));
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message");
    text.chars()
        .filter(|letter| !letter.is_control())
        .take(MESSAGE)
        .collect()
}
