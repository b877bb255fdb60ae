//! A network namespace with a thread in it: whatever the thread opens belongs to that namespace and can be used from
//! anywhere.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use crate::support::{host, netns};

type Job = Box<dyn FnOnce() + Send>;

/// A namespace; it goes when this is dropped and what was opened in it is closed.
pub struct Station {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// No duplicate address detection, no router solicitations, no link-local addresses: nobody waits, and nobody speaks
/// without being asked.
const QUIET: &str = "cd /proc/sys/net/ipv6/conf/default && echo 0 >disable_ipv6 && echo 0 >accept_dad && \
                     echo 0 >accept_ra && echo 0 >router_solicitations && echo 1 >addr_gen_mode && \
                     echo 1 >/proc/sys/net/ipv4/tcp_ecn";

impl Station {
    pub fn new() -> Self {
        let (jobs, todo) = channel::<Job>();
        let thread = std::thread::spawn(move || {
            netns::enter();
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
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
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

    /// Runs a shell command in the namespace.
    pub fn sh(&self, command: impl Into<String>) -> String {
        let command = command.into();
        self.run(move || host(&command))
    }

    /// A counter of the namespace, such as `Tcp` `RetransSegs`.
    pub fn counter(&self, group: &'static str, name: &'static str) -> u64 {
        self.run(move || netns::counter("snmp", group, name))
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
