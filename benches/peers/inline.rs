//! Rows of inspection between two hosts' TCP: `inspect` on our switch, and Suricata as a bridge that inspects.
//!
//! Both look for the same 1,000 patterns, written once in Suricata's syntax and taken over by `enlight rules import`. A slice counts only if
//! a pattern in two segments was found before it, one at the end of its transfer, too, and another one was kept from its receiver.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use microguest::histogram::Histogram;

use crate::goal::Goal;
use crate::hosts::Hosts;
use crate::inspectors::{self, Inspector};
use crate::machines::cpu_time;
use crate::patterns::{self, Planted};
use crate::report::{Figure, Slice};
use crate::support::netns;
use crate::switches::Peer;

/// Before something counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// Octets of a request and of its response.
const REQUEST: usize = 64;
/// Octets that the transfer writes at once.
const WRITE: usize = 128 << 10;
/// How long a pattern may take to be told of.
const TOLD: Duration = Duration::from_secs(3);
/// How long nothing may come of what was dropped.
const DROPPED: Duration = Duration::from_millis(500);
/// Ticks of /proc/stat in a second: a constant of the kernel's interface on x86.
const TICKS: f64 = 100.0;

/// One row.
pub(crate) struct Inline {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// Of its figures, in the order of a slice's values.
    names: [&'static str; 6],
    /// Our hosts' taps cut segments and sum them up themselves, as Suricata's have to.
    without_offloads: bool,
}

/// Every row.
pub(crate) fn all() -> [Inline; 2] {
    [
        Inline {
            name: "inline",
            what: "inspection with 1,000 rules between two hosts, each as it is meant to be set up",
            names: [
                "inline-bulk",
                "inline-cpu",
                "inline-machine",
                "inline-rate",
                "inline-p50",
                "inline-p99",
            ],
            without_offloads: false,
        },
        Inline {
            name: "inline-mtu",
            what: "the same, offloads off in all hosts: frames of 1,514 octets on both sides",
            names: [
                "inline-mtu-bulk",
                "inline-mtu-cpu",
                "inline-mtu-machine",
                "inline-mtu-rate",
                "inline-mtu-p50",
                "inline-mtu-p99",
            ],
            without_offloads: true,
        },
    ]
}

/// Why it cannot be measured here, if so.
pub(crate) fn missing() -> Option<String> {
    netns::missing().or_else(inspectors::missing)
}

impl Inline {
    /// Those of the peers asked for that this row is about.
    pub(crate) fn peers(asked: &[Peer]) -> Vec<Peer> {
        let peers = asked.iter().copied();
        peers.filter(|peer| *peer == Peer::Suricata).collect()
    }

    /// What it is compared with, in words.
    pub(crate) fn against(&self, peer: Peer) -> String {
        let offloads = if self.without_offloads {
            ", no offloads"
        } else {
            ""
        };
        format!("{peer}{offloads}")
    }

    /// What is compared, in the order of a slice's values.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let (more, less) = (Goal::at_least(1.0, 1.2), Goal::at_most(1.0, 0.8));
        let (bulk, cpu, machine) = if self.without_offloads {
            (more, less, less)
        } else {
            (
                Goal::at_least(3.0, 5.0),
                Goal::at_most(0.33, 0.2),
                Goal::at_most(0.5, 0.33),
            )
        };
        let whats = [
            ("bulk transfer", "Gbit/s", bulk),
            ("CPU time of the inspecting process", "s per GB", cpu),
            ("CPU time of the whole machine", "s per GB", machine),
            (
                "64 B request and response, one after the other",
                "transactions/s",
                more,
            ),
            ("the same, p50", "us", less),
            ("the same, p99", "us", less),
        ];
        self.names
            .into_iter()
            .zip(whats)
            .map(|(name, (what, unit, goal))| Figure {
                name,
                what,
                unit,
                goal,
            })
            .collect()
    }

    /// A slice of ours.
    pub(crate) fn ours(&self, seconds: u64) -> Result<Vec<Slice>, String> {
        let hosts = Hosts::new();
        let mut inspector = Inspector::enlight(&hosts, self.without_offloads)?;
        slice(&hosts, &mut inspector, seconds)
    }

    /// A slice of Suricata's.
    pub(crate) fn theirs(seconds: u64) -> Result<Vec<Slice>, String> {
        let hosts = Hosts::new();
        let mut inspector = Inspector::suricata(&hosts)?;
        slice(&hosts, &mut inspector, seconds)
    }
}

