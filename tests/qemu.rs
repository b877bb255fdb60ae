//! VMs that someone else started: stock Debian kernels in QEMU on `enlight switch run`.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use support::daemon::Daemon;
use support::guest::{Guest, Nic, addresses};
use support::image::{Image, image};
use support::machine::{Machine, wait_for, without_devices};
use support::tcp::{iperf, nothing_lost_or_overtaken, offloads_are_on};
use support::{host, program, skip};

/// What QEMU is told to take every offload away from a guest.
const NO_OFFLOAD: &str = ",csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,\
                          host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,mrg_rxbuf=off";

/// Two software CPUs are as many as a small machine has room for: the tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn image_or_skip(test: &str) -> Option<(Image, MutexGuard<'static, ()>)> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    image()
        .map(|image| (image, turn))
        .map_err(|reason| skip(test, &reason))
        .ok()
}

fn guest(image: &Image, name: &str, host: u8, socket: &Path, features: &str) -> Guest {
    Guest::start(image, name, host, Nic::VhostUser { socket, features })
}

fn no_drops(daemon: &Daemon, port: &str) {
    let stats = daemon.port_stats(port);
    for side in ["tx_dropped", "rx_dropped"] {
        let dropped = stats[side].as_object().expect("drops by reason");
        // Frames for a neighbour that was not there yet have nobody to go to.
        let others: Vec<_> = dropped
            .iter()
            .filter(|(reason, _)| *reason != "port_down")
            .collect();
        assert!(others.is_empty(), "{port} {side}: {others:?}");
    }
}

#[test]
fn debian_guests_exchange_tcp_at_full_offload() {
    let Some((image, _turn)) = image_or_skip("debian_guests_exchange_tcp_at_full_offload") else {
        return;
    };
    let daemon = Daemon::start();
    let (v0, v1) = (daemon.vhost_port("v0"), daemon.vhost_port("v1"));
    let mut a = guest(&image, "a", 1, &v0, "");
    let mut b = guest(&image, "b", 2, &v1, "");
    a.run("ping -c 3 -i 0.2 192.0.2.2");
    b.run("ping -6 -c 3 -i 0.2 2001:db8::1");
    for side in [&mut a, &mut b] {
        offloads_are_on(side);
    }
    for (to, more) in [
        ("192.0.2.2", "-t 2"),
        ("192.0.2.2", "-R -t 2"),
        ("2001:db8::2", "-t 2"),
    ] {
        let report = iperf(&mut a, &mut b, to, more);
        let rate = report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .expect("a rate");
        println!("iperf3 {to} {more}: {:.0} Mbit/s", rate / 1e6);
    }
    nothing_lost_or_overtaken([&mut a, &mut b]);
    no_drops(&daemon, "v0");
    no_drops(&daemon, "v1");
    for port in ["v0", "v1"] {
        let stats = daemon.port_stats(port);
        assert_eq!(stats["segmented"], 0, "large frames pass whole");
        assert_eq!(stats["checksummed"], 0, "checksums are left to the guests");
    }
    let octets = daemon.port_stats("v0")["tx_octets"].as_u64().expect("a counter");
    let frames = daemon.port_stats("v0")["tx_frames"].as_u64().expect("a counter");
    assert!(
        octets / frames > 1600,
        "{octets} octets in {frames} frames: large sends do not pass whole"
    );
}

/// One guest has a packed ring, the other one a split ring; both go through the same switch, offloads included.
#[test]
fn a_guest_with_packed_rings_talks_to_one_with_split_rings() {
    let test = "a_guest_with_packed_rings_talks_to_one_with_split_rings";
    let Some((image, _turn)) = image_or_skip(test) else {
        return;
    };
    let mut daemon = Daemon::start();
    let (v0, v1) = (daemon.vhost_port("v0"), daemon.vhost_port("v1"));
    let mut packed = guest(&image, "packed", 1, &v0, ",packed=on");
    let mut split = guest(&image, "split", 2, &v1, "");
    let has_packed = |guest: &mut Guest| {
        let features = guest.run("cat /sys/bus/virtio/devices/virtio*/features");
        let bits = features.lines().map(|bits| bits.chars().nth(34) == Some('1'));
        bits.collect::<Vec<_>>().contains(&true)
    };
    assert_eq!((has_packed(&mut packed), has_packed(&mut split)), (true, false));
    packed.run("ping -c 3 -i 0.2 192.0.2.2");
    split.run("ping -6 -c 3 -i 0.2 2001:db8::1");
    offloads_are_on(&mut packed);
    for (to, more) in [
        ("192.0.2.2", "-t 2"),
        ("192.0.2.2", "-R -t 2"),
        ("2001:db8::2", "-t 2"),
    ] {
        let report = iperf(&mut packed, &mut split, to, more);
        let rate = report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .expect("a rate");
        println!("iperf3 {to} {more}: {:.0} Mbit/s", rate / 1e6);
    }
    nothing_lost_or_overtaken([&mut packed, &mut split]);
    // The driver stops its rings, and starts new ones.
    let again = "cd /sys/bus/virtio/drivers/virtio_net; d=$(basename $(readlink -f /sys/class/net/eth0/device)); \
                 echo $d >unbind; echo $d >bind; cd /";
    packed.run(again);
    packed.run(&addresses(1));
    packed.run("ping -c 3 -i 0.2 192.0.2.2");
    no_drops(&daemon, "v0");
    no_drops(&daemon, "v1");
    // QEMU does not know where packed rings stand when a switch has vanished, so that its guest has to start new ones.
    daemon.restart();
    daemon.vhost_port("v0");
    daemon.vhost_port("v1");
    packed.run(again);
    packed.run(&addresses(1));
    packed.run("ping -c 40 -i 0.2 -w 30 192.0.2.2 | tail -n 5; ping -c 2 -i 0.2 192.0.2.2");
}

