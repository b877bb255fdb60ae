//! A laboratory: a complete KVM on a machine that has none, or none that can run Linux.
//!
//! QEMU's software CPU with AMD's SVM boots Debian's kernel for virtual machines, which loads kvm-amd there. A command
//! runs in it as root; its output passes through as it comes, and its exit status comes back. A boot takes a few seconds,
//! and programs run at the speed of a software CPU, some 500 million instructions a second.
//!
//! | module | holds |
//! |---|---|
//! | [`kernel`] | [`Kernel`]: where the kernel and its modules are |
//! | [`add`] | [`Add`]: a file of this machine's that is to be there |
//! | `image` | the initial RAM disk |
//! | `machine` | QEMU's command line, and its process |
//! | `session` | what comes out: output, status, console |
//!
//! Nothing is left behind: the initial RAM disk is a file without a name, sockets are names in the network namespace, disks
//! are snapshots, and QEMU ends with the thread that started it.
//!
//! ```no_run
//! use kvm_lab::{Kernel, Lab};
//!
//! # fn main() -> Result<(), kvm_lab::LabError> {
//! let kernel = Kernel::in_target("target".as_ref())?;
//! let lab = Lab::new(kernel);
//! let status = lab.run(&["cat", "/proc/cpuinfo"], &mut std::io::stdout(), &mut std::io::stderr())?;
//! # Ok(())
//! # }
//! ```

pub mod add;
mod error;
mod image;
pub mod kernel;
mod machine;
mod session;

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

pub use add::Add;
pub use error::LabError;
pub use kernel::Kernel;

/// A laboratory that can be started.
#[derive(Clone, Debug)]
pub struct Lab {
    /// The kernel that boots, and whose KVM it is.
    pub kernel: Kernel,
    /// Processors.
    pub smp: u8,
    /// Memory in MiB. Everything that is added takes it, too.
    pub memory: u32,
    /// Files of this machine's.
    pub adds: Vec<Add>,
    /// Images that are there as `/dev/vda`, `/dev/vdb` and so on; what is written to them is forgotten.
    pub disks: Vec<PathBuf>,
    /// Variables of the command's environment.
    pub variables: Vec<(String, String)>,
    /// How long the command may take.
    pub limit: Duration,
}

impl Lab {
    /// Two processors, 2 GiB, ten minutes.
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            smp: 2,
            memory: 2048,
            adds: Vec::new(),
            disks: Vec::new(),
            variables: Vec::new(),
            limit: Duration::from_mins(10),
        }
    }

    /// Boots, runs a command as root in `/root`, and ends. The command has busybox's programs, loaded modules `kvm_amd`,
    /// `tun`, `bridge` and `veth`, and `modprobe` for [`kernel::MODULES`].
    ///
    /// What the command writes to its standard output and error goes to `output` and `errors` as it comes. The result is the
    /// command's exit status; a signal N that ended it is 128 + N, as in a shell. What the command leaves running is killed.
    ///
    /// # Errors
    /// What is missing on this machine, a laboratory that does not come up, and a command that does not end in time.
    pub fn run(
        &self,
        command: &[impl AsRef<OsStr>],
        output: &mut dyn Write,
        errors: &mut dyn Write,
    ) -> Result<u8, LabError> {
        let qemu = machine::installed()?;
        let image = image::build(self, command)?;
        let machine = machine::start(self, &qemu, &image)?;
        session::follow(machine, self.limit, output, errors)
    }
}
