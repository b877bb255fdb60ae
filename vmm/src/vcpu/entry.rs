//! Registers of the first processor when it enters a kernel.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::VcpuError;
use crate::boot::GDT;
use crate::kernel::Protocol;
use crate::layout::{BOOT_GDT, PAGE_TABLES, START_INFO, ZERO_PAGE};

/// Control register bits (Intel SDM, volume 3, 2.5): protection, the bit that is always 1, paging; long addresses.
const CR0_PROTECTED: u64 = 1 | 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
/// IA32_EFER: long mode enabled and active.
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// Flags register: only the bit that is always 1, so interrupts are off.
const RFLAGS_NONE: u64 = 1 << 1;

/// Segment types: execute, read, accessed; read, write, accessed; busy TSS.
const CODE: u8 = 0b1011;
const DATA: u8 = 0b0011;
const BUSY_TASK: u8 = 0b1011;

/// Puts a processor at the entry point of a kernel that is entered by `protocol`.
pub(super) fn enter(vcpu: &VcpuFd, entry: u64, protocol: Protocol) -> Result<(), VcpuError> {
    let what = |what| move |source| VcpuError::Setup { what, source };
    let mut sregs = vcpu.get_sregs().map_err(what("read segment registers"))?;
    let mut regs = kvm_regs {
        rip: entry,
        rflags: RFLAGS_NONE,
        ..Default::default()
    };
    match protocol {
        Protocol::Pvh => {
            protected_mode(&mut sregs);
            regs.rbx = START_INFO;
        }
        Protocol::Linux64 => {
            long_mode(&mut sregs);
            regs.rsi = ZERO_PAGE;
        }
    }
    vcpu.set_sregs(&sregs).map_err(what("set segment registers"))?;
    vcpu.set_regs(&regs).map_err(what("set registers"))
}

/// 32-bit protected mode, flat segments, no paging (Xen, x86/HVM direct boot ABI).
fn protected_mode(sregs: &mut kvm_sregs) {
    segments(sregs, flat(0x08, CODE), flat(0x10, DATA));
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0_PROTECTED, 0, 0, 0);
    (sregs.gdt.limit, sregs.idt.limit) = (0, 0);
}

/// Long mode with the first 4 GiB mapped to themselves (Linux, Documentation/arch/x86/boot.rst, "64-bit boot
/// protocol").
fn long_mode(sregs: &mut kvm_sregs) {
    let code = kvm_segment {
        db: 0,
        l: 1,
        ..flat(0x10, CODE)
    };
    segments(sregs, code, flat(0x18, DATA));
    sregs.cr0 = CR0_PROTECTED | CR0_PAGING;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
    sregs.efer = EFER_LONG_MODE;
    (sregs.gdt.base, sregs.gdt.limit) = (BOOT_GDT, size_of_val(&GDT) as u16 - 1);
    sregs.idt.limit = 0;
}

fn segments(sregs: &mut kvm_sregs, code: kvm_segment, data: kvm_segment) {
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        limit: 0x67,
        db: 0,
        s: 0,
        g: 0,
        ..flat(data.selector + 8, BUSY_TASK)
    };
}

/// A 32-bit segment that spans 4 GiB.
fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}
