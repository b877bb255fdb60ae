//! A Linux guest says on which of its queues it receives, what it receives, and in which form: its control queue's commands
//! reach the switch.

mod support;

use std::time::Duration;

use offload::rss::Toeplitz;
use serde_json::Value;
use support::guest::addresses;
use support::image::{Image, image};
use support::laboratory::{Room, with_linux_guests};
use support::linux::{Boot, boot};
use support::shell::Shell;
use support::skip;
use support::tcp::{iperf, nothing_lost_or_overtaken};
use support::vm::Site;

const ROOM: Room = Room {
    cpus: 2,
    memory: 3072,
};
/// Queue pairs of the guest that steers.
const PAIRS: usize = 4;
/// Flows of a run of iperf3, and the port that they go to.
const FLOWS: u16 = 8;
const IPERF: u16 = 5201;
/// A flow of a run has more frames than this; all that is not of a run has fewer.
const MANY: u64 = 100;

fn add_port(site: &Site, name: &str, pairs: usize) {
    let socket = site.daemon.path(&format!("{name}.sock"));
    let socket = socket.to_str().expect("a path");
    let queues = pairs.to_string();
    let port = ["port", "add", name, "--vhost-user", socket, "--queues", &queues];
    site.daemon.cli(&port);
}

/// A guest on a port of its own, with as many processors as queue pairs and address 192.0.2.`host`.
fn guest(site: &Site, image: &Image, name: &str, host: u8, pairs: usize) -> Shell {
    add_port(site, name, pairs);
    let pairs = pairs.to_string();
    let nic = format!("port={name},queues={pairs}");
    let files = Boot {
        kernel: &image.kernel,
        initramfs: &image.initramfs,
    };
    let more = ["--vcpus", &pairs, "--memory", "192M", "--nic", &nic];
    let mut vm = boot(site, name, files, &more);
    vm.wait_ready();
    vm.run(&addresses(host));
    vm
}

/// Frames that a guest has received on each queue.
fn received(guest: &mut Shell) -> [u64; PAIRS] {
    let table = guest.run("ethtool -S eth0");
    let count = |queue: usize| {
        let name = format!("rx_queue_{queue}_packets: ");
        let line = table.lines().find_map(|line| line.trim().strip_prefix(&name));
        line.and_then(|count| count.parse().ok()).expect(&table)
    };
    [0, 1, 2, 3].map(count)
}

/// Lets `a` send flows from eight ports to `b`, and sees that `b` receives them on the queues that its table says.
fn lands_as_told(a: &mut Shell, b: &mut Shell, first: u16) -> [bool; PAIRS] {
    let table = table(b);
    let toeplitz = Toeplitz::new(&Toeplitz::DEFAULT_KEY);
    let mut expected = [false; PAIRS];
    for from in first..first + FLOWS {
        let ports = u32::from(from) << 16 | u32::from(IPERF);
        let hash = toeplitz.hash(&[0xc000_0201, 0xc000_0202, ports]);
        expected[table[hash as usize % table.len()]] = true;
    }
    let before = received(b);
    iperf(a, b, "192.0.2.2", &format!("-t 3 -P {FLOWS} --cport {first}"));
    let after = received(b);
    let counts = [0, 1, 2, 3].map(|queue| after[queue] - before[queue]);
    println!("frames by queue: {counts:?}");
    assert_eq!(counts.map(|count| count > MANY), expected, "{table:?}");
    expected
}

/// The queues in a guest's indirection table.
fn table(guest: &mut Shell) -> Vec<usize> {
    let text = guest.run("ethtool -x eth0");
    let text = text.split("RSS hash key").next().unwrap_or_default();
    let rows = text.lines().filter_map(|line| line.split_once(':'));
    let rows = rows.filter(|(entry, _)| entry.trim().parse::<u16>().is_ok());
    rows.flat_map(|(_, queues)| {
        queues
            .split_whitespace()
            .map(|queue| queue.parse().expect("a queue"))
    })
    .collect()
}

fn stats(site: &Site, key: &str) -> u64 {
    site.daemon.port_stats("b")[key].as_u64().expect("a counter")
}

fn port(site: &Site) -> Value {
    let ports = site.daemon.cli(&["port", "list"]);
    let ports = ports.as_array().expect("ports");
    ports
        .iter()
        .find(|port| port["name"] == "b")
        .expect("the port")
        .clone()
}

