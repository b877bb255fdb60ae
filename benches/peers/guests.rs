//! Rows between two virtual machines with the micro-guest: ours on our switch, and the same image in QEMU.
//!
//! A stream is compared with taps on a Linux bridge: nobody polls, processors are free to sleep, and what counts is what a gigabit
//! costs. Round trips are compared with that bridge in the same way, and with Open vSwitch: there both switches poll on
//! a processor of their own, and both guests have the other one, where they take turns anyway.

use std::time::Duration;

use microguest::cmdline::{Parameters, Role, Workload};
use microguest::histogram::Histogram;
use microguest::report::Line;
use microguest::workload::BLOCK;

use crate::goal::Goal;
use crate::machines::{self, Machine, Site};
use crate::report::{Figure, Slice};
use crate::switches::{self, Peer};

/// The client's and the server's address.
const ADDRESSES: [[u8; 4]; 2] = [[192, 0, 2, 1], [192, 0, 2, 2]];
/// How long guests have to boot and to find each other.
const BOOT: Duration = Duration::from_mins(1);
/// A phase ends after this many times its length at the latest, and then there is something to say.
const LONGEST: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(20);

/// One row.
pub(crate) struct Guests {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    workload: Workload,
    peers: &'static [Peer],
    pub(crate) figures: Vec<Figure>,
}

/// Every row.
pub(crate) fn all() -> [Guests; 2] {
    let figure = |name, what, unit, goal| Figure {
        name,
        what,
        unit,
        goal,
    };
    let round_trip = Goal::at_most(0.8, 0.5);
    [
        Guests {
            name: "stream",
            what: "TCP stream between two micro-guests, large segments",
            workload: Workload::Stream,
            peers: &[Peer::Bridge],
            figures: vec![figure(
                "stream",
                "TCP stream between two micro-guests, large segments",
                "Gbit/s per busy core",
                Goal::at_least(2.0, 4.0),
            )],
        },
        Guests {
            name: "rr",
            what: "64 B request and response between two micro-guests",
            workload: Workload::Rr,
            peers: &[Peer::Bridge, Peer::Ovs],
            figures: vec![
                figure(
                    "rr-p50",
                    "round trip between two micro-guests, p50",
                    "us",
                    round_trip,
                ),
                figure(
                    "rr-p99",
                    "round trip between two micro-guests, p99",
                    "us",
                    round_trip,
                ),
            ],
        },
    ]
}

/// Why virtual machines cannot be compared here, if so.
pub(crate) fn missing(peers: &[Peer]) -> Option<String> {
    let ovs = peers.contains(&Peer::Ovs).then(switches::missing_ovs).flatten();
    machines::missing().or(ovs)
}

impl Guests {
    /// Those of the peers asked for that this row is about.
    pub(crate) fn peers(&self, asked: &[Peer]) -> Vec<Peer> {
        let peers = self.peers.iter().copied();
        peers.filter(|peer| asked.contains(peer)).collect()
    }

    /// A slice of ours, in the form that is compared with this peer.
    pub(crate) fn ours(&self, against: Peer, seconds: u64) -> Result<Vec<Slice>, String> {
        self.slice(Site::enlight(against == Peer::Ovs)?, seconds)
    }

    /// A slice of a peer's.
    pub(crate) fn theirs(&self, peer: Peer, seconds: u64) -> Result<Vec<Slice>, String> {
        let site = match peer {
            Peer::Ovs => Site::ovs()?,
            _ => Site::bridge()?,
        };
        self.slice(site, seconds)
    }

    fn slice(&self, mut site: Site, seconds: u64) -> Result<Vec<Slice>, String> {
        let mut server = site.boot(&self.parameters(Role::Server, seconds))?;
        server.find("listening", BOOT, |line| {
            matches!(line, Line::Listening { .. }).then_some(())
        })?;
        let mut client = site.boot(&self.parameters(Role::Client, seconds))?;
        client.find("begin", BOOT, |line| {
            matches!(line, Line::Begin { .. }).then_some(())
        })?;
        let limit = Duration::from_secs(seconds * LONGEST) + PATIENCE;
        if self.workload != Workload::Stream {
            let times = round_trips(&mut client, limit)?;
            return Ok([0.5, 0.99]
                .map(|share| Slice::of(times.quantile(share) as f64 / 1e3))
                .into());
        }
        let processes = [site.process(), Some(server.process()), Some(client.process())];
        let busy = || {
            processes
                .iter()
                .flatten()
                .map(|id| machines::cpu_time(*id))
                .sum::<f64>()
        };
        let before = busy();
        let sent = client.find("the stream's hash", limit, stream_so_far)?;
        let octets = client.find("end", limit, |line| match line {
            Line::End { transactions, .. } => Some(transactions * BLOCK),
            _ => None,
        })?;
        let spent = busy() - before;
        if server.find("the stream's hash", limit, stream_so_far)? != sent {
            return Err("the server received another stream than the client sent".to_owned());
        }
        Ok(vec![Slice::of(octets as f64 * 8.0 / 1e9 / spent)])
    }

    fn parameters(&self, role: Role, seconds: u64) -> Parameters {
        let [client, server] = ADDRESSES.map(Into::into);
        let (ip, peer) = match role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        Parameters {
            workload: self.workload,
            phase_ms: u32::try_from(seconds * 1000).unwrap_or(u32::MAX),
            lso: true,
            // A stream's sender waits for full segments, as kernels' do unless told otherwise.
            nagle: self.workload == Workload::Stream,
            ..Parameters::new(role, ip, peer)
        }
    }
}

/// What the stream was when a phase ended: octets and their hash.
fn stream_so_far(line: &Line<'_>) -> Option<(u64, u64)> {
    match *line {
        Line::Hash {
            phase: Some(_),
            octets,
            sum,
        } => Some((octets, sum)),
        _ => None,
    }
}

/// Round-trip times of the phase, in nanoseconds.
fn round_trips(client: &mut Machine, limit: Duration) -> Result<Histogram, String> {
    let mut histogram = Histogram::new();
    let mut broken = false;
    client.find("its figures", limit, |line| {
        if let Line::Hist { buckets, .. } = line {
            broken |= histogram.decode(buckets).is_err();
        }
        matches!(line, Line::Done).then_some(())
    })?;
    if broken {
        return Err("the client's figures make no sense".to_owned());
    }
    if histogram.count() == 0 {
        return Err("no answer came in time".to_owned());
    }
    Ok(histogram)
}
