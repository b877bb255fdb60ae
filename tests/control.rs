//! A running switch, asked and told over its control socket by the real command line, by plain HTTP, and by clients that
//! mean no good.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::daemon::Daemon;

/// Says something over a connection and reads what comes back until the switch closes it.
fn talk(control: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(control).expect("the switch listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    // The switch may have heard enough before it was told all.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status and JSON body of an answer.
fn http(control: &Path, method: &str, target: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer = talk(control, request.as_bytes());
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no HTTP: {answer}"));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Starts a switch whose first line of output is waited for.
fn start(args: &[&str]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_enlight"))
        .args(["switch", "run"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the switch starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("a pipe");
    BufReader::new(output).read_line(&mut line).expect("a line");
    (child, line)
}

fn kill(child: &Child, signal: &str) {
    let status = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}

fn errors_of(daemon: &Daemon, args: &[&str]) -> String {
    let output = daemon.try_cli(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_switch_says_when_it_is_ready_and_cleans_up_when_it_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("switch.toml");
    let (control, port) = (dir.path().join("c.sock"), dir.path().join("v0.sock"));
    let text = format!(
        "[switch]\ncontrol = {control:?}\n[[port]]\nname = \"v0\"\nvhost-user = {port:?}\n[[port]]\nname = \"e0\"\nendpoint = \"192.0.2.1/24\""
    );
    std::fs::write(&file, text).expect("the file is written");
    for signal in ["TERM", "INT"] {
        let (mut child, line) = start(&["--config", &file.display().to_string()]);
        assert!(
            line.contains(&*control.to_string_lossy()) && line.contains("v0, e0"),
            "{line}"
        );
        assert!(port.exists());
        // The endings of a stream are part of the ending.
        let mut capture = UnixStream::connect(&control).expect("the switch listens");
        capture
            .write_all(b"GET /v1/ports/e0/capture HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("sent");
        let mut first = [0];
        capture.read_exact(&mut first).expect("the capture has begun");
        kill(&child, signal);
        assert!(child.wait().expect("it ends").success());
        assert!(!control.exists() && !port.exists(), "sockets are removed");
        let mut rest = Vec::new();
        capture.read_to_end(&mut rest).expect("the rest of the capture");
        assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "the capture ended well");
    }
}

#[test]
fn a_socket_in_use_is_refused_and_a_stale_one_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let control = dir.path().join("c.sock");
    let path = control.display().to_string();
    drop(UnixListener::bind(&control).expect("a socket"));
    let (mut child, line) = start(&["--control", &path]);
    assert!(line.contains("none yet"), "{line}");
    let second = Command::new(env!("CARGO_BIN_EXE_enlight"))
        .args(["switch", "run", "--control", &path])
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        errors.contains("another switch answers") && errors.contains(&path),
        "{errors}"
    );
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert_eq!(
        http(&control, "GET", "/v1/ports", "").0,
        200,
        "the first one carries on"
    );
    kill(&child, "TERM");
    child.wait().expect("it ends");
}

#[test]
fn without_a_switch_clients_say_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    for args in [
        &["port", "list"][..],
        &["stats"],
        &["filter", "show"],
        &["capture", "v0", "-w", "-"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_enlight"))
            .args(args)
            .env("ENLIGHT_CONTROL", dir.path().join("none.sock"))
            .output()
            .expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            errors.contains("enlight switch run") && errors.contains("none.sock"),
            "{errors}"
        );
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn ports_come_and_go() {
    let daemon = Daemon::start();
    assert_eq!(daemon.cli(&["port", "list"]), json!([]));
    let socket = daemon.vhost_port("v0");
    assert!(socket.exists());
    daemon.cli(&[
        "port",
        "add",
        "e0",
        "--endpoint",
        "192.0.2.1/24",
        "--trunk",
        "7,5",
        "--mtu",
        "9000",
        "--filter",
        "inspect",
    ]);
    let ports = daemon.cli(&["port", "list"]);
    let port = &ports[1];
    assert_eq!(port["name"], "e0");
    assert_eq!(port["kind"], json!({ "endpoint": "192.0.2.1/24" }));
    assert_eq!(port["vlan"], json!({ "trunk": [5, 7] }));
    assert_eq!((&port["mtu"], &port["filter"]), (&json!(9000), &json!("inspect")));
    let errors = errors_of(&daemon, &["port", "add", "e0", "--endpoint", "192.0.2.9/24"]);
    assert!(errors.contains("\"e0\" exists already"), "{errors}");
    daemon.cli(&["port", "rm", "v0"]);
    assert!(!socket.exists(), "the port's socket goes with it");
    let errors = errors_of(&daemon, &["port", "rm", "v0"]);
    assert!(errors.contains("no port named \"v0\""), "{errors}");
    assert_eq!(daemon.cli(&["port", "list"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn filters_are_set_shown_and_taken_off() {
    let daemon = Daemon::start();
    daemon.cli(&["port", "add", "e0", "--endpoint", "192.0.2.1/24"]);
    let rules = daemon.path("rules.toml");
    std::fs::write(
        &rules,
        "[[rule]]\nname = \"r\"\npattern = \"secret\"\naction = \"drop\"\n",
    )
    .expect("written");
    let file = rules.display().to_string();
    let info = daemon.cli(&["filter", "set", "e0", "inspect", "--rules", &file]);
    assert_eq!((&info["profile"], &info["rules"]), (&json!("inspect"), &json!(1)));
    let info = daemon.cli(&["filter", "set", "e0", "hold", "--deadline", "7"]);
    assert_eq!(
        (&info["profile"], &info["deadline_ms"], &info["rules"]),
        (&json!("hold"), &json!(7), &json!(0))
    );
    assert_eq!(daemon.cli(&["filter", "show"])[0]["profile"], "hold");
    daemon.cli(&["filter", "off", "e0"]);
    assert_eq!(daemon.cli(&["filter", "show"])[0]["profile"], "off");

    std::fs::write(
        &rules,
        "[[rule]]\nname = \"r\"\npatern = \"secret\"\naction = \"drop\"\n",
    )
    .expect("written");
    let errors = errors_of(&daemon, &["filter", "set", "e0", "inspect", "--rules", &file]);
    assert!(
        errors.contains("rules.toml:3:1: unknown key `patern`"),
        "{errors}"
    );
    let errors = errors_of(&daemon, &["rules", "check", &file]);
    assert!(errors.contains("rules.toml:3:1:"), "{errors}");
    let errors = errors_of(&daemon, &["filter", "set", "e9", "inspect"]);
    assert!(errors.contains("no port named \"e9\""), "{errors}");
    let errors = errors_of(&daemon, &["filter", "set", "e0", "hold", "--deadline", "0"]);
    assert!(errors.contains("1 to 60000"), "{errors}");
}

#[test]
fn rules_that_are_wrong_leave_the_old_ones_in_force() {
    let daemon = Daemon::start();
    daemon.cli(&["port", "add", "e0", "--endpoint", "192.0.2.1/24"]);
    let rules = daemon.path("rules.toml");
    let file = rules.display().to_string();
    let set = |text: &str| std::fs::write(&rules, text).expect("written");
    let good = "[[rule]]\nname = \"a\"\npattern = \"secret\"\naction = \"drop\"\n";
    set(good);
    let info = daemon.cli(&[
        "filter",
        "set",
        "e0",
        "inspect,thin-acks:rx",
        "--rules",
        &file,
        "--ratio",
        "8",
    ]);
    assert_eq!(
        (&info["stages"], &info["ratio"]),
        (&json!(["inspect", "thin-acks:rx"]), &json!(8))
    );
    for (wrong, place, needle) in [
        (
            "[[rule]]\nname = \"b\"\nregex = \"a(\"\naction = \"drop\"\n",
            ":7:1:",
            "unclosed group",
        ),
        (
            "[[rule]]\nname = \"b\"\n  pattern = '\\q'\naction = \"drop\"\n",
            ":7:3:",
            "starts no escape",
        ),
        (
            "[[rule]]\nname = \"a\"\npattern = 'x'\naction = \"drop\"\n",
            ":6:1:",
            "rename",
        ),
        (
            "[[rule]]\nname = \"b\"\npattern = 'x'\naddress = \"192.0.2.0/33\"\naction = \"drop\"\n",
            ":8:11:",
            "2001:db8::/32",
        ),
    ] {
        set(&format!("{good}{wrong}"));
        let errors = errors_of(&daemon, &["filter", "set", "e0", "inspect", "--rules", &file]);
        assert!(errors.contains(place) && errors.contains(needle), "{errors}");
    }
    set("[[rule]]\nname = \"b\"\npattern = \"x\"\naction = \"mirror\"\nmirror-to = \"gone\"\n");
    let errors = errors_of(&daemon, &["filter", "set", "e0", "inspect", "--rules", &file]);
    assert!(
        errors.contains("gone") && errors.contains("add it first"),
        "{errors}"
    );
    let shown = &daemon.cli(&["filter", "show"])[0];
    assert_eq!((&shown["rules"], &shown["changes"]), (&json!(1), &json!(1)));
}

#[test]
fn rules_of_suricata_are_taken_over_as_far_as_they_go() {
    let daemon = Daemon::start();
    daemon.cli(&["port", "add", "e0", "--endpoint", "192.0.2.1/24"]);
    let path = |name| daemon.path(name).display().to_string();
    let (rules, toml) = (path("local.rules"), path("local.toml"));
    std::fs::write(
        &rules,
        "alert tcp any any -> $HOME_NET 80 (msg:\"one\"; content:\"GET |2f|\"; nocase; sid:1;)\n\
         alert http any any -> any any (msg:\"two\"; content:\"x\"; sid:2;)\n",
    )
    .expect("written");
    let variable = ["--var", "HOME_NET=192.0.2.0/24"];
    let args = [&["rules", "import", &rules, "-o", &toml][..], &variable].concat();
    let output = daemon.command(&args).output().expect("the CLI runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("local.rules:2: sid 2: not taken"), "{errors}");
    assert!(errors.contains("1 rules taken, 1 not"), "{errors}");
    let told = daemon.cli(&args);
    assert_eq!(
        (&told["rules"][0]["nocase"], &told["refused"][0]["line"]),
        (&json!(true), &json!(2))
    );
    let info = daemon.cli(&["filter", "set", "e0", "inspect", "--rules", &toml]);
    assert_eq!(info["rules"], json!(1));
}

/// A port to be added.
const PORT: &str = r#"{"name": "e1", "endpoint": "192.0.2.2/24"}"#;

/// Method, target and body of requests, one after the other; the status of the answer, and a word of its reason.
const REFUSALS: [(&str, &str, &str, u16, &str); 23] = [
    ("POST", "/v1/ports", PORT, 201, ""),
    ("POST", "/v1/ports", PORT, 409, "exists already"),
    ("POST", "/v1/ports", r#"{"name": "e2"}"#, 422, "connects nothing"),
    (
        "POST",
        "/v1/ports",
        r#"{"name": "e2", "tap": "t", "vlan": 5000}"#,
        422,
        "1 to 4094",
    ),
    (
        "POST",
        "/v1/ports",
        r#"{"name": "e2", "colour": 1}"#,
        400,
        "colour",
    ),
    (
        "POST",
        "/v1/ports",
        r#"{"name": "v", "vhost-user": "/nowhere/at/all"}"#,
        409,
        "/nowhere/at/all",
    ),
    ("POST", "/v1/ports", "{", 400, "body"),
    ("GET", "/v1/ports/e1", "", 200, ""),
    ("GET", "/v1/ports/nobody", "", 404, "nobody"),
    (
        "PUT",
        "/v1/ports/e1/filter",
        r#"{"profile": "nagle"}"#,
        422,
        "serialize",
    ),
    (
        "PUT",
        "/v1/ports/nobody/filter",
        r#"{"profile": "off"}"#,
        404,
        "nobody",
    ),
    (
        "PUT",
        "/v1/ports/e1/filter",
        r#"{"profile": "hold", "deadline-ms": 3}"#,
        200,
        "",
    ),
    ("GET", "/v1/ports/e1/filter", "", 200, ""),
    ("GET", "/v1/ports/e1/stalls", "", 200, ""),
    ("GET", "/v1/ports/nobody/stalls", "", 404, "nobody"),
    ("GET", "/v1/ports/e1/capture?sides=left", "", 400, "both"),
    ("GET", "/v1/ports/nobody/capture", "", 404, "nobody"),
    ("GET", "/v1/fdb", "", 200, ""),
    ("GET", "/v1/stats", "", 200, ""),
    ("DELETE", "/v1/ports/e1", "", 204, ""),
    ("DELETE", "/v1/ports/e1", "", 404, "e1"),
    ("GET", "/v2", "", 404, "nothing"),
    ("DELETE", "/v1/stats", "", 405, "method"),
];

#[test]
fn refusals_have_the_right_status_and_a_reason() {
    let daemon = Daemon::start();
    daemon.cli(&["port", "add", "e0", "--endpoint", "192.0.2.1/24"]);
    let control = daemon.control();
    for (method, target, body, status, reason) in REFUSALS {
        let (answered, answer) = http(&control, method, target, body);
        assert_eq!(answered, status, "{method} {target} {body}: {answer}");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains(reason), "{method} {target} {body}: {answer}");
        assert_eq!(error.is_empty(), status < 400, "{method} {target}: {answer}");
    }
}

#[test]
fn clients_that_mean_no_good_disturb_nobody() {
    let daemon = Daemon::start();
    let control = daemon.control();
    // Many that begin and do not go on, each in another place.
    let starts: [&[u8]; 5] = [
        b"",
        b"GET /v1/po",
        b"GET /v1/ports HTTP/1.1\r\nHost:",
        b"POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"POST /v1/ports HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{",
    ];
    let mut idlers = Vec::new();
    for start in starts.iter().cycle().take(100) {
        let mut stream = UnixStream::connect(&control).expect("the switch listens");
        stream.write_all(start).expect("sent");
        idlers.push(stream);
    }
    assert_eq!(
        http(&control, "GET", "/v1/ports", "").0,
        200,
        "others are served meanwhile"
    );

    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1_000_000));
    assert!(talk(&control, long.as_bytes()).starts_with("HTTP/1.1 431"));
    let large = "[".repeat(5 << 20);
    assert_eq!(http(&control, "POST", "/v1/ports", &large).0, 413);
    let deep = "[".repeat(1 << 20);
    assert_eq!(http(&control, "POST", "/v1/ports", &deep).0, 400);
    assert!(talk(&control, b"\x16\x03\x01 no HTTP at all\r\n\r\n").starts_with("HTTP/1.1 400"));
    let smuggled = b"POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n";
    assert!(talk(&control, smuggled).starts_with("HTTP/1.1 400"));
    // A name that is no name does no harm in a path.
    assert_eq!(
        http(&control, "GET", "/v1/ports/..%2f..%2fetc%2fpasswd", "").0,
        404
    );
    assert_eq!(
        http(&control, "GET", "/v1/ports", "").0,
        200,
        "the switch carries on"
    );
}

#[test]
fn only_so_many_captures_run_at_once() {
    let daemon = Daemon::start();
    daemon.cli(&["port", "add", "e0", "--endpoint", "192.0.2.1/24"]);
    let control = daemon.control();
    let begin = || {
        let mut stream = UnixStream::connect(&control).expect("the switch listens");
        stream
            .write_all(b"GET /v1/ports/e0/capture HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("sent");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("an answer");
        (stream, String::from_utf8_lossy(&status).into_owned())
    };
    let running: Vec<_> = (0..16).map(|_| begin()).collect();
    assert!(running.iter().all(|(_, status)| status == "HTTP/1.1 200"));
    assert_eq!(begin().1, "HTTP/1.1 503");
    assert_eq!(http(&control, "GET", "/v1/stats", "").0, 200);
    drop(running);
    // Their places are free again as soon as the switch has noticed.
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while begin().1 != "HTTP/1.1 200" {
        assert!(std::time::Instant::now() < end, "no place became free");
    }
}
