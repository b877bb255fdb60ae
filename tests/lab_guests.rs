//! Debian's kernels on `enlight vm run`: what they boot from, what they see, and two of them on one switch.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use support::guest::addresses;
use support::image::{Image, image, image_in};
use support::laboratory::{Room, is_inside, with_linux_guests};
use support::linux::{Boot, boot};
use support::shell::{PATIENCE, Shell};
use support::tcp::{iperf, nothing_lost_or_overtaken, offloads_are_on};
use support::vm::{Site, phases_follow_each_other};
use support::{host, skip};

/// A laboratory for guests of several processors, and one for others.
const SIDE_BY_SIDE: Room = Room {
    cpus: 2,
    memory: 3072,
};
const IN_TURN: Room = Room {
    cpus: 1,
    memory: 3584,
};
/// What a machine may cost beyond its guest's memory, in KiB: the program as it is delivered, and as it is debugged, most of which is
/// code, of which the kernel maps more with each page that is needed.
const MOST_BEYOND_GUEST: [u64; 2] = [7 << 10, 24 << 10];
/// How long a guest has to end.
const END: Duration = PATIENCE;

fn image_or_skip(test: &str, image: Result<Image, String>) -> Option<Image> {
    image.map_err(|reason| skip(test, &reason)).ok()
}

/// Runs `body` with a guest's image where Linux guests run.
fn with_image(test: &str, body: impl FnOnce(&Image)) {
    if let Some(image) = image_or_skip(test, image()) {
        with_linux_guests(test, &[&image.kernel, &image.initramfs], SIDE_BY_SIDE, || {
            body(&image);
        });
    }
}

impl<'a> From<&'a Image> for Boot<'a> {
    fn from(image: &'a Image) -> Self {
        Boot {
            kernel: &image.kernel,
            initramfs: &image.initramfs,
        }
    }
}

/// A guest of two processors and two queue pairs with address 192.0.2.`host` on a port of its own.
fn on_the_switch(site: &Site, image: &Image, name: &str, host: u8) -> Shell {
    let socket = site.daemon.path(&format!("{name}.sock"));
    let socket = socket.to_str().expect("a path");
    site.daemon
        .cli(&["port", "add", name, "--vhost-user", socket, "--queues", "2"]);
    let nic = format!("port={name},queues=2");
    let more = ["--vcpus", "2", "--memory", "192M", "--nic", &nic];
    let mut vm = boot(site, name, image.into(), &more);
    vm.wait_ready();
    vm.run(&addresses(host));
    vm
}

/// Two guests of two processors and two queue pairs: TCP both ways at full offload, spread over both pairs.
#[test]
fn two_debian_guests_exchange_tcp_at_full_offload() {
    with_image("two_debian_guests_exchange_tcp_at_full_offload", |image| {
        let site = Site::new();
        let mut a = on_the_switch(&site, image, "a", 1);
        let mut b = on_the_switch(&site, image, "b", 2);
        a.run("ping -c 3 192.0.2.2");
        b.run("ping -6 -c 3 2001:db8::1");
        for vm in [&mut a, &mut b] {
            has_all_it_should(vm);
        }
        for (to, more) in [
            ("192.0.2.2", "-t 2 -P 4"),
            ("192.0.2.2", "-t 2 -R"),
            ("2001:db8::2", "-t 2"),
        ] {
            let report = iperf(&mut a, &mut b, to, more);
            let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
            println!("iperf3 {to} {more}: {:.0} Mbit/s", rate.expect("a rate") / 1e6);
        }
        nothing_lost_or_overtaken([&mut a, &mut b]);
        for port in ["a", "b"] {
            passed_whole(&site.daemon.port_stats(port));
        }
        for vm in [&mut a, &mut b] {
            let table = vm.run("ethtool -S eth0");
            for queue in ["tx_queue_0_packets", "tx_queue_1_packets"] {
                let line = table.lines().find(|line| line.contains(queue)).expect(queue);
                let count: u64 = line.split(": ").nth(1).expect(queue).trim().parse().expect(queue);
                assert!(count > 0, "{table}");
            }
        }
    });
}