#[test]
fn a_guest_without_offloads_talks_to_one_with_all() {
    let test = "a_guest_without_offloads_talks_to_one_with_all";
    let Some((image, _turn)) = image_or_skip(test) else {
        return;
    };
    if program("tshark").is_none() {
        return skip(test, "tshark is not installed: run `cargo xtask setup` as root");
    }
    let daemon = Daemon::start();
    let (v0, v1) = (daemon.vhost_port("v0"), daemon.vhost_port("v1"));
    let mut plain = guest(&image, "plain", 1, &v0, NO_OFFLOAD);
    let mut able = guest(&image, "able", 2, &v1, "");
    let features = plain.run("ethtool -k eth0");
    assert!(features.contains("tcp-segmentation-offload: off"), "{features}");
    // What the plain guest itself sees on its NIC: whole frames, before its kernel would merge them.
    plain.run("ethtool -K eth0 gro off");
    plain.run("tcpdump -Z root -B 32768 -i eth0 -s 0 -U -w /tmp/cap >/tmp/tcpdump.log 2>&1 & sleep 1");
    plain.run("ping -c 2 -i 0.2 192.0.2.2");
    for (to, more) in [
        ("192.0.2.2", "-n 3M"),
        ("192.0.2.2", "-R -n 3M"),
        ("2001:db8::2", "-R -n 3M"),
    ] {
        iperf(&mut plain, &mut able, to, more);
    }
    nothing_lost_or_overtaken([&mut plain, &mut able]);
    plain.run("killall -INT tcpdump; sleep 1");
    let log = plain.run("cat /tmp/tcpdump.log");
    assert!(log.contains("0 packets dropped by kernel"), "{log}");
    let capture = daemon.path("plain.pcap");
    plain.fetch("/tmp/cap", &capture);
    let file = capture.display().to_string();
    let check = "-o ip.check_checksum:TRUE -o tcp.check_checksum:TRUE -o udp.check_checksum:TRUE";
    let count = |filter: &str| {
        let output = host(&format!(
            "tshark -r {file} {check} -Y '{filter}' 2>/dev/null | wc -l"
        ));
        output.trim().parse::<u64>().expect("a count")
    };
    let frames = count("tcp");
    assert!(frames > 4_000, "the capture has {frames} TCP frames");
    assert_eq!(
        count("tcp.checksum.status == \"Bad\" || ip.checksum.status == \"Bad\""),
        0
    );
    assert_eq!(count("frame.len > 1514"), 0, "none is over the MTU");
    let stats = daemon.port_stats("v0");
    assert!(
        stats["segmented"].as_u64().expect("a counter") > 50,
        "the switch cuts for the plain guest: {stats}"
    );
    no_drops(&daemon, "v0");
    no_drops(&daemon, "v1");
}

#[test]
fn guests_come_back_after_either_side_restarts() {
    let Some((image, _turn)) = image_or_skip("guests_come_back_after_either_side_restarts") else {
        return;
    };
    let mut daemon = Daemon::start();
    let (v0, v1) = (daemon.vhost_port("v0"), daemon.vhost_port("v1"));
    let mut a = guest(&image, "a", 1, &v0, "");
    let mut b = guest(&image, "b", 2, &v1, "");
    a.run("ping -c 2 -i 0.2 192.0.2.2");
    // The switch restarts; the guests' QEMUs connect anew to the same sockets.
    daemon.restart();
    daemon.vhost_port("v0");
    daemon.vhost_port("v1");
    a.run("ping -c 40 -i 0.2 -w 30 192.0.2.2 | tail -n 5; ping -c 2 -i 0.2 192.0.2.2");
    iperf(&mut a, &mut b, "192.0.2.2", "-n 3M");
    // A guest is killed and another one takes its place.
    drop(b);
    let mut again = guest(&image, "b again", 2, &v1, "");
    again.run("ping -c 2 -i 0.2 192.0.2.1");
    iperf(&mut again, &mut a, "192.0.2.1", "-n 3M");
}

