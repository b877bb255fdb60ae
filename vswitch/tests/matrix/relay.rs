//! A guest that is made of a vhost-user front end, a driver and the kernel of a network namespace.
//!
//! Frames go between the driver's rings and a tap, with their virtio-net headers, unchanged but for marks of congestion. So
//! the kernel is the guest's stack, and makes and takes exactly what the cell negotiates.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use offload::VnetHeader;
use parking_lot::Mutex;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vswitch::port::Capabilities;
use vswitch::ring::feature;
use vswitch::ring::mock::{MockGuest, MockQueue, Shape};

use super::congestion::Congestion;
use super::system::{LARGEST, Tap, wait_readable};
use super::verify::Verifier;

const PROTOCOL_FEATURES: u64 = 1 << 30;
const VNET: usize = VnetHeader::LEN;
const MEMORY: u64 = 64 << 20;

/// What the driver's side looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    /// Virtio feature bits.
    pub(crate) features: u64,
    /// Entries of each ring.
    pub(crate) entries: u16,
    /// How it describes what it sends.
    pub(crate) shape: Shape,
    /// Octets of each receive buffer.
    pub(crate) buffer: u32,
}

/// Feature bits for offloads, in both directions (virtio 1.2, 5.1.3).
pub(crate) fn offload_features(can: Capabilities) -> u64 {
    let bits = |on: bool, bits: &[u32]| bits.iter().map(|bit| u64::from(on) << bit).sum::<u64>();
    bits(can.checksum, &[0, 1])
        | bits(can.tso4, &[7, 11])
        | bits(can.tso6, &[8, 12])
        | bits(can.ecn, &[9, 13])
        | bits(can.uso4, &[54, 56])
        | bits(can.uso6, &[55])
}

/// A running guest. Dropping it ends it.
pub(crate) struct Relay {
    pub(crate) verifier: Arc<Mutex<Verifier>>,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Attaches to a port.
    pub(crate) fn attach(socket: &Path, tap: Tap, driver: Driver, verifier: Verifier) -> Self {
        let verifier = Arc::new(Mutex::new(verifier));
        let stop = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let mut machine = Machine::attach(socket, tap, driver, Arc::clone(&verifier));
        let stopping = stop.try_clone().expect("a descriptor can be duplicated");
        let thread = std::thread::spawn(move || machine.run(&stopping));
        Self {
            verifier,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.write(1).expect("an eventfd takes a number");
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a guest has died");
        }
    }
}

struct Machine {
    /// Open for as long as the guest runs.
    _frontend: Frontend,
    rx: Ring,
    tx: Ring,
    driver: Driver,
    tap: Tap,
    verifier: Arc<Mutex<Verifier>>,
    congestion: Congestion,
    /// A frame with its header that had no room in the ring.
    waiting: Option<Vec<u8>>,
    scratch: Vec<u8>,
}

struct Ring {
    queue: MockQueue,
    kick: EventFd,
    call: EventFd,
}

impl Ring {
    fn new(queue: MockQueue) -> Self {
        let event = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        Self {
            queue,
            kick: event(),
            call: event(),
        }
    }

    fn kick(&mut self) {
        if self.queue.must_kick() {
            self.kick.write(1).expect("an eventfd takes a number");
        }
    }

    fn start(&self, frontend: &mut Frontend, index: usize) -> vhost::Result<()> {
        let setup = self.queue.setup();
        frontend.set_vring_num(index, setup.size)?;
        frontend.set_vring_base(index, setup.base)?;
        let config = VringConfigData {
            queue_max_size: setup.size,
            queue_size: setup.size,
            flags: 0,
            desc_table_addr: setup.addresses.descriptors,
            used_ring_addr: setup.addresses.used,
            avail_ring_addr: setup.addresses.available,
            log_addr: None,
        };
        frontend.set_vring_addr(index, &config)?;
        frontend.set_vring_call(index, &self.call)?;
        frontend.set_vring_kick(index, &self.kick)?;
        frontend.set_vring_enable(index, true)
    }
}

impl Machine {
    fn attach(socket: &Path, tap: Tap, driver: Driver, verifier: Arc<Mutex<Verifier>>) -> Self {
        let memory = MockGuest::new(MEMORY);
        let queue = |len| Ring::new(MockQueue::new(&memory, driver.entries, len, driver.features, 0));
        let (mut rx, tx) = (queue(driver.buffer.into()), queue(LARGEST as u64));
        while rx.queue.post(driver.buffer, Shape::Chain(1)) {}
        let frontend = negotiate(socket, &memory, driver.features, [&rx, &tx]);
        Self {
            _frontend: frontend.expect("the port agrees"),
            rx,
            tx,
            driver,
            tap,
            verifier,
            congestion: Congestion::default(),
            waiting: None,
            scratch: vec![0; LARGEST],
        }
    }

