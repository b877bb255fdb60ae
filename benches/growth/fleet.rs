//! A daemon with many ports, and a machine's front end at each of them.

use std::time::Duration;

use crate::process::{Process, pin};
use crate::support::daemon::Daemon;
use crate::support::frames::{self, Mac};
use crate::support::peer::{PATIENCE, Peer};

/// The processor that the daemon's worker has for itself, and that of the front ends: a front end on the worker's would see no
/// frame before the worker sleeps.
pub(crate) const CPU: usize = 1;
const OWN_CPU: usize = 0;
/// Made-up protocol (IEEE 802 local experimental EtherType 1).
const ETHERTYPE: u16 = 0x88b5;
/// After so long, what was flooded has arrived.
const SETTLING: Duration = Duration::from_millis(100);
/// Octets of the smallest frame, without its checksum.
const SMALL: usize = 60;

/// A daemon and its machines; the first two talk, the others have nothing to say.
pub(crate) struct Fleet {
    daemon: Daemon,
    pub(crate) peers: Vec<Peer>,
}

impl Fleet {
    /// A daemon with an adaptive worker and so many ports, all of them attached.
    pub(crate) fn new(ports: usize) -> Self {
        let mut fleet = Self::with_workers(&[CPU], ports);
        fleet.introduce(0, 1);
        fleet
    }

    /// A daemon with an adaptive worker on each of these processors.
    pub(crate) fn with_workers(cpus: &[usize], ports: usize) -> Self {
        let mut text = String::new();
        for cpu in cpus {
            text += &format!("[[worker]]\ncpu = {cpu}\n");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let sockets: Vec<_> = (0..ports)
            .map(|number| directory.path().join(number.to_string()))
            .collect();
        for (number, socket) in sockets.iter().enumerate() {
            let socket = socket.display();
            text += &format!("[[port]]\nname = \"p{number}\"\nvhost-user = \"{socket}\"\n");
        }
        let daemon = Daemon::configured(&text);
        pin(OWN_CPU);
        let peers = sockets.iter().map(|socket| Peer::attach(socket, 1)).collect();
        Self { daemon, peers }
    }

    /// Two machines are heard, and nothing is on its way.
    pub(crate) fn introduce(&mut self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            self.peers[from].send(&frame(mac(to), mac(from)));
        }
        self.peers[one]
            .receive_within(PATIENCE)
            .expect("the other one's frame");
        std::thread::sleep(SETTLING);
        for peer in &mut self.peers {
            while peer.receive().is_some() {}
        }
    }

    pub(crate) fn process(&mut self) -> Process {
        Process(self.daemon.child().id())
    }

    /// Addresses that the daemon has learned.
    pub(crate) fn learned(&self) -> u64 {
        self.daemon.cli(&["stats"])["learned"].as_u64().unwrap_or(0)
    }
}

/// An address of machine `number`.
pub(crate) fn mac(number: usize) -> Mac {
    mac_of(number, 0)
}

/// One of many addresses of a machine.
pub(crate) fn mac_of(number: usize, index: usize) -> Mac {
    let [a, b] = (number as u16).to_be_bytes();
    let [c, d] = (index as u16).to_be_bytes();
    [2, a, b, 1, c, d]
}

/// A small frame.
pub(crate) fn frame(to: Mac, from: Mac) -> Vec<u8> {
    frames::ethernet(to, from, ETHERTYPE, &[0; SMALL - 14])
}
