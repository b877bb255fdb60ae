//! Machines from their start to their end as users see it: `enlight vm` and the control socket behind it.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::vm::{Site, Vm, phases_follow_each_other, text};

fn pair(site: &Site) -> (Vm, Vm) {
    let server = site.boot("server", "role=server ip=192.0.2.2/24 workload=rr", &[]);
    server.wait_for("listening");
    let cmdline = "role=client ip=192.0.2.1/24 peer=192.0.2.2 workload=rr phase-ms=600000";
    let client = site.boot("client", cmdline, &["--vcpus", "2"]);
    client.wait_for("begin phase=0");
    (server, client)
}

/// Frames that a machine has sent through its port.
fn sent(site: &Site, port: &str) -> u64 {
    site.daemon.port_stats(port)["tx_frames"]
        .as_u64()
        .expect("a count")
}

/// Waits until a machine has sent more than `count` frames.
fn sends_more(site: &Site, port: &str, count: u64) {
    let end = Instant::now() + Duration::from_secs(20);
    while sent(site, port) <= count {
        assert!(Instant::now() < end, "{port} stays at {count} frames");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sum(info: &Value, key: &str) -> u64 {
    let vcpus = info["vcpus"].as_array().expect("processors");
    vcpus.iter().map(|vcpu| vcpu[key].as_u64().unwrap_or(0)).sum()
}

#[test]
fn machines_are_listed_and_explained() {
    let Some(site) = Site::with_kvm("machines_are_listed_and_explained") else {
        return;
    };
    assert_eq!(site.json(&["list"]), json!([]));
    let (server, client) = pair(&site);
    let list = site.json(&["list"]);
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|line| &line["name"])
        .collect();
    assert_eq!(names, ["client", "server"]);
    let line = site.listed("client").expect("listed");
    let expected = (json!("running"), json!(client.child.id()), json!(2), json!(16384));
    let seen = ["state", "pid", "vcpus", "memory_kib"].map(|key| line[key].clone());
    assert_eq!(seen, <[Value; 4]>::from(expected));
    assert!(
        line["cpu_percent"].is_null() || line["cpu_percent"].as_f64().is_some_and(|percent| percent >= 0.0)
    );
    accounts_are_plausible(&site.info("client"));

    let words = site.vm(&["info", "client"]);
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    for part in [
        "client: running",
        "BUSY, GUEST",
        "steal: it could have run",
        "ready after: memory",
        "NIC",
    ] {
        assert!(words.contains(part), "no {part} in:\n{words}");
    }
    drop(server);
}

fn accounts_are_plausible(info: &Value) {
    assert_eq!(
        (&info["name"], &info["state"]),
        (&json!("client"), &json!("running"))
    );
    let vcpu = &info["vcpus"][0];
    let elapsed = vcpu["elapsed_ms"].as_u64().expect("a time");
    assert!(elapsed > 0 && elapsed <= info["uptime_ms"].as_u64().unwrap() + 1);
    // Each is counted by somebody else, in ticks of up to 10 ms.
    let spent = vcpu["guest_ms"].as_u64().unwrap() + vcpu["host_ms"].as_u64().unwrap();
    assert!(spent <= elapsed + 100, "{vcpu}");
    assert!(
        vcpu["halted_ms"]
            .as_u64()
            .is_none_or(|halted| halted <= elapsed + 100),
        "{vcpu}"
    );
    assert!(info["exits"]["port"].as_u64().unwrap() > 50, "it printed: {info}");
    let memory = &info["memory"];
    assert!(
        memory["guest_kib"]
            .as_u64()
            .is_some_and(|kib| (100..16384).contains(&kib)),
        "{memory}"
    );
    phases_follow_each_other(info, "first_output_us");
    assert_eq!(info["nics"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_paused_machine_stands_still_and_its_connections_survive() {
    let Some(site) = Site::with_kvm("a_paused_machine_stands_still_and_its_connections_survive") else {
        return;
    };
    let (_server, _client) = pair(&site);
    sends_more(&site, "client", sent(&site, "client"));
    assert!(site.vm(&["pause", "client"]).status.success());
    assert!(site.vm(&["pause", "client"]).status.success(), "twice is once");
    assert_eq!(site.listed("client").unwrap()["state"], "paused");
    // What is on its way through the switch arrives.
    std::thread::sleep(Duration::from_millis(100));
    let still = |key: &str| sum(&site.info("client"), key);
    let before = (
        sent(&site, "client"),
        still("guest_ms"),
        site.info("client")["vcpus"][0]["exits"].clone(),
    );
    std::thread::sleep(Duration::from_millis(300));
    let after = (
        sent(&site, "client"),
        still("guest_ms"),
        site.info("client")["vcpus"][0]["exits"].clone(),
    );
    assert_eq!(before, after, "nothing runs");
    let state = request(&site, "client", "GET /v1/state HTTP/1.1\r\n\r\n");
    assert!(
        state.0 == 200 && state.1.as_array().is_some_and(|devices| devices.len() >= 2),
        "{state:?}"
    );
    assert!(site.vm(&["resume", "client"]).status.success());
    sends_more(&site, "client", before.0 + 100);
    assert_eq!(site.info("client")["state"], "running");
    let refused = request(&site, "client", "GET /v1/state HTTP/1.1\r\n\r\n");
    assert!(refused.0 == 409 || refused.0 == 200, "{refused:?}");
}

#[test]
fn machines_are_stopped() {
    let Some(site) = Site::with_kvm("machines_are_stopped") else {
        return;
    };
    let (mut server, mut client) = pair(&site);
    let waiter = connect(&site, "client");
    (&waiter)
        .write_all(b"GET /v1/wait HTTP/1.1\r\n\r\n")
        .expect("asked");
    // A paused machine is stopped, too. The micro-guest has no ear for its power button.
    assert!(site.vm(&["pause", "client"]).status.success());
    let output = site.vm(&["stop", "client", "--timeout", "1", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("did not switch itself off within 1 s"), "{error}");
    let ended: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&ended["forced"], &ended["success"]),
        (&json!(true), &json!(true))
    );
    assert!(client.ends());
    let (status, told) = answer(waiter);
    assert_eq!(
        (status, &told["forced"], &told["stopped"]),
        (200, &json!(true), &ended["stopped"])
    );
    assert!(!site.socket("client").exists());
    assert!(site.listed("client").is_none());

    let output = site.vm(&["stop", "server", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "server: ended by force\n"
    );
    assert!(server.ends());
    assert_eq!(fs::read_dir(site.dir()).expect("the directory").count(), 0);
    assert!(
        site.refused(&["stop", "server"])
            .contains("there is no machine server")
    );
}

#[test]
fn a_guest_that_ends_by_itself_is_told_from_one_that_was_forced() {
    let Some(site) = Site::with_kvm("a_guest_that_ends_by_itself_is_told_from_one_that_was_forced") else {
        return;
    };
    let server = site.boot("server", "role=server ip=192.0.2.2/24 workload=rr", &[]);
    server.wait_for("listening");
    let cmdline = "role=client ip=192.0.2.1/24 peer=192.0.2.2 workload=rr phase-ms=10 go=serial";
    let mut client = site.boot("client", cmdline, &[]);
    client.wait_for("ready");
    let waiter = connect(&site, "client");
    (&waiter)
        .write_all(b"GET /v1/wait HTTP/1.1\r\n\r\n")
        .expect("asked");
    let mut console = console(&site, "client");
    console.write_all(b"g").expect("typed");
    let (status, told) = answer(waiter);
    assert_eq!(
        (status, &told["forced"], &told["success"]),
        (200, &json!(false), &json!(true))
    );
    assert_eq!(told["stopped"], "the guest switched itself off");
    assert!(client.ends());
}

#[test]
fn consoles_come_and_go() {
    let Some(site) = Site::with_kvm("consoles_come_and_go") else {
        return;
    };
    let server = site.boot("server", "role=server ip=192.0.2.2/24 workload=rr", &[]);
    server.wait_for("listening");
    let cmdline = "role=client ip=192.0.2.1/24 peer=192.0.2.2 workload=rr phase-ms=600000 go=serial";
    let client = site.boot("client", cmdline, &[]);
    client.wait_for("ready");
    for _ in 0..10 {
        let mut seen = vec![0; "enlight-guest: boot".len()];
        console(&site, "client")
            .read_exact(&mut seen)
            .expect("recent output");
        assert_eq!(seen, b"enlight-guest: boot");
    }
    let mut cli = site
        .command(&["vm", "console", "client"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the CLI starts");
    let mut keys = cli.stdin.take().expect("a pipe");
    keys.write_all(b"g").expect("typed");
    client.wait_for("begin phase=0");
    keys.write_all(b"\x01x").expect("typed");
    let output = cli.wait_with_output().expect("the CLI ends");
    assert!(output.status.success());
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(out.contains("connected"), "{out}");
    assert!(error.contains("left the console; client goes on"), "{error}");
    assert_eq!(site.info("client")["state"], "running");
    // Without an upgrade, a console is refused, and so are keys that come too early.
    assert_eq!(
        request(&site, "client", "GET /v1/console HTTP/1.1\r\n\r\n").0,
        426
    );
    assert_eq!(request(&site, "client", &format!("{UPGRADE}x")).0, 400);
}

#[test]
fn names_are_had_once() {
    let Some(site) = Site::with_kvm("names_are_had_once") else {
        return;
    };
    let mut web = site.idle("web");
    let mut second = site.boot_on("web", "web", "role=server ip=192.0.2.3/24", &[]);
    assert!(!second.ends());
    let line = text(&second.log);
    let pid = format!(
        "a machine of the name web runs already (process {})",
        web.child.id()
    );
    assert!(
        line.starts_with("enlight: ") && line.contains(&pid) && line.lines().count() == 1,
        "{line}"
    );
    assert_eq!(site.info("web")["pid"], web.child.id());
    for name in ["../web", "a/b", "", "-x", &"n".repeat(65)] {
        let error = site.refused(&["run", "--micro-guest", &format!("--name={name}")]);
        assert!(error.contains("is no name of a machine"), "{error}");
    }
    assert_eq!(
        site.refused(&["info", "db"]),
        "enlight: there is no machine db; there are: web"
    );

    // What a machine that was killed leaves is shown, and makes way for the next one, or is removed.
    web.child.kill().expect("killed");
    web.child.wait().expect("gone");
    assert_eq!(site.listed("web"), Some(json!({"name": "web", "state": "dead"})));
    assert!(site.refused(&["info", "web"]).contains("machine web is dead"));
    let mut again = site.boot_on("web", "web", "role=server ip=192.0.2.2/24", &[]);
    again.wait_for("listening");
    assert_eq!(site.info("web")["pid"], again.child.id());
    again.child.kill().expect("killed");
    again.child.wait().expect("gone");
    assert!(site.vm(&["stop", "web"]).status.success());
    assert!(!site.socket("web").exists());
}

#[test]
fn a_machine_that_does_not_answer_is_named_with_its_process() {
    let site = Site::new();
    fs::create_dir(site.dir()).expect("a directory");
    let _listener = UnixListener::bind(site.socket("stuck")).expect("a socket");
    let line = site.listed("stuck").expect("listed");
    let seen = ["name", "state", "pid"].map(|key| line[key].clone());
    assert_eq!(seen, [json!("stuck"), json!("silent"), json!(std::process::id())]);
}

#[test]
fn processors_are_counted_in_words() {
    let Some(site) = Site::with_kvm("processors_are_counted_in_words") else {
        return;
    };
    for count in ["0", "300", "-1"] {
        let output = site.vm(&["run", "--micro-guest", &format!("--vcpus={count}")]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && error.contains("a machine has 1 to 254 virtual processors"),
            "{error}"
        );
    }
    let cpus = std::thread::available_parallelism().expect("a number").get();
    let more = (cpus + 2).min(254);
    let vm = site.boot(
        "many",
        "role=server ip=192.0.2.2/24",
        &["--vcpus", &more.to_string()],
    );
    vm.wait_for("listening");
    let warning = format!("{more} virtual processors share {cpus} CPU");
    assert!(text(&vm.log).contains(&warning), "{}", text(&vm.log));
    let info = site.info("many");
    assert_eq!(
        (&info["overcommitted"], info["vcpus"].as_array().map(Vec::len)),
        (&json!(true), Some(more))
    );
    let words = String::from_utf8_lossy(&site.vm(&["info", "many"]).stdout).into_owned();
    assert!(
        words.contains(&warning) && words.contains("not started by the guest"),
        "{words}"
    );
}

/// A request for the console.
const UPGRADE: &str = "GET /v1/console HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: enlight-console\r\n\r\n";

fn connect(site: &Site, name: &str) -> UnixStream {
    let stream = UnixStream::connect(site.socket(name)).expect("the control socket");
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).expect("a timeout");
    stream
}

/// A console without the CLI.
fn console(site: &Site, name: &str) -> UnixStream {
    let mut stream = connect(site, name);
    stream.write_all(UPGRADE.as_bytes()).expect("asked");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet).expect("an answer");
        head.extend(octet);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    stream
}

/// The status and the JSON of an answer.
fn answer(mut stream: UnixStream) -> (u16, Value) {
    let mut octets = Vec::new();
    // A server that has not read everything resets the connection behind its answer.
    let _ = stream.read_to_end(&mut octets);
    let text = String::from_utf8_lossy(&octets).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (
        status.unwrap_or(0),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

fn request(site: &Site, name: &str, text: &str) -> (u16, Value) {
    let mut stream = connect(site, name);
    let _ = stream.write_all(text.as_bytes());
    answer(stream)
}

fn broken_requests_are_refused(site: &Site) {
    let long = format!("GET /v1/info HTTP/1.1\r\nX: {}", "x".repeat(1 << 20));
    let large = format!(
        "POST /v1/stop HTTP/1.1\r\nContent-Length: 4000000\r\n\r\n{}",
        " ".repeat(1 << 20)
    );
    let deep = "[".repeat(1000);
    let deep = format!(
        "POST /v1/stop HTTP/1.1\r\nContent-Length: {}\r\n\r\n{deep}",
        deep.len()
    );
    for (status, text) in [
        (400, "\u{0}\u{1}\u{2}\r\n\r\n"),
        (400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (400, "POST /v1/stop HTTP/1.1\r\nContent-Length: 2\r\n\r\n{]"),
        (400, &deep),
        (404, "GET /v1/ports HTTP/1.1\r\n\r\n"),
        (405, "DELETE /v1/info HTTP/1.1\r\n\r\n"),
        (413, &large),
        (431, &long),
    ] {
        let (seen, body) = request(site, "web", text);
        let error = body["error"].as_str().unwrap_or_default();
        assert_eq!(seen, status, "{error}");
        assert!(
            !error.is_empty() && !error.contains('\n') && error.len() < 300,
            "{error:?}"
        );
    }
}

#[test]
fn hostile_clients_get_errors_and_everybody_else_gets_answers() {
    let Some(site) = Site::with_kvm("hostile_clients_get_errors_and_everybody_else_gets_answers") else {
        return;
    };
    let mut vm = site.idle("web");
    let memory = |site: &Site| {
        site.info("web")["memory"]["beyond_guest_kib"]
            .as_u64()
            .expect("a size")
    };
    let before = memory(&site);
    broken_requests_are_refused(&site);
    // 100 that never finish, 20 that do not listen, and 20 that wait.
    let starts = [
        "",
        "G",
        "GET /v1/info HTTP/1.1\r\nHost:",
        "POST /v1/stop HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    ];
    let mut crowd: Vec<UnixStream> = Vec::new();
    let waiting = std::iter::repeat_n("GET /v1/wait HTTP/1.1\r\n\r\n", 20);
    let deaf = std::iter::repeat_n("GET /v1/info HTTP/1.1\r\n\r\n", 20);
    let starts = starts.into_iter().cycle().take(100).chain(deaf).chain(waiting);
    for start in starts {
        let mut client = connect(&site, "web");
        client.write_all(start.as_bytes()).expect("a part of a request");
        crowd.push(client);
        if crowd.len().is_multiple_of(20) {
            assert_eq!(site.info("web")["state"], "running");
        }
    }
    let growth = memory(&site).saturating_sub(before);
    assert!(growth < 4096, "140 clients cost {growth} KiB");
    assert!(site.vm(&["pause", "web"]).status.success());
    let output = site.vm(&["stop", "web", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(vm.ends());
    drop(crowd);
}
