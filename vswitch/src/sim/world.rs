//! Hosts, the switch between them, and time.

use std::sync::Arc;
use std::time::Duration;

use introspection::{Instant, Profile};

use super::host::{Host, address};
use super::link::Quality;
use super::nic::{LARGE_MTU, Nic, Spec};
use super::program::Program;
use super::random::Random;
use super::wire::Wire;
use crate::clock;
use crate::control::{FilterConfig, PortConfig, PortKind, SwitchConfig, Why, WorkerConfig};
use crate::counters::DropReason;
use crate::lane::LaneWaker;
use crate::port::Backend;
use crate::port::vhost_user::VhostUserPort;
use crate::switch::{Port, Shared, filter};
use crate::worker::Worker;

const MTU: u16 = 1500;
/// Virtual time after which a transfer that is not done will never be.
const PATIENCE: u64 = 300_000_000_000;

/// Everything.
pub(super) struct World {
    now: Instant,
    random: Random,
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    ports: Vec<Arc<Port>>,
    hosts: Vec<Host>,
    wire: Wire,
    filters: bool,
    directory: tempfile::TempDir,
}

/// What a run was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) trace: u64,
    pub(super) delivered: u64,
    pub(super) segmented: u64,
    pub(super) nanoseconds: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let now = Instant(1_000_000_000);
        clock::set(Some(now));
        let directory = tempfile::tempdir().expect("a directory");
        let config = SwitchConfig {
            workers: vec![WorkerConfig::default(); 1 + random.below(2) as usize],
        };
        let shared = Arc::new(Shared::new(&config).expect("epoll works"));
        let mut world = Self {
            now,
            workers: Vec::new(),
            ports: Vec::new(),
            hosts: Vec::new(),
            wire: Wire::default(),
            filters: random.coin(),
            directory,
            shared,
            random,
        };
        for index in 0..2 + world.random.below(2) as usize {
            world.add_host(index);
        }
        world.workers = (world.shared.workers.iter())
            .map(|handle| Worker::new(Arc::clone(&world.shared), Arc::clone(handle)))
            .collect();
        println!(
            "seed {seed}: {} workers, filters {}",
            world.workers.len(),
            world.filters
        );
        world.start_programs();
        world
    }

    fn add_host(&mut self, index: usize) {
        let random = &mut self.random;
        let spec = Spec::any(random, MTU);
        let path = self.directory.path().join(format!("{index}.sock"));
        let backend = VhostUserPort::listen(&path, spec.pairs, MTU).expect("a socket");
        let config = PortConfig {
            queues: spec.pairs,
            ..PortConfig::new(format!("p{index}"), PortKind::VhostUser(path.clone()))
        };
        let workers = self.shared.workers.clone();
        let dynamic: Arc<dyn Backend> = Arc::clone(&backend) as _;
        let port = Arc::new(Port::new(index, &config, dynamic, workers.len()));
        backend.attach(Arc::new(LaneWaker::new(port.lanes.clone(), workers)));
        self.shared.publish(|slots| slots.push(Some(Arc::clone(&port))));
        self.ports.push(port);
        let mut quality = || Quality {
            loss: random.pick(&[0, 0, 200, 40]),
            reorder: random.pick(&[0, 0, 100, 20]),
        };
        let quality = [quality(), quality()];
        let nic = Nic::attach(&path, spec);
        self.hosts.push(Host::new(index, MTU, nic, quality, random));
    }

    fn start_programs(&mut self) {
        let random = &mut self.random;
        let count = self.hosts.len();
        for (port, (from, to)) in
            (2000..).zip((0..count).flat_map(|from| (0..count).map(move |to| (from, to))))
        {
            if from == to {
                continue;
            }
            let v6 = random.coin();
            let [there, back] = [0, 0].map(|_| {
                let len = 1 + random.below(120_000) as usize;
                random.octets(len)
            });
            let target = (address(to, v6), port);
            let datagrams = random.below(60) as u16;
            let at_once = if self.hosts[from].nic.spec.leaves.uso4 {
                1 + random.below(12) as u16
            } else {
                1
            };
            self.hosts[to].start(|sockets, _| Program::listen(sockets, port, back.clone(), there.clone()));
            self.hosts[from]
                .start(|sockets, context| Program::connect((sockets, context), target, port, there, back));
            self.hosts[to].start(|sockets, _| Program::receive(sockets, port));
            self.hosts[from].start(|sockets, _| Program::send(sockets, target, port, datagrams, at_once));
        }
    }

    /// Runs until all transfers are done and everything has come to rest.
    pub(super) fn run(mut self) -> Outcome {
        while !self.is_done() {
            self.step(true);
            assert!(self.now.0 < PATIENCE, "transfers do not end");
        }
        for port in 0..self.ports.len() {
            self.filter(port, Profile::Off);
        }
        for _ in 0..400 {
            self.step(false);
        }
        self.settle()
    }

    fn is_done(&self) -> bool {
        self.hosts.iter().all(Host::is_done)
    }

    fn step(&mut self, unrest: bool) {
        if unrest {
            self.meddle();
        }
        let mut busy = false;
        for host in &mut self.hosts {
            busy |= host.step(self.now, &mut self.wire, &mut self.random);
        }
        for worker in &mut self.workers {
            for _ in 0..self.random.below(3) {
                busy |= worker.round();
            }
        }
        let pause = 1 + self.random.below(20_000);
        let mut next = self.now.after(Duration::from_nanos(pause));
        if !busy {
            let mut working = false;
            for worker in &mut self.workers {
                working |= worker.round();
            }
            let hosts = self.hosts.iter().filter_map(|host| host.due(self.now));
            let held = self.ports.iter().filter_map(|port| port.probe.deadline());
            match hosts.chain(held).min() {
                Some(due) if !working => next = next.max(due),
                None if !working => assert!(self.is_done(), "everybody waits for ever"),
                _ => {}
            }
        }
        self.now = next;
        clock::set(Some(next));
    }

    /// What happens to a switch in its life: receivers stall, filters change, queues move.
    fn meddle(&mut self) {
        if self.random.once_in(300) {
            let host = self.random.below(self.hosts.len() as u64) as usize;
            let until = self.now.after(Duration::from_nanos(self.random.below(3_000_000)));
            self.hosts[host].stall(until);
        }
        if self.filters && self.random.once_in(150) {
            let port = self.random.below(self.ports.len() as u64) as usize;
            let profile = self.random.pick(&Profile::ALL);
            self.wire.relaxed |= matches!(profile, Profile::Serialize | Profile::ThinAcks);
            self.filter(port, profile);
        }
        if self.workers.len() > 1 && self.random.once_in(200) {
            let port = self.random.below(self.ports.len() as u64) as usize;
            let lanes = &self.ports[port].lanes;
            let lane = self.random.below(lanes.len() as u64) as usize;
            lanes[lane].want(self.random.below(2) as usize, Why::Assigned);
            self.shared.renew();
        }
    }

    fn filter(&self, port: usize, profile: Profile) {
        let config = FilterConfig {
            profile,
            // These hosts have buffers for no larger frames.
            chunk: (profile == Profile::Coalesce).then_some(u32::from(LARGE_MTU) - 120),
            ..FilterConfig::default()
        };
        let filter = filter::make("p", &config, None).expect("a filter without rules");
        self.ports[port].probe.set_filter(filter, config);
        for worker in &self.shared.workers {
            worker.releases();
        }
    }

    /// Shows that everything adds up.
    fn settle(mut self) -> Outcome {
        let (mut segmented, mut thinned) = (0, 0);
        for (port, host) in self.ports.iter().zip(&mut self.hosts) {
            host.nic.settle();
            let mut counters = port.counters.snapshot();
            for drops in [&mut counters.tx_dropped, &mut counters.rx_dropped] {
                thinned += drops.remove(&DropReason::FilterThinned).unwrap_or(0);
            }
            assert!(
                counters.tx_dropped.is_empty() && counters.rx_dropped.is_empty(),
                "{counters:?}"
            );
            assert_eq!(counters.tx_frames, host.nic.sent, "frames that the host sent");
            assert_eq!(
                counters.rx_frames, host.nic.received,
                "frames that the host received"
            );
            segmented += counters.segmented;
            port.backend.close();
        }
        self.wire.settle(thinned);
        clock::set(None);
        Outcome {
            trace: self.wire.trace(),
            delivered: self.wire.delivered,
            segmented,
            nanoseconds: self.now.0,
        }
    }
}
