//! Stage stamps of the packets that a burst carried, until its receivers are notified.

use introspection::flow::FlowCost;
use introspection::stage::{Stage, Stamps};
use introspection::{Direction, Instant};
use offload::FrameMeta;

use crate::packet::{Arena, Octets, Packet, Times};
use crate::port::PortId;
use crate::switch::PortTable;

/// Packets that were copied together and passed all earlier stages together.
#[derive(Clone, Copy, Debug)]
struct Entry {
    ingress: PortId,
    times: Times,
    copied: Instant,
    frames: usize,
}

/// What a packet's flow is told by, and how long it is.
#[derive(Clone, Copy, Debug)]
struct Frame {
    octets: Octets,
    len: u32,
}

/// Stamps of delivered packets that still lack their last one.
#[derive(Debug, Default)]
pub(crate) struct StampLog {
    entries: Vec<Entry>,
    /// The packets of all entries, in their order.
    frames: Vec<Frame>,
}

impl StampLog {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Notes packets that were just copied.
    pub(crate) fn copied<'p>(&mut self, at: Instant, packets: impl Iterator<Item = &'p Packet>) {
        for packet in packets {
            self.frames.push(Frame {
                octets: packet.octets,
                len: packet.meta.frame_len,
            });
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
    pub(crate) fn notified(&mut self, at: Instant, table: &PortTable, arena: &Arena) {
        let mut frames = self.frames.drain(..);
        for entry in self.entries.drain(..) {
            let frames = frames.by_ref().take(entry.frames);
            let Some(port) = table.get(entry.ingress) else {
                frames.for_each(drop);
                continue;
            };
            let stamps = entry.stamps(at);
            port.stages.lock().record(&stamps, entry.frames as u64);
            let took =
                |stage: Stage, before: Stage| stamps.ends[stage as usize].since(stamps.ends[before as usize]);
            let total_ns = at.since(stamps.start);
            let cost = FlowCost {
                frames: 1,
                octets: 0,
                total_ns,
                filter_ns: took(Stage::Filter, Stage::Parse),
                hold_ns: took(Stage::Hold, Stage::Filter),
                longest_ns: total_ns,
            };
            let mut flows = port.flows.lock();
            for frame in frames {
                let octets = u64::from(frame.len);
                let head = arena.head(frame.octets);
                let meta = offload::parse(head, frame.len as usize).unwrap_or(FrameMeta::NOTHING);
                // As the port sees it that the frame came by.
                flows.note(at, Direction::Tx, head, &meta, &FlowCost { octets, ..cost });
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
