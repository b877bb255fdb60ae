//! What the kernel knows of the daemon.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::thread::{CpuSet, sched_setaffinity};

/// Has the calling thread run on one processor only.
pub(crate) fn pin(cpu: usize) {
    let mut own = CpuSet::new();
    own.set(cpu);
    sched_setaffinity(None, &own).expect("the processor is there");
}

/// A process, by number.
#[derive(Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

/// Its memory in MiB.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// Pages in memory.
    pub(crate) rss: f64,
    /// The same, with those that it shares with its guests' VMMs divided among all who share them.
    pub(crate) pss: f64,
}

impl Process {
    pub(crate) fn memory(self) -> Memory {
        let text = self.read("smaps_rollup");
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib: Option<f64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            kib.expect("the kernel says so") / 1024.0
        };
        Memory {
            rss: field("Rss:"),
            pss: field("Pss:"),
        }
    }

    pub(crate) fn threads(self) -> usize {
        self.tasks().len()
    }

    /// Nanoseconds that its threads ran.
    pub(crate) fn cpu(self) -> u64 {
        self.tasks().iter().filter_map(|task| ran(task)).sum()
    }

    /// Nanoseconds that the thread of this name ran.
    pub(crate) fn cpu_of(self, thread: &str) -> u64 {
        let is_named = |task: &&PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == thread)
        };
        self.tasks()
            .iter()
            .filter(is_named)
            .filter_map(|task| ran(task))
            .sum()
    }

    fn tasks(self) -> Vec<PathBuf> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0)).expect("the daemon runs");
        tasks.map(|task| task.expect("a thread").path()).collect()
    }

    fn read(self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0)).expect("the daemon runs")
    }
}

/// Nanoseconds that a thread ran.
fn ran(task: &Path) -> Option<u64> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}
