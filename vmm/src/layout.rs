//! Where things are in the guest's physical address space.

/// Octets in a page.
pub(crate) const PAGE: u64 = 4096;
/// The 64-bit boot protocol's descriptor table.
pub(crate) const BOOT_GDT: u64 = 0x5000;
/// The PVH start of day structure (`hvm_start_info`).
pub(crate) const START_INFO: u64 = 0x6000;
/// The PVH module list.
pub(crate) const MODULE_LIST: u64 = 0x6100;
/// The PVH memory map.
pub(crate) const MEMORY_MAP: u64 = 0x7000;
/// The 64-bit boot protocol's zero page.
pub(crate) const ZERO_PAGE: u64 = 0x8000;
/// The 64-bit boot protocol's page tables: six pages.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// Octets that the command line may take, its final zero included.
pub(crate) const CMDLINE_MAX: usize = 4096;
/// End of conventional memory: the ACPI tables begin here.
pub(crate) const LOW_MEMORY_END: u64 = 0x9_d000;
/// The ACPI tables.
pub(crate) const ACPI_TABLES: u64 = LOW_MEMORY_END;
/// The legacy video and firmware area.
pub(crate) const LEGACY_AREA: u64 = 0xa_0000;
/// Processors whose APIC numbers, with that of the I/O APIC, fit 8 bits without the broadcast number.
pub const MAX_VCPUS: u8 = 254;
/// Where kernels may be loaded from.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest; PCI and the interrupt controllers own the rest.
pub(crate) const PCI_HOLE: u64 = 0xc000_0000;
/// The enhanced configuration window of PCI bus 0.
pub(crate) const ECAM: u64 = 0xe000_0000;
/// Octets of the enhanced configuration window: one bus.
pub(crate) const ECAM_SIZE: u64 = 0x10_0000;
/// First address given to PCI base address registers.
pub(crate) const PCI_MMIO: u64 = 0xe100_0000;
/// End of what base address registers may be set to.
pub(crate) const PCI_MMIO_END: u64 = 0xfec0_0000;
/// Three pages that KVM needs for itself on Intel processors.
pub(crate) const KVM_TSS: u64 = 0xfffb_d000;
/// RAM above the PCI hole starts here.
pub(crate) const FOUR_GIB: u64 = 0x1_0000_0000;
