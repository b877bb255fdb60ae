//! The switch as its users see it: ports come and go, filters are set, counters are read.
//!
//! Workers never wait for any of this. The port table is replaced as a whole; a worker takes the new one between two
//! rounds of its loop, and a removed port is closed only after every worker has done so.

mod attribution;
pub(crate) mod filter;
mod open;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use introspection::Instant;
use introspection::stage::StageHistograms;
use introspection::stall::Stall;
use parking_lot::Mutex;

use crate::attribution::{FlowCosts, Prices};
use crate::capture::{self, CaptureOptions, CaptureReader};
use crate::clock;
use crate::control::{
    Attribution, ControlError, FilterConfig, FilterInfo, LearnedMac, PortConfig, PortInfo, PortKind,
    PortStats, SwitchConfig, SwitchStats, VlanMode, WorkerConfig, is_port_name,
};
use crate::counters::PortCounters;
use crate::egress::{self, Backlog};
use crate::lane::{Lane, LaneId, LaneWaker};
use crate::port::endpoint::Application;
use crate::port::{Backend, PortId};
use crate::probe::Probe;
use crate::rebalance;
use crate::table::{ForwardingTable, TableConfig};
use crate::upkeep;
use crate::vlan::Membership;
use crate::worker::{self, WorkerHandle};

/// Ports that a switch can have.
pub const MAX_PORTS: usize = 1024;
/// Addresses that may be learned behind a guest.
const GUEST_ADDRESSES: u32 = 1024;
/// Addresses that may be learned behind an uplink: a network of many machines. Half of the table, so that guests find room.
const UPLINK_ADDRESSES: u32 = 262_144;
/// Learned addresses that [`Switch::ports`] shows of each port.
const SHOWN_MACS: usize = 64;
/// How long a removal waits for workers to let go of a port.
const LET_GO: Duration = Duration::from_secs(2);

/// A running switch. Dropping it stops its workers and closes its ports.
pub struct Switch {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held while a port comes or goes, so that a removed port's number is not given away before its addresses are
    /// forgotten.
    changes: Mutex<()>,
}

/// What workers and controllers share.
pub(crate) struct Shared {
    table: Mutex<Arc<PortTable>>,
    pub(crate) generation: AtomicU64,
    pub(crate) forwarding: ForwardingTable,
    pub(crate) workers: Vec<Arc<WorkerHandle>>,
    pub(crate) stop: AtomicBool,
    attribution: Mutex<Attribution>,
}

/// All ports, by [`PortId`].
#[derive(Default)]
pub(crate) struct PortTable {
    pub(crate) slots: Vec<Option<Arc<Port>>>,
}

/// A port: what the switch keeps beside its backend. Its counters share no cache line with another port's.
#[repr(align(128))]
pub(crate) struct Port {
    pub(crate) id: PortId,
    pub(crate) name: String,
    kind: PortKind,
    vlan: VlanMode,
    queues: u16,
    pub(crate) mtu: u16,
    pub(crate) vlans: Membership,
    /// Whether what it sends is sorted into the receivers' VM queues.
    pub(crate) is_uplink: bool,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) counters: PortCounters,
    pub(crate) backlog: Mutex<Backlog>,
    pub(crate) has_backlog: AtomicBool,
    pub(crate) probe: Probe,
    pub(crate) stages: Mutex<StageHistograms>,
    /// The flows of its guest that stayed longest in the switch, all frames taken together.
    pub(crate) flows: Mutex<FlowCosts>,
    /// Frames that its guest had sent when stages and flows were last started anew.
    stages_since: AtomicU64,
    /// One for each of the backend's queues; the first one's worker also sees to what concerns the port as a whole. After
    /// them that of its VM queue, unless it is an uplink itself.
    pub(crate) lanes: Vec<Arc<Lane>>,
    /// When its guest's first frame came; 0 before.
    pub(crate) first_frame: AtomicU64,
    made: Instant,
}

impl PortTable {
    /// The port of an id.
    pub(crate) fn get(&self, id: PortId) -> Option<&Arc<Port>> {
        self.slots.get(usize::from(id.0)).and_then(Option::as_ref)
    }

    /// The lane of a name.
    pub(crate) fn lane(&self, id: LaneId) -> Option<&Arc<Lane>> {
        self.get(id.port)?.lanes.get(usize::from(id.queue))
    }

    /// All ports.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &Arc<Port>> {
        self.slots.iter().flatten()
    }

    pub(crate) fn named(&self, name: &str) -> Result<&Arc<Port>, ControlError> {
        self.ports()
            .find(|port| port.name == name)
            .ok_or_else(|| ControlError::NoSuchPort(name.to_owned()))
    }
}

