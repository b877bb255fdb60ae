//! A filter that is switched on and off a hundred times while two KVM guests exchange a stream through a running daemon.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::daemon::Daemon;
use support::machine::{Machine, wait_for};
use support::skip;

const TOGGLES: usize = 100;

fn machine(daemon: &Daemon, port: &str, cmdline: &str, log: &Path) -> Machine {
    let log = std::fs::File::create(log).expect("the log opens");
    let nic = format!("port={port}");
    let args = [
        "vm",
        "run",
        "--micro-guest",
        "--memory",
        "16M",
        "--nic",
        &nic,
        "--cmdline",
        cmdline,
    ];
    let mut command: Command = daemon.command(&args);
    let child = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn();
    Machine(child.expect("the machine starts"))
}

/// The octets and hash that a guest reports.
fn hash(log: &Path) -> (u64, String) {
    let line = wait_for(log, " hash ");
    let value = |key: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(key));
        value.unwrap_or_else(|| panic!("no {key} in {line}")).to_owned()
    };
    (value("octets=").parse().expect("a number"), value("sum="))
}

#[test]
fn guests_do_not_notice_a_filter_that_comes_and_goes() {
    let test = "guests_do_not_notice_a_filter_that_comes_and_goes";
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        return skip(test, &format!("/dev/kvm: {error}"));
    }
    let daemon = Daemon::start();
    daemon.vhost_port("v0");
    daemon.vhost_port("v1");
    let (client, server) = (daemon.path("client.log"), daemon.path("server.log"));
    let _server = machine(
        &daemon,
        "v1",
        "role=server ip=192.0.2.2/24 workload=stream",
        &server,
    );
    wait_for(&server, " listening ");
    let stream = "role=client ip=192.0.2.1/24 peer=192.0.2.2 workload=stream warmup=0 phase-ms=8000";
    let _client = machine(&daemon, "v0", stream, &client);
    wait_for(&client, " begin ");
    let mut toggles = 0;
    // The stream may be over sooner than the toggles on a slow machine; then they prove less, and the test says so.
    for _ in 0..TOGGLES {
        daemon.cli(&["filter", "set", "v0", "serialize"]);
        daemon.cli(&["filter", "off", "v0"]);
        let over = std::fs::read_to_string(&client)
            .expect("the log is text")
            .contains(" end ");
        toggles += usize::from(!over);
    }
    assert!(
        toggles > TOGGLES / 2,
        "only {toggles} toggles happened under the stream"
    );
    let (sent, got) = (hash(&client), hash(&server));
    assert_eq!(sent, got, "the octets arrive as they were sent");
    assert!(sent.0 > 1 << 20, "{} octets", sent.0);
    for port in ["v0", "v1"] {
        let stats = daemon.port_stats(port);
        let dropped = stats["rx_dropped"].as_object().expect("drops by reason");
        // The client's machine is gone by now; a last frame for it has nowhere to go.
        assert!(dropped.keys().all(|reason| reason == "port_down"), "{dropped:?}");
    }
    let filters = daemon.cli(&["filter", "show"]);
    assert!(
        filters
            .to_string()
            .contains(&format!("\"changes\":{}", 2 * TOGGLES)),
        "{filters}"
    );
}
