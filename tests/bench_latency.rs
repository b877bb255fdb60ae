//! `enlight bench latency` from the command line: what it counts, how it ends, and what its JSON has. What it measures is not asked.

mod support;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::daemon::Daemon;
use support::netns::{self, Namespace};
use support::{enlight, host, skip};

const SHORT: [&str; 8] = [
    "--rates",
    "500",
    "--duration",
    "0.2",
    "--repeats",
    "5",
    "--seed",
    "7",
];

fn bench(args: &[&str]) -> Command {
    let mut command = Command::new(enlight());
    command.args(["bench", "latency"]).args(args);
    command
}

fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {error}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("no {key}: {value}"))
}

/// The exit status says whether a difference was refused.
fn status_fits(output: &Output, report: &Value) {
    let effects = list(report, "points")
        .iter()
        .flat_map(|point| list(point, "effects"));
    let refused = effects
        .into_iter()
        .any(|effect| !list(effect, "refused").is_empty());
    assert_eq!(
        output.status.code(),
        Some(if refused { 3 } else { 0 }),
        "{report}"
    );
}

/// A load has A, A again, B and the empty path, each with its slices, and everything was answered and counted.
fn is_complete(point: &Value, b: &str) {
    let runs = list(point, "runs");
    let parts: Vec<&str> = runs.iter().filter_map(|run| run["part"].as_str()).collect();
    assert_eq!(parts, ["a", "again", "b", "empty"]);
    for run in runs {
        for metric in ["mean", "p50", "p99"] {
            assert_eq!(list(&run["slices"], metric).len(), 5, "{run}");
        }
        let transactions = run["transactions"].as_u64().expect("a count");
        let in_buckets: u64 = list(run, "histogram_ns")
            .iter()
            .filter_map(|bucket| bucket[1].as_u64())
            .sum();
        assert!(transactions > 0 && in_buckets == transactions, "{run}");
        if let Some(due) = run["due"].as_u64() {
            assert!(due.abs_diff(transactions) <= 5, "{run}");
        }
    }
    assert_eq!(runs[2]["filter"], b);
    assert!(runs[2]["stalls"]["delayed_ack"].is_u64() && runs[0]["stalls"].is_null());
    assert!(
        list(&runs[2], "directions")
            .iter()
            .all(|one| one["frames"].as_u64() > Some(0))
    );
    assert!(runs[3].get("directions").is_none());
    let metrics: Vec<&str> = list(point, "effects")
        .iter()
        .filter_map(|effect| effect["metric"].as_str())
        .collect();
    assert_eq!(metrics, ["mean", "p50", "p99"]);
}

#[test]
fn endpoints_need_nothing_and_every_request_is_counted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let page = dir.path().join("report.html");
    let page_name = page.display().to_string();
    let mut args = vec![
        "--guests",
        "endpoint",
        "--patterns",
        "100",
        "--report",
        &page_name,
        "--json",
    ];
    args.extend(SHORT);
    let output = bench(&args).output().expect("the CLI runs");
    let report = json(&output);
    status_fits(&output, &report);
    assert_eq!(report["settings"]["rules"], 100);
    assert_eq!(report["settings"]["guests"], "endpoint");
    let [point] = list(&report, "points").as_slice() else {
        panic!("{report}")
    };
    is_complete(point, "inspect");
    let page = std::fs::read_to_string(page).expect("the page was written");
    assert!(page.contains("<svg") && page.trim_end().ends_with("</html>"));

    // The same result as an old one: the set-up is the same, so that something is said of each figure.
    let old = dir.path().join("old.json");
    std::fs::write(&old, &output.stdout).expect("the directory is writable");
    let old_name = old.display().to_string();
    let mut args = vec![
        "--guests",
        "endpoint",
        "--patterns",
        "100",
        "--compare",
        &old_name,
        "--json",
    ];
    args.extend(SHORT);
    let compared = json(&bench(&args).output().expect("the CLI runs"));
    assert_eq!(list(&compared["comparison"], "changes").len(), 6, "{compared}");
    args[3] = "99";
    let output = bench(&args).output().expect("the CLI runs");
    let differs = json(&output);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        differs["comparison"]["differs"][0],
        "rules: 100 made up then, 99 made up now"
    );
}

