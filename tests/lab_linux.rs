//! The lab between two Linux guests: their own delayed ACK, seen and named.
//!
//! What is asserted are counts and causes. The one time that is looked at is the gap that the evidence tells, against Linux'
//! constants (`TCP_DELACK_MIN` is 40 ms), with room for a machine that is slow.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A kernel and, if they are not where its release says, its modules.
fn kernel() -> Option<(PathBuf, Option<PathBuf>)> {
    let dir = support::target().join("debian-kernel");
    let fetched = (dir.join("vmlinuz"), Some(dir.join("modules")));
    // Where the laboratory has it.
    let inside = (PathBuf::from("/vmlinuz"), None);
    [fetched, inside].into_iter().find(|(kernel, _)| kernel.exists())
}

/// Why Linux guests cannot run here.
fn missing() -> Option<String> {
    if std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Some("/dev/kvm cannot be used here".to_owned());
    }
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !cpuinfo
        .split_whitespace()
        .any(|word| word == "vmx" || word == "svm")
    {
        return Some("this machine's KVM cannot run Linux (neither vmx nor svm)".to_owned());
    }
    kernel()
        .is_none()
        .then(|| "there is no Debian kernel: run `cargo xtask setup`".to_owned())
}

/// Runs the lab on the kernel and reads its JSON.
fn report(words: &[&str]) -> Value {
    let (kernel, modules) = kernel().expect("checked");
    let mut command = Command::new(env!("CARGO_BIN_EXE_enlight"));
    command
        .args(["lab", "--json", "--kernel"])
        .arg(kernel)
        .args(words);
    if let Some(modules) = modules {
        command.arg("--modules").arg(modules);
    }
    let output = command.output().expect("the binary starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "lab {words:?} failed:\n{errors}");
    serde_json::from_slice(&output.stdout).expect("nothing but JSON on standard output")
}

fn run<'a>(report: &'a Value, filter: &str) -> &'a Value {
    let runs = report["runs"].as_array().expect("runs");
    runs.iter().find(|run| run["filter"] == filter).expect("the run")
}

fn count(run: &Value, path: &str) -> u64 {
    run.pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("{path} in {run}"))
}

/// One of the times of the evidence for delayed ACKs, in milliseconds, in order.
fn delayed_acks(run: &Value, time: &str) -> Vec<f64> {
    let mut gaps: Vec<f64> = run["evidence"]
        .as_array()
        .expect("evidence")
        .iter()
        .filter(|evidence| evidence["cause"] == "delayed_ack")
        .filter_map(|evidence| evidence[time].as_f64())
        .collect();
    gaps.sort_by(f64::total_cmp);
    gaps
}

#[test]
fn serialize_meets_linux_own_delayed_ack_and_inspect_meets_none() {
    if let Some(reason) = missing() {
        support::skip(
            "serialize_meets_linux_own_delayed_ack_and_inspect_meets_none",
            &reason,
        );
        return;
    }
    let report = report(&[
        "--filter",
        "off,inspect,serialize",
        "--workload",
        "wwr",
        "--duration",
        "5",
    ]);
    assert_eq!(report["guests"], "linux");
    assert_eq!(report["settings"].get("ack_delay_ms"), None, "Linux decides");
    for guest in report["guests_info"].as_array().expect("guests") {
        assert!(
            guest["system"]
                .as_str()
                .is_some_and(|system| system.starts_with("Linux 6.")),
            "{guest}"
        );
    }
    for filter in ["off", "inspect"] {
        let run = run(&report, filter);
        assert!(count(run, "/transactions") >= 20, "{run}");
        assert_eq!(
            count(run, "/stalls/delayed_ack"),
            0,
            "{filter}: {}",
            run["evidence"]
        );
        assert_eq!(
            count(run, "/stalls/filter_hold"),
            0,
            "{filter}: {}",
            run["evidence"]
        );
    }
    let run = run(&report, "serialize");
    let transactions = count(run, "/transactions");
    let delayed = count(run, "/stalls/delayed_ack");
    assert!(transactions >= 10, "{run}");
    assert!(
        delayed * 10 >= transactions * 8 && delayed <= transactions + 2,
        "{delayed} of {transactions}: {}",
        run["evidence"]
    );
    let gaps = delayed_acks(run, "gap_ms");
    let middle = gaps[gaps.len() / 2];
    assert!((35.0..60.0).contains(&middle), "{gaps:?}");
    // Linux' timer counts jiffies of 4 ms, and cannot run out sooner.
    let late = delayed_acks(run, "ack_late_ms");
    assert!(
        late.len() == gaps.len() && late.iter().all(|ms| *ms >= 36.0),
        "{late:?}"
    );
    assert!(report["ack_delay_seen_ms"].as_f64().is_some());
    let explanation = run["explanation"].as_str().expect("an explanation");
    assert!(
        explanation.contains("192.0.2.2's delayed ACK") && explanation.contains("Linux delays an ACK"),
        "{explanation}"
    );
}

#[test]
fn every_workload_runs_and_settings_arrive() {
    if let Some(reason) = missing() {
        support::skip("every_workload_runs_and_settings_arrive", &reason);
        return;
    }
    for workload in ["rr", "records", "stream"] {
        let words = ["--filter", "inspect", "--workload", workload, "--duration", "1"];
        let setting = ["--sysctl", "net.ipv4.tcp_timestamps=0"];
        let report = report(&[&words[..], &setting].concat());
        assert!(count(run(&report, "inspect"), "/transactions") > 0, "{report}");
        assert_eq!(report["settings"]["sysctls"][0], "net.ipv4.tcp_timestamps=0");
    }
}

#[test]
fn a_setting_that_linux_does_not_know_is_an_error_in_one_line() {
    if let Some(reason) = missing() {
        support::skip(
            "a_setting_that_linux_does_not_know_is_an_error_in_one_line",
            &reason,
        );
        return;
    }
    let (kernel, modules) = kernel().expect("checked");
    let mut command = Command::new(env!("CARGO_BIN_EXE_enlight"));
    command
        .args(["lab", "--json", "--sysctl", "net.ipv4.no_such=1", "--kernel"])
        .arg(kernel);
    if let Some(modules) = modules {
        command.arg("--modules").arg(modules);
    }
    let output = command.output().expect("the binary starts");
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("the server gave up") && errors.contains("net.ipv4.no_such"),
        "{errors}"
    );
}

/// Runs on every machine: what is refused is refused before anything starts.
#[test]
fn what_linux_guests_cannot_have_is_refused() {
    let lab = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_enlight"))
            .arg("lab")
            .args(words)
            .output();
        let output = output.expect("the binary starts");
        assert!(!output.status.success(), "{words:?}");
        assert!(output.stdout.is_empty(), "{words:?}");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(errors.lines().count(), 1, "{errors}");
        errors
    };
    let nothing = Path::new("/nonexistent/vmlinuz").to_string_lossy().into_owned();
    if missing().is_some() {
        let errors = lab(&["--kernel", &nothing]);
        assert!(
            errors.contains("/dev/kvm") || errors.contains("neither vmx nor svm"),
            "{errors}"
        );
    } else {
        assert!(lab(&["--kernel", &nothing]).contains(&nothing));
        assert!(lab(&["--kernel", "/proc/cpuinfo"]).contains("no Linux kernel"));
        assert!(lab(&["--kernel", &nothing, "--ack-delay", "40"]).contains("--ack-delay"));
    }
    assert!(lab(&["--sysctl", "net.ipv4.tcp_sack=0"]).contains("--distro"));
}
