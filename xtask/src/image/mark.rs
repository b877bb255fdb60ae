//! A program that tells the machine that user space has begun: an octet to an I/O port, as docs/architecture.md says.
//!
//! A shell could write to `/dev/port`, but Debian's kernel for virtual machines has none. The program needs nothing but the
//! kernel, so it is here as its 50 octets of code with an ELF header (System V ABI, chapters 4 and 5) in front.

/// Where the file is in memory.
const BASE: u64 = 0x40_0000;
/// Octets of the ELF header and of its one program header.
const HEADERS: u64 = 64 + 56;
/// The program; ioperm(2) opens the port to it.
const CODE: [u8; 50] = [
    0xb8, 0xad, 0x00, 0x00, 0x00, // mov eax, 173 (ioperm)
    0xbf, 0x04, 0x04, 0x00, 0x00, // mov edi, 0x404
    0xbe, 0x01, 0x00, 0x00, 0x00, // mov esi, 1
    0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, 1
    0x0f, 0x05, // syscall
    0x85, 0xc0, // test eax, eax
    0x75, 0x0c, // jnz failed
    0xba, 0x04, 0x04, 0x00, 0x00, // mov edx, 0x404
    0xb0, 0x01, // mov al, 1
    0xee, // out dx, al
    0x31, 0xff, // xor edi, edi
    0xeb, 0x05, // jmp exit
    0xbf, 0x01, 0x00, 0x00, 0x00, // failed: mov edi, 1
    0xb8, 0x3c, 0x00, 0x00, 0x00, // exit: mov eax, 60 (exit)
    0x0f, 0x05, // syscall
];

/// The program's file.
pub(super) fn program() -> Vec<u8> {
    let size = HEADERS + CODE.len() as u64;
    // Class 64, little-endian, version 1; an executable for x86-64.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    // Entry, program headers, no sections.
    file.extend([BASE + HEADERS, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 64, 0, 0].map(u16::to_le_bytes).concat());
    // PT_LOAD, readable and executable, all of the file.
    file.extend([1_u32, 5].map(u32::to_le_bytes).concat());
    file.extend([0, BASE, BASE, size, size, 0x1000].map(u64::to_le_bytes).concat());
    file.extend(CODE);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_to_what_they_name() {
        let target = |at: usize| at + 2 + usize::from(CODE[at + 1]);
        assert_eq!((CODE[24], target(24)), (0x75, 38));
        assert_eq!((CODE[36], target(36)), (0xeb, 43));
        assert_eq!((CODE[38], CODE[43]), (0xbf, 0xb8));
        assert_eq!(program().len(), 64 + 56 + 50);
        assert!(program().ends_with(&CODE));
    }
}
