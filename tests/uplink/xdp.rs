//! Uplinks served by AF_XDP, in its native and generic modes, and the choice between it and AF_PACKET.

use crate::packet::{at_rest, wait_for};
use crate::scene::{A_LINK, B_LINK, Scene, TWO_WORKERS, WIRE, missing, set};
use crate::support::netns;
use crate::transfer::{exchange, numbered, v4, v6};

const SIZE: usize = 8 << 20;

/// How the uplink is served, in the switch's words.
fn served(scene: &Scene) -> String {
    let port = scene.port("wire");
    port["peer"]["served"].as_str().expect("the way").to_owned()
}

/// A scene with host B's tap, whose rings do not run over.
fn scene(config: &'static str, mtu: u32, pair: &str) -> Scene {
    let scene = Scene::new(config, mtu, pair);
    scene.add_tap(&[]);
    scene.small_windows();
    scene
}

fn talk(scene: &Scene) {
    scene.address(A_LINK, B_LINK);
    scene.ping();
    exchange(scene, v4(), SIZE, 1);
    exchange(scene, v6(), SIZE, 1);
}

#[test]
fn kernels_talk_by_a_program_in_the_driver() {
    if missing("kernels_talk_by_a_program_in_the_driver") {
        return;
    }
    let scene = scene("", 1500, "");
    scene.add_uplink(&["--uplink-mode", "af-xdp"]);
    let way = served(&scene);
    assert!(way.contains("AF_XDP") && way.contains("in the driver"), "{way}");
    talk(&scene);
    assert!(
        scene.count("wire", "segmented") > 0,
        "host B's large sends were cut"
    );
    scene.nothing_missed();
    // The kernel of the veth pair's other end leaves checksums to be filled in: they are told from finished ones.
    let errors = scene.b.run(|| netns::counter("snmp", "Tcp", "InCsumErrors"));
    assert_eq!(errors, 0);
    scene.daemon.cli(&["port", "rm", "wire"]);
    let link = scene.switch.host(format!("ip -d link show {WIRE}"));
    assert!(!link.contains("xdp"), "the program stays: {link}");
    // At once again: nothing of the first one is left.
    scene.add_uplink(&["--uplink-mode", "af-xdp"]);
    scene.ping();
}

#[test]
fn kernels_talk_by_a_program_behind_the_driver() {
    if missing("kernels_talk_by_a_program_behind_the_driver") {
        return;
    }
    // With this MTU the driver cannot run the program.
    let scene = scene("", 9000, "");
    scene
        .a
        .host(format!("ethtool -K {A_LINK} tso off gso off gro off"));
    scene.switch.host(format!("ethtool -K {WIRE} gro off"));
    scene.add_uplink(&["--uplink-mode", "af-xdp"]);
    let way = served(&scene);
    assert!(way.contains("generic"), "{way}");
    talk(&scene);
    scene.nothing_missed();
}

#[test]
fn flows_stay_in_order_on_several_xdp_queues() {
    if missing("flows_stay_in_order_on_several_xdp_queues") {
        return;
    }
    let pair = "numrxqueues 2 numtxqueues 2";
    let scene = scene(TWO_WORKERS, 1500, pair);
    scene.a.pin();
    scene.add_uplink(&["--uplink-mode", "af-xdp", "--queues", "2"]);
    scene.address(A_LINK, B_LINK);
    scene.ping();
    exchange(&scene, v4(), SIZE / 4, 16);
    scene.nothing_missed();
    numbered(&scene, 16);
    let stats = scene.daemon.cli(&["stats"]);
    let queues = stats["queues"].as_array().expect("queues");
    let carried: Vec<u64> = queues
        .iter()
        .filter(|queue| queue["port"] == "wire")
        .map(|queue| queue["frames"].as_u64().expect("frames"))
        .collect();
    assert!(
        carried.len() == 2 && carried.iter().all(|frames| *frames > 100),
        "{carried:?}"
    );
}

#[test]
fn an_xdp_link_that_goes_is_noticed_and_not_spun_on() {
    if missing("an_xdp_link_that_goes_is_noticed_and_not_spun_on") {
        return;
    }
    let scene = scene("", 1500, "");
    scene.add_uplink(&["--uplink-mode", "af-xdp"]);
    scene.address(A_LINK, B_LINK);
    scene.ping();
    let ask = "ping -c 3 -i 0.01 -W 1 192.0.2.1 || true";
    set(&scene.switch, WIRE, "down");
    wait_for(&scene, false, "ip link set u0 up");
    scene.b.host(ask);
    at_rest(&scene);
    let stats = scene.daemon.port_stats("wire");
    assert!(stats["rx_dropped"]["port_down"].as_u64() > Some(0), "{stats}");
    set(&scene.switch, WIRE, "up");
    wait_for(&scene, true, "");
    scene.reunite();
    scene.switch.host(format!("ip link del {WIRE}"));
    scene.b.host(ask);
    wait_for(&scene, false, "the interface was removed");
    at_rest(&scene);
    scene.daemon.cli(&["port", "rm", "wire"]);
}

#[test]
fn the_choice_is_made_by_what_works() {
    if missing("the_choice_is_made_by_what_works") {
        return;
    }
    let scene = Scene::new("", 9000, "");
    let refused = |options: &[&str], words: &str| {
        scene.add_uplink(options);
        let way = served(&scene);
        assert!(
            way.starts_with("AF_PACKET, and not AF_XDP: ") && way.contains(words),
            "{options:?}: {way}"
        );
        scene.daemon.cli(&["port", "rm", "wire"]);
    };
    refused(&["--mtu", "9000"], "the port's MTU is 9000");
    refused(&["--trunk", "10"], "the port is a trunk");
    refused(&["--queues", "2"], "the interface receives on 1 queues");
    refused(&[], "too large for a program in the driver");
    set(&scene.a, A_LINK, "mtu 1500");
    // A veth pair has no memory of its own to lend.
    refused(&[], "frames would be copied");
    scene.add_uplink(&["--uplink-mode", "af-xdp"]);
    let way = served(&scene);
    assert!(way.starts_with("AF_XDP, its program in the driver"), "{way}");
    // A second program does not fit on an interface; packet sockets do.
    let second = |mode: &str| {
        let add = ["port", "add", "x", "--uplink", WIRE, "--uplink-mode", mode];
        scene.daemon.try_cli(&add)
    };
    let output = second("af-xdp");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("AF_XDP does not work here") && said.contains("something else has it"),
        "{said}"
    );
    assert!(second("auto").status.success());
}
