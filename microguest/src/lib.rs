//! The micro-guest: a whole virtual machine in one small ELF image, and the parts of it that a host uses as well.
//!
//! The image runs one end of a TCP [`workload`] over its own virtio network driver and smoltcp. It is told what to do on
//! its [command line](cmdline), and tells what it measured in [lines](report) on its serial port. The modules of this
//! library are the guest without its machine: they run in tests and in the host's own endpoints too, in real or in
//! virtual time.
//!
//! | module | holds |
//! |---|---|
//! | [`cmdline`] | [`Parameters`](cmdline::Parameters): parsed by the guest, written by the host |
//! | [`report`] | [`Line`](report::Line): written by the guest, parsed by the host |
//! | [`histogram`] | round-trip times, and their encoding in report lines |
//! | [`workload`] | client and server of each workload, as state machines on smoltcp sockets |
//! | [`station`] | one end with its network stack: what both the image's main loop and the host drive |
//! | [`nic`], [`virtqueue`], [`checksum`] | the virtio network driver above its transport |
//! | [`chaos`] | a guest that breaks every rule, to try the monitor |
//!
//! # The image
//!
//! `cargo build -p microguest --features image --bin microguest --profile guest` builds it; `build.rs` passes the linker
//! `guest.ld`, nothing else is needed. Any loader that knows PVH boots it: `qemu-system-x86_64 -kernel`, for one. Physical
//! memory from 1 MiB on, where virtual addresses are the same as physical ones up to 4 GiB:
//!
//! | section | holds |
//! |---|---|
//! | `.boot` | ring 0: the entry point, interrupt handlers, GDT, IDT, TSS with its I/O bitmap (`image/boot.s`) |
//! | `.pagetables` | 2 MiB pages made by the assembler, all open to ring 3 |
//! | `.note.pvh` | the note that names the entry point |
//! | `.text` `.rodata` `.data` | ring 3: everything else |
//! | `.bss` | the stacks of ring 0, of the fault handler and of the application; a heap of 8 MiB |
//!
//! Ring 0 may be slow, since some KVMs interpret it, so it is left after some twenty instructions and entered again only
//! for interrupts and to halt. The application has the device's registers, the local APIC and the few ports that it
//! needs. It takes time from the time-stamp counter, sleeps by `hlt` (which faults in ring 3; the handler halts for it)
//! until the device's MSI-X interrupt or the APIC's timer, and polls if the device has no MSI-X.
//!
//! A fault or a panic prints one line and switches the machine off.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod chaos;
pub mod checksum;
pub mod cmdline;
pub mod histogram;
pub mod nic;
pub mod report;
pub mod station;
pub mod virtqueue;
pub mod workload;
