//! Network namespaces that end with the threads in them, a failed run's too.
//!
//! `unsafe` is needed for `unshare`, which the standard library does not have.
#![allow(unsafe_code)]

use std::io;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::{host, program};

/// Why namespaces and taps cannot be had here, if so.
pub fn missing() -> Option<String> {
    if !std::thread::spawn(|| unshare_network().is_ok())
        .join()
        .unwrap_or(false)
    {
        return Some("network namespaces need root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    program("ip")
        .is_none()
        .then(|| "the program ip (iproute2) is not installed".to_owned())
}

/// Gives the calling thread, and the processes that it starts from here on, an empty network, in which no kernel speaks
/// without being asked: IPv6 is off.
pub fn enter() {
    unshare_network().expect("this was tried before");
    host(
        "if [ -d /proc/sys/net/ipv6 ]; then echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; fi; ip link set lo up",
    );
}

/// The calling thread's number, by which `ip link set ... netns` finds its namespace.
pub fn thread_number() -> u32 {
    let link = std::fs::read_link("/proc/thread-self").expect("/proc tells about the thread");
    let number = link.file_name().and_then(|name| name.to_str()?.parse().ok());
    number.expect("the link ends in the thread's number")
}

/// A counter of the calling thread's namespace, such as `Tcp` `RetransSegs` in /proc/net/snmp.
pub fn counter(file: &str, group: &str, name: &str) -> u64 {
    let text =
        std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("the kernel's counters");
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
    let (names, values) = (
        lines.next().expect("a line of names"),
        lines.next().expect("a line of values"),
    );
    let mut pairs = names.split(' ').zip(values.split(' '));
    let value = pairs
        .find(|pair| pair.0 == name)
        .and_then(|pair| pair.1.parse().ok());
    value.unwrap_or_else(|| panic!("{file} has a number {group} {name}"))
}

/// A thread in a network of its own that does what it is told. Its network, and what is in it, ends with it.
pub struct Namespace {
    jobs: Option<Sender<Job>>,
    number: u32,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Namespace {
    /// A thread with an empty network.
    pub fn new() -> Self {
        let (jobs, todo) = channel::<Job>();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            enter();
            tell.send(thread_number()).expect("the maker waits");
            for job in todo {
                job();
            }
        });
        Self {
            jobs: Some(jobs),
            number: told.recv().expect("the thread has a network"),
            thread: Some(thread),
        }
    }

    /// What `ip link set ... netns` calls it.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Does something in the network; threads and processes that it starts are there, too. A panic is passed on.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let job = move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let _ = tell.send(done);
        };
        let jobs = self.jobs.as_ref().expect("it has not ended");
        jobs.send(Box::new(job)).expect("the thread lives");
        match told.recv().expect("the thread answers") {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Keeps the thread, and what it starts from here on, on the first CPU.
    pub fn pin(&self) {
        self.run(|| {
            // SAFETY: `cpu_set_t` is a plain bit array for which all zeroes is the empty set, and CPU 0 is inside it. The call
            // reads `set` for the length given and changes nothing but this thread's affinity.
            let result = unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(0, &mut set);
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
            };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
        });
    }

    /// Runs a shell command in the network.
    pub fn host(&self, command: impl Into<String>) -> String {
        let command = command.into();
        self.run(move || host(&command))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn unshare_network() -> io::Result<()> {
    // SAFETY: `unshare` takes no pointers, and a network namespace belongs to the calling thread alone.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
