//! A network namespace with a thread in it: whatever the thread opens belongs to that namespace and can be used from
//! anywhere.
//!
//! `unsafe` is needed for `unshare` and `gettid`, which the standard library does not have.
#![allow(unsafe_code)]
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// A namespace; it goes when this is dropped and what was opened in it is closed.
pub(crate) struct Station {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// No duplicate address detection, no router solicitations, no link-local addresses: nobody waits, and nobody speaks
/// without being asked. TCP asks for ECN.
const QUIET: &str = "ip link set lo up; cd /proc/sys/net/ipv6/conf/default && echo 0 >accept_dad && echo 0 >accept_ra && \
                     echo 0 >router_solicitations && echo 1 >addr_gen_mode && echo 1 >/proc/sys/net/ipv4/tcp_ecn";

impl Station {
    pub(crate) fn new() -> Self {
        let (jobs, todo) = channel::<Job>();
        let thread = std::thread::spawn(move || {
            unshare_network().expect("this was tried before");
            for job in todo {
                job();
            }
        });
        let station = Self {
            jobs: Some(jobs),
            thread: Some(thread),
        };
        station.sh(QUIET);
        station
    }

    /// Does something in the namespace; its panic becomes the caller's.
    pub(crate) fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (tell, told) = channel();
        let job = move || {
            let _ = tell.send(catch_unwind(AssertUnwindSafe(work)));
        };
        let jobs = self.jobs.as_ref().expect("a station works until it is dropped");
        jobs.send(Box::new(job)).expect("the station's thread runs");
        match told.recv().expect("the station's thread answers") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The number of the thread, by which `ip link` finds its namespace.
    pub(crate) fn thread(&self) -> i32 {
        // SAFETY: gettid() takes nothing and always succeeds.
        self.run(|| unsafe { libc::gettid() })
    }

    /// Runs a shell command in the namespace.
    pub(crate) fn sh(&self, command: impl Into<String>) {
        let command = command.into();
        self.run(move || shell(&command));
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why namespaces and taps cannot be had here, if so.
pub(crate) fn missing() -> Option<String> {
    let tried = std::thread::spawn(|| unshare_network().is_ok()).join();
    if !tried.unwrap_or(false) {
        return Some("network namespaces need root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    ["ip -Version", "ethtool --version"]
        .into_iter()
        .find_map(|command| {
            let mut words = command.split(' ');
            let program = words.next()?;
            let found = Command::new(program).args(words).output().is_ok();
            (!found)
                .then(|| format!("the program {program} is not installed: run `cargo xtask setup` as root"))
        })
}

fn shell(command: &str) {
    let output = Command::new("sh")
        .args(["-ec", command])
        .output()
        .expect("sh runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}`: {}\n{error}", output.status);
}

fn unshare_network() -> io::Result<()> {
    // SAFETY: `unshare` takes no pointers, and a network namespace belongs to the calling thread alone.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