#[test]
fn a_guest_steers_and_filters_what_it_receives() {
    let test = "a_guest_steers_and_filters_what_it_receives";
    let image = match image() {
        Ok(image) => image,
        Err(reason) => return skip(test, &reason),
    };
    with_linux_guests(test, &[&image.kernel, &image.initramfs], ROOM, || {
        let mut site = Site::new();
        let mut a = guest(&site, &image, "a", 1, 1);
        let mut b = guest(&site, &image, "b", 2, PAIRS);
        a.run("ping -c 3 192.0.2.2");
        b.run(&format!("ethtool -L eth0 combined {PAIRS}"));
        steers(&mut a, &mut b);
        filters(&site, &mut a, &mut b);
        cuts(&site, &mut a, &mut b);
        nothing_lost_or_overtaken([&mut a, &mut b]);
        comes_back(&mut site, &mut a, &mut b);
        let port = port(&site);
        assert_eq!(port["peer"]["refusals"], serde_json::json!({}), "{port}");
        assert_eq!(site.info("b")["nics"][0]["counts"]["refused_commands"], 0);
        let dropped = &site.daemon.port_stats("b")["rx_dropped"];
        assert!(
            dropped
                .as_object()
                .expect("drops")
                .keys()
                .all(|reason| reason == "port_down"),
            "{dropped}"
        );
    });
}

/// By `ethtool -X`, to two queues, to one, and to all.
fn steers(a: &mut Shell, b: &mut Shell) {
    let all = table(b);
    assert_eq!(
        (all.len(), all.iter().max()),
        (128, Some(&(PAIRS - 1))),
        "{all:?}"
    );
    let key = b.run("ethtool -x eth0 | grep -A1 'hash key'");
    assert_eq!(key.matches(':').count(), 1 + 39, "{key}");
    let key = Toeplitz::DEFAULT_KEY
        .map(|octet| format!("{octet:02x}"))
        .join(":");
    b.run(&format!("ethtool -X eth0 hkey {key} equal 2"));
    assert_eq!(lands_as_told(a, b, 40_000), [true, true, false, false]);
    b.run("ethtool -X eth0 weight 0 0 0 1");
    assert_eq!(lands_as_told(a, b, 41_000), [false, false, false, true]);
    b.run(&format!("ethtool -X eth0 equal {PAIRS}"));
    assert_eq!(lands_as_told(a, b, 42_000), [false, false, true, true]);
}

/// Frames to an address that nobody has are flooded, and left out unless the guest wants them all.
fn filters(site: &Site, a: &mut Shell, b: &mut Shell) {
    a.run("arp -s 192.0.2.77 02:00:00:00:00:77");
    let before = stats(site, "filtered");
    a.try_run("ping -c 3 -W 1 192.0.2.77", Duration::from_mins(1));
    let after = stats(site, "filtered");
    assert_eq!(after - before, 3);
    b.run("ip link set eth0 promisc on");
    a.try_run("ping -c 3 -W 1 192.0.2.77", Duration::from_mins(1));
    assert_eq!(stats(site, "filtered"), after);
    b.run("ip link set eth0 promisc off");
}

/// A guest that takes no large frames any more gets small ones, and large ones again when it does.
fn cuts(site: &Site, a: &mut Shell, b: &mut Shell) {
    assert_eq!(stats(site, "segmented"), 0);
    b.run("ethtool -K eth0 rx-gro-hw off");
    assert_eq!(port(site)["capabilities"]["tso4"], false);
    iperf(a, b, "192.0.2.2", "-t 2");
    let segmented = stats(site, "segmented");
    assert!(segmented > 0);
    b.run("ethtool -K eth0 rx-gro-hw on");
    assert_eq!(port(site)["capabilities"]["tso4"], true);
    iperf(a, b, "192.0.2.2", "-t 2");
    assert_eq!(stats(site, "segmented"), segmented);
}

/// A switch that restarts hears of all that its guest had asked for.
fn comes_back(site: &mut Site, a: &mut Shell, b: &mut Shell) {
    b.run("ethtool -X eth0 weight 0 1 0 0");
    site.daemon.restart();
    add_port(site, "a", 1);
    add_port(site, "b", PAIRS);
    a.run("ping -c 50 -i 0.2 -w 30 192.0.2.2 | tail -n 2; ping -c 2 192.0.2.2");
    assert_eq!(lands_as_told(a, b, 43_000), [false, true, false, false]);
    let before = stats(site, "filtered");
    a.try_run("ping -c 3 -W 1 192.0.2.77", Duration::from_mins(1));
    // What a guest says of itself when its link comes back may be late, and is for groups that nobody joined.
    assert!(stats(site, "filtered") - before >= 3);
}
