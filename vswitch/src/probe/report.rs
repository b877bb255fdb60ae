//! What a probe tells of the frames that passed it.

use introspection::flow::{FlowCost, TopFlow, TopFlows};
use introspection::stage::FilterStages;
use introspection::stall::{FlowStalls, Stall, StallCounts, StallSummary, StallWatcher};

use super::{Inner, Probe};
use crate::clock;

/// Flows that one reader has judged at most, while the port's worker waits: some 0.3 ms.
const AT_ONCE: usize = 16;

impl Probe {
    /// What the filter adds to stamped frames, and the flows that this cost most.
    pub(crate) fn cost(&self) -> FilterStages {
        let inner = self.inner.lock();
        // A copy, so that a worker waits for a copy at most, not for quantiles.
        let histograms = inner.account.histograms.clone();
        let names = inner.config.parts();
        drop(inner);
        histograms.summary(&names)
    }

    /// The flows to which the filter added most.
    pub(crate) fn flows(&self) -> TopFlows<FlowCost> {
        self.inner.lock().account.flows.list().clone()
    }

    /// Starts anew what [`Probe::cost`] and [`Probe::flows`] tell.
    pub(crate) fn reset_cost(&self) {
        self.inner.lock().account.reset();
    }

    /// Stalls counted since watching began.
    pub(crate) fn stall_counts(&self) -> StallCounts {
        let inner = self.inner.lock();
        inner
            .watcher
            .as_ref()
            .map(StallWatcher::counts)
            .unwrap_or_default()
    }

    /// The same by the causes that the diagnosis tells apart.
    pub(crate) fn stall_summary(&self) -> StallSummary {
        let mut inner = self.inner.lock();
        inner.judged().map(StallWatcher::summary).unwrap_or_default()
    }

    /// The `top` flows that stood still for longest.
    pub(crate) fn stalled_flows(&self, top: usize) -> Vec<TopFlow<FlowStalls>> {
        let mut inner = self.inner.lock();
        let flows = inner.judged().map(|watcher| watcher.stalled_flows().top(top));
        flows.unwrap_or_default()
    }

    /// The most recent stalls.
    pub(crate) fn stalls(&self) -> Vec<Stall> {
        let mut inner = self.inner.lock();
        let stalls = inner.judged().map(|watcher| watcher.recent().cloned().collect());
        stalls.unwrap_or_default()
    }
}

impl Inner {
    /// The watcher, with what waited long enough judged.
    fn judged(&mut self) -> Option<&StallWatcher> {
        let watcher = self.watcher.as_mut()?;
        watcher.settle(clock::now(), AT_ONCE);
        Some(watcher)
    }
}
