//! Uplinks served by AF_PACKET.

use std::time::{Duration, Instant};

use crate::scene::{A_LINK, B_LINK, Scene, TWO_WORKERS, WIRE, missing, set};
use crate::support::daemon::Daemon;
use crate::transfer::{exchange, numbered, v4, v6};

const SIZE: usize = 16 << 20;
const LIMIT: Duration = Duration::from_secs(20);

/// Nothing was cut or summed in software, or dropped.
fn passed_whole(scene: &Scene) {
    for port in ["wire", "tap"] {
        for counter in ["segmented", "checksummed"] {
            assert_eq!(scene.count(port, counter), 0, "{port} {counter}");
        }
    }
    scene.nothing_dropped();
}

#[test]
fn kernels_talk_and_large_sends_pass_whole() {
    if missing("kernels_talk_and_large_sends_pass_whole") {
        return;
    }
    let scene = Scene::new("", 1500, "");
    scene.add_tap(&[]);
    scene.add_uplink(&["--uplink-mode", "af-packet"]);
    scene.address(A_LINK, B_LINK);
    scene.ping();
    exchange(&scene, v4(), SIZE, 1);
    exchange(&scene, v6(), SIZE, 1);
    passed_whole(&scene);
    // Each way there are acknowledgements beside 32 MiB of data.
    let cut = 2 * (SIZE / 1448) as u64;
    for port in ["wire", "tap"] {
        let frames = scene.count(port, "tx_frames");
        assert!(frames < cut, "{port}: {frames} frames");
    }
    let port = scene.port("wire");
    assert_eq!(port["peer"]["up"], true, "{port}");
    let served = port["peer"]["served"].as_str().expect("how it is served");
    assert!(served.contains("AF_PACKET"), "{served}");
}

#[test]
fn tagged_frames_keep_their_vlan() {
    if missing("tagged_frames_keep_their_vlan") {
        return;
    }
    let scene = Scene::new("", 1500, "");
    scene.add_tap(&["--vlan", "10"]);
    scene.add_uplink(&["--uplink-mode", "af-packet", "--trunk", "10,20"]);
    // Another switch at the wire's other end: the kernel takes the tags out of what it sends before packet sockets see it.
    let far = scene.a.run(|| Daemon::configured(""));
    far.cli(&["port", "add", "wire", "--uplink", A_LINK, "--trunk", "10,20"]);
    for vlan in ["10", "20"] {
        far.cli(&["port", "add", vlan, "--tap", &format!("v{vlan}"), "--vlan", vlan]);
    }
    scene.address("v10", B_LINK);
    scene.ping();
    exchange(&scene, v4(), SIZE, 1);
    exchange(&scene, v6(), SIZE, 1);
    passed_whole(&scene);
    // The other VLAN does not lead to host B.
    scene.a.host("ip addr add 198.51.100.1/24 dev v20");
    scene.b.host(format!("ip addr add 198.51.100.2/24 dev {B_LINK}"));
    let before = scene.count("wire", "tx_frames");
    let said = scene.a.host("ping -c 2 -i 0.01 -W 1 198.51.100.2 || true");
    assert!(said.contains("0 received"), "{said}");
    assert!(scene.count("wire", "tx_frames") > before);
}

#[test]
fn jumbo_frames_pass() {
    if missing("jumbo_frames_pass") {
        return;
    }
    let scene = Scene::new("", 9000, "");
    scene.add_tap(&["--mtu", "9000"]);
    scene.add_uplink(&["--uplink-mode", "af-packet", "--mtu", "9000"]);
    scene.address(A_LINK, B_LINK);
    let said = scene.a.host("ping -M do -s 8972 -c 1 -W 10 192.0.2.2");
    assert!(said.contains("1 received"), "{said}");
    exchange(&scene, v4(), SIZE, 1);
    passed_whole(&scene);
}

