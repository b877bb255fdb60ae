//! What a machine cost and did.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::devices::block::DiskCounts;
use crate::devices::console::ConsoleCounts;
pub use crate::devices::net::NetCounts;
use crate::devices::rng::RngCounts;
use crate::kernel::KernelInfo;
use crate::sandbox::SandboxReport;
pub use crate::vcpu::ExitCounts;
use crate::vcpu::VcpuInfo;

/// A summary of one machine, up to date when it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmReport {
    /// What was booted, and how.
    pub kernel: Option<KernelInfo>,
    /// When the phases of the last start ended.
    pub boot: BootTimes,
    /// How often the guest reset itself and was started again.
    pub resets: u64,
    /// Memory of the process, as it was when the machine stopped, or now when it has not run yet.
    pub memory: MemoryUse,
    /// How often the guest left for this process.
    pub exits: ExitCounts,
    /// Octets of console output that nobody took.
    pub console_lost: u64,
    /// One entry for each interface.
    pub nics: Vec<NicReport>,
    /// One entry for each disk.
    pub disks: Vec<DiskReport>,
    /// The entropy device.
    pub rng: RngReport,
    /// The virtio console, where there is one.
    pub console: Option<ConsoleReport>,
    /// What the process gave up before the guest began.
    pub sandbox: SandboxReport,
}

/// A machine as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmInfo {
    /// The process that runs it.
    pub pid: u32,
    /// Whether its processors may run.
    pub state: VmState,
    /// Milliseconds since it was made.
    pub uptime_ms: u64,
    /// Its memory in KiB.
    pub memory_size_kib: u64,
    /// CPUs that this process may run on.
    pub host_cpus: u32,
    /// Whether it has more processors than that: they wait for each other then, as steal time.
    pub overcommitted: bool,
    /// One entry for each processor, since the last start.
    pub vcpus: Vec<VcpuInfo>,
    /// Everything that is told at its end, too.
    #[serde(flatten)]
    pub report: VmReport,
}

/// Whether a machine's processors may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// They may.
    #[default]
    Running,
    /// They are held outside the guest.
    Paused,
}

/// Points in time in microseconds since [`crate::Vm::new`] was called, or since the guest's last reset, in the order in
/// which they happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootTimes {
    /// Guest memory is mapped.
    pub memory_us: u64,
    /// A compressed kernel is unpacked.
    pub unpacked_us: Option<u64>,
    /// The kernel and initial RAM disk are in it.
    pub kernel_us: u64,
    /// The KVM machine exists.
    pub kvm_us: u64,
    /// The interfaces are connected to their switch, and the disks are in their slots.
    pub devices_us: u64,
    /// The processors are ready.
    pub vcpus_us: u64,
    /// The processors begin to run.
    pub started_us: Option<u64>,
    /// The guest printed something for the first time.
    pub first_output_us: Option<u64>,
    /// The guest's init said that it runs, by a mark: 1 to octet 0x40 of the host bridge's configuration or to port 0x404.
    pub init_us: Option<u64>,
    /// The guest notified a transmit queue for the first time: its first frame is on the ring.
    pub first_kick_us: Option<u64>,
}

/// Resident memory of the process in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryUse {
    /// Guest memory that has been touched.
    pub guest_kib: u64,
    /// Everything else: what the machine costs beyond its own memory.
    pub beyond_guest_kib: u64,
}

/// What happened to one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NicReport {
    /// The switch's socket.
    pub socket: String,
    /// Feature bits that the driver accepted, while one is at work.
    pub features: Option<u64>,
    /// Events of the link and its control queue.
    pub counts: NetCounts,
    /// Register accesses that broke the rules.
    pub guest_faults: u64,
    /// Interrupts and doorbells that the host refused to wire.
    pub wiring_failures: u64,
}

/// What happened to one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    /// The image.
    pub path: String,
    /// Feature bits that the driver accepted, while one is at work.
    pub features: Option<u64>,
    /// Requests since the machine was made, over all resets of the guest.
    pub counts: DiskCounts,
    /// Register accesses that broke the rules.
    pub guest_faults: u64,
    /// Interrupts and doorbells that the host refused to wire.
    pub wiring_failures: u64,
}

/// What happened to the entropy device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RngReport {
    /// Feature bits that the driver accepted, while one is at work.
    pub features: Option<u64>,
    /// Requests since the guest last began.
    pub counts: RngCounts,
    /// Register accesses that broke the rules.
    pub guest_faults: u64,
    /// Interrupts and doorbells that the host refused to wire.
    pub wiring_failures: u64,
}

/// What happened to the virtio console.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsoleReport {
    /// Feature bits that the driver accepted, while one is at work.
    pub features: Option<u64>,
    /// Octets since the guest last began.
    pub counts: ConsoleCounts,
    /// Register accesses that broke the rules.
    pub guest_faults: u64,
    /// Interrupts and doorbells that the host refused to wire.
    pub wiring_failures: u64,
}

/// A clock that starts with the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds until now.
    pub(crate) fn us(self) -> u64 {
        self.us_at(Instant::now())
    }

    /// Microseconds until `then`; 0 when that was before the start.
    pub(crate) fn us_at(self, then: Instant) -> u64 {
        then.checked_duration_since(self.0)
            .unwrap_or(Duration::ZERO)
            .as_micros() as u64
    }
}

impl MemoryUse {
    /// Reads `/proc/self/smaps`; `guest` are the parts of the address space that are the guest's.
    pub(crate) fn measure(guest: &[(u64, u64)]) -> io::Result<Self> {
        let smaps = BufReader::with_capacity(4096, File::open("/proc/self/smaps")?);
        Self::parse(smaps, guest)
    }

    fn parse(smaps: impl BufRead, guest: &[(u64, u64)]) -> io::Result<Self> {
        let (mut used, mut in_guest) = (Self::default(), false);
        for line in smaps.lines() {
            let line = line?;
            let (first, rest) = line.split_once(' ').unwrap_or((&line, ""));
            if !first.ends_with(':') {
                let start = first.split_once('-').map_or("", |(start, _)| start);
                let start = u64::from_str_radix(start, 16).unwrap_or(0);
                in_guest = guest.iter().any(|(low, high)| (*low..*high).contains(&start));
            } else if first == "Rss:" {
                let kib = rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
                *(if in_guest {
                    &mut used.guest_kib
                } else {
                    &mut used.beyond_guest_kib
                }) += kib;
            }
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_told_apart() {
        let smaps = "\
            7f00-7f10 rw-s 00000000 00:01 5 /memfd:enlight-guest-ram (deleted)\nSize: 64 kB\nRss:  40 kB\n\
            5500-5510 r-xp 00000000 08:01 7 /usr/bin/enlight\nSize: 900 kB\nRss:   700 kB\nPss: 3 kB\n\
            7ffd-7ffe rw-p 00000000 00:00 0 [stack]\nRss: 12 kB\n";
        let used = MemoryUse::parse(smaps.as_bytes(), &[(0x7f00, 0x7f10)]).expect("readable");
        assert_eq!(
            used,
            MemoryUse {
                guest_kib: 40,
                beyond_guest_kib: 712
            }
        );
    }

    #[test]
    fn own_memory_can_be_measured() {
        let used = MemoryUse::measure(&[]).expect("procfs");
        assert!(used.beyond_guest_kib > 100, "{used:?}");
    }
}