#[test]
fn a_filter_against_itself_is_never_a_difference_of_rate() {
    let mut args = vec!["--guests", "endpoint", "--filter", "off,off", "--json"];
    args.extend(SHORT);
    args[6] = "100000";
    args[10] = "1";
    let output = bench(&args).output().expect("the CLI runs");
    assert_eq!(output.status.code(), Some(3));
    let report = json(&output);
    for effect in list(&report["points"][0], "effects") {
        let why: Vec<&str> = list(effect, "refused")
            .iter()
            .filter_map(|refusal| refusal["why"].as_str())
            .collect();
        assert!(why.contains(&"few-repeats"), "{effect}");
    }
}

#[test]
fn an_interrupt_gives_what_was_measured_so_far() {
    let args = [
        "--guests",
        "endpoint",
        "--rates",
        "500",
        "--duration",
        "0.1",
        "--repeats",
        "1000",
        "--json",
    ];
    let child = bench(&args)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the CLI starts");
    let id = child.id();
    let stopper = thread::spawn(move || {
        thread::sleep(Duration::from_secs(8));
        host(&format!("kill -INT {id}"));
    });
    let output = child.wait_with_output().expect("it ends");
    stopper.join().expect("the signal was sent");
    assert_eq!(output.status.code(), Some(130));
    let report = json(&output);
    assert_eq!(report["interrupted"], true);
    let runs = list(&report["points"][0], "runs");
    let slices: Vec<usize> = runs
        .iter()
        .take(3)
        .map(|run| list(&run["slices"], "p99").len())
        .collect();
    assert!(
        slices[0] > 0 && slices.iter().all(|len| *len == slices[0]),
        "{slices:?}"
    );
}

#[test]
fn mistakes_are_told_before_anything_is_measured() {
    let missing = ["--compare", "/nonexistent/old.json"];
    for (args, needle) in [
        (&["--filter", "off"][..], "nothing to be compared with"),
        (&missing, "/nonexistent/old.json"),
        (&["--compare", "/dev/null"], "a result of enlight bench latency"),
        (
            &["--report", "/nonexistent/report.html"],
            "/nonexistent/report.html",
        ),
        (&["--attach", "v0"], "two ports"),
    ] {
        let output = bench(args).output().expect("the CLI runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(
            error.contains(needle) && error.trim().lines().count() == 1,
            "{error}"
        );
    }
}

#[test]
fn taps_carry_the_kernels_tcp() {
    if let Some(why) = netns::missing() {
        return skip("taps_carry_the_kernels_tcp", &why);
    }
    let mut args = vec!["--guests", "taps", "--json"];
    args.extend(SHORT);
    let output = bench(&args).output().expect("the CLI runs");
    let report = json(&output);
    status_fits(&output, &report);
    is_complete(&report["points"][0], "inspect");
    // Nothing is left in this machine's own network.
    let names = host("ls /sys/class/net");
    assert!(
        names
            .split_whitespace()
            .all(|name| name != "client" && name != "server"),
        "{names}"
    );
}

#[test]
fn micro_guests_answer_every_request() {
    let test = "micro_guests_answer_every_request";
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return skip(test, &format!("/dev/kvm: {error}"));
    }
    let mut args = vec!["--guests", "micro", "--json"];
    args.extend(SHORT);
    args[4] = "100";
    let output = bench(&args).output().expect("the CLI runs");
    let report = json(&output);
    status_fits(&output, &report);
    assert_eq!(report["settings"]["guests"], "micro");
    is_complete(&report["points"][0], "inspect");
}

