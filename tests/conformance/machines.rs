//! The machines, and what each is asked to do.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use vswitch::control::mac_of_name;
use vswitch::port::Capabilities;

use super::Line;
use super::cell::{Offload, Tag};
use super::site::{Site, host_address};
use super::support::guest::{Guest, Nic};
use super::support::image::{Image, image};
use super::support::machine::wait_for;
use super::support::{enlight, machine, program};

/// Machines on software CPUs may take their time.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Octets that go to the machine and come back.
const OCTETS: usize = 300_000;
/// Where the micro-guest listens.
const MICRO_PORT: u16 = 7000;

/// A machine with a driver.
pub(crate) enum Machine {
    Micro { mtu: u16, tag: Tag },
    Linux { device: &'static str, tag: Tag },
}

/// What a Linux guest's driver is told, and what it then leaves to others.
const TURNS: [(&str, Offload, u16); 4] = [
    ("tx on tso on gso on", Offload::All, 9000),
    ("tso off gso off", Offload::Checksum, 1500),
    ("tx off", Offload::None, 1280),
    ("tx on tso on gso on", Offload::All, 1500),
];

/// Why machines cannot be had here.
pub(crate) fn missing() -> Option<String> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm: {error}"));
    }
    if program("qemu-system-x86_64").is_none() {
        return Some("qemu-system-x86_64 is not installed: run `cargo xtask setup` as root".to_owned());
    }
    image().err()
}

impl Machine {
    pub(crate) fn all() -> Vec<Self> {
        let micro = [1280, 1500, 9000]
            .into_iter()
            .flat_map(|mtu| Tag::ALL.map(|tag| Self::Micro { mtu, tag }));
        let linux = [("", Tag::Tagged), (",packed=on,mrg_rxbuf=off", Tag::Untagged)];
        let linux = linux.into_iter().map(|(device, tag)| Self::Linux { device, tag });
        micro.chain(linux).collect()
    }

    pub(crate) fn run(&self) -> Vec<Line> {
        match *self {
            Self::Micro { mtu, tag } => {
                let wrong = micro(mtu, tag);
                vec![Line {
                    name: self.to_string(),
                    wrong: [Some(wrong), None],
                }]
            }
            Self::Linux { device, tag } => {
                let image = image().expect("this was asked before");
                linux(&self.to_string(), &image, device, tag)
            }
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Micro { mtu, tag } => write!(f, "micro-guest, MTU {mtu}, kernel {tag}"),
            Self::Linux { device, tag } => {
                let rings = if device.contains("packed") {
                    "packed rings, no mergeable buffers"
                } else {
                    "split rings"
                };
                write!(f, "Linux in QEMU, {rings}, kernel {tag}")
            }
        }
    }
}

fn micro(mtu: u16, tag: Tag) -> Vec<String> {
    let site = Site::new(mtu, tag);
    let log = site.directory.path().join("log");
    let nic = format!(
        "vhost-user={},mac={},mtu={mtu}",
        site.socket.display(),
        mac_of_name("guest")
    );
    let file = File::create(&log).expect("the log opens");
    let child = Command::new(enlight())
        .args([
            "vm",
            "run",
            "--name",
            "guest",
            "--micro-guest",
            "--memory",
            "16M",
            "--nic",
            &nic,
        ])
        .args([
            "--cmdline",
            &format!("role=server ip=192.0.2.2/24 workload=rr size={OCTETS}"),
        ])
        .env("ENLIGHT_VM_DIR", site.directory.path().join("vm"))
        .stdin(Stdio::null())
        .stderr(file.try_clone().expect("a copy"))
        .stdout(file)
        .spawn();
    let _machine = machine::Machine(child.expect("the machine starts"));
    wait_for(&log, " listening ");
    // It leaves checksums to others and nothing else.
    let (seen, mut wrong) = site.watch(mtu, Offload::Checksum.abilities(), || {
        echo(site.connect(([192, 0, 2, 2], MICRO_PORT).into())?)
    });
    if wrong.is_empty() && seen.partial == 0 {
        wrong.push("no partial checksum came".to_owned());
    }
    wrong
}

