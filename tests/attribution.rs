//! Where frames' time goes, in which flows, and why: two kernels' TCP through two taps of a switch, by filter.
//!
//! The switch and both hosts are in network namespaces of their own, which need root; without it the tests say by name that
//! they are skipped.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::daemon::Daemon;
use support::netns;
use support::skip;
use support::talk::{ROUNDS, Request, Site, TALK, Talk, answer, ask, receive_bulk, send_bulk};

fn site(test: &str) -> Option<Site> {
    if let Some(reason) = netns::missing() {
        skip(test, &reason);
        return None;
    }
    let site = Site::new();
    site.daemon.cli(&["switch", "attribution", "full"]);
    Some(site)
}

fn set(site: &Site, filter: &[&str]) {
    site.daemon.cli(&[&["filter", "set", "v0"], filter].concat());
}

fn converse(site: &Site, talk: Talk) {
    site.talk(move || ask(talk), move |listener| answer(&listener, talk));
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Stalls of a cause that were seen on the client's port, and of others. Those of the last moment are judged a little later.
fn causes(site: &Site, cause: &str) -> (u64, u64) {
    let count = || {
        let stats = site.daemon.port_stats("v0");
        let causes = stats["stall_causes"]["causes"]
            .as_object()
            .expect("causes")
            .clone();
        let all: u64 = causes.values().map(|gaps| number(&gaps["stalls"])).sum();
        let named = causes.get(cause).map_or(0, |gaps| number(&gaps["stalls"]));
        (named, all - named)
    };
    std::thread::sleep(Duration::from_millis(100));
    let (named, others) = count();
    if others > 0 {
        eprintln!("{:#}", site.daemon.port_stats("v0")["stall_causes"]);
    }
    (named, others)
}

fn sum_of_stages(stages: &Value, names: &[&str]) -> u64 {
    names.iter().map(|name| number(&stages[name]["total_ns"])).sum()
}

fn alike(one: u64, other: u64) -> bool {
    one.abs_diff(other) * 100 <= one.max(other)
}

#[test]
fn stages_of_ports_and_filters_sum_to_what_frames_took() {
    let Some(site) = site("stages_of_ports_and_filters_sum_to_what_frames_took") else {
        return;
    };
    set(&site, &["inspect,serialize"]);
    converse(&site, TALK);
    site.talk(send_bulk, |listener| receive_bulk(&listener));
    let ports = ["v0", "v1"].map(|port| site.daemon.port_stats(port));
    let mut in_filters = 0;
    for port in &ports {
        let stages = &port["stages"];
        assert_eq!(
            stages["frames"], port["stages_of"],
            "every frame that went on: {port:#}"
        );
        let all = [
            "doorbell",
            "queue_wait",
            "parse",
            "filter",
            "hold",
            "copy",
            "notify",
        ];
        let sum = sum_of_stages(&stages["stages"], &all);
        assert!(
            alike(sum, number(&stages["residence"]["total_ns"])),
            "{sum} of {stages:#}"
        );
        in_filters += sum_of_stages(&stages["stages"], &["filter", "hold"]);
    }
    let filter = &ports[0]["filter"];
    let parts = filter["parts"].as_array().expect("parts");
    let names: Vec<_> = parts
        .iter()
        .map(|part| part["part"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["inspect", "serialize"]);
    let of_parts: u64 = parts
        .iter()
        .map(|part| sum_of_stages(part, &["filter", "hold"]))
        .sum();
    assert_eq!(of_parts, number(&filter["added"]["total_ns"]));
    assert!(
        alike(of_parts, in_filters),
        "{of_parts} and {in_filters}: {filter:#}"
    );
    assert_eq!(number(&parts[0]["held"]), 0);
    assert!(number(&parts[1]["held"]) > 0);
}

#[test]
fn a_filter_that_stalls_flows_is_explained() {
    let Some(site) = site("a_filter_that_stalls_flows_is_explained") else {
        return;
    };
    set(&site, &["serialize"]);
    converse(&site, TALK);
    let half = ROUNDS as u64 / 2;
    let (named, others) = causes(&site, "filter-serialised");
    assert!(named >= half && others == 0, "{named} and {others}");
    let lists = site.daemon.cli(&["stats", "--flows", "--port", "v0"]);
    let list = &lists[0];
    let (stalled, slowed) = (&list["stalls"][0], &list["residence"]["flows"][0]);
    assert_eq!(stalled["flow"], slowed["flow"], "{list:#}");
    assert_eq!(number(&stalled["causes"]["filter-serialised"]["stalls"]), named);
    assert!(number(&slowed["hold_ns"]) > 30_000_000 * half, "{list:#}");
    let explained = site.daemon.cli(&["filter", "explain", "v0"]);
    let text = explained["sentences"].to_string();
    for needle in [
        "serialize adds",
        &format!("{named} stalls in 1 flow"),
        "because the filter let a frame go only after",
        "`enlight filter set v0 inspect`",
        "Who suffers most: 192.0.2.1:",
    ] {
        assert!(text.contains(needle), "{needle:?} is not in {explained:#}");
    }
}

#[test]
fn causes_are_named_while_flows_run() {
    let Some(site) = site("causes_are_named_while_flows_run") else {
        return;
    };
    let half = ROUNDS as u64 / 2;
    let nagle = Talk { nagle: true, ..TALK };
    let open = Talk {
        request: Request::Open,
        ..TALK
    };
    let cases: [(&[&str], Talk, &str); 3] = [
        (&["inspect"], nagle, "nagle-delayed-ack"),
        (&["serialize"], TALK, "filter-serialised"),
        (&["hold", "--deadline", "60"], open, "filter-hold"),
    ];
    for (filter, talk, cause) in cases {
        site.daemon.cli(&["filter", "off", "v0"]);
        set(&site, filter);
        converse(&site, talk);
        let (named, others) = causes(&site, cause);
        assert!(
            named >= half && others == 0,
            "{filter:?}: {named} of {cause} and {others} others"
        );
    }
}

#[test]
fn what_is_no_stall_is_not_told_live() {
    let Some(site) = site("what_is_no_stall_is_not_told_live") else {
        return;
    };
    set(&site, &["inspect"]);
    let typing = Talk {
        request: Request::Whole,
        think: Duration::from_millis(120),
        ..TALK
    };
    let quick = Talk {
        nagle: true,
        quick: true,
        ..TALK
    };
    for talk in [typing, quick] {
        converse(&site, talk);
    }
    site.talk(send_bulk, |listener| receive_bulk(&listener));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(causes(&site, "none"), (0, 0));
    let explained = site.daemon.cli(&["filter", "explain", "v0"]);
    assert!(
        explained["sentences"]
            .to_string()
            .contains("No flow stood still."),
        "{explained:#}"
    );
}

/// A receiver that does not read closes its window.
#[test]
fn a_closed_window_is_named_live() {
    let Some(site) = site("a_closed_window_is_named_live") else {
        return;
    };
    set(&site, &["inspect"]);
    site.talk(send_bulk, |listener| {
        std::thread::sleep(Duration::from_millis(300));
        let (stream, _) = listener.accept().expect("the client connects");
        std::thread::sleep(Duration::from_millis(300));
        drain(stream);
    });
    // A receiver that is full may delay its last ACK for 40 ms, which is a cause of its own.
    let (named, _) = causes(&site, "zero-window");
    let gaps = &site.daemon.port_stats("v0")["stall_causes"]["causes"]["zero-window"];
    assert!(
        named >= 1 && number(&gaps["longest_ns"]) > 250_000_000,
        "{named}: {gaps:#}"
    );
}

fn drain(mut stream: std::net::TcpStream) {
    let mut buffer = vec![0; 1 << 17];
    while std::io::Read::read(&mut stream, &mut buffer).expect("data or the end") > 0 {}
}

#[test]
fn the_configuration_says_what_is_stamped() {
    let daemon = Daemon::configured("[switch]\nattribution = 7\n");
    let stats = daemon.cli(&["switch", "attribution"]);
    assert_eq!(stats["mode"], 7, "{stats}");
    assert!(stats["stamp_ns"].as_f64() > Some(0.0), "{stats}");
    let refused = daemon.try_cli(&["switch", "attribution", "0"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("off, auto, full"));
    assert_eq!(daemon.cli(&["switch", "attribution", "auto"])["mode"], "auto");
}

#[test]
fn a_sample_is_a_sample_and_off_is_nothing() {
    let Some(site) = site("a_sample_is_a_sample_and_off_is_nothing") else {
        return;
    };
    set(&site, &["inspect"]);
    site.daemon.cli(&["switch", "attribution", "10"]);
    site.talk(send_bulk, |listener| receive_bulk(&listener));
    let ports = ["v0", "v1"].map(|port| site.daemon.port_stats(port));
    let sum = |key: &dyn Fn(&Value) -> u64| ports.iter().map(key).sum::<u64>();
    let (stamped, frames) = (
        sum(&|port| number(&port["stages"]["frames"])),
        sum(&|port| number(&port["stages_of"])),
    );
    // One worker counts the frames of both ports.
    assert!(
        stamped.abs_diff(frames.div_ceil(10)) <= 1,
        "{stamped} of {frames}"
    );
    let stats = site.daemon.cli(&["switch", "attribution", "off"]);
    assert_eq!(stats["mode"], "off");
    converse(&site, TALK);
    let port = site.daemon.port_stats("v0");
    assert_eq!(
        (
            number(&port["stages"]["frames"]),
            number(&port["filter"]["frames"])
        ),
        (0, 0),
        "{port:#}"
    );
    assert!(number(&port["stages_of"]) > 0);
}
