//! The PVH start of day structure (Xen, `public/arch-x86/hvm/start_info.h`).

use core::ffi::{CStr, c_char};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// Offset of the command line's physical address.
const COMMAND_LINE: usize = 24;

/// The command line that the loader was given.
pub(crate) fn command_line(info: u64) -> Result<&'static str, &'static str> {
    let info = info as *const u8;
    if info.is_null() {
        return Err("no PVH start information");
    }
    // SAFETY: a PVH loader passes the structure's address, all memory below 4 GiB is mapped, and nothing writes there.
    let (magic, line) = unsafe {
        (
            info.cast::<u32>().read_unaligned(),
            info.add(COMMAND_LINE).cast::<u64>().read_unaligned(),
        )
    };
    if magic != MAGIC {
        return Err("no PVH start information");
    }
    if line == 0 {
        return Ok("");
    }
    // SAFETY: as above; the loader ends the line with a zero octet (ibidem).
    let line = unsafe { CStr::from_ptr(line as *const c_char) };
    line.to_str().map_err(|_| "the command line is no text")
}
