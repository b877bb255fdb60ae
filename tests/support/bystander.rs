//! Traffic of somebody who has nothing to do with an attack: datagrams from a vhost-user port to an endpoint and back.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::frames::{self, Digest, ECHO_PORT, Host, Random};
use super::peer::{PATIENCE, Peer};

/// Datagrams on their way at a time.
const WINDOW: usize = 8;
/// A datagram that is not back by then is lost.
const LOST: Duration = Duration::from_secs(10);
const PORT: u16 = 40_000;
const MAX_PAYLOAD: usize = 1472;

/// Running traffic. Each datagram has other octets, and has to come back in its turn: there is no one to send it again.
pub struct Bystander {
    stop: Arc<AtomicBool>,
    echoed: Arc<AtomicU64>,
    thread: Option<JoinHandle<Totals>>,
}

/// What one side saw, or both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that came back.
    pub received: u64,
    /// All payload sent.
    pub sent_digest: Digest,
    /// All payload that came back.
    pub received_digest: Digest,
}

impl Bystander {
    /// Starts traffic between host 192.0.2.`number` on the port behind `socket` and the endpoint with address `to`.
    pub fn start(socket: &Path, number: u8, to: Ipv4Addr) -> Self {
        let (stop, echoed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut peer = Peer::attach(socket, number);
        let to = peer.resolve(to);
        let traffic = Traffic {
            peer,
            to,
            stop: Arc::clone(&stop),
            echoed: Arc::clone(&echoed),
        };
        let thread = std::thread::spawn(move || traffic.run());
        Self {
            stop,
            echoed,
            thread: Some(thread),
        }
    }

    /// Datagrams that came back so far.
    pub fn echoed(&self) -> u64 {
        self.echoed.load(Ordering::Relaxed)
    }

    /// Waits until `more` datagrams have come back from now on.
    pub fn progress(&self, more: u64) {
        let (start, goal) = (Instant::now(), self.echoed() + more);
        while self.echoed() < goal {
            let alive = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
            assert!(alive, "the bystanders' traffic broke off");
            assert!(start.elapsed() < PATIENCE, "the bystanders' traffic stands still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the traffic, and shows that none of it was lost or changed.
    pub fn finish(mut self) -> Totals {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is finished once");
        let totals = thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert_eq!(totals.sent, totals.received, "each datagram came back");
        assert_eq!(
            totals.sent_digest, totals.received_digest,
            "with the octets that it left with"
        );
        assert!(totals.received > 0, "there was traffic");
        totals
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It matters to somebody only when the test succeeded so far, and then `finish` was called.
            let _ = thread.join();
        }
    }
}

struct Traffic {
    peer: Peer,
    to: Host,
    stop: Arc<AtomicBool>,
    echoed: Arc<AtomicU64>,
}

impl Traffic {
    fn run(mut self) -> Totals {
        let mut totals = Totals::default();
        let mut random = Random::new(self.peer.host.ip.to_bits().into());
        let mut on_their_way: VecDeque<Vec<u8>> = VecDeque::new();
        while !(self.stop.load(Ordering::Relaxed) && on_their_way.is_empty()) {
            while on_their_way.len() < WINDOW && !self.stop.load(Ordering::Relaxed) {
                let len = 1 + random.below(MAX_PAYLOAD);
                let payload = random.octets(len);
                let frame = frames::datagram((self.peer.host, PORT), (self.to, ECHO_PORT), &payload);
                self.peer.send(&frame);
                totals.sent += 1;
                totals.sent_digest.add(&payload);
                on_their_way.push_back(payload);
            }
            let frame = self.peer.receive_within(LOST);
            let frame = frame.unwrap_or_else(|| panic!("a datagram was lost after {}", totals.received));
            if let Some(payload) = frames::echoed(&frame, self.peer.host.mac, PORT) {
                let expected = on_their_way.pop_front().unwrap_or_default();
                assert_eq!(
                    payload, expected,
                    "datagram {} comes back in its turn",
                    totals.received
                );
                totals.received += 1;
                totals.received_digest.add(payload);
                self.echoed.store(totals.received, Ordering::Relaxed);
            }
        }
        totals
    }
}
