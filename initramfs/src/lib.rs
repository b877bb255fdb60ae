//! Initial RAM disks for Linux guests, made at run time without tools of the host's.
//!
//! | module | holds |
//! |---|---|
//! | [`archive`] | [`Archive`]: a newc cpio archive, as the kernel unpacks it |
//! | [`program`] | [`Program`]: an ELF file, without what only debuggers read, and the shared libraries that it needs |
//! | [`modules`] | [`ModuleTree`]: kernel modules in the order in which they load |
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut archive = initramfs::Archive::new();
//! archive.directory("/proc", 0o755)?;
//! initramfs::Program::read("/usr/bin/env".as_ref())?.add_to(&mut archive, "/init")?;
//! for module in initramfs::ModuleTree::open("/lib/modules/6.1.0".as_ref())?.load_order(&["virtio_net"])? {
//!     archive.file(&format!("/modules/{}", module.file_name()), 0o644, &std::fs::read(&module.file)?)?;
//! }
//! std::fs::write("initramfs.img", archive.finish())?;
//! # Ok(())
//! # }
//! ```

pub mod archive;
pub mod modules;
pub mod program;

pub use archive::{Archive, ArchiveError};
pub use modules::{Module, ModuleError, ModuleTree};
pub use program::{Library, Program, ProgramError};
