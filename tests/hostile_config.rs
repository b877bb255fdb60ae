//! Paths that cannot be listened on and kernels that are none, told by the program itself: one line on standard error,
//! and a status that is not zero. Mistakes in the text of a configuration are in config.rs.

mod support;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use support::daemon::Daemon;

/// Runs the program, which has to fail, and gives the line that it says.
fn refused(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_enlight"))
        .args(args)
        .env_remove("ENLIGHT_CONTROL")
        .stdin(Stdio::null())
        .output()
        .expect("the program runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} succeeds: {error}");
    assert!(
        output.stdout.is_empty(),
        "{args:?} prints {:?}",
        String::from_utf8_lossy(&output.stdout)
    );
    one_line(&error)
}

fn one_line(error: &str) -> String {
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 1, "one line: {error:?}");
    assert!(
        lines[0].starts_with("enlight: ") && lines[0].len() < 400,
        "{error:?}"
    );
    lines[0].to_owned()
}

/// Starts a switch with a configuration that it has to refuse.
fn refused_config(dir: &Path, text: &str) -> String {
    let (file, control) = (dir.join("switch.toml"), dir.join("control.sock"));
    fs::write(&file, text).expect("a file");
    let line = refused(&[
        "switch",
        "run",
        "--config",
        &file.display().to_string(),
        "--control",
        &control.display().to_string(),
    ]);
    assert!(
        !control.exists(),
        "a switch that did not start leaves no socket behind"
    );
    line
}

fn contains(line: &str, needles: &[&str]) {
    for needle in needles {
        assert!(line.contains(needle), "{needle:?} is missing in {line:?}");
    }
}

#[test]
fn sockets_that_are_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let (taken, precious) = (path("taken.sock"), path("precious"));
    let _listener = UnixListener::bind(&taken).expect("a socket");
    fs::write(&precious, "precious").expect("a file");
    let config = |socket: &Path| format!("[[port]]\nname = \"a\"\nvhost-user = \"{}\"\n", socket.display());
    contains(
        &refused_config(dir.path(), &config(&taken)),
        &["port a", "taken.sock", "in use"],
    );
    contains(
        &refused_config(dir.path(), &config(&precious)),
        &["port a", "precious", "no socket"],
    );
    contains(
        &refused_config(dir.path(), &config(&path("no/such/x.sock"))),
        &["port a", "does not exist"],
    );
    for (socket, needle) in [(&taken, "already"), (&precious, "socket")] {
        let control = socket.display().to_string();
        contains(
            &refused(&["switch", "run", "--control", &control]),
            &[&control, needle],
        );
    }
    assert_eq!(
        fs::read_to_string(&precious).expect("it is still there"),
        "precious"
    );
    assert!(taken.exists());
}

#[test]
fn paths_that_a_running_switch_refuses() {
    let daemon = Daemon::start();
    let taken = daemon.vhost_port("v0").display().to_string();
    let precious = daemon.path("precious");
    fs::write(&precious, "precious").expect("a file");
    for (path, needles) in [
        (taken.as_str(), ["v0.sock", "in use"]),
        (&precious.display().to_string(), ["precious", "no socket"]),
        (
            &daemon.path("no/such/x.sock").display().to_string(),
            ["no/such", "does not exist"],
        ),
    ] {
        let output = daemon
            .command(&["port", "add", "v1", "--vhost-user", path])
            .output()
            .expect("the CLI runs");
        assert!(!output.status.success(), "{path} is taken");
        contains(&one_line(&String::from_utf8_lossy(&output.stderr)), &needles);
    }
    assert_eq!(
        fs::read_to_string(&precious).expect("it is still there"),
        "precious"
    );
    assert_eq!(daemon.cli(&["port", "list"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn kernels_that_are_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, octets: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, octets).expect("a file");
        path.display().to_string()
    };
    let empty = file("empty", b"");
    let cut = file("cut", b"\x7fELF\x02\x01\x01");
    // A program of this machine is an ELF file, but nothing that boots.
    let program = env!("CARGO_BIN_EXE_enlight");
    let missing = dir.path().join("missing").display().to_string();
    for kernel in ["/etc/passwd", &empty, &cut, program, &missing, "/dev/null", "/"] {
        let line = refused(&["vm", "run", "--kernel", kernel, "--memory", "64M"]);
        contains(&line, &[kernel]);
    }
    contains(
        &refused(&["vm", "run", "--micro-guest", "--initrd", &missing]),
        &[&missing],
    );
    let nowhere = format!("vhost-user={missing}");
    contains(
        &refused(&["vm", "run", "--micro-guest", "--memory", "16M", "--nic", &nowhere]),
        &[&missing],
    );
}
