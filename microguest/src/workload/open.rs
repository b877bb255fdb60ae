//! An open loop: requests leave on a schedule, whatever becomes of those before, and their latency counts from when they were
//! due. So a stall delays every request that falls into it, as it would users who do not know of each other; a closed loop, which
//! asks less often while it waits, leaves most of them out ("coordinated omission").

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use super::exchange::{CORRUPT, Failure};
use crate::cmdline::{Parameters, Spacing};

const SECOND: f64 = 1e9;
/// Requests without a response at most; what is due beyond them is sent late, and counts as late.
const MAX_UNANSWERED: usize = 4096;
/// How long a phase waits for responses behind its end, in nanoseconds.
const GRACE: u64 = 1_000_000_000;

/// When requests are due: a pure function of rate, spacing and seed.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval: f64,
    spacing: Spacing,
    state: u64,
    next: f64,
}

impl Schedule {
    /// `rate` requests a second, 1 or more, from an epoch at 0.
    pub fn new(rate: u32, spacing: Spacing, seed: u64) -> Self {
        let mut schedule = Self {
            interval: SECOND / f64::from(rate.max(1)),
            spacing,
            state: seed,
            next: 0.0,
        };
        schedule.advance();
        schedule
    }

    /// When the next request is due, in nanoseconds.
    pub fn due(&self) -> u64 {
        self.next as u64
    }

    /// Goes on to the request after it.
    pub fn advance(&mut self) {
        let distance = match self.spacing {
            Spacing::Even => 1.0,
            Spacing::Poisson => self.exponential(),
        };
        self.next += distance * self.interval;
    }

    /// Goes on at `now`: what was due before is not made up for.
    pub fn restart(&mut self, now: u64) {
        self.next = self.next.max(now as f64);
    }

    /// About how many requests are due from the next one on within `window`.
    fn left_in(&self, window: (u64, u64)) -> u64 {
        let begin = self.next.max(window.0 as f64);
        ((window.1 as f64 - begin) / self.interval).max(0.0) as u64
    }

    /// A value distributed exponentially with mean 1, by von Neumann's comparisons ("Various techniques used in connection with
    /// random digits", 1951): no logarithm is needed.
    fn exponential(&mut self) -> f64 {
        let mut whole = 0.0;
        loop {
            let first = self.uniform();
            let (mut last, mut run) = (first, 1);
            loop {
                let next = self.uniform();
                if next > last {
                    break;
                }
                (last, run) = (next, run + 1);
            }
            if run % 2 == 1 {
                return whole + first;
            }
            whole += 1.0;
        }
    }

    /// Uniform in 0 to 1, by `SplitMix64`.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The client's side of an open loop over one connection, whose responses come in the order of the requests.
#[derive(Debug)]
pub struct OpenLoop {
    schedule: Schedule,
    /// When the requests without a response were due.
    unanswered: VecDeque<u64>,
    /// The request being written, and how much of it still is to be.
    request: Vec<u8>,
    unwritten: usize,
    /// Requests begun, responses complete, and octets read of the next response.
    begun: u64,
    answered: u64,
    read: usize,
}

/// What [`OpenLoop::outgoing`] wants written.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The octets; a segment of their own.
    pub octets: &'a [u8],
    /// When the request was due, if these are its first octets.
    pub begins: Option<u64>,
}

impl OpenLoop {
    /// The open loop that the parameters ask for.
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            schedule: Schedule::new(parameters.rate, parameters.spacing, parameters.seed),
            unanswered: VecDeque::with_capacity(MAX_UNANSWERED),
            request: vec![0; parameters.size as usize],
            unwritten: 0,
            begun: 0,
            answered: 0,
            read: 0,
        }
    }

    /// What is to be written now. Nothing that is due at `end` or later is begun.
    pub fn outgoing(&mut self, now: u64, end: Option<u64>) -> Option<Outgoing<'_>> {
        let mut begins = None;
        if self.unwritten == 0 {
            let due = self.schedule.due();
            let over = end.is_some_and(|end| due >= end);
            if due > now || over || self.unanswered.len() == MAX_UNANSWERED {
                return None;
            }
            self.schedule.advance();
            self.unanswered.push_back(due);
            for (index, octet) in self.request.iter_mut().enumerate() {
                *octet = pattern(self.begun, index);
            }
            self.begun += 1;
            self.unwritten = self.request.len();
            begins = Some(due);
        }
        let octets = self.request.get(self.request.len() - self.unwritten..)?;
        Some(Outgoing { octets, begins })
    }

    /// So many octets were written.
    pub fn wrote(&mut self, octets: usize) {
        self.unwritten = self.unwritten.saturating_sub(octets);
    }

    /// Reads at most one response's end: how many octets it took, and when the request of a response that is now complete was
    /// due.
    pub fn read(&mut self, octets: &[u8]) -> Result<(usize, Option<u64>), Failure> {
        if octets.is_empty() {
            return Ok((0, None));
        }
        let size = self.request.len();
        let taken = octets.len().min(size - self.read);
        let (answered, read) = (self.answered, self.read);
        let mut part = octets.iter().take(taken).enumerate();
        if self.unanswered.is_empty() || part.any(|(index, octet)| *octet != pattern(answered, read + index))
        {
            return Err(CORRUPT);
        }
        self.read += taken;
        if self.read < size {
            return Ok((taken, None));
        }
        self.read = 0;
        self.answered += 1;
        Ok((taken, self.unanswered.pop_front()))
    }

    /// Whether a phase that ended at `end` has nothing to wait for.
    pub fn is_settled(&self, now: u64, end: u64) -> bool {
        now >= end && (self.unanswered.is_empty() || now >= end + GRACE)
    }

    /// Ends a phase: goes on with the schedule from now. Returns how many requests were due in its window and not begun.
    pub fn end_phase(&mut self, now: u64, window: (u64, u64)) -> u64 {
        let missed = self.schedule.left_in(window);
        self.schedule.restart(now);
        missed
    }

    /// Starts the schedule.
    pub fn start(&mut self, now: u64) {
        self.schedule.restart(now);
    }

    /// When there is something to write or to end, should nothing arrive.
    pub fn deadline(&self, end: Option<u64>) -> Option<u64> {
        let due = self.schedule.due();
        match end {
            Some(end) if due >= end && self.unanswered.is_empty() => Some(end),
            Some(end) if due >= end => Some(end + GRACE),
            // What holds it up is the network.
            _ if self.unwritten > 0 || self.unanswered.len() == MAX_UNANSWERED => end.map(|end| end + GRACE),
            _ => Some(due),
        }
    }
}

