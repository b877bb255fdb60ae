//! What a connection's gaps are judged by.

use super::pairing::Crossing;
use super::trace::DiagnosisOptions;

/// What tells a stall, in nanoseconds and octets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) threshold: u64,
    pub(super) prompt: u64,
    mss: Option<u16>,
    pub(super) two_taps: bool,
    /// What is known of what came before the trace; else it begins with the connection, or nobody knows.
    pub(super) before: Option<Before>,
}

/// What is known of a connection before the frames that are judged, which then are its last ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    /// The widest window, by the direction of what it lets pass.
    pub(super) widest: [u16; 2],
}

impl Limits {
    pub(super) fn new(options: &DiagnosisOptions, mss: Option<u16>, two_taps: bool) -> Self {
        let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            threshold: nanos(options.threshold),
            prompt: nanos(options.prompt),
            mss,
            two_taps,
            before: None,
        }
    }

    /// The size of a full segment: as announced, as far as frames of that size were seen.
    pub(super) fn full(&self, crossings: &[Crossing]) -> u32 {
        /// Larger frames are large sends.
        const JUMBO: u32 = 9_000;
        /// What remains of 1,500 octets below any usual headers and tunnels.
        const USUAL: u32 = 1_300;
        let sizes = crossings.iter().map(|frame| frame.payload);
        let longest = sizes.filter(|size| *size <= JUMBO).max().unwrap_or(0);
        match self.mss {
            // Options, time stamps among them, take up to 40 octets of each segment (RFC 9293, 3.7.1).
            Some(mss) => u32::from(mss).min(longest.max(u32::from(mss).saturating_sub(40))),
            None => longest.max(USUAL),
        }
    }
}
