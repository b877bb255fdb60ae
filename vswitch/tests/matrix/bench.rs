//! The two kernels, the switch between them, and how each kind of port is made.

use std::sync::Arc;

use offload::VnetHeader;
use parking_lot::Mutex;
use vswitch::Switch;
use vswitch::control::{PortConfig, PortKind, SwitchConfig, Uplink, UplinkMode, VlanMode, mac_of_name};
use vswitch::counters::DropReason;
use vswitch::port::Capabilities;
use vswitch::ring::feature;
use vswitch::ring::mock::Shape;

use super::cell::{Family, Kind, Offload, Setting, Tag, VLAN};
use super::judge::Limits;
use super::relay::{Driver, Relay, offload_features};
use super::station::Station;
use super::system::{PacketSocket, Tap};
use super::tagging::Tagging;
use super::traffic;
use super::verify::{Seen, Verifier};

/// The port that every other one talks to: a tap whose kernel takes everything.
const HOST: &str = "host";
/// The port under test.
const GUEST: &str = "guest";
/// The kernels' interfaces.
const LINKS: [&str; 2] = ["host0", "guest0"];
/// The near end of an uplink's wire, in a namespace where nobody else is.
const WIRE: &str = "wire0";

/// What a kernel takes from a tap, whatever it sends itself.
const EVERYTHING: Capabilities = Capabilities {
    checksum: true,
    tso4: true,
    tso6: true,
    uso4: true,
    uso6: true,
    ecn: true,
};

/// A switch with a kernel at each of two ports.
pub(crate) struct Bench {
    host: Station,
    guest: Station,
    outside: Station,
    switch: Arc<Switch>,
    directory: tempfile::TempDir,
}

/// Who sees what a side receives.
enum Eye {
    Relay(Arc<Mutex<Verifier>>),
    Socket(PacketSocket, Box<Verifier>),
    /// The receiver checks for itself.
    Own,
}

/// One setting's ports.
pub(crate) struct Scene<'a> {
    bench: &'a Bench,
    setting: Setting,
    /// The host's, the guest's.
    sides: [Side; 2],
}

/// What belongs to a port.
struct Side {
    eye: Eye,
    _relay: Option<Relay>,
    _tagging: Option<Tagging>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let switch = Switch::start(&SwitchConfig::default()).expect("a switch");
        Self {
            host: Station::new(),
            guest: Station::new(),
            outside: Station::new(),
            switch: Arc::new(switch),
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    /// Makes a setting's ports, with addresses.
    pub(crate) fn set(&self, setting: Setting) -> Scene<'_> {
        // An endpoint's kernel peer has the tag, for the endpoint has no way to.
        let tags = match (setting.kind, setting.tag) {
            (_, Tag::Untagged) => [Tag::Untagged; 2],
            (Kind::Endpoint, Tag::Tagged) => [Tag::Tagged, Tag::Untagged],
            (_, Tag::Tagged) => [Tag::Untagged, Tag::Tagged],
        };
        let vlan = |tag| match (setting.tag, tag) {
            (Tag::Untagged, _) => VlanMode::Access(0),
            (Tag::Tagged, Tag::Untagged) => VlanMode::Access(VLAN),
            (Tag::Tagged, Tag::Tagged) => VlanMode::Trunk(vec![VLAN]),
        };
        let config = |name: &str, kind, tag| PortConfig {
            vlan: vlan(tag),
            mtu: setting.mtu,
            ..PortConfig::new(name, kind)
        };
        let limits = |can, tag: Tag| Limits {
            can,
            mtu: setting.mtu,
            vlan: tag.vlan(),
            exact: false,
        };
        self.add(&self.host, config(HOST, PortKind::Tap(LINKS[0].into()), tags[0]));
        let host = Side {
            _tagging: configure(&self.host, 1, tags[0], setting.mtu),
            // Nothing may come that the port under test did not negotiate.
            eye: observe(&self.host, LINKS[0], limits(allowed(setting), tags[0])),
            _relay: None,
        };
        let guest = self.open(setting, tags[1], limits(received(setting), tags[1]), |kind| {
            config(GUEST, kind, tags[1])
        });
        Scene {
            bench: self,
            setting,
            sides: [host, guest],
        }
    }