/// A guest with packed rings and one with split rings, TCP both ways, and a switch that is killed while frames pass: the
/// connection goes on over the next switch.
#[test]
fn a_debian_guest_with_packed_rings_outlives_its_switch() {
    let test = "a_debian_guest_with_packed_rings_outlives_its_switch";
    with_image(test, |image| {
        let mut site = Site::new();
        let [mut packed, mut split] =
            [("packed", "on", 1), ("split", "off", 2)].map(|(name, packed, host)| {
                site.daemon.vhost_port(name);
                let nic = format!("port={name},queues=1,packed={packed},reconnect=60");
                let mut vm = boot(&site, name, image.into(), &["--memory", "192M", "--nic", &nic]);
                vm.wait_ready();
                vm.run(&addresses(host));
                vm
            });
        assert_eq!([&mut packed, &mut split].map(has_packed_rings), [true, false]);
        packed.run("ping -c 3 192.0.2.2");
        split.run("ping -6 -c 3 2001:db8::1");
        offloads_are_on(&mut packed);
        for more in ["-t 2", "-t 2 -R"] {
            let report = iperf(&mut packed, &mut split, "192.0.2.2", more);
            let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
            println!("iperf3 {more}: {:.0} Mbit/s", rate.expect("a rate") / 1e6);
        }
        nothing_lost_or_overtaken([&mut packed, &mut split]);
        for port in ["packed", "split"] {
            passed_whole(&site.daemon.port_stats(port));
        }
        for more in ["", "-R"] {
            split.run("iperf3 -s -1 -D; sleep 1");
            packed.run(&format!(
                "iperf3 -c 192.0.2.2 -t 8 {more} >/tmp/report 2>&1 & sleep 2"
            ));
            site.daemon.restart();
            site.daemon.vhost_port("packed");
            site.daemon.vhost_port("split");
            println!(
                "{}",
                packed.run("wait; tail -n 5 /tmp/report; grep -q receiver /tmp/report")
            );
            packed.run("ping -c 3 192.0.2.2");
        }
    });
}

/// Whether the driver of the only virtio device uses packed rings.
fn has_packed_rings(vm: &mut Shell) -> bool {
    let features = vm.run("cat /sys/class/net/eth0/device/features");
    features.trim().chars().nth(34) == Some('1')
}

fn has_all_it_should(vm: &mut Shell) {
    assert_eq!(vm.run("grep -c ^processor /proc/cpuinfo").trim(), "2");
    offloads_are_on(vm);
    let channels = vm.run("ethtool -l eth0");
    assert_eq!(channels.matches("Combined:\t2").count(), 2, "{channels}");
}

/// Large sends and checksums were left to the guests, and nothing was dropped but what neighbours that were not there yet
/// would have got.
fn passed_whole(stats: &Value) {
    assert_eq!(
        (&stats["segmented"], &stats["checksummed"]),
        (&0.into(), &0.into())
    );
    for side in ["tx_dropped", "rx_dropped"] {
        let dropped = stats[side].as_object().expect("drops by reason");
        assert!(
            dropped
                .keys()
                .all(|reason| ["port_down", "no_destination"].contains(&reason.as_str())),
            "{side}: {dropped:?}"
        );
    }
    let [octets, frames] = ["tx_octets", "tx_frames"].map(|key| stats[key].as_u64().expect("a counter"));
    println!("{octets} octets in {frames} frames");
}

/// What a kernel file is, as the report tells it.
struct Told {
    format: &'static str,
    compressed: bool,
}

/// Boots a kernel to its init and off again, and looks at what the process says of that.
fn boots_and_ends(site: &Site, kernel: &Path, initramfs: &Path, told: &Told) {
    let files = Boot { kernel, initramfs };
    let mut vm = boot(site, "k", files, &["--memory", "192M", "--json", "--no-reboot"]);
    vm.wait_ready();
    println!("{}: {}", kernel.display(), vm.run("uname -rv"));
    let commands = vm.run("dmesg | grep -i -e 'call trace' -e 'firmware bug' -e 'acpi.*error' || true");
    assert_eq!(commands.trim(), "", "the kernel complains");
    let info = site.info("k");
    assert_eq!(info["kernel"]["format"], told.format);
    assert_eq!(info["kernel"]["payload"].is_string(), told.compressed, "{info}");
    assert_eq!(info["kernel"]["protocol"], "pvh");
    phases_follow_each_other(&info, "init_us");
    println!("{}: {}", kernel.display(), info["boot"]);
    vm.send("poweroff -f");
    let (status, output) = vm.ends(END);
    assert!(status.success(), "{output}");
    let report = output.find("{\n").map_or("", |at| &output[at..]);
    let report: Value = serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {output}"));
    assert_eq!(report["stopped"], "the guest switched itself off");
    let beyond = report["memory"]["beyond_guest_kib"].as_u64().expect("a size");
    println!("{}: {beyond} KiB beyond the guest's memory", kernel.display());
    let most = MOST_BEYOND_GUEST[usize::from(!support::is_release())];
    assert!(beyond <= most, "{beyond} KiB");
}

