//! Real taps, each test in network namespaces of its own, which end with its threads.
//!
//! They need root; without it each says by name that it was skipped.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant as WallClock};

use super::*;
use crate::frame::Body;

mod errors;
mod queues;
mod traffic;

/// Bounds a test that went wrong; no test waits for it otherwise.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs a test's body in a network namespace of its own.
pub(in crate::port) fn in_namespace<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter_new_namespace();
            body()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Gives the calling thread, and it alone, an empty network.
fn enter_new_namespace() {
    unshare_network().expect("this was tried before");
    ip("link set lo up");
}

fn unshare_network() -> io::Result<()> {
    // SAFETY: unshare() takes no pointers; a network namespace belongs to the calling thread.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the test has to be skipped; says so.
pub(in crate::port) fn skip(test: &str) -> bool {
    let can_unshare = thread::spawn(|| unshare_network().is_ok())
        .join()
        .unwrap_or(false);
    let has_ip = Command::new("ip").arg("-Version").output().is_ok();
    let has_tun = std::path::Path::new("/dev/net/tun").exists();
    let ready = can_unshare && has_ip && has_tun;
    if !ready {
        eprintln!("skipped: {test} needs root, /dev/net/tun and the ip command (iproute2)");
    }
    !ready
}

/// Runs `ip` in the calling thread's namespace.
pub(in crate::port) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("the ip command");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a pump saw.
#[derive(Clone, Copy, Debug, Default)]
struct Pumped {
    frames: [u64; 2],
    /// Frames longer than the MTU allows, to be cut by whoever needs that.
    large: [u64; 2],
    partial: [u64; 2],
    refused: u64,
}

/// Carries frames between two ports, as a worker would, until `done` says so.
fn pump(ports: [&dyn Backend; 2], fds: &[RawFd], done: impl Fn() -> bool) -> Pumped {
    let mut pumped = Pumped::default();
    let mut burst = Burst::default();
    let start = WallClock::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "not done in time: {pumped:?}");
        let now = Instant(start.elapsed().as_nanos() as u64);
        let mut moved = false;
        for (from, to) in [(0, 1), (1, 0)] {
            ports[from].take(0, now, &mut burst);
            moved |= !burst.frames().is_empty();
            for frame in burst.frames() {
                let Body::Owned(octets) = &frame.body else {
                    panic!("a private buffer")
                };
                pumped.frames[from] += 1;
                pumped.large[from] += u64::from(octets.len() > 1514);
                pumped.partial[from] += u64::from(frame.vnet.flags & VnetHeader::NEEDS_CSUM != 0);
                let delivery = ports[to].deliver(&[outgoing(frame.vnet, octets)]);
                pumped.refused += u64::from(delivery.refusal.is_some());
            }
            ports[from].complete(0, &burst);
            burst.clear();
            ports[to].notify();
        }
        if !moved {
            let mut polls: Vec<libc::pollfd> = fds
                .iter()
                .map(|fd| libc::pollfd {
                    fd: *fd,
                    events: libc::POLLIN,
                    revents: 0,
                })
                .collect();
            // SAFETY: a valid array of that many pollfds, which outlives the call.
            unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 2) };
        }
    }
    pumped
}

pub(in crate::port) fn outgoing(vnet: VnetHeader, octets: &[u8]) -> Outgoing<'_> {
    Outgoing {
        vnet,
        len: octets.len() as u32,
        flow_hash: 0,
        hash_report: offload::rss::HashReport::None,
        head: octets,
        tail: &[],
    }
}

/// Keeps what it is told to watch.
#[derive(Default)]
struct NotingWaker(Mutex<Vec<(&'static str, RawFd)>>);

impl NotingWaker {
    fn noted(&self) -> Vec<&'static str> {
        self.0.lock().drain(..).map(|(what, _)| what).collect()
    }
}

impl Waker for NotingWaker {
    fn watch(&self, _queue: u16, fd: RawFd) -> io::Result<()> {
        self.0.lock().push(("watch", fd));
        Ok(())
    }
    fn watch_writable(&self, _queue: u16, fd: RawFd, on: bool) -> io::Result<()> {
        self.0.lock().push((if on { "room on" } else { "room off" }, fd));
        Ok(())
    }
    fn unwatch(&self, _queue: u16, fd: RawFd) {
        self.0.lock().push(("unwatch", fd));
    }
    fn wake(&self, _queue: u16) {
        self.0.lock().push(("wake", -1));
    }
}
