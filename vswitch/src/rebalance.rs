//! Measures lanes and has them moved, see [`crate::placement`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use introspection::Instant;

use crate::control::{ControlError, QueueStats, Why};
use crate::lane::{Lane, LaneId};
use crate::placement::{self, LaneLoad, Permille};
use crate::switch::{PortTable, Switch};

/// What was measured of lanes.
#[derive(Default)]
pub(crate) struct Survey {
    at: Instant,
    lanes: HashMap<LaneId, Seen>,
}

/// A lane at the last evaluation.
#[derive(Clone, Copy)]
struct Seen {
    busy: u64,
    rested: u32,
}

impl Survey {
    /// Measures all lanes, and asks for those to be moved that should. True when there are any.
    pub(crate) fn evaluate(&mut self, table: &PortTable, workers: usize, now: Instant) -> bool {
        let elapsed = now.since(self.at).max(1);
        self.at = now;
        let lanes: Vec<&Arc<Lane>> = table.ports().flat_map(|port| &port.lanes).collect();
        let mut before = std::mem::take(&mut self.lanes);
        let mut loads = Vec::with_capacity(lanes.len());
        for lane in &lanes {
            let busy = lane.meter.busy.load(Ordering::Relaxed);
            let fresh = Seen {
                busy,
                rested: placement::REST,
            };
            let seen = before.remove(&lane.id).unwrap_or(fresh);
            let load = permille(busy.saturating_sub(seen.busy), elapsed);
            lane.meter.load.store(load, Ordering::Relaxed);
            loads.push(LaneLoad {
                worker: lane.owner(),
                load,
                rested: seen.rested,
            });
            let rested = seen.rested.saturating_add(1);
            self.lanes.insert(lane.id, Seen { busy, rested });
        }
        let moves = placement::rebalance(&loads, workers);
        for step in &moves {
            let Some(lane) = lanes.get(step.lane) else {
                continue;
            };
            let load = loads.get(step.lane).map_or(0, |lane| lane.load);
            lane.want(
                step.to.0,
                Why::Balanced {
                    from: step.from.0,
                    from_load: step.from.1,
                    to_load: step.to.1,
                    load,
                },
            );
            if let Some(seen) = self.lanes.get_mut(&lane.id) {
                seen.rested = 0;
            }
        }
        !moves.is_empty()
    }
}

fn permille(part: u64, whole: u64) -> Permille {
    let share = u128::from(part) * 1000 / u128::from(whole.max(1));
    u32::try_from(share).unwrap_or(u32::MAX)
}

impl Switch {
    /// Has another worker serve a queue of a port: it goes over between two bursts, so that none of its frames is lost or
    /// overtaken. It may be moved again when load shifts.
    pub fn assign(&self, port: &str, queue: u16, worker: usize) -> Result<(), ControlError> {
        let shared = self.shared();
        let table = shared.table();
        let port = table.named(port)?;
        let out_of_range = |what, value: u64, range| ControlError::OutOfRange {
            port: port.name.clone(),
            what,
            value,
            range,
        };
        let lane = port
            .lanes
            .get(usize::from(queue))
            .ok_or_else(|| out_of_range("the queue", queue.into(), "below the port's number of queues"))?;
        if worker >= shared.workers.len() {
            return Err(out_of_range(
                "the worker",
                worker as u64,
                "below the switch's number of workers",
            ));
        }
        lane.want(worker, Why::Assigned);
        shared.renew();
        Ok(())
    }
}

/// Where each lane runs, and why. VM queues are left out where no uplink uses them.
pub(crate) fn queue_stats(table: &PortTable) -> Vec<QueueStats> {
    let of = |name: &str, lane: &Lane| QueueStats {
        port: name.to_owned(),
        queue: lane.id.queue,
        vm: lane.vm_queue.is_some(),
        worker: lane.owner(),
        load: lane.meter.load.load(Ordering::Relaxed),
        frames: lane.meter.frames.load(Ordering::Relaxed),
        moves: lane.meter.moves.load(Ordering::Relaxed),
        why: lane.why(),
    };
    let uplinks = table.ports().any(|port| port.is_uplink);
    table
        .ports()
        .flat_map(|port| port.lanes.iter().map(|lane| of(&port.name, lane)))
        .filter(|queue| uplinks || !queue.vm || queue.frames > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_thousandths() {
        assert_eq!(permille(1, 2), 500);
        assert_eq!(permille(u64::MAX, 1), u32::MAX);
        assert_eq!(permille(0, 0), 0);
    }
}
