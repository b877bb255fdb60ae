//! Registers of a processor that is about to enter a PVH kernel, and what it says about itself.

use kvm_bindings::{CpuId, Msrs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuFd};

use super::VcpuError;
use crate::layout::START_INFO;

/// Protection enabled, and the bit that is always 1 (Intel SDM, volume 3, 2.5).
const CR0_PROTECTED: u64 = 1 | 1 << 4;
/// Flags register: only the bit that is always 1.
const RFLAGS_NONE: u64 = 1 << 1;
/// IA32_MISC_ENABLE and its fast-string bit.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// IA32_MTRR_DEF_TYPE: enabled, write-back.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;
/// Local APIC registers LINT0 and LINT1, and their delivery modes (Intel SDM, volume 3, 11.5.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVER_EXTERNAL: u32 = 0b111 << 8;
const DELIVER_NMI: u32 = 0b100 << 8;

/// Sets what all processors need: identification, model-specific registers, local interrupts.
pub(super) fn prepare(kvm: &Kvm, vcpu: &VcpuFd, id: u8, count: u8) -> Result<(), VcpuError> {
    let what = |what| move |source| VcpuError::Setup { what, source };
    let mut cpuid = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(what("ask for CPUID"))?;
    identify(&mut cpuid, id, count);
    vcpu.set_cpuid2(&cpuid).map_err(what("set CPUID"))?;

    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        entry(MSR_MISC_ENABLE, FAST_STRINGS),
        entry(MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
    ];
    if let Ok(msrs) = Msrs::from_entries(&entries) {
        // A KVM without one of these registers stops there; kernels then find their defaults.
        vcpu.set_msrs(&msrs)
            .map_err(what("set model-specific registers"))?;
    }

    let mut lapic = vcpu.get_lapic().map_err(what("read the local APIC"))?;
    set_lvt(&mut lapic, LVT_LINT0, DELIVER_EXTERNAL);
    set_lvt(&mut lapic, LVT_LINT1, DELIVER_NMI);
    vcpu.set_lapic(&lapic).map_err(what("set the local APIC"))
}

/// Puts the first processor at a PVH entry point: 32-bit protected mode, flat segments, no paging, EBX at the start
/// of day structure (Xen, x86/HVM direct boot ABI).
pub(super) fn enter(vcpu: &VcpuFd, entry: u64) -> Result<(), VcpuError> {
    let what = |what| move |source| VcpuError::Setup { what, source };
    let mut sregs = vcpu.get_sregs().map_err(what("read segment registers"))?;
    let segment = |selector, type_, s| kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: s,
        s,
        g: s,
        ..Default::default()
    };
    // Code: execute, read, accessed; data: read, write, accessed; task: busy 32-bit TSS.
    sregs.cs = segment(0x08, 0b1011, 1);
    sregs.ds = segment(0x10, 0b0011, 1);
    (sregs.es, sregs.fs, sregs.gs, sregs.ss) = (sregs.ds, sregs.ds, sregs.ds, sregs.ds);
    sregs.tr = kvm_segment {
        limit: 0x67,
        ..segment(0x18, 0b1011, 0)
    };
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0_PROTECTED, 0, 0, 0);
    (sregs.gdt.limit, sregs.idt.limit) = (0, 0);
    vcpu.set_sregs(&sregs).map_err(what("set segment registers"))?;
    let regs = kvm_regs {
        rip: entry,
        rbx: START_INFO,
        rflags: RFLAGS_NONE,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(what("set registers"))
}

/// What KVM supports, with this processor's APIC number and the number of its siblings.
fn identify(cpuid: &mut CpuId, id: u8, count: u8) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | u32::from(count) << 16 | u32::from(id) << 24;
                // Hypervisor present.
                entry.ecx |= 1 << 31;
            }
            // Extended topology: the x2APIC number.
            0xb | 0x1f => entry.edx = id.into(),
            _ => {}
        }
    }
}

fn set_lvt(lapic: &mut kvm_lapic_state, offset: usize, mode: u32) {
    for (register, octet) in lapic.regs.iter_mut().skip(offset).zip(mode.to_le_bytes()) {
        *register = octet.cast_signed();
    }
}