/// The kernel for virtual machines and the one for all machines, as distributed and unpacked.
#[test]
fn debians_kernels_boot_packed_and_unpacked() {
    let test = "debians_kernels_boot_packed_and_unpacked";
    let mut boots = Vec::new();
    for home in ["debian-kernel", "debian-kernel-full"] {
        let Some(image) = image_or_skip(test, image_in(home)) else {
            return;
        };
        let vmlinux = match support::vmlinux::beside(&image.kernel) {
            Ok(vmlinux) => vmlinux,
            Err(reason) => panic!("{}: {reason}", image.kernel.display()),
        };
        boots.push((image, vmlinux));
    }
    let files: Vec<&Path> = boots
        .iter()
        .flat_map(|(image, vmlinux)| [&image.kernel, &image.initramfs, vmlinux])
        .map(PathBuf::as_path)
        .collect();
    with_linux_guests(test, &files, IN_TURN, || {
        let site = Site::new();
        for (image, vmlinux) in &boots {
            let packed = Told {
                format: "bzimage",
                compressed: true,
            };
            boots_and_ends(&site, &image.kernel, &image.initramfs, &packed);
            let unpacked = Told {
                format: "elf",
                compressed: false,
            };
            boots_and_ends(&site, vmlinux, &image.initramfs, &unpacked);
        }
    });
}

