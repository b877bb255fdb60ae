//! The lab from outside: the real binary, its JSON and its files.
//!
//! What is asserted are counts, sums and protocol timers (a delayed ACK of 200 ms cannot come sooner), never the
//! machine's speed.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn lab(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_enlight"))
        .arg("lab")
        .args(words)
        .output()
        .expect("the binary starts")
}

/// Runs the lab and reads its JSON.
fn report(words: &[&str]) -> Value {
    let output = lab(&[&["--json"], words].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "lab {words:?} failed:\n{errors}");
    serde_json::from_slice(&output.stdout).expect("nothing but JSON on standard output")
}

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("{path} in {value}"))
}

fn run<'a>(report: &'a Value, filter: &str) -> &'a Value {
    let runs = report["runs"].as_array().expect("runs");
    runs.iter()
        .find(|run| run["filter"] == filter)
        .unwrap_or_else(|| panic!("no run of {filter}"))
}

/// What holds of every run, whatever the profile.
fn assert_sound(run: &Value) {
    let rtt = ["p50", "p90", "p99", "p999", "max"].map(|name| number(run, &format!("/rtt_us/{name}")));
    assert!(rtt.is_sorted(), "percentiles in order: {run}");
    let counted: u64 = run["histogram_ns"]
        .as_array()
        .expect("a histogram")
        .iter()
        .map(|bucket| bucket[1].as_u64().expect("a count"))
        .sum();
    assert_eq!(
        Some(counted),
        run["transactions"].as_u64(),
        "the distribution holds every transaction"
    );
    for part in std::iter::once(run).chain(run["directions"].as_array().expect("directions")) {
        let stages = part["stages_us"].as_object().expect("stages");
        assert_eq!(stages.len(), 7);
        let sum: f64 = stages.values().filter_map(Value::as_f64).sum();
        let residence = number(part, "/residence_us");
        assert!(
            (sum - residence).abs() <= residence * 0.01 + 0.01,
            "{sum} is not {residence}: {part}"
        );
    }
}

fn stalls(run: &Value) -> [f64; 3] {
    ["delayed_ack", "filter_hold", "retransmission"].map(|cause| number(run, &format!("/stalls/{cause}")))
}

/// A profile that stalls nothing. A machine that has other work to do stands still now and then, and that looks like a
/// late ACK: such a stall is rare, one that a policy causes is not.
fn assert_no_stalls(run: &Value) {
    let total: f64 = stalls(run).iter().sum();
    assert!(
        total <= number(run, "/transactions") / 100.0,
        "{}: {}",
        run["filter"],
        run["evidence"]
    );
}

/// The main claim: `off` and `inspect` stall nothing, `serialize` waits for nearly each delayed ACK.
fn assert_the_story(report: &Value, guests: &str) {
    assert_eq!(report["guests"], guests);
    for fact in ["cpu", "kernel", "kvm", "date", "command"] {
        assert!(
            report["host"][fact].as_str().is_some_and(|text| !text.is_empty()),
            "host.{fact}"
        );
    }
    for filter in ["off", "inspect"] {
        let run = run(report, filter);
        assert_sound(run);
        assert_no_stalls(run);
        assert!(number(run, "/transactions") >= 50.0);
        assert!(number(run, "/stages_us/hold") < 1.0, "nothing is held");
    }
    let run = run(report, "serialize");
    assert_sound(run);
    let transactions = number(run, "/transactions");
    let [delayed, hold, retransmission] = stalls(run);
    assert!(transactions >= 5.0);
    assert!(
        delayed >= transactions - 2.0 && delayed <= transactions + 2.0,
        "{delayed} of {transactions}"
    );
    assert_eq!((hold, retransmission), (0.0, 0.0));
    assert!(
        number(run, "/rtt_us/p50") > 190_000.0,
        "a delayed ACK cannot come sooner"
    );
    assert!(number(run, "/stages_us/hold") > 1_000.0);
    let explanation = run["explanation"].as_str().expect("an explanation");
    assert!(explanation.contains("192.0.2.2's delayed ACK"), "{explanation}");
    assert!(
        run["evidence"]
            .as_array()
            .is_some_and(|evidence| !evidence.is_empty())
    );
    let gap = &run["timeline"]["gaps"][0];
    assert_eq!(
        gap["cause"], "delayed_ack",
        "the picture names its gap: {}",
        run["timeline"]
    );
}

#[test]
fn endpoints_tell_the_story() {
    let report = report(&["--guests", "endpoint", "--duration", "2"]);
    assert_the_story(&report, "endpoint");
}

#[test]
fn kvm_guests_tell_the_story() {
    if std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        eprintln!("skipped: /dev/kvm cannot be used here");
        return;
    }
    let report = report(&["--guests", "kvm", "--duration", "2"]);
    assert_the_story(&report, "kvm");
    for guest in report["guests_info"].as_array().expect("guests") {
        assert!(number(guest, "/first_frame_ms") > 0.0);
        let overhead = number(guest, "/memory_overhead_kib");
        // The code of a debug build is several times as large.
        let most = if cfg!(debug_assertions) { 24.0 } else { 8.0 };
        assert!(
            overhead <= most * 1024.0,
            "the process takes {overhead} KiB beyond its guest"
        );
    }
}

