//! TCP between two Linux guests: traffic, and what their kernels count of it.

use serde_json::Value;

use super::shell::{PATIENCE, Shell};

/// Runs iperf3 from `client` to `server` and gives its report.
pub fn iperf(client: &mut Shell, server: &mut Shell, to: &str, options: &str) -> Value {
    server.run("iperf3 -s -1 -D; sleep 1");
    let command = format!("iperf3 -c {to} -J {options}");
    let (status, output) = client.try_run(&command, PATIENCE);
    let report = output.find('{').map_or("", |at| &output[at..]);
    let report: Value =
        serde_json::from_str(report).unwrap_or_else(|error| panic!("{command}: {error}\n{output}"));
    assert_eq!(status, "0", "{command}: {output}");
    report
}

/// Everything that a NIC can take off a guest's hands is switched on in it.
pub fn offloads_are_on(guest: &mut Shell) {
    let features = guest.run("ethtool -k eth0");
    for feature in [
        "tcp-segmentation-offload: on",
        "tx-checksumming: on",
        "rx-checksumming: on",
        "scatter-gather: on",
    ] {
        assert!(features.contains(feature), "{feature} is missing:\n{features}");
    }
}

/// One counter of a guest's TCP, from `/proc/net/snmp` or `/proc/net/netstat`.
fn counter(guest: &mut Shell, group: &str, name: &str) -> u64 {
    let table = guest.run(&format!(
        "cat /proc/net/snmp /proc/net/netstat | grep '^{group}:'"
    ));
    let mut lines = table.lines().filter(|line| line.starts_with(group));
    let (names, values) = (
        lines.next().expect("the names"),
        lines.next().expect("the values"),
    );
    let at = names
        .split_whitespace()
        .position(|word| word == name)
        .unwrap_or_else(|| panic!("no {name}: {names}"));
    values
        .split_whitespace()
        .nth(at)
        .and_then(|text| text.parse().ok())
        .expect("a number")
}

/// Nothing was lost in the middle of a flow or overtaken on the way: then a segment would have reached a guest out of order.
/// What was sent again all the same, on a busy machine by a guest whose peer was late to acknowledge, is not the switch's
/// doing. What is lost at a flow's end the switch's counters of drops show.
pub fn nothing_lost_or_overtaken(guests: [&mut Shell; 2]) {
    for guest in guests {
        for name in ["TCPOFOQueue", "TCPSackRecovery", "TCPRenoRecovery"] {
            assert_eq!(counter(guest, "TcpExt", name), 0, "{name}");
        }
        let again = counter(guest, "Tcp", "RetransSegs");
        println!("{again} segments sent again, none because of a gap");
    }
}
