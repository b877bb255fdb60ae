//! Numbers for people.

use super::report::LabReport;

/// A time that is given in microseconds: three to four figures and a unit.
pub(crate) fn micros(us: f64) -> String {
    if us >= 999_950.0 {
        format!("{:.2} s", us / 1_000_000.0)
    } else if us >= 999.95 {
        format!("{:.1} ms", us / 1_000.0)
    } else if us >= 99.95 {
        format!("{us:.0} µs")
    } else if us >= 9.995 {
        format!("{us:.1} µs")
    } else {
        format!("{us:.2} µs")
    }
}

/// How long the guests may delay an ACK, or, where that is Linux' own affair, how long they did.
pub(crate) fn ack_delay(report: &LabReport) -> String {
    match (report.settings.ack_delay_ms, report.ack_delay_seen_ms) {
        (Some(ms), _) => format!("{ms} ms"),
        (None, Some(seen)) => format!("Linux' own (seen: {seen:.0} ms)"),
        (None, None) => "Linux' own (none seen)".to_owned(),
    }
}

/// A difference in microseconds, with its sign.
pub(crate) fn delta_micros(us: f64) -> String {
    if us < 0.0 {
        format!("−{}", micros(-us))
    } else {
        format!("+{}", micros(us))
    }
}

/// A whole number with a comma between thousands.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_figures() {
        for (us, text) in [
            (0.0, "0.00 µs"),
            (0.416, "0.42 µs"),
            (41.26, "41.3 µs"),
            (412.6, "413 µs"),
            (999.96, "1.0 ms"),
            (200_123.0, "200.1 ms"),
            (999_960.0, "1.00 s"),
            (12_345_678.0, "12.35 s"),
        ] {
            assert_eq!(micros(us), text);
        }
        assert_eq!(delta_micros(1.5), "+1.50 µs");
        assert_eq!(delta_micros(-1500.0), "−1.5 ms");
    }

    #[test]
    fn thousands_have_commas() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(n), text);
        }
    }
}
