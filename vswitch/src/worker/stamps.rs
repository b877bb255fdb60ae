//! Stage stamps of the packets that a burst carried, until its receivers are notified.

use introspection::Instant;
use introspection::stage::{Stage, Stamps};

use crate::packet::{Packet, Times};
use crate::port::PortId;
use crate::switch::PortTable;

/// Packets that were copied together and passed all earlier stages together.
#[derive(Clone, Copy, Debug)]
struct Entry {
    ingress: PortId,
    times: Times,
    copied: Instant,
    frames: u64,
}

/// Stamps of delivered packets that still lack their last one.
#[derive(Debug, Default)]
pub(crate) struct StampLog {
    entries: Vec<Entry>,
}

impl StampLog {
    /// Notes packets that were just copied and passed all stages together.
    pub(crate) fn copied_together(&mut self, at: Instant, ingress: PortId, times: Times, frames: u64) {
        self.entries.push(Entry {
            ingress,
            times,
            copied: at,
            frames,
        });
    }

    /// Notes packets that were just copied.
    pub(crate) fn copied<'p>(&mut self, at: Instant, packets: impl Iterator<Item = &'p Packet>) {
        for packet in packets {
            match self.entries.last_mut() {
                Some(last)
                    if (last.ingress, last.times, last.copied) == (packet.ingress, packet.times, at) =>
                {
                    last.frames += 1;
                }
                _ => self.entries.push(Entry {
                    ingress: packet.ingress,
                    times: packet.times,
                    copied: at,
                    frames: 1,
                }),
            }
        }
    }

    /// Records all noted packets with their senders' ports: their receivers have now been notified.
    pub(crate) fn notified(&mut self, at: Instant, table: &PortTable) {
        for entry in self.entries.drain(..) {
            if let Some(port) = table.get(entry.ingress) {
                port.stages.lock().record(&entry.stamps(at), entry.frames);
            }
        }
    }
}

impl Entry {
    /// The stamps in order. Time in filters and holds is spread over the time from parsing to copying, so the copy stage
    /// is what is left of that: lookup and copying.
    fn stamps(&self, notified: Instant) -> Stamps {
        let times = &self.times;
        let clamp = |at: u64| Instant(at.min(self.copied.0));
        let filtered = clamp(times.parse.0.saturating_add(times.filter));
        let held = clamp(filtered.0.saturating_add(times.hold));
        let mut stamps = Stamps {
            start: times.start,
            ..Stamps::default()
        };
        stamps.ends[Stage::Doorbell as usize] = times.doorbell;
        stamps.ends[Stage::QueueWait as usize] = times.wait;
        stamps.ends[Stage::Parse as usize] = times.parse;
        stamps.ends[Stage::Filter as usize] = filtered;
        stamps.ends[Stage::Hold as usize] = held;
        stamps.ends[Stage::Copy as usize] = self.copied;
        stamps.ends[Stage::Notify as usize] = notified;
        stamps
    }
}
