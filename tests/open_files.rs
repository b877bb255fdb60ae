//! A switch that needs more open files than it is given at first, or than it can have.

mod support;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::daemon::Daemon;
use support::peer::{self, PATIENCE};

/// Files that a process may have open: less than what the ports below take.
const FEW: usize = 64;
const PORTS: usize = 40;

fn open_files(daemon: &mut Daemon) -> usize {
    let directory = format!("/proc/{}/fd", daemon.child().id());
    fs::read_dir(directory).expect("the daemon runs").count()
}

/// The soft limit and the hard one.
fn limits(daemon: &mut Daemon) -> (usize, usize) {
    let text = fs::read_to_string(format!("/proc/{}/limits", daemon.child().id())).expect("the daemon runs");
    let numbers = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut numbers = numbers.expect("a limit").split_whitespace();
    let mut next = || numbers.next()?.parse().ok();
    (next().expect("the soft limit"), next().expect("the hard one"))
}

#[test]
fn the_soft_limit_is_no_limit() {
    let mut daemon = Daemon::prepared(&format!("ulimit -S -n {FEW}"), "");
    let (soft, hard) = limits(&mut daemon);
    assert_eq!(soft, hard);
    if hard < 4 * PORTS {
        println!(
            "SKIPPED the_soft_limit_is_no_limit: {PORTS} ports need {} open files; ulimit -Hn",
            4 * PORTS
        );
        return;
    }
    for number in 0..PORTS {
        daemon.vhost_port(&format!("p{number}"));
    }
    assert!(open_files(&mut daemon) > FEW);
}

/// Adds ports until one is refused; the sockets of those that were not, and the refusal.
fn fill(daemon: &Daemon) -> (Vec<PathBuf>, String) {
    let mut sockets = Vec::new();
    while sockets.len() < PORTS {
        let name = format!("p{}", sockets.len());
        let socket = daemon.path(&format!("{name}.sock"));
        let mut command = daemon.command(&["port", "add", &name, "--vhost-user"]);
        let output = command.arg(&socket).output().expect("the CLI runs");
        if !output.status.success() {
            return (sockets, String::from_utf8_lossy(&output.stderr).into_owned());
        }
        sockets.push(socket);
    }
    panic!("{PORTS} ports take no more than {FEW} files");
}

#[test]
fn a_port_that_finds_no_open_files_left_is_refused_with_the_limit_and_the_remedy() {
    let mut daemon = Daemon::prepared(&format!("ulimit -n {FEW}"), "");
    let (sockets, refusal) = fill(&daemon);
    for word in [
        &format!("port p{}:", sockets.len()),
        "open as it may, 64 (RLIMIT_NOFILE)",
        "ulimit -Hn",
        "LimitNOFILE=",
    ] {
        assert!(refusal.contains(word), "{word}: {refusal}");
    }
    let before = open_files(&mut daemon);
    daemon.cli(&["port", "rm", "p0"]);
    assert!(open_files(&mut daemon) < before);
    daemon.vhost_port("again");
}

/// Waits until a port tells of an error with this beginning because of the limit.
fn tells(daemon: &Daemon, begins: &str) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let ports = daemon.cli(&["port", "list"]);
        let error = |port: &Value| port["peer"]["last_error"].as_str().unwrap_or_default().to_owned();
        let tells =
            |port: &Value| error(port).starts_with(begins) && error(port).contains("64 (RLIMIT_NOFILE)");
        if ports.as_array().expect("ports").iter().any(tells) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no port tells that {begins}");
}

#[test]
fn guests_that_find_no_open_files_left_are_told_of_and_people_are_answered() {
    let daemon = Daemon::prepared(&format!("ulimit -n {FEW}"), "");
    let (sockets, _) = fill(&daemon);
    let peers: Vec<_> = sockets
        .iter()
        .map(|socket| UnixStream::connect(socket).expect("the port listens"))
        .collect();
    tells(&daemon, "a peer waits in vain: ");
    let memory = std::fs::File::open("/dev/null").expect("there is one");
    let body = peer::words(&[1, 0, 4096, 0, 0]);
    for peer in &peers {
        peer::send_raw(peer, 5, 1, &body, &[memory.as_raw_fd()]).expect("there is room for a message");
    }
    tells(&daemon, "the files of a message were lost: ");
}
