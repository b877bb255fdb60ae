//! A switch between a kernel, on a tap, and a machine.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use vswitch::Switch;
use vswitch::control::{PortConfig, PortKind, SwitchConfig, VlanMode};
use vswitch::port::Capabilities;

use crate::cell::{Tag, VLAN};
use crate::judge::Limits;
use crate::station::Station;
use crate::system::PacketSocket;
use crate::tagging::Tagging;
use crate::verify::{Seen, Verifier};

const LINK: &str = "host0";
const PORT: u16 = 5000;

/// The place where a machine's driver is tried.
pub(crate) struct Site {
    host: Station,
    switch: Arc<Switch>,
    tag: Tag,
    /// Where the machine attaches.
    pub(crate) socket: PathBuf,
    pub(crate) directory: tempfile::TempDir,
    _tagging: Option<Tagging>,
}

/// The kernel's addresses.
pub(crate) fn host_address(v6: bool) -> IpAddr {
    if v6 {
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()
    } else {
        [192, 0, 2, 1].into()
    }
}

impl Site {
    /// A machine's port is in a VLAN without tags; with `tag`, the kernel's frames have them.
    pub(crate) fn new(mtu: u16, tag: Tag) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("guest.sock");
        let switch = Arc::new(Switch::start(&SwitchConfig::default()).expect("a switch"));
        let host = Station::new();
        let access = VlanMode::Access(tag.vlan().unwrap_or(0));
        let vlan = if tag == Tag::Tagged {
            VlanMode::Trunk(vec![VLAN])
        } else {
            access.clone()
        };
        let add = |name: &str, kind, vlan| {
            let switch = Arc::clone(&switch);
            let config = PortConfig {
                vlan,
                mtu,
                ..PortConfig::new(name, kind)
            };
            host.run(move || switch.add_port(config))
                .expect("the port is added");
        };
        add("host", PortKind::Tap(LINK.into()), vlan);
        add("guest", PortKind::VhostUser(socket.clone()), access);
        let start = |vlan| {
            host.run(move || Tagging::start(LINK, vlan))
                .expect("a kernel of Linux 6.6 or later")
        };
        let tagging = tag.vlan().map(start);
        host.sh(format!(
            "ip address add {}/24 dev {LINK}; ip address add {}/64 dev {LINK}",
            host_address(false),
            host_address(true)
        ));
        Self {
            host,
            switch,
            tag,
            socket,
            directory,
            _tagging: tagging,
        }
    }

    /// Has the kernel use an MTU.
    pub(crate) fn set_mtu(&self, mtu: u16) {
        self.host.sh(format!("ip link set {LINK} mtu {mtu}"));
    }

    /// Does something, and judges what reaches the kernel meanwhile from a machine that leaves so much to others.
    pub(crate) fn watch(
        &self,
        mtu: u16,
        can: Capabilities,
        work: impl FnOnce() -> Result<(), String>,
    ) -> (Seen, Vec<String>) {
        let eye = self
            .host
            .run(|| PacketSocket::open(LINK))
            .expect("a packet socket");
        let mut verifier = Verifier::new(Limits {
            can,
            mtu,
            vlan: self.tag.vlan(),
            exact: false,
        });
        let before = self.drops();
        let result = work();
        while let Some(sight) = eye.next() {
            verifier.frame(&sight.vnet, sight.vlan, &sight.frame);
        }
        let (seen, mut wrong) = verifier.take();
        wrong.extend(result.err());
        let dropped = self.drops();
        if dropped != before {
            wrong.push(format!("drops: {dropped:?}"));
        }
        (seen, wrong)
    }

    fn drops(&self) -> Vec<String> {
        let ports = self.switch.stats().ports.into_iter();
        ports
            .map(|port| {
                format!(
                    "{}: {:?} {:?}",
                    port.name, port.counters.tx_dropped, port.counters.rx_dropped
                )
            })
            .collect()
    }

    /// Waits for a connection from the machine.
    pub(crate) fn listen(&self, v6: bool) -> TcpListener {
        let address = SocketAddr::new(host_address(v6), PORT);
        self.host
            .run(move || TcpListener::bind(address))
            .expect("a listener")
    }

    /// Connects to the machine.
    pub(crate) fn connect(&self, to: SocketAddr) -> Result<TcpStream, String> {
        let connected = self
            .host
            .run(move || TcpStream::connect_timeout(&to, crate::machines::PATIENCE));
        connected.map_err(|error| format!("connecting: {error}"))
    }
}