    /// Makes the port under test.
    fn open(
        &self,
        setting: Setting,
        tag: Tag,
        limits: Limits,
        config: impl Fn(PortKind) -> PortConfig,
    ) -> Side {
        let mut relay = None;
        let (eye, tagging) = match setting.kind {
            Kind::VhostSplit | Kind::VhostPacked => {
                let socket = self.directory.path().join("guest.sock");
                self.add(&self.guest, config(PortKind::VhostUser(socket.clone())));
                let can = setting.offload.abilities();
                let tap = self.guest.run(move || Tap::make(LINKS[1], can)).expect("a tap");
                let tagging = configure(&self.guest, 2, tag, setting.mtu);
                let verifier = Verifier::new(Limits {
                    exact: true,
                    ..limits
                });
                let guest = relay.insert(Relay::attach(&socket, tap, driver(setting), verifier));
                (Eye::Relay(Arc::clone(&guest.verifier)), tagging)
            }
            Kind::Tap => {
                self.add(&self.guest, config(PortKind::Tap(LINKS[1].into())));
                let tagging = configure(&self.guest, 2, tag, setting.mtu);
                self.guest.sh(kernel_offloads(LINKS[1], setting.offload));
                (observe(&self.guest, LINKS[1], limits), tagging)
            }
            Kind::Endpoint => {
                let addresses = "192.0.2.2/24,2001:db8::2/64".to_owned();
                self.add(&self.guest, config(PortKind::Endpoint(addresses)));
                (Eye::Own, None)
            }
            Kind::AfPacket | Kind::AfXdp => {
                self.lay_wire(setting);
                let mode = match setting.kind {
                    Kind::AfXdp => UplinkMode::AfXdp,
                    _ => UplinkMode::AfPacket,
                };
                let uplink = Uplink {
                    mode,
                    ..Uplink::new(WIRE)
                };
                self.add(&self.outside, config(PortKind::Uplink(uplink)));
                let tagging = configure(&self.guest, 2, tag, setting.mtu);
                (observe(&self.guest, LINKS[1], limits), tagging)
            }
        };
        Side {
            eye,
            _relay: relay,
            _tagging: tagging,
        }
    }

    fn add(&self, station: &Station, config: PortConfig) {
        let switch = Arc::clone(&self.switch);
        station
            .run(move || switch.add_port(config))
            .expect("the port is added");
    }

    /// A wire from where the switch has its uplink to the guest's kernel.
    fn lay_wire(&self, setting: Setting) {
        let (mtu, link) = (setting.mtu, LINKS[1]);
        let guest = self.guest.thread();
        let offloads = |interface| kernel_offloads(interface, setting.offload);
        self.outside.sh(format!(
            "ip link delete {WIRE} 2>/dev/null || true;
             ip link add {WIRE} mtu {mtu} type veth peer name {link} mtu {mtu} netns {guest};
             echo 1 >/proc/sys/net/ipv6/conf/{WIRE}/disable_ipv6; {}; ip link set {WIRE} up",
            offloads(WIRE)
        ));
        self.guest.sh(offloads(link));
        if setting.kind == Kind::AfXdp {
            // It does not tell of tags either, unless they are in the frame.
            self.outside.sh(format!("ethtool -K {WIRE} rxvlan off"));
            self.guest.sh(format!("ethtool -K {link} txvlan off"));
        }
        self.outside.sh(one_cpu(WIRE));
        self.guest.sh(one_cpu(link));
    }

