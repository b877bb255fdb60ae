//! A guest that does what is typed: `r` resets it, `o` switches it off, other octets are echoed.

/// Prints "up\n", then waits for an octet.
const CODE: [&[u8]; 9] = [
    &[0xba, 0xf8, 0x03, 0, 0],                                  // mov edx, 0x3f8
    &[0xb0, b'u', 0xee, 0xb0, b'p', 0xee, 0xb0, b'\n', 0xee],   // mov al, octet; out dx, al
    &[0xba, 0xfd, 0x03, 0, 0, 0xec, 0xa8, 1, 0x74, 0xfb], // wait until the line status tells of an octet
    &[0xba, 0xf8, 0x03, 0, 0, 0xec],                      // mov edx, 0x3f8; in al, dx
    &[0x3c, b'o', 0x74, 7, 0x3c, b'r', 0x74, 18],         // cmp al, 'o'; je off; cmp al, 'r'; je reset
    &[0xee, 0xeb, 0xe5],                                  // out dx, al; jmp wait
    &[0xba, 0x04, 0x06, 0, 0, 0x66, 0xb8, 0, 0x20, 0x66, 0xef], // off: mov edx, 0x604; mov ax, 0x2000; out dx, ax
    &[0xfa, 0xf4, 0xeb, 0xfc],                                  // cli; hlt; jmp cli
    &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe],                      // reset: mov al, 0xfe; out 0x64, al; jmp $
];

/// Where it is loaded and entered.
const ADDRESS: u32 = 1 << 20;
/// Where note and code are in the file.
const NOTE_AT: u64 = 64 + 2 * 56;
const CODE_AT: u64 = NOTE_AT + 20;

/// The guest as an ELF file with a PVH note.
pub fn image() -> Vec<u8> {
    let code = CODE.concat();
    let (len, address) = (code.len() as u64, u64::from(ADDRESS));
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    image.extend([address, 64, 0].map(u64::to_le_bytes).concat());
    image.extend(0_u32.to_le_bytes());
    image.extend([64_u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    for (kind, fields) in [
        (1_u32, [CODE_AT, address, address, len, len, 1]),
        (4, [NOTE_AT, 0, 0, 20, 20, 4]),
    ] {
        image.extend([kind, 5].map(u32::to_le_bytes).concat());
        image.extend(fields.map(u64::to_le_bytes).concat());
    }
    image.extend([4_u32, 4, 18].map(u32::to_le_bytes).concat());
    image.extend(b"Xen\0");
    image.extend(ADDRESS.to_le_bytes());
    image.extend(code);
    image
}