impl Shared {
    /// What a switch with these workers shares; the workers do not run yet.
    pub(crate) fn new(config: &SwitchConfig) -> Result<Self, ControlError> {
        // Before anybody is in a hurry.
        Prices::get();
        let default = [WorkerConfig::default()];
        let configs = if config.workers.is_empty() {
            &default[..]
        } else {
            &config.workers
        };
        let mut workers = Vec::with_capacity(configs.len());
        for (index, config) in configs.iter().enumerate() {
            let handle = WorkerHandle::new(index, *config).map_err(|error| ControlError::Worker {
                worker: index,
                reason: error.to_string(),
            })?;
            workers.push(Arc::new(handle));
        }
        Ok(Self {
            table: Mutex::default(),
            generation: AtomicU64::new(0),
            forwarding: ForwardingTable::new(&TableConfig {
                ports: MAX_PORTS,
                ..TableConfig::default()
            }),
            workers,
            stop: AtomicBool::new(false),
            attribution: Mutex::default(),
        })
    }

    /// The port table in force.
    pub(crate) fn table(&self) -> Arc<PortTable> {
        Arc::clone(&self.table.lock())
    }

    /// Puts a new table in force and wakes the workers to see it.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Vec<Option<Arc<Port>>>)) -> u64 {
        let mut table = self.table.lock();
        let mut slots = table.slots.clone();
        change(&mut slots);
        *table = Arc::new(PortTable { slots });
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        drop(table);
        self.wake_all();
        generation
    }

    /// Has all workers look at the table, and at what they serve, again.
    pub(crate) fn renew(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.wake_all();
    }

    fn wake_all(&self) {
        for worker in &self.workers {
            worker.wake();
        }
    }
}

