//! The lab between two Linux guests: their own delayed ACK, seen and named; and the latency benchmark between them.
//!
//! What is asserted are counts and causes. The one time that is looked at is the gap that the evidence tells, against Linux'
//! constants (`TCP_DELACK_MIN` is 40 ms), with room for a machine that is slow.

mod support;

use std::process::Command;

use kvm_lab::{Add, Kernel, Lab};
use serde_json::Value;
use support::has_complete_kvm;

const ENLIGHT: &str = env!("CARGO_BIN_EXE_enlight");

/// What a command did.
struct Outcome {
    status: Option<i32>,
    output: Vec<u8>,
    errors: String,
}

/// Runs a command of enlight's with Debian's kernel, once with each of the lists of words until one fails: on this machine's KVM
/// if that runs Linux, else in a laboratory that has one.
fn with_linux(test: &str, command: &str, runs: &[Vec<&str>]) -> Option<Outcome> {
    let kernel = match Kernel::in_target(&support::target()) {
        Ok(kernel) => kernel,
        Err(error) => {
            support::skip(test, &error.to_string());
            return None;
        }
    };
    if has_complete_kvm() {
        let files = format!(
            "--kernel {} --modules {}",
            kernel.image.display(),
            kernel.modules.display()
        );
        let script = script(&format!("{ENLIGHT} {command}"), &files, runs);
        let output = Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("sh runs");
        return Some(Outcome {
            status: output.status.code(),
            output: output.stdout,
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let image = Add {
        file: kernel.image.clone(),
        inside: "/vmlinuz".to_owned(),
    };
    let mut laboratory = Lab::new(kernel);
    laboratory.memory = 3072;
    let program = Add {
        file: support::laboratory::program(),
        inside: "/bin/enlight".to_owned(),
    };
    laboratory.adds = vec![program, image];
    let script = script(&format!("enlight {command}"), "--kernel /vmlinuz", runs);
    match support::laboratory::run(&laboratory, &["sh", "-c", &script]) {
        Ok(ran) => Some(Outcome {
            status: Some(i32::from(ran.status)),
            output: ran.output,
            errors: String::from_utf8_lossy(&ran.errors).into_owned(),
        }),
        Err(error @ kvm_lab::LabError::NoProgram { .. }) => {
            support::skip(test, &error.to_string());
            None
        }
        Err(error) => panic!("the laboratory: {error}"),
    }
}

/// A command for each run.
fn script(command: &str, files: &str, runs: &[Vec<&str>]) -> String {
    let commands: Vec<String> = runs
        .iter()
        .map(|words| format!("{command} {files} {}", words.join(" ")))
        .collect();
    commands.join(" && ")
}

/// Runs the lab and reads its JSON, one document a run.
fn reports(test: &str, runs: &[Vec<&str>]) -> Option<Vec<Value>> {
    let outcome = with_linux(test, "lab", runs)?;
    assert_eq!(
        outcome.status,
        Some(0),
        "lab {runs:?} failed:\n{}",
        outcome.errors
    );
    let documents = serde_json::Deserializer::from_slice(&outcome.output).into_iter();
    let reports = documents.map(|report| report.expect("nothing but JSON on standard output"));
    let reports: Vec<Value> = reports.collect();
    assert_eq!(reports.len(), runs.len());
    Some(reports)
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
    let test = "serialize_meets_linux_own_delayed_ack_and_inspect_meets_none";
    let words = "--json --filter off,inspect,serialize --workload wwr --duration 5";
    let Some(reports) = reports(test, &[words.split(' ').collect()]) else {
        return;
    };
    let report = &reports[0];
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
        let run = run(report, filter);
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
    assert!(report["ack_delay_seen_ms"].as_f64().is_some());
    assert_waits_for_linux_acks(run(report, "serialize"));
}

fn assert_waits_for_linux_acks(run: &Value) {
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
    let explanation = run["explanation"].as_str().expect("an explanation");
    assert!(
        explanation.contains("192.0.2.2's delayed ACK") && explanation.contains("Linux delays an ACK"),
        "{explanation}"
    );
}

#[test]
fn every_workload_runs_and_settings_arrive() {
    let runs = ["rr", "records", "stream"].map(|workload| {
        let words = "--json --filter inspect --duration 1 --sysctl net.ipv4.tcp_timestamps=0 --workload";
        words.split(' ').chain([workload]).collect()
    });
    let Some(reports) = reports("every_workload_runs_and_settings_arrive", &runs) else {
        return;
    };
    for report in reports {
        assert!(count(run(&report, "inspect"), "/transactions") > 0, "{report}");
        assert_eq!(report["settings"]["sysctls"][0], "net.ipv4.tcp_timestamps=0");
    }
}

#[test]
fn a_setting_that_linux_does_not_know_is_an_error() {
    let words = vec!["--json", "--sysctl", "net.ipv4.no_such=1"];
    let test = "a_setting_that_linux_does_not_know_is_an_error";
    let Some(outcome) = with_linux(test, "lab", &[words]) else {
        return;
    };
    assert!(outcome.status == Some(1) && outcome.output.is_empty());
    let errors = outcome.errors;
    assert!(
        errors.contains("the server gave up") && errors.contains("setting net.ipv4.no_such to 1"),
        "{errors}"
    );
}

#[test]
fn the_latency_benchmark_runs_between_linux_guests() {
    let test = "the_latency_benchmark_runs_between_linux_guests";
    let words = "--guests linux --rates 20 --duration 0.5 --repeats 5 --json";
    let Some(outcome) = with_linux(test, "bench latency", &[words.split(' ').collect()]) else {
        return;
    };
    assert!(matches!(outcome.status, Some(0 | 3)), "{}", outcome.errors);
    let report: Value = serde_json::from_slice(&outcome.output).expect("nothing but JSON on standard output");
    let settings = &report["settings"];
    assert_eq!(settings["guests"], "linux");
    assert!(
        settings["linux"]
            .as_str()
            .is_some_and(|release| release.starts_with("6.")),
        "{settings}"
    );
    let runs = report["points"][0]["runs"].as_array().expect("runs");
    let parts: Vec<&str> = runs.iter().filter_map(|run| run["part"].as_str()).collect();
    assert_eq!(parts, ["a", "again", "b", "empty"]);
    for run in runs {
        assert_eq!(run["slices"]["p99"].as_array().map(Vec::len), Some(5), "{run}");
        assert!(
            count(run, "/due").abs_diff(count(run, "/transactions")) <= 5,
            "{run}"
        );
    }
    let effects = report["points"][0]["effects"].as_array().expect("effects");
    let refused = effects
        .iter()
        .any(|effect| effect["refused"].as_array().is_some_and(|why| !why.is_empty()));
    assert_eq!(outcome.status, Some(if refused { 3 } else { 0 }), "{report}");
}

/// Runs on every machine: what is refused is refused before anything starts.
#[test]
fn what_linux_guests_cannot_have_is_refused() {
    let refused = |words: &[&str]| {
        let output = Command::new(ENLIGHT).args(words).output();
        let output = output.expect("the binary starts");
        assert!(!output.status.success(), "{words:?}");
        assert!(output.stdout.is_empty(), "{words:?}");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(errors.lines().count(), 1, "{errors}");
        errors
    };
    let nothing = "/nonexistent/vmlinuz";
    if has_complete_kvm() {
        assert!(refused(&["lab", "--kernel", nothing]).contains(nothing));
        assert!(refused(&["lab", "--kernel", "/proc/cpuinfo"]).contains("no Linux kernel"));
        assert!(refused(&["lab", "--kernel", nothing, "--ack-delay", "40"]).contains("--ack-delay"));
    } else {
        let bench = ["bench", "latency", "--guests", "linux"];
        for words in [&["lab", "--kernel", nothing][..], &bench] {
            let errors = refused(words);
            assert!(
                errors.contains("/dev/kvm") || errors.contains("neither vmx nor svm"),
                "{errors}"
            );
        }
    }
    assert!(refused(&["lab", "--sysctl", "net.ipv4.tcp_sack=0"]).contains("--distro"));
    assert!(refused(&["bench", "latency", "--kernel", nothing]).contains("--guests linux"));
}
