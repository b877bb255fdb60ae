//! PCI bus 0: configuration space, base address registers, MSI-X.
//!
//! Source: PCI Local Bus Specification 3.0, chapter 6; PCI Express Base Specification, 7.2 (ECAM).

mod config;
mod msix;
mod root;

pub(crate) use config::{Bar, ConfigSpace, Identity};
pub(crate) use msix::{MSIX_ENTRY_LEN, Msix, SavedMsix};
pub(crate) use root::{PciFunction, PciRoot};