    /// Frames that the switch dropped so far, in words.
    fn drops(&self) -> Vec<(String, DropReason, u64)> {
        let stats = self.switch.stats();
        let drops = stats.ports.into_iter().flat_map(|port| {
            let all = port
                .counters
                .tx_dropped
                .into_iter()
                .chain(port.counters.rx_dropped);
            all.map(move |(reason, n)| (port.name.clone(), reason, n))
        });
        drops.collect()
    }
}

/// Linux does not cut large UDP that has its tag in the frame already when it has to sum the datagrams as well.
fn sends_large_udp(setting: Setting) -> bool {
    (setting.kind, setting.offload, setting.tag) != (Kind::AfXdp, Offload::None, Tag::Tagged)
}

/// What the port under test leaves to others.
fn sent(setting: Setting) -> Capabilities {
    match setting.kind {
        // AF_XDP does not tell of partial checksums: the switch finishes them on the way in.
        Kind::Endpoint | Kind::AfXdp => Capabilities::default(),
        _ => setting.offload.abilities(),
    }
}

/// What may reach its peer: that, and what the switch merges of what came from a wire.
fn allowed(setting: Setting) -> Capabilities {
    let sent = sent(setting);
    match setting.kind {
        Kind::AfPacket | Kind::AfXdp => Capabilities {
            uso4: sent.uso4,
            uso6: sent.uso6,
            ..EVERYTHING
        },
        _ => sent,
    }
}

/// What others may leave to it.
fn received(setting: Setting) -> Capabilities {
    match setting.kind {
        Kind::Tap => EVERYTHING,
        Kind::AfXdp => Capabilities::default(),
        _ => setting.offload.abilities(),
    }
}

fn observe(station: &Station, interface: &'static str, limits: Limits) -> Eye {
    let socket = station
        .run(move || PacketSocket::open(interface))
        .expect("a packet socket");
    Eye::Socket(socket, Box::new(Verifier::new(limits)))
}

/// The driver of a setting: what is no dimension of the matrix varies from cell to cell.
fn driver(setting: Setting) -> Driver {
    let can = setting.offload.abilities();
    let variant = setting.variant();
    let optional = |on: bool, bit: u64| if on { bit } else { 0 };
    let mergeable = setting.offload == Offload::All;
    let indirect = variant.is_multiple_of(2);
    let features = feature::VERSION_1
        | offload_features(can)
        | optional(mergeable, feature::MRG_RXBUF)
        | optional(indirect, feature::INDIRECT_DESC)
        | optional(variant % 3 != 1, feature::EVENT_IDX)
        | optional(variant % 4 == 1, feature::IN_ORDER)
        | optional(setting.kind == Kind::VhostPacked, feature::RING_PACKED);
    let frame = u32::from(setting.mtu) + 14 + 4 + VnetHeader::LEN as u32;
    Driver {
        features,
        entries: if can.tso4 && !mergeable { 128 } else { 256 },
        shape: if indirect {
            Shape::Indirect(3)
        } else {
            Shape::Chain(1 + variant % 3)
        },
        buffer: match (mergeable, can.tso4) {
            (true, _) => 1536,
            (false, true) => 65_562 + VnetHeader::LEN as u32,
            (false, false) => frame,
        },
    }
}

/// Gives a kernel its addresses, and those of the other side, for which it need not ask.
fn configure(station: &Station, number: usize, tag: Tag, mtu: u16) -> Option<Tagging> {
    let tap = LINKS[number - 1];
    let (own, other) = if number == 1 { (HOST, GUEST) } else { (GUEST, HOST) };
    let (own, other) = (mac_of_name(own), mac_of_name(other));
    // Its first frame is tagged already.
    station.sh(format!("ip link set {tap} address {own} mtu {mtu}"));
    let start = move |vlan| Tagging::start(tap, vlan).expect("a kernel of Linux 6.6 or later");
    let tagging = tag.vlan().map(|vlan| station.run(move || start(vlan)));
    let mut script = format!("ip link set {tap} up;");
    let peer = 3 - number;
    for family in Family::ALL {
        let length = if family == Family::V4 { 24 } else { 64 };
        let [own_address, address] = [number, peer].map(|number| traffic::address(family, number as u8));
        script += &format!(
            "ip address add {own_address}/{length} dev {tap};
             ip neighbour replace {address} lladdr {other} dev {tap} nud permanent;"
        );
    }
    station.sh(script);
    tagging
}

