//! The ioctl(2) requests that threads make.

use kvm_bindings::{
    KVMIO, kvm_cpuid2, kvm_ioeventfd, kvm_irq_level, kvm_irq_routing, kvm_irqfd, kvm_lapic_state, kvm_msrs,
    kvm_pit_config, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
};

/// Directions as a request's upper bits say them (include/uapi/asm-generic/ioctl.h).
const NONE: u32 = 0;
const WRITE: u32 = 1 << 30;
const READ: u32 = 2 << 30;

/// One of KVM's requests with a structure of type `T` (Documentation/virt/kvm/api.rst).
const fn with<T>(direction: u32, number: u32) -> u32 {
    direction | (size_of::<T>() as u32) << 16 | KVMIO << 8 | number
}

/// One without.
const fn plain(number: u32) -> u32 {
    NONE | KVMIO << 8 | number
}

const KVM_CREATE_VM: u32 = plain(0x01);
const KVM_CHECK_EXTENSION: u32 = plain(0x03);
const KVM_GET_VCPU_MMAP_SIZE: u32 = plain(0x04);
const KVM_GET_SUPPORTED_CPUID: u32 = with::<kvm_cpuid2>(READ | WRITE, 0x05);
const KVM_CREATE_VCPU: u32 = plain(0x41);
const KVM_SET_USER_MEMORY_REGION: u32 = with::<kvm_userspace_memory_region>(WRITE, 0x46);
const KVM_SET_TSS_ADDR: u32 = plain(0x47);
const KVM_CREATE_IRQCHIP: u32 = plain(0x60);
const KVM_IRQ_LINE: u32 = with::<kvm_irq_level>(WRITE, 0x61);
const KVM_SET_GSI_ROUTING: u32 = with::<kvm_irq_routing>(WRITE, 0x6a);
const KVM_IRQFD: u32 = with::<kvm_irqfd>(WRITE, 0x76);
const KVM_CREATE_PIT2: u32 = with::<kvm_pit_config>(WRITE, 0x77);
const KVM_IOEVENTFD: u32 = with::<kvm_ioeventfd>(WRITE, 0x79);
const KVM_RUN: u32 = plain(0x80);
const KVM_GET_REGS: u32 = with::<kvm_regs>(READ, 0x81);
const KVM_SET_REGS: u32 = with::<kvm_regs>(WRITE, 0x82);
const KVM_GET_SREGS: u32 = with::<kvm_sregs>(READ, 0x83);
const KVM_SET_SREGS: u32 = with::<kvm_sregs>(WRITE, 0x84);
const KVM_SET_MSRS: u32 = with::<kvm_msrs>(WRITE, 0x89);
const KVM_GET_LAPIC: u32 = with::<kvm_lapic_state>(READ, 0x8e);
const KVM_SET_LAPIC: u32 = with::<kvm_lapic_state>(WRITE, 0x8f);
const KVM_SET_CPUID2: u32 = with::<kvm_cpuid2>(WRITE, 0x90);
const KVM_GET_TSC_KHZ: u32 = plain(0xa3);
const KVM_KVMCLOCK_CTRL: u32 = plain(0xad);
const KVM_GET_STATS_FD: u32 = plain(0xce);

/// The terminal's mode, in the structure that C libraries used for it first and the one that they use now.
const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
/// Whether a socket waits.
const FIONBIO: u32 = 0x5421;

/// Running the guest, and what its devices do to interrupts and doorbells while it runs. The first is made most.
pub(super) const VCPU: &[u32] = &[
    KVM_RUN,
    KVM_IRQFD,
    KVM_SET_GSI_ROUTING,
    KVM_IOEVENTFD,
    KVM_IRQ_LINE,
    KVM_GET_REGS,
    KVM_KVMCLOCK_CTRL,
];

/// The power button's line; interrupts and doorbells of devices that end; the counters of a processor that begins.
pub(super) const MAIN: &[u32] = &[
    KVM_RUN,
    KVM_IRQ_LINE,
    KVM_IRQFD,
    KVM_SET_GSI_ROUTING,
    KVM_IOEVENTFD,
    KVM_GET_REGS,
    KVM_KVMCLOCK_CTRL,
    KVM_GET_STATS_FD,
    TCGETS,
    TCSETS,
    TCGETS2,
    TCSETS2,
    FIONBIO,
];

/// Making a machine.
pub(super) const MAKE: &[u32] = &[
    KVM_CREATE_VM,
    KVM_CHECK_EXTENSION,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_GET_SUPPORTED_CPUID,
    KVM_CREATE_VCPU,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_TSS_ADDR,
    KVM_CREATE_IRQCHIP,
    KVM_CREATE_PIT2,
    KVM_SET_REGS,
    KVM_GET_SREGS,
    KVM_SET_SREGS,
    KVM_SET_MSRS,
    KVM_GET_LAPIC,
    KVM_SET_LAPIC,
    KVM_SET_CPUID2,
    KVM_GET_TSC_KHZ,
];

/// A client's socket.
pub(super) const CONTROL: &[u32] = &[FIONBIO];
