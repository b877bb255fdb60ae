//! Configuration files as the program takes them: what is wrong is told in one line, with its place and a remedy.

use std::path::Path;
use std::process::{Command, Output};

/// Runs a switch that is expected to refuse its configuration.
fn refused(dir: &Path, text: &[u8]) -> String {
    let file = dir.join("switch.toml");
    std::fs::write(&file, text).expect("the file is written");
    let output = switch(dir, &file);
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(output.stdout, b"", "nothing is ready");
    assert_eq!(errors.lines().count(), 1, "one line: {errors}");
    assert!(
        !dir.join("control.sock").exists(),
        "nothing was started: {errors}"
    );
    errors
}

fn switch(dir: &Path, file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_enlight"))
        .args(["switch", "run", "--config"])
        .arg(file)
        .env("ENLIGHT_CONTROL", dir.join("control.sock"))
        .output()
        .expect("the program starts")
}

/// Texts, the line at fault, and what the error has to name: the key, the reason, the remedy.
const MISTAKES: [(&str, usize, &[&str]); 29] = [
    (
        "[switch]\ncontroll = \"x\"",
        2,
        &["unknown key `controll`", "`control`"],
    ),
    ("\n[swich]\n", 2, &["unknown key `swich`", "`switch`"]),
    ("[switch]\ncontrol = 7", 2, &["control", "integer"]),
    (
        "[switch]\n\nattribution = \"some\"",
        3,
        &["off, auto, full", "\"some\""],
    ),
    ("[switch]\nattribution = 0", 2, &["attribution", "`0`", "1 to"]),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\nspeed = 10",
        4,
        &["unknown key `speed`", "`queues`"],
    ),
    ("[[port]]\ntap = \"t\"", 1, &["missing", "`name`"]),
    (
        "[[port]]\nname = \"a b\"\ntap = \"t\"",
        2,
        &["name", "a b", "1 to 32"],
    ),
    (
        "[[port]]\nname = \"a\"",
        2,
        &["\"a\"", "vhost-user", "tap", "endpoint"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\nvhost-user = \"/tmp/x\"",
        3,
        &["tap", "vhost-user", "keep one"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\n\nvlan = 5000",
        5,
        &["vlan", "5000", "1 to 4094"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\nvlan = 0",
        4,
        &["vlan", "1 to 4094"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\nvlan = 1.5",
        4,
        &["vlan", "float"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\ntrunk = [1]\nvlan = 2",
        4,
        &["trunk", "both vlan and trunk", "keep"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\ntrunk = []",
        4,
        &["trunk", "list them"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\ntrunk = [4095]",
        4,
        &["trunk", "4095", "1 to 4094"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\nqueues = 0",
        4,
        &["queues", "1 to 16"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\nqueues = 17",
        4,
        &["queues", "17", "1 to 16"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\nqueues = \"two\"",
        4,
        &["queues", "\"two\""],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\nmtu = 67",
        4,
        &["mtu", "68 to 65535"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\nfilter = \"nagle\"",
        4,
        &["filter", "nagle", "serialize"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\ndeadline-ms = 0",
        4,
        &["deadline-ms", "1 to 60000"],
    ),
    (
        "[[port]]\nname = \"a\"\nendpoint = \"192.0.2.1\"",
        3,
        &["endpoint", "192.0.2.1/24"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"an-interface-name\"",
        3,
        &["tap", "1 to 15"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\n[[port]]\nname = \"a\"\ntap = \"u\"",
        5,
        &["name", "\"a\"", "twice", "rename"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\n[[port]]\nname = \"b\"\ntap = \"t\"",
        6,
        &["tap", "\"t\"", "its own"],
    ),
    (
        "[[port]]\nname = \"a\"\ntap = \"t\"\n[[port.rule]]\nname = \"r\"\npattern = \"\\\\q\"\naction = \"drop\"",
        4,
        &["rule", "\"r\"", "escape"],
    ),
    (
        "[[worker]]\ncpu = 0\nmode = \"lazy\"",
        3,
        &["mode", "`lazy`", "`poll`"],
    ),
    ("[[port]]\nname \"a\"", 2, &["key with no value"]),
];

#[test]
fn every_mistake_is_one_line_with_its_place() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (text, line, needles) in MISTAKES {
        let error = refused(dir.path(), text.as_bytes());
        let place = format!("switch.toml:{line}:");
        assert!(error.contains(&place), "not in line {line}: {error}in\n{text}");
        for needle in needles {
            assert!(error.contains(needle), "{needle:?} is missing: {error}in\n{text}");
        }
    }
}

#[test]
fn what_is_no_text_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let error = refused(dir.path(), &[0xff, 0xfe, 0]);
    assert!(
        error.contains("switch.toml") && error.contains("UTF-8"),
        "{error}"
    );
    let error = refused(dir.path(), "[[port]]\n".repeat(600_000).as_bytes());
    assert!(error.contains("longer than 4 MiB"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for file in [dir.path().join("none.toml"), dir.path().to_owned()] {
        let output = switch(dir.path(), &file);
        let errors = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1));
        assert!(errors.contains(&*file.to_string_lossy()), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn a_worker_on_a_cpu_that_is_not_there_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let error = refused(dir.path(), b"[[worker]]\ncpu = 100000");
    assert!(error.contains("worker 0"), "{error}");
}