/// QEMU with the micro-guest as its kernel; `firmware` are words that choose another one than SeaBIOS.
fn micro_guest(
    kernel: &Path,
    host: u8,
    socket: &Path,
    cmdline: &str,
    log: &Path,
    firmware: &[&str],
) -> Machine {
    let device = format!("virtio-net-pci,netdev=n,vectors=0,mac=52:54:00:00:03:{host:02x}");
    let chardev = format!("socket,id=c,path={}", socket.display());
    let mut command = Command::new("qemu-system-x86_64");
    without_devices(&mut command, 32);
    let child = command
        .args(["-chardev", &chardev, "-netdev", "vhost-user,id=n,chardev=c"])
        .args(["-device", &device, "-append", cmdline, "-kernel"])
        .arg(kernel)
        .args(firmware)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(log).expect("the log opens"))
        .spawn();
    Machine(child.expect("QEMU starts"))
}

#[test]
fn qemu_boots_the_micro_guest_through_its_pvh_note() {
    let test = "qemu_boots_the_micro_guest_through_its_pvh_note";
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if program("qemu-system-x86_64").is_none() {
        return skip(
            test,
            "qemu-system-x86_64 is not installed: run `cargo xtask setup` as root",
        );
    }
    let daemon = Daemon::start();
    let (v0, v1) = (daemon.vhost_port("v0"), daemon.vhost_port("v1"));
    let kernel = daemon.path("micro-guest");
    std::fs::write(&kernel, vmm::MICROGUEST).expect("the image is written");
    let (server, client) = (daemon.path("server.log"), daemon.path("client.log"));
    let _server = micro_guest(
        &kernel,
        2,
        &v1,
        "role=server ip=192.0.2.2/24 workload=wwr",
        &server,
        &[],
    );
    wait_for(&server, " listening ");
    let role = "role=client ip=192.0.2.1/24 peer=192.0.2.2 workload=wwr phase-ms=1000";
    let _client = micro_guest(&kernel, 1, &v0, role, &client, &[]);
    let end = wait_for(&client, " end ");
    let transactions = end
        .split_whitespace()
        .find_map(|word| word.strip_prefix("transactions="));
    let transactions: u64 = transactions.and_then(|text| text.parse().ok()).expect("a count");
    assert!(transactions > 10, "{end}");
    wait_for(&client, " done");
}

/// qboot leaves PCI devices without addresses, and large segments pass whole from one micro-guest to the other.
#[test]
fn micro_guests_without_firmware_stream_large_segments() {
    let test = "micro_guests_without_firmware_stream_large_segments";
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let qboot = "/usr/share/qemu/qboot.rom";
    if !Path::new(qboot).exists() {
        return skip(
            test,
            &format!("{qboot} is missing: run `cargo xtask setup` as root"),
        );
    }
    let daemon = Daemon::start();
    let (v0, v1) = (daemon.vhost_port("v0"), daemon.vhost_port("v1"));
    let kernel = daemon.path("micro-guest");
    std::fs::write(&kernel, vmm::MICROGUEST).expect("the image is written");
    let (server, client) = (daemon.path("server.log"), daemon.path("client.log"));
    let firmware = ["-bios", qboot];
    let role = "role=server ip=192.0.2.2/24 workload=stream lso=1";
    let _server = micro_guest(&kernel, 2, &v1, role, &server, &firmware);
    wait_for(&server, " listening ");
    let role = "role=client ip=192.0.2.1/24 peer=192.0.2.2 workload=stream phase-ms=1000 lso=1";
    let _client = micro_guest(&kernel, 1, &v0, role, &client, &firmware);
    wait_for(&client, " done");
    assert_eq!(
        wait_for(&client, " hash phase=0 "),
        wait_for(&server, " hash phase=0 ")
    );
    let stats = daemon.port_stats("v0");
    let count = |name: &str| stats[name].as_u64().expect("a counter");
    assert!(count("tx_octets") > 1 << 20, "{stats}");
    assert!(count("tx_octets") / count("tx_frames") > 8000, "{stats}");
    assert_eq!((count("segmented"), count("checksummed")), (0, 0), "{stats}");
    no_drops(&daemon, "v0");
    no_drops(&daemon, "v1");
}
