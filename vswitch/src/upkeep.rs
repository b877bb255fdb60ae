//! The thread that sees, once a second, to what nobody waits for: where lanes run, and addresses that expired.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use introspection::Instant;

use crate::clock;
use crate::rebalance::Survey;
use crate::switch::Shared;
use crate::worker;

/// Time between two rounds.
const INTERVAL: Duration = Duration::from_secs(1);
/// Sets of the forwarding table that are rid of expired addresses in a round: some 128 KiB are read, and the whole of a
/// switch's table in 32 rounds.
const SWEPT: usize = 2048;

/// Starts the thread; it ends with the switch.
pub(crate) fn spawn(shared: Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("upkeep".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            let mut upkeep = Upkeep::new(&shared, clock::now());
            while !shared.stop.load(Ordering::Acquire) {
                std::thread::park_timeout(INTERVAL);
                upkeep.round(&shared, clock::now());
            }
        })
}

struct Upkeep {
    last: Instant,
    survey: Survey,
}

impl Upkeep {
    fn new(shared: &Shared, now: Instant) -> Self {
        let mut survey = Survey::default();
        survey.evaluate(&shared.table(), shared.workers.len(), now);
        Self { last: now, survey }
    }

    /// Does what is due, if anything is: threads wake early at times.
    fn round(&mut self, shared: &Shared, now: Instant) {
        if now.since(self.last) < INTERVAL.as_nanos() as u64 {
            return;
        }
        self.last = now;
        shared.forwarding.sweep(SWEPT, worker::seconds(now));
        let workers = shared.workers.len();
        if workers > 1 && self.survey.evaluate(&shared.table(), workers, now) {
            shared.renew();
        }
    }
}

#[cfg(test)]
mod tests {
    use offload::MacAddr;

    use super::*;
    use crate::control::SwitchConfig;
    use crate::port::PortId;
    use crate::table::Learned;

    /// Seconds for which an address is believed.
    const AGEING: u64 = 300;
    /// Rounds in which all of a switch's table is swept.
    const ALL: u64 = 32;

    fn at(second: u64) -> Instant {
        Instant(second * INTERVAL.as_nanos() as u64)
    }

    #[test]
    fn addresses_that_expired_are_forgotten_within_half_a_minute_and_a_few_each_second() {
        let shared = Shared::new(&SwitchConfig::default()).unwrap();
        let mut upkeep = Upkeep::new(&shared, at(0));
        for last in 0..200 {
            let mac = MacAddr([2, 0, 0, 0, 0, last]);
            let learned = shared.forwarding.learn(mac, 0, PortId(0), worker::seconds(at(0)));
            assert_eq!(learned, Learned::New);
        }
        let changes = shared.forwarding.changes();
        for second in 1..AGEING {
            upkeep.round(&shared, at(second));
        }
        assert_eq!(shared.forwarding.len(), 200, "they are believed");
        upkeep.round(&shared, at(AGEING));
        upkeep.round(&shared, at(AGEING));
        assert!(
            shared.forwarding.len() > 100,
            "a round sees to a 32nd of the table, and a second has one round"
        );
        for second in AGEING..AGEING + ALL {
            upkeep.round(&shared, at(second));
        }
        assert!(shared.forwarding.is_empty());
        assert_eq!(
            shared.forwarding.changes(),
            changes,
            "what workers remember of others is not forgotten for it"
        );
    }
}