    fn run(&mut self, stop: &EventFd) {
        let fds = [
            stop.as_raw_fd(),
            self.rx.call.as_raw_fd(),
            self.tx.call.as_raw_fd(),
            self.tap.fd(),
        ];
        while stop.read().is_err() {
            if self.work() {
                continue;
            }
            self.rx.queue.want_interrupts(true);
            self.tx.queue.want_interrupts(self.waiting.is_some());
            if !self.work() {
                // A frame that waits is no reason to wake up for more of them.
                wait_readable(if self.waiting.is_some() { &fds[..3] } else { &fds });
            }
            let _ = (self.rx.call.read(), self.tx.call.read());
            self.rx.queue.want_interrupts(false);
        }
    }

    /// Moves what can be moved. True if that was anything.
    fn work(&mut self) -> bool {
        let received = self.receive();
        self.transmit() | received
    }

    /// From the ring to the kernel.
    fn receive(&mut self) -> bool {
        let mut any = false;
        while let Some(mut octets) = self.rx.queue.receive(VNET) {
            any = true;
            while self.rx.queue.post(self.driver.buffer, Shape::Chain(1)) {}
            self.show(&octets);
            self.congestion.mark(&mut octets[VNET..]);
            if let Err(error) = self.tap.write(&octets) {
                self.verifier
                    .lock()
                    .fault(format!("the guest's kernel refused a frame: {error}"));
            }
        }
        if any {
            self.rx.kick();
        }
        any
    }

    fn show(&self, octets: &[u8]) {
        let mut verifier = self.verifier.lock();
        let Some((header, frame)) = octets.split_first_chunk::<VNET>() else {
            return verifier.fault("a frame without a header".to_owned());
        };
        let vnet = VnetHeader::from_bytes(header);
        let mergeable = self.driver.features & feature::MRG_RXBUF != 0;
        let expected = if mergeable {
            octets.len().div_ceil(self.driver.buffer as usize)
        } else {
            1
        };
        if usize::from(vnet.num_buffers) != expected {
            verifier.fault(format!("{} buffers, not {expected}: {vnet:?}", vnet.num_buffers));
        }
        verifier.frame(&vnet, None, frame);
    }

    /// From the kernel to the ring.
    fn transmit(&mut self) -> bool {
        while self.tx.queue.used().is_some() {}
        let mut any = false;
        while let Some(frame) = self.waiting.take().or_else(|| self.next_frame()) {
            if !self.tx.queue.send(&frame, self.driver.shape) {
                self.waiting = Some(frame);
                break;
            }
            any = true;
        }
        if any {
            self.tx.kick();
        }
        any
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        let len = self.tap.read(&mut self.scratch)?;
        let mut frame = self.scratch.get(..len)?.to_vec();
        // What the kernel knows of a checksum is not for a driver to tell (virtio 1.2, 5.1.6.2.1).
        frame[0] &= VnetHeader::NEEDS_CSUM;
        self.congestion.mark(frame.get_mut(VNET..)?);
        Some(frame)
    }
}

fn negotiate(socket: &Path, memory: &MockGuest, features: u64, rings: [&Ring; 2]) -> vhost::Result<Frontend> {
    let mut frontend = Frontend::connect(socket, 2).expect("the port's socket takes a connection");
    let offered = frontend.get_features()?;
    assert_eq!(features & !offered, 0, "all features are offered");
    let wanted = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ;
    let agreed = frontend.get_protocol_features()? & wanted;
    frontend.set_protocol_features(agreed)?;
    frontend.set_owner()?;
    frontend.set_features(features | PROTOCOL_FEATURES)?;
    // From here on every request is answered, so that what follows it comes after it.
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let spec = memory.region();
    frontend.set_mem_table(&[VhostUserMemoryRegionInfo {
        guest_phys_addr: spec.guest,
        memory_size: spec.size,
        userspace_addr: spec.user,
        mmap_offset: spec.offset,
        mmap_handle: memory.file().as_raw_fd(),
    }])?;
    for (index, ring) in rings.into_iter().enumerate() {
        ring.start(&mut frontend, index)?;
    }
    Ok(frontend)
}
