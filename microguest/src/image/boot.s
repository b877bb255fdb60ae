# The ring-0 part of the image: from the PVH entry point to ring 3, interrupts and halting.
#
# Ring 0 may be interpreted at well over half a microsecond an instruction, so everything that can be is made by the
# assembler: page tables, descriptors, the frames that `iretq` takes, even the device's view of the local APIC.
#
# Memory, from the start of the image:
#   .boot         this code, GDT, IDT, TSS with its I/O bitmap
#   .pagetables   4 GiB mapped one to one in 2 MiB pages, all of it open to ring 3, and one alias: the local APIC
#                 appears at LAPIC_ALIAS, where a 32-bit displacement reaches it

.set BASE,         0x100000     # guest.ld puts .boot here
# Four pages below the alias are left out: ring 3 maps device memory above 4 GiB there.
.set LAPIC_ALIAS,  0x3fe00000
.set LAPIC_EOI,    0xb0
.set CODE0,        0x08
.set DATA3,        0x1b
.set CODE3,        0x23
.set TASK,         0x28
.set VECTORS,      0x50
.set FLAGS_IF,     0x202
.set FLAGS_NONE,   0x002

# XEN_ELFNOTE_PHYS32_ENTRY
.section .note.pvh, "a", @note
.balign 4
.long 4, 8, 18
.asciz "Xen"
.quad pvh_entry

.section .boot, "awx"
boot_base:

# 32-bit protected mode, paging and interrupts off, EBX = physical address of hvm_start_info.
.code32
.global pvh_entry
pvh_entry:
    rdtsc
    mov dword ptr [guest_entry_tsc], eax
    mov dword ptr [guest_entry_tsc + 4], edx
    mov ecx, 0xc0000080         # EFER: long mode enable
    mov eax, 0x100
    xor edx, edx
    wrmsr
    mov eax, 0x620              # CR4: PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov eax, 0x80000033         # CR0: PG, NE, ET, MP, PE
    mov cr0, eax
    lgdt [gdt_pointer]
    .byte 0xea                  # far jump into 64-bit code
    .long long_mode
    .word CODE0

.code64
long_mode:
    lidt [rip + idt_pointer]
    mov eax, TASK
    ltr ax
    mov al, 0xff                # both 8259 controllers masked: firmware may have left them open
    out 0x21, al
    out 0xa1, al
    mov edi, ebx
    mov rsp, offset start_frame
    iretq

# Device and timer interrupts: note that there was one, acknowledge it.
interrupt:
    mov byte ptr [rip + guest_interrupted], 1
    mov dword ptr [LAPIC_ALIAS + LAPIC_EOI], 0
    iretq

# A vector that needs no acknowledgement.
spurious:
    iretq

# `hlt` in ring 3 ends here. It is stepped over, and the processor halts unless an interrupt came since ring 3 last
# looked: interrupts are off from the #GP until `sti`, whose effect starts after the next instruction.
protection:
    cmp dword ptr [rsp + 8], offset halt_instruction
    jne protection_fault
    add rsp, 8
    inc qword ptr [rsp]
    cmp byte ptr [rip + guest_interrupted], 0
    jne 1f
    sti
    hlt
1:  iretq

protection_fault:
    push 13
    jmp fault

# Any other exception: ring 3 reports it, on a stack of its own. Should that fault too, the machine stops.
fault:
    pop rdi                     # vector
    pop rsi                     # error code
    pop rdx                     # instruction pointer
    mov rcx, cr2
    inc byte ptr [rip + faults]
    cmp byte ptr [rip + faults], 1
    jne 2f
    mov rsp, offset fault_frame
    iretq
2:  mov dx, 0x604
    mov ax, 0x2000
    out dx, ax
3:  cli
    hlt
    jmp 3b

.macro exception vector
exception_\vector:
    .if (\vector == 8) | ((\vector >= 10) & (\vector <= 14)) | (\vector == 17) | (\vector == 21)
    .else
    push 0
    .endif
    push \vector
    jmp fault
.endm
.altmacro
.set index, 0
.rept 32
    exception %index
    .set index, index + 1
.endr

faults:
    .byte 0
.balign 8
.global guest_entry_tsc
guest_entry_tsc:
    .quad 0

# What `iretq` takes: RIP, CS, RFLAGS, RSP, SS.
start_frame:
    .quad guest_start, CODE3, FLAGS_IF, guest_stack_top, DATA3