#[test]
fn flows_stay_in_order_on_several_queues() {
    if missing("flows_stay_in_order_on_several_queues") {
        return;
    }
    let scene = Scene::new(TWO_WORKERS, 1500, "");
    scene.a.pin();
    scene.small_windows();
    scene.add_tap(&["--queues", "2"]);
    scene.add_uplink(&["--uplink-mode", "af-packet", "--queues", "2"]);
    scene.address(A_LINK, B_LINK);
    scene.ping();
    exchange(&scene, v4(), SIZE / 4, 16);
    scene.nothing_missed();
    numbered(&scene, 16);
    let stats = scene.daemon.cli(&["stats"]);
    let queues = stats["queues"].as_array().expect("queues");
    let carried: Vec<u64> = queues
        .iter()
        .map(|queue| queue["frames"].as_u64().expect("frames"))
        .collect();
    assert_eq!(
        carried.len(),
        5,
        "two of the tap, its VM queue, two of the wire: {stats}"
    );
    assert!(carried.iter().all(|frames| *frames > 100), "{carried:?}");
}

/// Waits until `port list` says this of the uplink.
pub(crate) fn wait_for(scene: &Scene, up: bool, words: &str) {
    let start = Instant::now();
    loop {
        let peer = &scene.port("wire")["peer"];
        let error = peer["last_error"].as_str().unwrap_or_default();
        if peer["up"] == up && error.contains(words) {
            return;
        }
        assert!(start.elapsed() < LIMIT, "{peer}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The workers sleep: a spinning one makes a million rounds in this time.
pub(crate) fn at_rest(scene: &Scene) {
    let rounds = || {
        let stats = scene.daemon.cli(&["stats"]);
        stats["workers"][0]["rounds"].as_u64().expect("rounds")
    };
    let before = rounds();
    std::thread::sleep(Duration::from_millis(500));
    let made = rounds() - before;
    assert!(made < 20_000, "{made} rounds without anything to do");
}

#[test]
fn a_link_that_goes_is_noticed_and_not_spun_on() {
    if missing("a_link_that_goes_is_noticed_and_not_spun_on") {
        return;
    }
    let scene = Scene::new("", 1500, "");
    scene.add_tap(&[]);
    scene.add_uplink(&["--uplink-mode", "af-packet"]);
    scene.address(A_LINK, B_LINK);
    scene.ping();
    set(&scene.switch, WIRE, "down");
    wait_for(&scene, false, "ip link set u0 up");
    scene.b.host("ping -c 3 -i 0.01 -W 1 192.0.2.1 || true");
    at_rest(&scene);
    let stats = scene.daemon.port_stats("wire");
    assert!(stats["rx_dropped"]["port_down"].as_u64() > Some(0), "{stats}");
    set(&scene.switch, WIRE, "up");
    wait_for(&scene, true, "");
    scene.reunite();
    scene.switch.host(format!("ip link del {WIRE}"));
    wait_for(&scene, false, "the interface was removed");
    scene.b.host("ping -c 3 -i 0.01 -W 1 192.0.2.1 || true");
    at_rest(&scene);
    scene.daemon.cli(&["port", "rm", "wire"]);
}

#[test]
fn each_reason_to_fail_is_named() {
    if missing("each_reason_to_fail_is_named") {
        return;
    }
    let scene = Scene::new("", 1500, "");
    scene.switch.host("ip link add down0 type veth peer name down1");
    let refused = |options: &[&str]| {
        let output = scene
            .daemon
            .try_cli(&[&["port", "add", "x", "--uplink"], options].concat());
        assert!(!output.status.success(), "{options:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&["absent0"]);
    assert!(
        said.contains("no such interface") && said.contains("u0"),
        "{said}"
    );
    let said = refused(&["down0"]);
    assert!(said.contains("ip link set down0 up"), "{said}");
    let said = refused(&[WIRE, "--mtu", "9000"]);
    assert!(said.contains("ip link set u0 mtu 9000"), "{said}");
    assert!(refused(&["lo"]).contains("MAC address"));
}
