//! What every processor is given before it runs: identification, model-specific registers, local interrupts.

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::VcpuError;
use super::cpuid::Template;

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

/// Sets up processor `id` of `count`.
pub(super) fn prepare(template: &Template, vcpu: &VcpuFd, id: u8, count: u8) -> Result<(), VcpuError> {
    let what = |what| move |source| VcpuError::Setup { what, source };
    let cpuid = template.of(id, count, vcpu.get_tsc_khz().ok())?;
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

fn set_lvt(lapic: &mut kvm_lapic_state, offset: usize, mode: u32) {
    for (register, octet) in lapic.regs.iter_mut().skip(offset).zip(mode.to_le_bytes()) {
        *register = octet.cast_signed();
    }
}