impl Switch {
    /// Starts the workers.
    pub fn start(config: &SwitchConfig) -> Result<Self, ControlError> {
        let shared = Arc::new(Shared::new(config)?);
        let switch = Self {
            shared: Arc::clone(&shared),
            threads: Mutex::default(),
            changes: Mutex::default(),
        };
        for handle in &shared.workers {
            let thread = worker::spawn(Arc::clone(&shared), Arc::clone(handle)).map_err(|error| {
                ControlError::Worker {
                    worker: handle.index,
                    reason: error.to_string(),
                }
            })?;
            switch.threads.lock().push(thread);
        }
        let thread = upkeep::spawn(shared).map_err(|error| ControlError::Upkeep(error.to_string()))?;
        switch.threads.lock().push(thread);
        Ok(switch)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Adds a port. For an endpoint, one that answers ARP, ping, echo and discard.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a port's configuration is the port's from here on"
    )]
    pub fn add_port(&self, config: PortConfig) -> Result<PortInfo, ControlError> {
        self.add(&config, Vec::new())
    }

    /// Adds an endpoint port that runs applications of the caller's beside the standard ones.
    #[allow(clippy::needless_pass_by_value, reason = "as for `add_port`")]
    pub fn add_endpoint(
        &self,
        config: PortConfig,
        applications: Vec<Box<dyn Application>>,
    ) -> Result<PortInfo, ControlError> {
        self.add(&config, applications)
    }

    fn add(
        &self,
        config: &PortConfig,
        applications: Vec<Box<dyn Application>>,
    ) -> Result<PortInfo, ControlError> {
        check(config)?;
        let rules = filter::rules(&config.name, &config.filter)?;
        let mut filter = filter::make(&config.name, &config.filter, rules.as_ref())?;
        let _change = self.changes.lock();
        let mut mirrors = filter::mirrors(&self.shared, &config.name, rules.as_deref())?;
        self.refuse_duplicate(&config.name)?;
        let backend = open::open(config, applications)?;
        let mut made = None;
        self.shared.publish(|slots| {
            let taken = slots.iter().flatten().any(|port| port.name == config.name);
            let free = slots.iter().position(Option::is_none).unwrap_or(slots.len());
            if taken || free >= MAX_PORTS {
                return;
            }
            let port = Arc::new(Port::new(
                free,
                config,
                Arc::clone(&backend),
                self.shared.workers.len(),
            ));
            port.probe.set_mirrors(std::mem::take(&mut mirrors));
            if filter.is_some() {
                port.probe.set_filter(filter.take(), config.filter.clone());
            }
            let waker = LaneWaker::new(port.lanes.clone(), self.shared.workers.clone());
            backend.attach(Arc::new(waker));
            slots.resize(slots.len().max(free + 1), None);
            self.shared.forwarding.allow(port.id, port.addresses());
            slots[free] = Some(Arc::clone(&port));
            made = Some(port);
        });
        let Some(port) = made else {
            backend.close();
            self.refuse_duplicate(&config.name)?;
            return Err(ControlError::TooManyPorts(MAX_PORTS));
        };
        Ok(Self::info(&port, Vec::new()))
    }

    fn refuse_duplicate(&self, name: &str) -> Result<(), ControlError> {
        match self.shared.table().named(name) {
            Ok(_) => Err(ControlError::DuplicatePort(name.to_owned())),
            Err(_) => Ok(()),
        }
    }

    /// Removes a port and closes what it connects.
    pub fn remove_port(&self, name: &str) -> Result<(), ControlError> {
        let _change = self.changes.lock();
        let port = Arc::clone(self.shared.table().named(name)?);
        let generation = self.shared.publish(|slots| {
            if let Some(slot) = slots.get_mut(usize::from(port.id.0)) {
                slot.take_if(|there| Arc::ptr_eq(there, &port));
            }
        });
        self.wait_for(generation);
        self.shared.forwarding.forget_port(port.id);
        port.probe.close();
        port.backend.close();
        Ok(())
    }

    /// Waits until every worker uses this table or a later one.
    fn wait_for(&self, generation: u64) {
        let until = clock::now().after(LET_GO);
        for worker in &self.shared.workers {
            while worker.generation.load(Ordering::Acquire) < generation && clock::now() < until {
                worker.wake();
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// All ports.
    pub fn ports(&self) -> Vec<PortInfo> {
        let table = self.shared.table();
        let mut macs = vec![Vec::new(); MAX_PORTS];
        for entry in self.shared.forwarding.entries(worker::seconds(clock::now())) {
            let of_port = macs.get_mut(usize::from(entry.port.0));
            if let Some(of_port) = of_port.filter(|macs| macs.len() < SHOWN_MACS) {
                of_port.push(entry.mac.to_string());
            }
        }
        let mut take = |port: &Port| macs.get_mut(usize::from(port.id.0)).map(std::mem::take);
        table
            .ports()
            .map(|port| Self::info(port, take(port).unwrap_or_default()))
            .collect()
    }

    fn info(port: &Port, macs: Vec<String>) -> PortInfo {
        let first_frame = port.first_frame.load(Ordering::Relaxed);
        PortInfo {
            name: port.name.clone(),
            kind: port.kind.clone(),
            vlan: port.vlan.clone(),
            queues: port.queues,
            mtu: port.mtu,
            filter: port.probe.profile(),
            worker: port.home(),
            peer: port.backend.status(),
            capabilities: port.backend.capabilities(),
            macs,
            first_frame_us: (first_frame > 0).then(|| Instant(first_frame).since(port.made) / 1000),
        }
    }

    /// Sets a port's filter while traffic flows: no frame is lost or overtaken.
    pub fn set_filter(&self, port: &str, config: &FilterConfig) -> Result<FilterInfo, ControlError> {
        let rules = filter::rules(port, config)?;
        let made = filter::make(port, config, rules.as_ref())?;
        let _change = self.changes.lock();
        let table = self.shared.table();
        let port = table.named(port)?;
        let mirrors = filter::mirrors(&self.shared, &port.name, rules.as_deref())?;
        port.probe.set_mirrors(mirrors);
        if !port.probe.set_rules(rules.as_ref(), config) {
            port.probe.set_filter(made, config.clone());
        }
        for worker in &self.shared.workers {
            worker.releases();
        }
        Ok(port.probe.filter())
    }

    /// All filters.
    pub fn filters(&self) -> Vec<FilterInfo> {
        self.shared
            .table()
            .ports()
            .map(|port| port.probe.filter())
            .collect()
    }

    /// All counters.
    pub fn stats(&self) -> SwitchStats {
        let stats = |port: &Arc<Port>| {
            // A copy, so that a worker with stamps to record waits for a copy at most, not for quantiles.
            let stages = port.stages.lock().clone();
            PortStats {
                name: port.name.clone(),
                counters: port.counters.snapshot(),
                backlog: egress::backlog_len(port) as u64,
                stages: stages.summary(),
                stages_of: port.frames_since_reset(),
                filter: port.probe.cost(),
                stalls: port.probe.stall_counts(),
                stall_causes: port.probe.stall_summary(),
            }
        };
        let table = self.shared.table();
        SwitchStats {
            ports: table.ports().map(stats).collect(),
            queues: rebalance::queue_stats(&table),
            workers: self.shared.workers.iter().map(|worker| worker.stats()).collect(),
            learned: self.shared.forwarding.len(),
            attribution: self.shared.attribution_stats(&table),
        }
    }

    /// Watches both sides of a port's filter for stalls, counting from zero, or stops watching. A filter that is on is
    /// always watched.
    pub fn watch_stalls(&self, port: &str, on: bool) -> Result<(), ControlError> {
        self.shared.table().named(port)?.probe.watch(on);
        Ok(())
    }

    /// The most recent stalls of a port.
    pub fn stalls(&self, port: &str) -> Result<Vec<Stall>, ControlError> {
        Ok(self.shared.table().named(port)?.probe.stalls())
    }

    /// The forwarding table.
    pub fn learned(&self) -> Vec<LearnedMac> {
        let now = worker::seconds(clock::now());
        let table = self.shared.table();
        let entry = |entry: crate::table::TableEntry| {
            Some(LearnedMac {
                mac: entry.mac.to_string(),
                vlan: entry.vlan,
                port: table.get(entry.port)?.name.clone(),
                age: now.saturating_sub(entry.seen),
            })
        };
        self.shared
            .forwarding
            .entries(now)
            .into_iter()
            .filter_map(entry)
            .collect()
    }

    /// Captures a port's frames until the reader is dropped.
    pub fn capture(&self, port: &str, options: CaptureOptions) -> Result<CaptureReader, ControlError> {
        let table = self.shared.table();
        let port = table.named(port)?;
        let (sink, reader) = capture::channel(options);
        port.probe.capture(sink);
        Ok(reader)
    }

    /// Stops the workers and closes all ports. The switch does nothing afterwards.
    pub fn shutdown(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake_all();
        for thread in self.threads.lock().drain(..) {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("a worker had died");
            }
        }
        let mut ports = Vec::new();
        self.shared.publish(|slots| ports = std::mem::take(slots));
        for port in ports.into_iter().flatten() {
            port.probe.close();
            port.backend.close();
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Port {
    pub(crate) fn new(slot: usize, config: &PortConfig, backend: Arc<dyn Backend>, workers: usize) -> Self {
        let id = PortId(slot as u16);
        let is_uplink = config.kind.is_uplink();
        let owner = |queue: u16| (slot + usize::from(queue)) % workers.max(1);
        let queues = backend.queues().max(1);
        let mut lanes: Vec<_> = (0..queues)
            .map(|queue| Arc::new(Lane::new(LaneId { port: id, queue }, owner(queue))))
            .collect();
        if !is_uplink {
            let id = LaneId {
                port: id,
                queue: queues,
            };
            lanes.push(Arc::new(Lane::of_vm(id, owner(0))));
        }
        Self {
            id,
            name: config.name.clone(),
            kind: config.kind.clone(),
            vlan: config.vlan.clone(),
            queues: config.queues,
            mtu: config.mtu,
            vlans: Membership::from(&config.vlan),
            is_uplink,
            backend,
            counters: PortCounters::default(),
            backlog: Mutex::default(),
            has_backlog: AtomicBool::new(false),
            probe: Probe::new(&config.name),
            stages: Mutex::new(StageHistograms::new()),
            flows: Mutex::default(),
            stages_since: AtomicU64::new(0),
            lanes,
            first_frame: AtomicU64::new(0),
            made: clock::now(),
        }
    }

    /// Addresses that may be learned behind it.
    fn addresses(&self) -> u32 {
        if self.is_uplink {
            UPLINK_ADDRESSES
        } else {
            GUEST_ADDRESSES
        }
    }

    /// The lane of its VM queue.
    pub(crate) fn vm_lane(&self) -> Option<&Arc<Lane>> {
        self.lanes.last().filter(|lane| lane.vm_queue.is_some())
    }

    /// The worker that sees to what concerns the port as a whole.
    pub(crate) fn home(&self) -> usize {
        self.lanes.first().map_or(0, |lane| lane.owner())
    }
}

/// Refuses a configuration that names what cannot be.
fn check(config: &PortConfig) -> Result<(), ControlError> {
    if !is_port_name(&config.name) {
        return Err(ControlError::BadName(config.name.clone()));
    }
    let port = || config.name.clone();
    let out_of_range = |what, value: u16, range| ControlError::OutOfRange {
        port: port(),
        what,
        value: value.into(),
        range,
    };
    match &config.vlan {
        VlanMode::Access(vlan) if *vlan > 4094 => {
            return Err(ControlError::BadVlan {
                port: port(),
                vlan: *vlan,
            });
        }
        VlanMode::Access(_) => {}
        VlanMode::Trunk(vlans) => {
            if let Some(vlan) = vlans.iter().find(|vlan| !(1..=4094).contains(*vlan)) {
                return Err(ControlError::BadVlan {
                    port: port(),
                    vlan: *vlan,
                });
            }
        }
    }
    if !(1..=16).contains(&config.queues) {
        return Err(out_of_range("the number of queues", config.queues, "1 to 16"));
    }
    if config.mtu < 68 {
        return Err(out_of_range("the MTU", config.mtu, "68 to 65535"));
    }
    Ok(())
}
