//! The ELF file inside a bzImage, for tests that boot both.

use std::fs;
use std::path::{Path, PathBuf};

use unpack::{Compression, unpack};

/// Most that a kernel unpacks to, in octets.
const ROOM: usize = 128 << 20;

/// Unpacks a bzImage's payload to the file `vmlinux` beside it, unless that is newer; the file.
///
/// The payload's place is in the boot protocol's header (Linux' Documentation/arch/x86/boot.rst, `payload_offset`); behind
/// the compressed stream stands the unpacked size.
pub fn beside(kernel: &Path) -> Result<PathBuf, String> {
    let vmlinux = kernel.with_file_name("vmlinux");
    let age = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if age(&vmlinux) >= age(kernel) && age(kernel).is_some() {
        return Ok(vmlinux);
    }
    let octets = fs::read(kernel).map_err(|error| error.to_string())?;
    let word = |at: usize| {
        let field = octets.get(at..at + 4).and_then(|field| field.try_into().ok());
        field
            .map(u32::from_le_bytes)
            .map(|word| word as usize)
            .ok_or("no header")
    };
    let setup = (word(0x1f1)? & 0xff).max(1) + 1;
    let start = setup * 512 + word(0x248)?;
    let payload = octets
        .get(start..start + word(0x24c)?)
        .ok_or("a payload past the end")?;
    let stream = payload.get(..payload.len() - 4).ok_or("no payload")?;
    let compression = Compression::of(stream).ok_or("an unknown compression")?;
    let mut room = vec![0; ROOM];
    let length = unpack(compression, stream, &mut room).map_err(|error| error.to_string())?;
    let part = vmlinux.with_extension(format!("part{}", std::process::id()));
    fs::write(&part, &room[..length]).map_err(|error| error.to_string())?;
    fs::rename(&part, &vmlinux).map_err(|error| error.to_string())?;
    Ok(vmlinux)
}
