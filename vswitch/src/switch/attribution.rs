//! Where frames' time went: which of them are stamped, and the flows that took most.

use std::sync::atomic::Ordering;

use super::{Port, PortTable, Shared, Switch};
use crate::attribution::Prices;
use crate::control::{Attribution, AttributionStats, ControlError, FlowList, PortFlows};

impl Shared {
    /// Which frames are stamped.
    pub(crate) fn attribution(&self) -> Attribution {
        *self.attribution.lock()
    }

    /// Has other frames be stamped. Workers heed it when they next adopt a table.
    pub(crate) fn set_attribution(&self, mode: Attribution) {
        *self.attribution.lock() = mode;
    }

    pub(super) fn attribution_stats(&self, table: &PortTable) -> AttributionStats {
        let meters = || table.ports().flat_map(|port| &port.lanes).map(|lane| &lane.meter);
        let prices = Prices::get();
        AttributionStats {
            mode: self.attribution(),
            stamp_ns: prices.stamp,
            record_ns: prices.record,
            flow_ns: prices.flow,
            busy_ns: meters().map(|meter| meter.busy.load(Ordering::Relaxed)).sum(),
            spent_ns: meters()
                .map(|meter| meter.attribution.load(Ordering::Relaxed))
                .sum(),
        }
    }
}

impl Port {
    /// Frames that its guest sent since stages were last started anew.
    pub(super) fn frames_since_reset(&self) -> u64 {
        let sent = self.counters.tx_frames.load(Ordering::Relaxed);
        sent.saturating_sub(self.stages_since.load(Ordering::Relaxed))
    }

    fn reset_attribution(&self) {
        self.stages.lock().reset();
        self.flows.lock().reset();
        self.probe.reset_cost();
        let sent = self.counters.tx_frames.load(Ordering::Relaxed);
        self.stages_since.store(sent, Ordering::Relaxed);
    }
}

impl Switch {
    /// Which frames are stamped.
    pub fn attribution(&self) -> Attribution {
        self.shared.attribution()
    }

    /// Has other frames be stamped from now on, and starts all stages and lists of flows anew.
    pub fn set_attribution(&self, mode: Attribution) {
        let _change = self.changes.lock();
        self.shared.set_attribution(mode);
        let generation = self.shared.publish(|_| {});
        self.wait_for(generation);
        for port in self.shared.table().ports() {
            port.reset_attribution();
        }
    }

    /// Starts a port's stage histograms and lists of flows anew.
    pub fn reset_stages(&self, port: &str) -> Result<(), ControlError> {
        self.shared.table().named(port)?.reset_attribution();
        Ok(())
    }

    /// The `top` flows of a port that cost most.
    pub fn flows(&self, port: &str, top: usize) -> Result<PortFlows, ControlError> {
        let table = self.shared.table();
        let port = table.named(port)?;
        // Copies, so that workers do not wait for them to be sorted.
        let residence = port.flows.lock().list().clone();
        let stamped = port.stages.lock().frames();
        Ok(PortFlows {
            port: port.name.clone(),
            attribution: self.shared.attribution(),
            stamped,
            frames: port.frames_since_reset(),
            residence: FlowList::of(&residence, top),
            filter: FlowList::of(&port.probe.flows(), top),
            stalls: port.probe.stalled_flows(top),
        })
    }
}