/// Octet `index` of request `number`.
const fn pattern(number: u64, index: usize) -> u8 {
    (number as u8).wrapping_add(index as u8)
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::cmdline::Role;

    fn open(rate: u32, spacing: Spacing) -> OpenLoop {
        let any = Ipv4Addr::UNSPECIFIED;
        OpenLoop::new(&Parameters {
            rate,
            spacing,
            size: 4,
            ..Parameters::new(Role::Client, any, any)
        })
    }

    #[test]
    fn an_even_schedule_is_even() {
        let mut schedule = Schedule::new(1000, Spacing::Even, 7);
        let due: Vec<u64> = (0..3)
            .map(|_| {
                let due = schedule.due();
                schedule.advance();
                due
            })
            .collect();
        assert_eq!(due, [1_000_000, 2_000_000, 3_000_000]);
        schedule.restart(10_500_000);
        assert_eq!(schedule.due(), 10_500_000);
    }

    #[test]
    fn a_poisson_schedule_has_its_rate_and_its_variance() {
        for seed in 0..8 {
            let mut schedule = Schedule::new(1_000_000, Spacing::Poisson, seed);
            let (mut last, mut squares) = (0.0, 0.0);
            for _ in 0..100_000 {
                schedule.advance();
                squares += ((schedule.next - last) / 1000.0).powi(2);
                last = schedule.next;
            }
            let mean = last / 1000.0 / 100_000.0;
            // The variance of an exponential distribution is the square of its mean.
            let variance = squares / 100_000.0 - mean * mean;
            assert!((mean - 1.0).abs() < 0.02, "{mean}");
            assert!((variance - 1.0).abs() < 0.06, "{variance}");
        }
    }

    #[test]
    fn requests_wait_for_nobody_and_responses_find_theirs() {
        let mut open = open(1000, Spacing::Even);
        let mut sent = Vec::new();
        for now in [1_000_000, 5_200_000] {
            while let Some(outgoing) = open.outgoing(now, Some(4_000_000)) {
                sent.extend(outgoing.begins);
                let len = outgoing.octets.len();
                open.wrote(len.min(3));
            }
        }
        assert_eq!(sent, [1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(open.deadline(Some(4_000_000)), Some(4_000_000 + GRACE));
        let responses = [0, 1, 2, 3, 1, 2, 3, 4, 2];
        let mut rest = &responses[..];
        let mut answered = Vec::new();
        while !rest.is_empty() {
            let (taken, due) = open.read(rest).unwrap();
            answered.extend(due);
            rest = &rest[taken..];
        }
        assert_eq!(answered, [1_000_000, 2_000_000]);
        assert!(!open.is_settled(5_200_000, 4_000_000));
        assert!(open.is_settled(4_000_000 + GRACE, 4_000_000));
        assert_eq!(open.read(&[9]), Err(CORRUPT));
    }

    #[test]
    fn what_cannot_be_sent_is_counted_as_due() {
        let mut open = open(1_000_000, Spacing::Even);
        let end = 10_000_000;
        let mut begun = 0;
        while let Some(outgoing) = open.outgoing(end - 1, Some(end)) {
            begun += u64::from(outgoing.begins.is_some());
            let len = outgoing.octets.len();
            open.wrote(len);
        }
        assert_eq!(begun, MAX_UNANSWERED as u64);
        let missed = open.end_phase(end, (0, end));
        assert!((9_998..=10_000).contains(&(begun + missed)), "{missed}");
        assert_eq!(open.schedule.due(), end);
    }

    proptest! {
        #[test]
        fn responses_are_read_from_any_pieces(pieces in prop::collection::vec(1_usize..12, 1..40)) {
            let mut open = open(1_000_000, Spacing::Poisson);
            let mut stream = Vec::new();
            while stream.len() < 500 {
                let now = open.schedule.due();
                let outgoing = open.outgoing(now, None).expect("it is due");
                stream.extend_from_slice(outgoing.octets);
                let len = outgoing.octets.len();
                open.wrote(len);
            }
            let (mut at, mut answered) = (0, 0);
            for piece in pieces {
                let mut rest = &stream[at..(at + piece).min(stream.len())];
                at += rest.len();
                while !rest.is_empty() {
                    let (taken, due) = open.read(rest).expect("the right octets");
                    answered += usize::from(due.is_some());
                    rest = &rest[taken..];
                }
            }
            prop_assert_eq!(answered, at / 4);
        }
    }
}