/// Has one CPU receive everything from a veth interface: otherwise each takes what it sent, and flows are reordered.
fn one_cpu(interface: &str) -> String {
    let file = format!("/sys/class/net/{interface}/queues/rx-0/rps_cpus");
    format!("unshare -m sh -ec 'mount -t sysfs sysfs /sys; echo 1 >{file}'")
}

/// Takes from a kernel's interface what it may not leave to others.
fn kernel_offloads(interface: &str, offload: Offload) -> String {
    let off = match offload {
        Offload::None => "tx off",
        Offload::Checksum => "tso off tx-udp-segmentation off",
        Offload::Tso => "tx-udp-segmentation off tx-tcp-ecn-segmentation off",
        Offload::All => return "true".to_owned(),
    };
    format!("ethtool -K {interface} {off}")
}

impl Scene<'_> {
    /// Runs one cell; says everything that is wrong with it.
    pub(crate) fn run(&mut self, family: Family) -> (Seen, Vec<String>) {
        let bench = self.bench;
        let stations = [&bench.host, &bench.guest];
        let before = bench.drops();
        let mtu = self.setting.mtu;
        let result = match self.setting.kind {
            Kind::Endpoint => traffic::with_endpoint(&bench.host, family, mtu),
            _ => traffic::between_kernels(stations, family, mtu, sends_large_udp(self.setting)),
        };
        let mut wrong: Vec<String> = result.err().into_iter().collect();
        let after = bench.drops();
        let dropped = after.iter().filter(|entry| !before.contains(entry));
        wrong.extend(dropped.map(|(port, reason, n)| format!("{port} dropped {n}: {}", reason.label())));
        let mut sum = Seen::default();
        let expected = [sent(self.setting), received(self.setting)];
        let names = ["to the host", "to the guest"];
        for ((side, name), expected) in self.sides.iter_mut().zip(names).zip(expected) {
            let Some((seen, faults)) = side.eye.take() else {
                continue;
            };
            wrong.extend(faults.into_iter().map(|fault| format!("{name}: {fault}")));
            if wrong.is_empty() {
                wrong.extend(unused(seen, expected).map(|what| format!("{name}: {what} did not pass")));
            }
            sum.add(seen);
        }
        (sum, wrong)
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        for port in [HOST, GUEST] {
            if let Err(error) = self.bench.switch.remove_port(port) {
                eprintln!("{error}");
            }
        }
    }
}

/// What was negotiated and did not occur, so that the cell did not test it.
fn unused(seen: Seen, can: Capabilities) -> impl Iterator<Item = &'static str> {
    let things = [
        (can.checksum, seen.partial, "partial checksums"),
        (can.tso4, seen.large_tcp, "large TCP"),
        (can.uso4, seen.large_udp, "large UDP"),
    ];
    let unused = things.into_iter().filter(|(can, seen, _)| *can && *seen == 0);
    unused.map(|(_, _, what)| what)
}

impl Eye {
    fn take(&mut self) -> Option<(Seen, Vec<String>)> {
        match self {
            Self::Relay(verifier) => Some(verifier.lock().take()),
            Self::Socket(socket, verifier) => {
                while let Some(sight) = socket.next() {
                    verifier.frame(&sight.vnet, sight.vlan, &sight.frame);
                }
                let missed = socket.missed();
                if missed > 0 {
                    verifier.fault(format!("{missed} frames were not looked at"));
                }
                Some(verifier.take())
            }
            Self::Own => None,
        }
    }
}
