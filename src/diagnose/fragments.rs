//! TCP in IP fragments: a segment counts when its last fragment comes, for nobody has it before.

use introspection::Instant;
use introspection::diagnosis::Tap;
use introspection::flow::{DatagramCounts, Datagrams};
use offload::FrameMeta;
use vswitch::pcap::{Record, Station};

/// Datagrams that are remembered at a time; each takes some 300 octets, and 512 more at most where it
/// is cut into many.
const MAX: usize = 16_384;

/// The fragments of a capture, by where they were met.
#[derive(Debug)]
pub(super) struct Fragments(Datagrams<(Tap, Option<Station>)>);

impl Default for Fragments {
    fn default() -> Self {
        Self(Datagrams::new(MAX))
    }
}

impl Fragments {
    /// The headers to judge a frame by: its own, or those of the datagram that it makes whole. `None` if it is a part of one that is not.
    pub(super) fn whole(&mut self, tap: Tap, record: &Record<'_>, meta: FrameMeta) -> Option<FrameMeta> {
        if meta.ip().is_none_or(|ip| !ip.fragment) {
            return Some(meta);
        }
        let place = (tap, record.station);
        self.0.take(place, Instant(record.time_ns), record.octets, &meta)
    }

    /// What became of them, in words, if there were any.
    pub(super) fn notice(&self) -> Option<String> {
        let DatagramCounts {
            fragments,
            tcp,
            udp,
            other,
            incomplete,
        } = self.0.counts();
        (fragments > 0).then(|| {
            format!(
                "{fragments} frames are IP fragments. They make up {tcp} TCP segments, each of which counts as the frame that made it whole; \
                 {} datagrams of other protocols; and {incomplete} of which not all came, which are left out",
                udp + other
            )
        })
    }
}