/// Half of the seconds for transactions, the other half for the transfer.
fn slice(hosts: &Hosts, inspector: &mut Inspector, seconds: u64) -> Result<Vec<Slice>, String> {
    let half = Duration::from_secs(seconds) / 2;
    finds(hosts, inspector)?;
    let times = transactions(hosts, half)?;
    let transfer = transfer(hosts, inspector.process(), half)?;
    told(inspector, Planted::Behind)?;
    drops(hosts, inspector)?;
    let gigabytes = transfer.octets / 1e9;
    Ok([
        gigabytes * 8.0 / transfer.seconds,
        transfer.process / gigabytes,
        transfer.machine / gigabytes,
        times.count() as f64 / half.as_secs_f64(),
        times.quantile(0.5) as f64 / 1e3,
        times.quantile(0.99) as f64 / 1e3,
    ]
    .map(Slice::of)
    .into())
}

/// Whether it finds what lies in two segments.
fn finds(hosts: &Hosts, inspector: &Inspector) -> Result<(), String> {
    let words = Planted::Split.text().as_bytes();
    let (first, second) = words.split_at(words.len() / 2);
    let (mut client, mut server) = hosts.connect()?;
    for part in [first, second] {
        client.write_all(part)?;
        server.read_exact(&mut vec![0; part.len()])?;
    }
    told(inspector, Planted::Split)
}

/// Whether it keeps something from its receiver.
fn drops(hosts: &Hosts, inspector: &Inspector) -> Result<(), String> {
    let (mut client, mut server) = hosts.connect()?;
    client.write_all(Planted::Dropped.text().as_bytes())?;
    if server.hears_within(DROPPED)? {
        return Err("a pattern that is to be dropped arrived".to_owned());
    }
    told(inspector, Planted::Dropped)
}

fn told(inspector: &Inspector, what: Planted) -> Result<(), String> {
    let end = Instant::now() + TOLD;
    while !inspector.has_told(what)? {
        if Instant::now() > end {
            return Err(format!("a planted pattern was not found: {}", what.text()));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Requests one after the other, 64 octets there and back; their times in nanoseconds.
fn transactions(hosts: &Hosts, length: Duration) -> Result<Histogram, String> {
    let (mut client, mut server) = hosts.connect()?;
    let text = patterns::text();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut room = [0; REQUEST];
            while server.read_exact(&mut room).is_ok() && server.write_all(&room).is_ok() {}
        });
        let (mut times, mut room) = (Histogram::new(), [0; REQUEST]);
        let begin = Instant::now() + WARM_UP;
        for request in text.chunks_exact(REQUEST).cycle() {
            let sent = Instant::now();
            if sent >= begin + length {
                break;
            }
            client.write_all(request)?;
            client.read_exact(&mut room)?;
            if sent >= begin {
                times.record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
        }
        client.end()?;
        Ok(times)
    })
}

/// What a transfer did and took.
struct Transfer {
    octets: f64,
    seconds: f64,
    /// CPU time of the inspector and of all of the machine, in seconds.
    process: f64,
    machine: f64,
}

/// Sends as fast as it goes from client to server; a planted pattern is the last that is sent.
fn transfer(hosts: &Hosts, process: u32, length: Duration) -> Result<Transfer, String> {
    let (mut client, mut server) = hosts.connect()?;
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let text = patterns::text();
    let counted = || {
        let octets = received.load(Ordering::Relaxed) as f64;
        (Instant::now(), octets, cpu_time(process), machine_time())
    };
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            for write in text.chunks_exact(WRITE).cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                client.write_all(write)?;
                sent += write.len() as u64;
            }
            let last = Planted::Behind.text().as_bytes();
            client.write_all(last)?;
            client.end()?;
            Ok(sent + last.len() as u64)
        });
        let receiver = scope.spawn(|| {
            let mut room = vec![0; WRITE];
            loop {
                match server.read(&mut room)? {
                    0 => return Ok::<(), String>(()),
                    octets => received.fetch_add(octets as u64, Ordering::Relaxed),
                };
            }
        });
        thread::sleep(WARM_UP);
        let before = counted();
        thread::sleep(length);
        let after = counted();
        stop.store(true, Ordering::Relaxed);
        let sent: Result<u64, String> = sender
            .join()
            .unwrap_or_else(|_| Err("the sender failed".to_owned()));
        let all = receiver
            .join()
            .unwrap_or_else(|_| Err("the receiver failed".to_owned()));
        let (sent, arrived) = (sent?, received.load(Ordering::Relaxed));
        all?;
        if sent != arrived {
            return Err(format!("{sent} octets were sent and {arrived} arrived"));
        }
        if after.1 <= before.1 {
            return Err(format!("the transfer stood still for {} s", length.as_secs_f64()));
        }
        Ok(Transfer {
            octets: after.1 - before.1,
            seconds: (after.0 - before.0).as_secs_f64(),
            process: after.2 - before.2,
            machine: after.3 - before.3,
        })
    })
}

/// Seconds that all processors together have not been idle, interrupts included.
fn machine_time() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks = line
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse::<f64>().unwrap_or(0.0));
    // user, nice, system, (idle, iowait,) irq, softirq; what follows is others' or counted already.
    let busy = ticks
        .take(7)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4));
    busy.map(|(_, ticks)| ticks).sum::<f64>() / TICKS
}
