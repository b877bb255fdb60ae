//! A congested link: some packets of ECN-capable flows get the mark of congestion (RFC 3168, section 5), so that senders
//! answer with CWR, large sends among them.

use super::headers::{self, TCP, ones_complement};

/// One TCP packet with payload in so many is marked.
const EVERY: u32 = 10;

/// A link that is congested now and then.
#[derive(Debug, Default)]
pub(crate) struct Congestion(u32);

impl Congestion {
    /// Marks a frame, if it is its turn.
    pub(crate) fn mark(&mut self, frame: &mut [u8]) {
        let Ok(Some(at)) = headers::read(frame) else {
            return;
        };
        if at.protocol != TCP || at.end == at.payload {
            return;
        }
        // The traffic class begins in the first octet's low half in IPv6.
        let (place, shift) = if at.is_v6() { (1, 4) } else { (1, 0) };
        let octet = &mut frame[at.network + place];
        if (*octet >> shift).is_multiple_of(4) {
            return;
        }
        self.0 += 1;
        if !self.0.is_multiple_of(EVERY) {
            return;
        }
        *octet |= 3 << shift;
        if !at.is_v6() {
            let header = &mut frame[at.network..at.transport];
            header[10..12].fill(0);
            let sum = !ones_complement(header, 0);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}