fn linux(name: &str, image: &Image, device: &str, tag: Tag) -> Vec<Line> {
    let site = Site::new(9000, tag);
    let nic = Nic::VhostUser {
        socket: &site.socket,
        features: device,
    };
    let mut guest = Guest::start(image, "guest", 2, nic);
    let mut lines = Vec::new();
    // How much the guest's TCP puts together depends on time: some of it has to be large, whenever that is.
    let mut large = 0;
    for (switches, offload, mtu) in TURNS {
        site.set_mtu(mtu);
        guest.run(&format!("ethtool -K eth0 {switches}; ip link set eth0 mtu {mtu}"));
        let wrong = [false, true].map(|v6| {
            let can = Capabilities {
                ecn: offload == Offload::All,
                ..offload.abilities()
            };
            let (seen, mut wrong) = site.watch(mtu, can, || talk(&site, &mut guest, v6));
            large += seen.large_tcp;
            wrong.extend(receive_errors(&mut guest));
            Some(wrong)
        });
        lines.push(Line {
            name: format!("{name}, MTU {mtu}, `ethtool -K {switches}`"),
            wrong,
        });
    }
    if large == 0 {
        lines.push(Line {
            name: name.to_owned(),
            wrong: [Some(vec!["no large send came".to_owned()]), None],
        });
    }
    lines
}

/// TCP to the guest and back, and pings in fragments.
fn talk(site: &Site, guest: &mut Guest, v6: bool) -> Result<(), String> {
    let host = host_address(v6);
    let listener = site.listen(v6);
    let command = format!("rm -f /tmp/f; mkfifo /tmp/f; nc {host} 5000 0<>/tmp/f 1>&0");
    guest.send(&command);
    let (stream, _) = listener.accept().map_err(|error| format!("accepting: {error}"))?;
    echo(stream)?;
    guest.finish(&command, PATIENCE);
    let (status, said) = guest.try_run(&format!("ping -c 2 -i 0.2 -s 12000 {host}"), PATIENCE);
    if status == "0" && said.contains("2 packets received") {
        Ok(())
    } else {
        Err(said)
    }
}

/// What the guest's kernel found wrong with frames; each is told once.
fn receive_errors(guest: &mut Guest) -> Option<String> {
    let table = guest.run("grep -h '^Tcp:\\|^Udp:' /proc/net/snmp; grep -h 'InErrors\\|InCsumErrors\\|ReasmFails' /proc/net/snmp6");
    let mut words = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for line in table.lines() {
        let columns: Vec<&str> = line.split_whitespace().collect();
        match columns.as_slice() {
            [_, first, ..] if first.parse::<i64>().is_err() => names = columns,
            [name, count] if *count != "0" && !name.ends_with(':') => words.push(format!("{name} {count}")),
            values => words.extend(
                names
                    .iter()
                    .zip(values)
                    .filter(|(name, value)| name.contains("Err") && **value != "0")
                    .map(|(name, value)| format!("{name} {value}")),
            ),
        }
    }
    (!words.is_empty()).then(|| format!("the guest's kernel counts {}", words.join(", ")))
}

/// Sends octets to where they come back from.
fn echo(mut stream: TcpStream) -> Result<(), String> {
    let told = |error: std::io::Error| format!("TCP: {error}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
    let sent: Vec<u8> = (0..OCTETS as u32)
        .map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect();
    let mut received = vec![0; OCTETS];
    let mut writer = stream.try_clone().map_err(told)?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| writer.write_all(&sent));
        stream.read_exact(&mut received).map_err(told)?;
        writing
            .join()
            .map_err(|_| "the sender died".to_owned())?
            .map_err(told)
    })?;
    if received == sent {
        Ok(())
    } else {
        Err("the content is wrong".to_owned())
    }
}
