//! Facts about the machine that a measurement is worth nothing without.

use std::fs;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use super::report::HostFacts;

/// Collects the facts; `kvm` is what was found out about KVM.
pub(crate) fn facts(kvm: String) -> HostFacts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    HostFacts {
        cpu: cpu_name(&read("/proc/cpuinfo")),
        cores: thread::available_parallelism().map_or(1, usize::from),
        memory_mib: memory_mib(&read("/proc/meminfo")),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        kvm,
        date: rfc3339(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        ),
        command: command_line(std::env::args()),
    }
}

fn cpu_name(cpuinfo: &str) -> String {
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

fn memory_mib(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}

/// The command line as it may be typed again: the program's path is left out.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let mut line = String::from("enlight");
    for word in words.skip(1) {
        line.push(' ');
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:@+".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            line.push_str(&word);
        } else {
            line.push('\'');
            line.push_str(&word.replace('\'', r"'\''"));
            line.push('\'');
        }
    }
    line
}

/// Seconds since 1970 as `2026-01-31T12:34:56Z`.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    let mut left = days;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (1_795_249_216, "2026-11-21T08:20:16Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn facts_are_read_from_text() {
        assert_eq!(
            cpu_name("processor : 0\nmodel name\t: AMD EPYC\nstepping : 1\n"),
            "AMD EPYC"
        );
        assert_eq!(cpu_name(""), "unknown");
        assert_eq!(memory_mib("MemTotal:       24628724 kB\nMemFree: 1 kB\n"), 24_051);
        let words = ["/x/enlight", "lab", "--out", "my dir", "--filter", "off,inspect"];
        assert_eq!(
            command_line(words.into_iter().map(str::to_owned)),
            "enlight lab --out 'my dir' --filter off,inspect"
        );
    }
}
