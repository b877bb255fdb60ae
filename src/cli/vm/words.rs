//! Numbers as people read them, and what is said of a machine in more than one place.

use vmm::SandboxReport;

/// KiB as MiB.
pub(super) fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

/// Microseconds as milliseconds.
pub(super) fn ms(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1e3)
}

/// Milliseconds in the two largest units that fit.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{:.1} s", ms as f64 / 1e3),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// What is to be said of a machine with more processors than the host can run at once.
pub(super) fn sharing(vcpus: usize, host_cpus: u32) -> Option<String> {
    let cpus = if host_cpus == 1 { "CPU" } else { "CPUs" };
    (vcpus > host_cpus as usize).then(|| {
        format!(
            "{vcpus} virtual processors share {host_cpus} {cpus}: they wait for each other, which the guest sees as steal time"
        )
    })
}

/// A line about what the machine's process has given up.
pub(super) fn sandbox(report: &SandboxReport) -> String {
    if !report.seccomp {
        return "sandbox: none\n".to_owned();
    }
    let files = report
        .landlock
        .map_or_else(|| "none".to_owned(), |version| format!("ABI {version}"));
    format!("sandbox: seccomp, no new privileges, Landlock {files}\n")
}

/// What is to be said of a machine with more memory than the host has to spare.
pub(super) fn shortage(memory: u64, available: u64) -> Option<String> {
    (memory > available).then(|| {
        let [memory, available] = [memory, available].map(|octets| mib(octets >> 10));
        format!(
            "the guest may use {memory} of memory, of which the host has {available} available: if it uses more, the host \
             swaps or ends a process"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let shown = [0, 59_940, 61_000, 3_720_000, 90_000_000].map(duration);
        assert_eq!(shown, ["0.0 s", "59.9 s", "1 min 1 s", "1 h 2 min", "1 d 1 h"]);
    }

    #[test]
    fn a_sandbox_is_told_with_what_the_kernel_lacks() {
        assert_eq!(sandbox(&SandboxReport::default()), "sandbox: none\n");
        let mut report = SandboxReport {
            seccomp: true,
            no_new_privs: true,
            landlock: Some(7),
        };
        assert_eq!(
            sandbox(&report),
            "sandbox: seccomp, no new privileges, Landlock ABI 7\n"
        );
        report.landlock = None;
        assert!(sandbox(&report).ends_with("Landlock none\n"));
    }

    #[test]
    fn shortage_is_said_when_there_is_some() {
        assert_eq!(shortage(1 << 30, 1 << 30), None);
        let text = shortage(2 << 30, 1 << 30).unwrap();
        assert!(text.starts_with("the guest may use 2048.0 MiB of memory, of which the host has 1024.0 MiB"));
    }

    #[test]
    fn sharing_is_said_when_there_is_some() {
        assert_eq!(sharing(2, 2), None);
        assert!(
            sharing(4, 2)
                .unwrap()
                .starts_with("4 virtual processors share 2 CPUs")
        );
        assert!(sharing(2, 1).unwrap().contains("1 CPU:"));
    }
}