#[test]
fn the_gap_follows_the_ack_delay() {
    let short = report(&[
        "--guests",
        "endpoint",
        "--duration",
        "1",
        "--filter",
        "serialize",
        "--ack-delay",
        "40",
    ]);
    let run40 = run(&short, "serialize");
    assert!(number(run40, "/rtt_us/p50") > 38_000.0 && number(run40, "/rtt_us/min") < 190_000.0);
    assert!(number(run40, "/stalls/delayed_ack") >= number(run40, "/transactions") - 2.0);

    let none = report(&[
        "--guests",
        "endpoint",
        "--duration",
        "1",
        "--filter",
        "serialize",
        "--ack-delay",
        "0",
    ]);
    let run0 = run(&none, "serialize");
    assert_no_stalls(run0);
    assert!(number(run0, "/transactions") > number(run40, "/transactions"));
    assert_sound(run0);
}

#[test]
fn records_and_rr_run_too() {
    for workload in ["rr", "records", "stream"] {
        let report = report(&[
            "--guests",
            "endpoint",
            "--duration",
            "0.5",
            "--filter",
            "off",
            "--workload",
            workload,
        ]);
        let run = run(&report, "off");
        assert_eq!(run["workload"], workload);
        assert!(number(run, "/transactions") >= 1.0, "{workload}");
        assert_sound(run);
    }
}

#[test]
fn a_report_is_written_that_others_can_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("report");
    let words = [
        "--guests",
        "endpoint",
        "--duration",
        "0.5",
        "--filter",
        "off,serialize",
        "--out",
    ];
    let from_stdout = report(&[&words[..], &[out.to_str().expect("UTF-8")]].concat());
    let page = std::fs::read_to_string(out.join("report.html")).expect("the page");
    assert!(page.contains("serialize turns") && page.ends_with("</html>\n"));
    let json = std::fs::read(out.join("report.json")).expect("the data");
    let from_file: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(from_file, from_stdout);
    assert_capture(&out.join("capture.pcapng"));
}

/// The capture is a pcapng file, and tshark, where it is installed, finds TCP in it on both sides of the filter.
fn assert_capture(path: &Path) {
    let octets = std::fs::read(path).expect("the capture");
    assert_eq!(
        octets.get(..4),
        Some(&[0x0a, 0x0d, 0x0d, 0x0a][..]),
        "a section header"
    );
    let fields = ["-T", "fields", "-e", "frame.interface_id", "-e", "tcp.len"];
    let Ok(tshark) = Command::new("tshark").arg("-r").arg(path).args(fields).output() else {
        eprintln!("tshark is not installed: only the file's head was looked at");
        return;
    };
    assert!(
        tshark.status.success(),
        "{}",
        String::from_utf8_lossy(&tshark.stderr)
    );
    let text = String::from_utf8_lossy(&tshark.stdout);
    for wanted in ["0\t32", "1\t32", "0\t64", "1\t64"] {
        assert!(
            text.lines().any(|line| line == wanted),
            "no frame like {wanted:?}"
        );
    }
}

#[test]
fn bad_values_are_refused_in_a_line() {
    for (words, needle) in [
        (&["--filter", "sometimes"][..], "no filter profile"),
        (&["--ack-delay", "5000"], "0..=900"),
        (&["--duration", "0"], "0.2 to 600"),
        (&["--out", "/proc/nowhere"], "/proc/nowhere"),
    ] {
        let output = lab(words);
        assert!(!output.status.success());
        assert!(output.stdout.is_empty());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(needle), "{words:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
}

#[test]
fn help_has_an_example() {
    let output = lab(&["--help"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("Examples:") && text.contains("--ack-delay 200 --json"),
        "{text}"
    );
}

/// Ctrl-C in the middle leaves neither files nor processes.
#[test]
fn a_signal_leaves_nothing_behind() {
    let tmp = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(env!("CARGO_BIN_EXE_enlight"))
        .args(["lab", "--json", "--duration", "60"])
        .env("TMPDIR", tmp.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary starts");
    let files = || std::fs::read_dir(tmp.path()).expect("the directory").count();
    while files() == 0 && child.try_wait().expect("a status").is_none() {
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    let group = children_of(&pid);
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .expect("kill")
            .success()
    );
    assert!(!child.wait().expect("a status").success());
    assert_eq!(files(), 0, "the private directory is gone");
    for process in group {
        assert!(
            !Path::new(&format!("/proc/{process}")).exists(),
            "process {process} is gone"
        );
    }
}

/// Processes whose parent is `pid`.
fn children_of(pid: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|children| children.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}
