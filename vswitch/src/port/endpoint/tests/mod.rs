//! Endpoints in virtual time, whose frames are handed to each other directly.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::frame::{Body, Segment};

mod frames;
mod garbage;
mod traffic;

pub(super) const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
pub(super) const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

/// Two endpoints on one wire and a clock.
pub(super) struct Wire {
    pub(super) ends: [Arc<EndpointPort>; 2],
    pub(super) now: Instant,
    pub(super) frames: [u64; 2],
}

impl Wire {
    pub(super) fn new(a: Arc<EndpointPort>, b: Arc<EndpointPort>) -> Self {
        Self {
            ends: [a, b],
            now: Instant(1_000_000_000),
            frames: [0; 2],
        }
    }

    /// Carries frames until neither end has any and `until` holds or the time is over; the clock jumps from deadline
    /// to deadline.
    pub(super) fn run(&mut self, limit_ms: u64, until: impl Fn() -> bool) {
        let end = Instant(self.now.0 + limit_ms * 1_000_000);
        loop {
            if self.carry() {
                continue;
            }
            if until() {
                return;
            }
            let next = self
                .ends
                .iter()
                .filter_map(|port| port.deadline(0, self.now))
                .min();
            // Time always goes on, so that a deadline that never passes cannot hang a test.
            self.now = next.unwrap_or(end).max(Instant(self.now.0 + 1_000));
            assert!(
                self.now < end,
                "nothing happened until {:?}: {:?}",
                self.now,
                self.frames
            );
        }
    }

    /// One turn; true when a frame moved.
    fn carry(&mut self) -> bool {
        let mut moved = false;
        for (from, to) in [(0, 1), (1, 0)] {
            let frames = take(&self.ends[from], self.now);
            for frame in &frames {
                assert_eq!(
                    offer(&self.ends[to], frame),
                    Delivery {
                        accepted: 1,
                        refusal: None
                    }
                );
            }
            self.ends[to].notify();
            self.frames[from] += frames.len() as u64;
            moved |= !frames.is_empty();
        }
        moved
    }
}

pub(super) fn endpoint(cidr: &str, mac: MacAddr) -> Arc<EndpointPort> {
    EndpointPort::new(cidr, mac, 1500, Vec::new()).expect("a good address")
}

/// Everything that a port sends now.
pub(super) fn take(port: &EndpointPort, now: Instant) -> Vec<Vec<u8>> {
    let mut burst = Burst::default();
    port.take(0, now, &mut burst);
    let frames = burst
        .frames()
        .iter()
        .map(|frame| match &frame.body {
            Body::Owned(octets) => octets.clone(),
            Body::Shared { .. } => panic!("an endpoint's frames are its own"),
        })
        .collect();
    port.complete(0, &burst);
    burst.clear();
    frames
}

/// Offers a frame in two parts, as a guest's would come.
pub(super) fn offer(port: &EndpointPort, frame: &[u8]) -> Delivery {
    let (head, tail) = frame.split_at(frame.len().min(60));
    let tail = [Segment {
        ptr: tail.as_ptr(),
        len: tail.len() as u32,
    }];
    port.deliver(&[Outgoing {
        vnet: VnetHeader::default(),
        len: frame.len() as u32,
        flow_hash: 0,
        hash_report: offload::rss::HashReport::None,
        head,
        tail: &tail,
    }])
}

/// Hands one frame in, and returns what comes out at once.
pub(super) fn answers(port: &EndpointPort, frame: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(offer(port, frame).accepted, 1);
    port.notify();
    take(port, Instant(2_000_000_000))
}

/// Counts how often a worker would have been woken.
#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Waker for CountingWaker {
    fn watch(&self, _queue: u16, _fd: i32) -> std::io::Result<()> {
        Ok(())
    }
    fn watch_writable(&self, _queue: u16, _fd: i32, _on: bool) -> std::io::Result<()> {
        Ok(())
    }
    fn unwatch(&self, _queue: u16, _fd: i32) {}
    fn wake(&self, _queue: u16) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_full_inbox_refuses_and_takes_again_after_a_take() {
    let port = endpoint("192.0.2.1/24", MAC_A);
    for _ in 0..device::INBOX_FRAMES {
        assert_eq!(offer(&port, &[0; 60]).refusal, None);
    }
    assert_eq!(
        offer(&port, &[0; 60]),
        Delivery {
            accepted: 0,
            refusal: Some(Refusal::Full)
        }
    );
    assert_eq!(port.status().refusals.get("inbox_full"), Some(&1));
    take(&port, Instant(0));
    assert_eq!(offer(&port, &[0; 60]).refusal, None);

    let port = endpoint("192.0.2.1/24", MAC_A);
    let large = vec![0; 60_000];
    let taken = (0..100)
        .take_while(|_| offer(&port, &large).refusal.is_none())
        .count();
    assert_eq!(taken, device::INBOX_OCTETS / 60_000, "octets count as well");
    assert_eq!(
        offer(&endpoint("192.0.2.1/24", MAC_A), &vec![0; MAX_FRAME + 1]).refusal,
        Some(Refusal::Drop(DropReason::BadLength))
    );
}

#[test]
fn a_sleeping_worker_is_woken_once_and_a_busy_one_never() {
    let port = endpoint("192.0.2.1/24", MAC_A);
    let waker = Arc::new(CountingWaker::default());
    port.attach(waker.clone());
    let woken = || waker.0.load(Ordering::Relaxed);
    assert!(port.arm(0, false), "its applications were not started yet");
    port.disarm(0);
    take(&port, Instant(0));

    offer(&port, &[0; 60]);
    port.notify();
    assert_eq!(woken(), 0, "the worker is awake");
    assert!(port.arm(0, false), "and must not fall asleep");
    port.disarm(0);
    take(&port, Instant(0));

    assert!(!port.arm(0, false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            offer(&port, &[0; 60]);
            offer(&port, &[0; 60]);
            assert_eq!(woken(), 0, "not before the burst is complete");
            port.notify();
            port.notify();
        });
    });
    assert_eq!(woken(), 1);
    port.disarm(0);
    take(&port, Instant(0));

    assert!(!port.arm(0, false));
    port.poke();
    assert_eq!(woken(), 2);
    assert_eq!(port.deadline(0, Instant(5)), Some(Instant(5)));
}

#[test]
fn a_closed_endpoint_takes_and_sends_nothing() {
    let port = endpoint("192.0.2.1/24", MAC_A);
    offer(&port, &[0; 60]);
    port.close();
    assert!(!port.status().up);
    assert_eq!(
        offer(&port, &[0; 60]),
        Delivery {
            accepted: 0,
            refusal: Some(Refusal::Drop(DropReason::PortDown))
        }
    );
    assert!(take(&port, Instant(0)).is_empty());
    assert!(!port.arm(0, true));
    assert_eq!(port.deadline(0, Instant(0)), None);
}

#[test]
fn it_takes_partial_checksums_and_no_large_frames() {
    let port = endpoint("192.0.2.1/24, 2001:db8::1/64", MAC_A);
    assert_eq!(
        port.capabilities(),
        Capabilities {
            checksum: true,
            ..Capabilities::default()
        }
    );
    assert_eq!(
        port.addresses(),
        ["192.0.2.1/24", "2001:db8::1/64", "fe80::ff:fe00:a/64"]
    );
    assert_eq!(port.mac(), MAC_A);
    assert!(EndpointPort::new("192.0.2.1", MAC_A, 1500, Vec::new()).is_err());
}