fault_frame:
    .quad guest_fault, CODE3, FLAGS_NONE, fault_stack_top, DATA3

gdt:
    .quad 0
    .quad 0x00af9a000000ffff    # 0x08 code, ring 0
    .quad 0x00cf92000000ffff    # 0x10 data, ring 0
    .quad 0x00cff2000000ffff    # 0x18 data, ring 3
    .quad 0x00affa000000ffff    # 0x20 code, ring 3
    .word tss_end - tss - 1, tss - boot_base
    .byte BASE >> 16, 0x89, 0, 0
    .quad 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word VECTORS * 16 - 1
    .quad idt

.macro gate handler
    .word \handler - boot_base, CODE0
    .byte 0, 0x8e
    .word BASE >> 16
    .quad 0
.endm
.macro exception_gate vector
    gate exception_\vector
.endm
.balign 8
.global guest_idt
guest_idt:
idt:
.set index, 0
.rept 13
    exception_gate %index
    .set index, index + 1
.endr
    gate protection
.set index, 14
.rept 18
    exception_gate %index
    .set index, index + 1
.endr
.rept 32
    gate spurious
.endr
.rept VECTORS - 64 - 1
    gate interrupt
.endr
    gate spurious

# Task state: the stack for ring 0, and the ports that ring 3 may use (a clear bit opens a port).
.balign 8
tss:
    .long 0
    .quad ring0_stack_top
    .fill 90, 1, 0
    .word bitmap - tss
.global guest_ports
guest_ports:
bitmap:
    .fill 0x64 / 8, 1, 0xff
    .byte 0xef                              # 0x64: keyboard controller, resets
    .fill (0xf0 - 0x68) / 8, 1, 0xff
    .byte 0xef                              # 0xf4: QEMU's isa-debug-exit
    .fill (0x3f8 - 0xf8) / 8, 1, 0xff
    .byte 0                                 # 0x3f8-0x3ff: COM1
    .fill (0x600 - 0x400) / 8, 1, 0xff
    .byte 0xce                              # 0x600, 0x604-0x605: power management
    .fill (0xcf8 - 0x608) / 8, 1, 0xff
    .byte 0                                 # 0xcf8-0xcff: PCI configuration
    .fill (0xb000 - 0xd00) / 8, 1, 0xff
    .byte 0xcf                              # 0xb004-0xb005: power management control, older machines
    .fill (0x10000 - 0xb008) / 8, 1, 0xff
    .byte 0xff                              # the processor reads one octet more
tss_end:

# Where the other processors go when chaos wants them: ports that remember nothing, read for ever. Copied to a page
# below 1 MiB, so without any address.
.code16
.global guest_others, guest_others_end
guest_others:
    mov dx, 0x3fd                           # COM1's line status
    in al, dx
    mov dx, 0x600                           # power management events
    in ax, dx
    mov dx, 0x64                            # keyboard controller
    in al, dx
    mov dx, 0x3fa                           # COM1's interrupt identification
    in al, dx
    jmp guest_others
guest_others_end:
.code64

.section .pagetables, "aw"
.balign 4096
pml4:
    .quad pdpt + 7
    .fill 511, 8, 0
pdpt:
    .quad directories + 0x0007, directories + 0x1007, directories + 0x2007, directories + 0x3007
    .fill 508, 8, 0
directories:                                # 0x87: large page, ring 3, writable, present; 0x9f: and uncached
.set index, 0
.rept 507
    .quad (index << 21) | 0x87
    .set index, index + 1
.endr
.global guest_device_pages
guest_device_pages:
    .fill 4, 8, 0
    .quad 0xfee0009f                        # LAPIC_ALIAS
.set index, 512
.rept 1024
    .quad (index << 21) | 0x87
    .set index, index + 1
.endr
.rept 512
    .quad (index << 21) | 0x9f
    .set index, index + 1
.endr

.section .bss.stacks, "aw", @nobits
.balign 4096
    .skip 0x2000
ring0_stack_top:
    .skip 0x4000
fault_stack_top:
    .skip 0x40000
guest_stack_top:

# The rest runs in ring 3.
.section .text.start, "ax"
guest_start:                                # EDI = hvm_start_info
    xor ebp, ebp
    call guest_main
    ud2

.section .text.halt, "ax"
.global guest_halt
guest_halt:
halt_instruction:
    hlt
    ret

.section .data.flags, "aw"
.global guest_interrupted
guest_interrupted:
    .byte 0
.noaltmacro
