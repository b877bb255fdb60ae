//! Time, from the time-stamp counter.

use core::arch::x86_64::{__cpuid, _rdtsc};

use crate::lapic;

/// How long the counter is measured if nobody tells its frequency, in nanoseconds.
const MEASURE: u32 = 10_000_000;
/// The hypervisor's CPUID leaves, and the one that holds the counter's frequency in kHz (VMware's; QEMU and others too).
const HYPERVISOR: u32 = 0x4000_0000;
const TIMING: u32 = 0x4000_0010;
/// CPUID leaf 1, ECX: there is a hypervisor.
const UNDER_HYPERVISOR: u32 = 1 << 31;
/// Nanoseconds a tick are kept as a fraction of 2^FRACTION.
const FRACTION: u32 = 32;

/// Nanoseconds since the counter was 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    nanoseconds_per_tick: u64,
}

impl Clock {
    /// A clock for a counter of `khz`; if unknown, the hypervisor is asked, else the local APIC's timer.
    pub(crate) fn new(khz: Option<u32>) -> Self {
        let khz = khz
            .or_else(told_by_hypervisor)
            .map_or_else(measure, u64::from)
            .max(1);
        Self {
            nanoseconds_per_tick: (1_000_000 << FRACTION) / khz,
        }
    }

    /// Now.
    pub(crate) fn now(self) -> u64 {
        self.nanoseconds(ticks())
    }

    /// `ticks` in nanoseconds.
    pub(crate) fn nanoseconds(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.nanoseconds_per_tick)) >> FRACTION) as u64
    }
}

/// The time-stamp counter.
pub(crate) fn ticks() -> u64 {
    // SAFETY: CR4.TSD is clear, so ring 3 may read the counter.
    unsafe { _rdtsc() }
}

fn told_by_hypervisor() -> Option<u32> {
    let known = __cpuid(1).ecx & UNDER_HYPERVISOR != 0 && __cpuid(HYPERVISOR).eax >= TIMING;
    known.then(|| __cpuid(TIMING).eax).filter(|khz| *khz > 0)
}

/// Kilohertz, measured.
fn measure() -> u64 {
    let mut passed = 0;
    let elapsed = lapic::count(|elapsed| {
        let start = ticks();
        while elapsed() < MEASURE {}
        passed = ticks() - start;
    });
    passed * 1_000_000 / u64::from(elapsed.max(1))
}