#[test]
fn serialising_stalls_are_counted_in_the_sweep() {
    if let Some(why) = netns::missing() {
        return skip("serialising_stalls_are_counted_in_the_sweep", &why);
    }
    let output = bench(&[
        "--guests",
        "taps",
        "--workload",
        "wwr",
        "--filter",
        "off,serialize",
        "--sizes",
        "64,600",
        "--gaps",
        "0,5",
        "--repeats",
        "5",
        "--duration",
        "0.5",
        "--json",
    ])
    .output()
    .expect("the CLI runs");
    let report = json(&output);
    let points = list(&report, "points");
    assert_eq!(points.len(), 4);
    for point in points {
        is_complete(point, "serialize");
        let b = &list(point, "runs")[2];
        let stalls = b["stalls"]["delayed_ack"].as_u64().expect("a count");
        assert!(stalls > 0 && b["slow"].as_u64().expect("a count") > 0, "{b}");
        assert!(b["corrected_p99_us"].is_f64() && b.get("due").is_none());
    }
}

/// Answers every request of 64 octets until the connection ends.
fn echo(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("the client connects");
    let mut request = [0; 64];
    while stream.read_exact(&mut request).is_ok() && stream.write_all(&request).is_ok() {}
}

/// Asks about every millisecond until told to stop.
fn ask(stop: &AtomicBool) {
    let mut stream = TcpStream::connect(("192.0.2.2", 5001)).expect("the server listens");
    stream.set_nodelay(true).expect("a socket");
    let mut answer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&[1; 64]).expect("the stream takes it");
        stream.read_exact(&mut answer).expect("the answer");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_load_of_others_is_watched_and_their_filter_left_off() {
    if let Some(why) = netns::missing() {
        return skip("the_load_of_others_is_watched_and_their_filter_left_off", &why);
    }
    let (client, server, switch) = (Namespace::new(), Namespace::new(), Namespace::new());
    let daemon = switch.run(Daemon::start);
    // A sample of so few frames would be small.
    daemon.cli(&["switch", "attribution", "full"]);
    for (namespace, port, tap, number) in [(&client, "v0", "t0", 1), (&server, "v1", "t1", 2)] {
        daemon.cli(&["port", "add", port, "--tap", tap]);
        switch.host(format!("ip link set {tap} netns {}", namespace.number()));
        namespace.host(format!(
            "ip addr add 192.0.2.{number}/24 dev {tap} && ip link set {tap} up"
        ));
    }
    let listener = server.run(|| TcpListener::bind(("192.0.2.2", 5001)).expect("an own address"));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    thread::scope(|scope| {
        scope.spawn(|| server.run(move || echo(&listener)));
        scope.spawn(|| client.run(move || ask(&stopped)));
        let args = "bench latency --attach v0,v1 --filter off,inspect --repeats 5 --duration 0.2 --json";
        let args: Vec<_> = args.split(' ').collect();
        let output = daemon.command(&args).output().expect("the CLI runs");
        daemon.cli(&["filter", "set", "v0", "hold"]);
        let refused = daemon.command(&args).output().expect("the CLI runs");
        stop.store(true, Ordering::Relaxed);
        let report = json(&output);
        status_fits(&output, &report);
        let runs = list(&report["points"][0], "runs");
        assert_eq!(runs.len(), 3, "there is no empty path: {report}");
        for run in runs {
            assert_eq!(list(&run["slices"], "residence").len(), 5);
            assert!(run["transactions"].as_u64() > Some(100), "{run}");
        }
        assert_eq!(report["settings"]["attached"], serde_json::json!(["v0", "v1"]));
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(
            refused.status.code() == Some(1) && error.contains("enlight filter off v0"),
            "{error}"
        );
    });
    let filters = daemon.cli(&["filter", "show"]);
    let changes = filters
        .as_array()
        .and_then(|filters| filters.iter().find(|filter| filter["port"] == "v0"))
        .and_then(|filter| filter["changes"].as_u64());
    // 15 slices, off at the end, and the test's own.
    assert_eq!(changes, Some(17), "{filters}");
}
