use std::io;
use std::path::PathBuf;

use initramfs::{ArchiveError, ModuleError, ProgramError};

/// Why a laboratory cannot be had, or did not finish.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program of this machine's is missing.
    #[error("{program} is not installed; run `cargo xtask setup` as root, or apt-get install {package}")]
    NoProgram {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// There is no kernel to boot.
    #[error("{path}: there is no kernel for the laboratory; run `cargo xtask setup`", path = .path.display())]
    NoKernel {
        /// What is missing.
        path: PathBuf,
    },
    /// What `FILE[:PATH]` says makes no sense.
    #[error("\"{0}\" is no file to add; write FILE or FILE:PATH, with a PATH from / on")]
    BadAdd(String),
    /// A file that is to be there cannot be read.
    #[error("{path}: cannot be taken into the laboratory: {source}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program cannot be taken along.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The kernel's modules are not as they should be.
    #[error(transparent)]
    Modules(#[from] ModuleError),
    /// The initial RAM disk cannot hold something.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The system refused something else.
    #[error("the laboratory: {doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// QEMU ended before there was a kernel.
    #[error("QEMU did not start the laboratory ({status}): {said}")]
    Qemu {
        /// How it ended.
        status: String,
        /// What it said.
        said: String,
    },
    /// The kernel does not get as far as to run a command.
    #[error("the laboratory did not come up within {seconds} s; its console ended in:\n{console}")]
    NotUp {
        /// How long it was waited for.
        seconds: u64,
        /// The console's last lines.
        console: String,
    },
    /// The command does not end.
    #[error("the command did not end within {seconds} s; the laboratory's console ended in:\n{console}")]
    TooLong {
        /// How long it was given.
        seconds: u64,
        /// The console's last lines.
        console: String,
    },
    /// The laboratory's own kernel broke: software CPUs are not perfect.
    #[error("the laboratory's kernel broke, so what ran there tells nothing; run it again: {0}")]
    Broken(String),
    /// The laboratory ended, and the command did not.
    #[error("the laboratory ended before its command did; {said}its console ended in:\n{console}")]
    Ended {
        /// What QEMU said.
        said: String,
        /// The console's last lines.
        console: String,
    },
}

impl LabError {
    /// An error of the system's while something was done.
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}
