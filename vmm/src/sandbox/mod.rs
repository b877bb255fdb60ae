//! What a machine's process gives up before its guest runs.
//!
//! A guest that takes over a thread of this process finds: system calls for what that thread does and no others, no
//! capabilities, no way to gain any, and no files but those that are open. Each kind of thread has a filter of its own;
//! `docs/sandbox.md` says what is in each and why.
//!
//! | module | holds |
//! |---|---|
//! | [`calls`] | which kind of thread makes which system calls |
//! | [`filter`] | programs for the kernel out of that |
//! | [`process`] | privileges, and Landlock rules for files |
//! | [`trap`] | what happens when a thread makes a call that it should not |

mod calls;
mod filter;
mod process;
#[cfg(test)]
mod tests;
mod trap;

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

use process::Files;

/// What a thread of a machine's process is for, which decides what it may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    /// Waits for events, makes guests anew, starts other threads.
    Main,
    /// Runs a virtual processor and serves its exits.
    Vcpu,
    /// Serves a disk.
    Disk,
    /// Serves the clients of the control socket.
    Control,
}

impl ThreadKind {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Main, Self::Vcpu, Self::Disk, Self::Control];

    /// The kind in a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Vcpu => "vcpu",
            Self::Disk => "disk",
            Self::Control => "control",
        }
    }
}

/// Why a process cannot be confined. `--no-sandbox` goes without.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A filter was not accepted.
    #[error("filtering the system calls of the {thread} thread: {source}; --no-sandbox goes without")]
    Filter {
        /// The kind of thread.
        thread: &'static str,
        /// Why.
        source: seccompiler::Error,
    },
    /// Something else could not be given up.
    #[error("cannot {what}: {source}; --no-sandbox goes without")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The rules for files were not accepted.
    #[error("closing the file system: {0}; --no-sandbox goes without")]
    Files(#[from] landlock::RulesetError),
}

/// What of the sandbox is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxReport {
    /// System calls are filtered, privileges are gone and cannot come back.
    pub on: bool,
    /// The version of Landlock's interface that keeps files away; `None` where the kernel has none.
    pub landlock_abi: Option<u32>,
}

/// A prepared sandbox, which each thread enters by itself. Clones are the same sandbox.
#[derive(Clone, Default)]
pub struct Sandbox(Option<Arc<Prepared>>);

struct Prepared {
    programs: Vec<(ThreadKind, Vec<BpfProgram>)>,
    files: Files,
    landlock_abi: OnceLock<Option<u32>>,
}

impl Sandbox {
    /// No sandbox at all.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Prepares everything; nothing is given up yet. The process may remove files in `removes_in` later, such as its control
    /// socket.
    pub(crate) fn prepare(removes_in: Option<&Path>) -> Result<Self, SandboxError> {
        trap::install().map_err(system("catch forbidden system calls"))?;
        let programs = ThreadKind::ALL
            .into_iter()
            .map(|kind| Ok((kind, filter::programs(kind)?)))
            .collect::<Result<_, SandboxError>>()?;
        Ok(Self(Some(Arc::new(Prepared {
            programs,
            files: Files::new(removes_in)?,
            landlock_abi: OnceLock::new(),
        }))))
    }

    /// Confines the calling thread, and the threads that it starts, for good. Processors' threads are started by a thread
    /// that is confined already, and only lose more.
    pub fn enter(&self, kind: ThreadKind) -> Result<(), SandboxError> {
        let Some(prepared) = &self.0 else {
            return Ok(());
        };
        if kind != ThreadKind::Vcpu {
            let abi = process::give_up(&prepared.files)?;
            prepared.landlock_abi.get_or_init(|| abi);
        }
        trap::this_thread_is(kind);
        let programs = prepared.programs.iter().find(|(of, _)| *of == kind);
        for program in programs.iter().flat_map(|(_, programs)| programs) {
            seccompiler::apply_filter(program).map_err(|source| SandboxError::Filter {
                thread: kind.name(),
                source,
            })?;
        }
        Ok(())
    }

    /// Confines the calling thread, or ends the process: for threads that have nobody to tell.
    pub fn enter_or_exit(&self, kind: ThreadKind) {
        if let Err(error) = self.enter(kind) {
            eprintln!("enlight: {error}");
            std::process::exit(1);
        }
    }

    /// What is in force.
    pub(crate) fn report(&self) -> SandboxReport {
        SandboxReport {
            on: self.0.is_some(),
            landlock_abi: self
                .0
                .as_ref()
                .and_then(|prepared| prepared.landlock_abi.get().copied().flatten()),
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
    move |source| SandboxError::System { what, source }
}
