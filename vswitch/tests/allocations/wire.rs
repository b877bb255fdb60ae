//! What comes by an uplink, and goes by a VM queue from the worker that sorts to the worker that delivers.

use std::net::UdpSocket;

use vswitch::Switch;
use vswitch::control::{PortConfig, PortKind, SwitchConfig, Uplink, UplinkMode, WorkerConfig};

use crate::common::{Guest, MODERN};
use crate::frames;
use crate::scene::{post, receive, send};
use crate::station::Station;

const WIRE: &str = "wire0";
const LINK: &str = "host0";
/// The guest's port, and its VM queue, which is the one after its own.
const GUEST: (&str, u16) = ("guest", 1);
/// Datagrams of a round.
pub(crate) const FRAMES: u64 = 16;
const PAYLOAD: usize = 1200;

/// A kernel that sends to a guest through a veth pair.
pub(crate) struct Wire {
    socket: UdpSocket,
    guest: Guest,
    _switch: Switch,
    _station: Station,
    _directory: tempfile::TempDir,
}

impl Wire {
    pub(crate) fn new(mode: UplinkMode) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let station = Station::new();
        station.sh(format!(
            "ip link add {WIRE} type veth peer name {LINK};
             for link in {WIRE} {LINK}; do
                 echo 1 >/proc/sys/net/ipv6/conf/$link/disable_ipv6; ip link set $link up; done;
             ip address add 192.0.2.1/24 dev {LINK};
             ip neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev {LINK} nud permanent"
        ));
        let path = directory.path().join(GUEST.0);
        let switch = {
            let path = path.clone();
            station.run(move || start(mode, &path))
        };
        let mut guest = Guest::attach(&path, 1, MODERN);
        post(&mut guest, 64);
        send(&mut guest, offload::VnetHeader::default(), &hello());
        let socket = station.run(|| UdpSocket::bind("192.0.2.1:4000").expect("an own address"));
        Self {
            socket,
            guest,
            _switch: switch,
            _station: station,
            _directory: directory,
        }
    }

    /// Carries one round; returns when all of it arrived.
    pub(crate) fn round(&mut self) {
        for _ in 0..FRAMES {
            let sent = self.socket.send_to(&[0; PAYLOAD], "192.0.2.2:80");
            assert_eq!(sent.expect("it is sent"), PAYLOAD);
        }
        receive(&mut self.guest, FRAMES);
    }
}

/// A switch that sorts with one worker and delivers with another.
fn start(mode: UplinkMode, path: &std::path::Path) -> Switch {
    let workers = vec![WorkerConfig::default(); 2];
    let switch = Switch::start(&SwitchConfig { workers }).expect("the switch starts");
    let uplink = Uplink {
        mode,
        ..Uplink::new(WIRE)
    };
    for (name, kind) in [
        ("wire", PortKind::Uplink(uplink)),
        (GUEST.0, PortKind::VhostUser(path.into())),
    ] {
        switch
            .add_port(PortConfig::new(name, kind))
            .expect("the port is added");
    }
    switch.assign("wire", 0, 0).expect("it exists");
    switch.assign(GUEST.0, GUEST.1, 1).expect("it exists");
    switch
}

/// A frame by which the guest is heard.
fn hello() -> Vec<u8> {
    frames::acknowledgement(2, 1, 1)
}
