//! What the process gives up before the guest's first instruction, so that whoever breaks out of the guest finds little.
//!
//! [`Sandbox::enter_process`] is for the process as a whole, while it has one thread: capabilities, Landlock, a refusal of
//! new privileges. Each thread then begins with [`enter`], which leaves it the system calls that threads of its kind
//! need ([`filters`]). A call that is not among them ends the process with a line that names it ([`trap`]).

mod error;
mod files;
mod filters;
mod inherited;
mod panics;
mod process;
#[cfg(test)]
mod tests;
mod trap;
mod warm;

use std::cell::Cell;
use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

pub use error::SandboxError;
use filters::{Needs, Programs};
pub use inherited::Inherited;
pub use trap::EXIT_STATUS;

/// What kind of thread this is, and so what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// The one that runs the machine.
    Main,
    /// A virtual processor's.
    Vcpu,
    /// A disk's.
    Disk,
    /// Writes what the guest prints.
    Console,
    /// Watches that a switch answers in time.
    Deadline,
    /// Serves the clients of the machine's socket.
    Control,
    /// Asks the machine on behalf of these clients.
    ControlAsk,
}

/// What of the sandbox is in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxReport {
    /// Each thread is left the system calls that it needs.
    pub seccomp: bool,
    /// No program that the process might start can have more rights than it.
    pub no_new_privs: bool,
    /// The version of Landlock's interface that files are confined by; `None` where the kernel has none.
    pub landlock: Option<u32>,
}

/// What remains possible afterwards.
pub(crate) struct Sandbox {
    /// Whether a guest's reset may make a new machine.
    pub(crate) reboot: bool,
    /// Directories that files of the process's own are removed from.
    pub(crate) removes_from: Vec<PathBuf>,
    /// Sockets that may be connected to again.
    pub(crate) sockets: Vec<PathBuf>,
}

/// Present once the process is in its sandbox.
static ENTERED: OnceLock<Entered> = OnceLock::new();

struct Entered {
    programs: Programs,
    report: SandboxReport,
    /// Keeps the entry that Landlock's rule about it is tied to from being made anew.
    _own_proc: Option<File>,
}

thread_local! {
    /// The kind of the calling thread once it is confined.
    static KIND: Cell<Option<Thread>> = const { Cell::new(None) };
}

impl Thread {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Main,
        Self::Vcpu,
        Self::Disk,
        Self::Console,
        Self::Deadline,
        Self::Control,
        Self::ControlAsk,
    ];

    /// What the kind is called; threads other than the first are named so, processors with a number behind it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Vcpu => "vcpu",
            Self::Disk => "disk",
            Self::Console => "console",
            Self::Deadline => "deadline",
            Self::Control => "control",
            Self::ControlAsk => "control-ask",
        }
    }
}

impl Sandbox {
    /// Takes from the process all that no thread needs. The calling thread must be the only one: those that exist
    /// already keep their rights. Does nothing the second time.
    pub(crate) fn enter_process(&self) -> Result<(), SandboxError> {
        if ENTERED.get().is_some() {
            return Ok(());
        }
        let programs = Programs::compile(Needs {
            reboot: self.reboot,
            switches: !self.sockets.is_empty(),
        })?;
        warm::allocator().map_err(error::system("start a thread"))?;
        panics::install();
        trap::install()?;
        process::drop_privileges()?;
        let (landlock, own_proc) = files::confine(&self.removes_from, &self.sockets);
        programs.enter_process()?;
        let report = SandboxReport {
            seccomp: true,
            no_new_privs: true,
            landlock,
        };
        // Set by nobody else: the calling thread is the only one.
        let _ = ENTERED.set(Entered {
            programs,
            report,
            _own_proc: own_proc,
        });
        Ok(())
    }
}

/// Leaves the calling thread what threads of `kind` need, for good. Does nothing in a process without a sandbox.
/// A thread that cannot be confined must not go on, and ends the process with a line that says so.
pub fn enter(kind: Thread) {
    let Some(entered) = ENTERED.get() else { return };
    KIND.set(Some(kind));
    if let Err(error) = entered.programs.enter(kind) {
        eprintln!("enlight: thread {}: {error}", kind.word());
        std::process::exit(1);
    }
}

/// What is in place.
pub(crate) fn report() -> SandboxReport {
    ENTERED.get().map(|entered| entered.report).unwrap_or_default()
}
