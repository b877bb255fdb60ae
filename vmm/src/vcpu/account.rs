//! What a processor's thread used, as the host's scheduler and KVM count it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::stats::Stats;

/// Longest line of the files in `/proc` that are read here.
const LINE: usize = 1024;

/// One processor's use of the host, since its thread began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VcpuInfo {
    /// Milliseconds of CPU time spent in the guest, as the host counts them.
    pub guest_ms: u64,
    /// Milliseconds of CPU time spent on the guest's behalf: in KVM and in this process.
    pub host_ms: u64,
    /// Milliseconds that the thread could have run but had no CPU: what the guest sees as steal time.
    pub steal_ms: u64,
    /// Milliseconds that the guest had its processor halted; `None` where KVM does not count them. The guest takes
    /// all other time for use of its processor.
    pub halted_ms: Option<u64>,
    /// Milliseconds since the thread began.
    pub elapsed_ms: u64,
    /// How often the processor left the guest, by KVM's names of the reasons.
    pub exits: BTreeMap<String, u64>,
}

/// The files that one processor's use is read from, opened once so that no path is looked up later.
pub(super) struct Account {
    stat: File,
    schedule: Option<File>,
    stats: Option<Stats>,
    began: std::time::Instant,
}

impl Account {
    /// The calling thread's files, and its processor's counters in KVM if there are any.
    pub(super) fn of_this_thread(stats: Option<Stats>) -> io::Result<Self> {
        Ok(Self {
            stat: File::open("/proc/thread-self/stat")?,
            // Only kernels with scheduler statistics have this one.
            schedule: File::open("/proc/thread-self/schedstat").ok(),
            stats,
            began: std::time::Instant::now(),
        })
    }

    /// What was used until now; zeros for what cannot be read, as when the thread has ended.
    pub(super) fn read(&self) -> VcpuInfo {
        let (used, in_guest) = line_of(&self.stat)
            .and_then(|line| cpu_time(&line))
            .unwrap_or_default();
        let waited = self
            .schedule
            .as_ref()
            .and_then(line_of)
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        let counters = self.stats.as_ref().map(Stats::read).unwrap_or_default();
        let ms = |time: Duration| time.as_millis() as u64;
        let halted = counters.get("halt_wait_ns").map(|waited| {
            let polled = counters.get("halt_poll_fail_ns").copied().unwrap_or(0)
                + counters.get("halt_poll_success_ns").copied().unwrap_or(0);
            (waited + polled) / 1_000_000
        });
        VcpuInfo {
            guest_ms: ms(in_guest),
            host_ms: ms(used.saturating_sub(in_guest)),
            steal_ms: ms(Duration::from_nanos(waited.unwrap_or(0))),
            halted_ms: halted,
            elapsed_ms: ms(self.began.elapsed()),
            exits: exits(counters),
        }
    }
}

/// Those of KVM's counters that count ways out of the guest.
fn exits(counters: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    counters
        .into_iter()
        .filter(|(name, count)| *count > 0 && (name.ends_with("exits") || name == "hypercalls"))
        .collect()
}

fn line_of(file: &File) -> Option<String> {
    let mut octets = [0; LINE];
    let len = file.read_at(&mut octets, 0).ok()?;
    Some(String::from_utf8_lossy(octets.get(..len)?).into_owned())
}

/// User and system time together, and the part of it that was the guest's, from `/proc/PID/stat` (proc(5)): fields
/// 14, 15 and 43, in ticks of 10 ms.
fn cpu_time(stat: &str) -> Option<(Duration, Duration)> {
    // The name in field 2 may hold anything, so fields are counted from its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let time = |ticks: u64| Duration::from_millis(ticks.saturating_mul(10));
    Some((
        time(ticks(14)?.saturating_add(ticks(15)?)),
        time(ticks(43).unwrap_or(0)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let fields: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let stat = format!("77 (vcpu) 0 (x) R {}", fields.join(" "));
        assert_eq!(
            cpu_time(&stat),
            Some((Duration::from_millis(290), Duration::from_millis(430)))
        );
        assert_eq!(cpu_time("77 (vcpu"), None);
        assert_eq!(cpu_time("77 (vcpu) R 1"), None);
    }

    #[test]
    fn a_thread_accounts_for_itself() {
        let account = Account::of_this_thread(None).expect("procfs");
        let info = account.read();
        assert!(info.halted_ms.is_none() && info.exits.is_empty());
        assert!(info.guest_ms <= info.elapsed_ms);
    }

    #[test]
    fn exits_are_told_from_other_counters() {
        let counters = [
            ("exits", 7),
            ("io_exits", 3),
            ("halt_wait_ns", 9),
            ("nmi_exits", 0),
        ];
        let counters = counters.map(|(name, count)| (name.to_owned(), count)).into();
        let names: Vec<_> = exits(counters).into_keys().collect();
        assert_eq!(names, ["exits", "io_exits"]);
    }
}