/// Eight processors on fewer cores, a restart in the same process, a pause, and an end by the power button.
#[test]
fn a_guest_of_eight_processors_lives_as_it_should() {
    with_image("a_guest_of_eight_processors_lives_as_it_should", |image| {
        let site = Site::new();
        let mut vm = boot(
            &site,
            "eight",
            image.into(),
            &["--vcpus", "8", "--memory", "256M"],
        );
        vm.wait_ready();
        assert_eq!(vm.run("grep -c ^processor /proc/cpuinfo").trim(), "8");
        assert_eq!(vm.run("cat /sys/devices/system/cpu/online").trim(), "0-7");
        let clock = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
        assert!(["kvm-clock", "tsc"].contains(&vm.run(clock).trim()));
        for processor in 0..8 {
            vm.run(&format!("taskset {:x} true", 1 << processor));
        }
        let info = site.info("eight");
        let cores = std::thread::available_parallelism().expect("a number").get();
        assert_eq!(info["overcommitted"], cores < 8);
        let vcpus = info["vcpus"].as_array().expect("processors");
        assert!(
            vcpus.len() == 8 && vcpus.iter().all(|vcpu| vcpu["guest_ms"].is_u64()),
            "{info}"
        );
        assert!(
            vcpus.iter().all(|vcpu| vcpu["exits"]["exits"].as_u64() > Some(0)),
            "{info}"
        );

        assert!(site.vm(&["pause", "eight"]).status.success());
        std::thread::sleep(Duration::from_secs(2));
        assert!(site.vm(&["resume", "eight"]).status.success());
        let complaints =
            vm.run("dmesg | grep -i -e lockup -e 'rcu.*stall' -e 'clocksource.*unstable' || true");
        assert_eq!(complaints.trim(), "");

        let pid = site.info("eight")["pid"].clone();
        vm.send("reboot -f");
        vm.wait_ready();
        let info = site.info("eight");
        assert_eq!((&info["resets"], &info["pid"]), (&1.into(), &pid));
        assert_eq!(vm.run("cat /sys/devices/system/cpu/online").trim(), "0-7");

        vm.send("head -c 1 /dev/input/event0 >/tmp/button; poweroff -f");
        let output = site.vm(&["stop", "eight", "--timeout", "60"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(vm.ends(END).0.success());
        assert_eq!(fs::read_dir(site.dir()).expect("the directory").count(), 0);
    });
}

/// Images of every format, made on this machine.
fn disks(test: &str) -> Option<[PathBuf; 3]> {
    let home = support::target().join("test-disks");
    let disks = ["disk.img", "disk.qcow2", "disk.vhd"].map(|name| home.join(name));
    if is_inside() {
        return Some(disks);
    }
    for tool in ["qemu-img", "mke2fs"] {
        if support::program(tool).is_none() {
            skip(
                test,
                &format!("{tool} is not installed: run `cargo xtask setup` as root"),
            );
            return None;
        }
    }
    let [raw, qcow2, vhd] = disks.each_ref().map(|disk| disk.display());
    host(&format!(
        "mkdir -p {}; rm -f {raw} {qcow2} {vhd}; truncate -s 24M {raw}; PATH=$PATH:/sbin mke2fs -q -t ext4 -F {raw}; \
         qemu-img create -q -f qcow2 {qcow2} 24M; qemu-img create -q -f vpc -o subformat=dynamic {vhd} 24M",
        home.display()
    ));
    Some(disks)
}

/// Disks of every format, written to, flushed and discarded by Linux in a process that is confined: what was flushed is
/// there when that was killed, and while one machine has a disk no other gets it.
#[test]
fn disks_hold_what_was_flushed_when_the_machine_is_killed() {
    let test = "disks_hold_what_was_flushed_when_the_machine_is_killed";
    let (Some(image), Some(disks)) = (image_or_skip(test, image()), disks(test)) else {
        return;
    };
    let files = [&image.kernel, &image.initramfs].into_iter().chain(&disks);
    let files: Vec<&Path> = files.map(PathBuf::as_path).collect();
    with_linux_guests(test, &files, IN_TURN, || {
        let site = Site::new();
        let words = disks.each_ref().map(|disk| disk.to_str().expect("a path"));
        let words: Vec<&str> = words
            .iter()
            .flat_map(|disk| ["--disk", disk])
            .chain(["--memory", "192M"])
            .collect();
        let start = |name: &str| {
            let mut vm = boot(&site, name, (&image).into(), &words);
            vm.wait_ready();
            vm
        };
        let mut vm = start("first");
        assert_eq!(site.info("first")["sandbox"]["seccomp"], true);
        let sums = fill(&mut vm);
        let refused = site.refused(&[&["run", "--micro-guest"], &words[..2]].concat());
        assert!(refused.contains("is in use by another process"), "{refused}");
        vm.child().kill().expect("killed");
        vm.child().wait().expect("gone");
        drop(vm);

        let mut vm = start("second");
        assert_eq!(sums, read_back(&mut vm));
        for disk in site.info("second")["disks"].as_array().expect("disks") {
            assert_eq!(
                (&disk["guest_faults"], &disk["counts"]["errors"]),
                (&0.into(), &0.into()),
                "{disk}"
            );
        }
        vm.send("umount /mnt; poweroff -f");
        assert!(vm.ends(END).0.success());
    });
}

/// Writes a file to the first disk's file system and data to the others; the sums of all.
fn fill(vm: &mut Shell) -> String {
    vm.run("mkdir /mnt && mount -t ext4 /dev/vda /mnt && dd if=/dev/urandom of=/mnt/data bs=64k count=64 && sync");
    for disk in ["vdb", "vdc"] {
        vm.run(&format!(
            "dd if=/dev/urandom of=/dev/{disk} bs=64k count=16 seek=300 conv=fsync"
        ));
    }
    // Given back where the format can, and nothing else with it; what follows flushes that, too.
    vm.run("blkdiscard -o 19660800 -l 524288 /dev/vdb");
    for disk in ["vdb", "vdc"] {
        vm.run(&format!(
            "dd if=/dev/urandom of=/dev/{disk} bs=64k count=64 seek=100 conv=fsync"
        ));
    }
    vm.run("sha256sum /mnt/data && dd if=/dev/vdb bs=1M 2>/dev/null | sha256sum && dd if=/dev/vdc bs=1M 2>/dev/null | sha256sum")
}

fn read_back(vm: &mut Shell) -> String {
    vm.run("mkdir /mnt && mount -t ext4 /dev/vda /mnt");
    vm.run("sha256sum /mnt/data && dd if=/dev/vdb bs=1M 2>/dev/null | sha256sum && dd if=/dev/vdc bs=1M 2>/dev/null | sha256sum")
}
