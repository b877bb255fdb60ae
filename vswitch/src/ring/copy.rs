//! Copies of a few octets, which headers are, without a call: for those, `memmove` takes longer to choose its way than to
//! go it.
//!
//! `unsafe` is needed because guests' memory is copied by pointers.
#![allow(unsafe_code)]

/// The longest copy that is made here: more than any header that is copied.
pub(super) const SHORT: usize = 256;

/// Copies octets, of which there may be any number; the ranges may overlap, and then what arrives is not specified.
///
/// # Safety
/// Both ranges are mapped, and the destination may be written.
#[inline]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len > SHORT {
        // SAFETY: as the caller says.
        unsafe { std::ptr::copy(from, to, len) };
        return;
    }
    // SAFETY: `pieces` copies pieces that together cover `len` octets and do not leave them.
    unsafe {
        match len {
            129.. => {
                piece::<64>(from, to, 0);
                piece::<64>(from, to, 64);
                if len > 192 {
                    piece::<64>(from, to, 128);
                }
                piece::<64>(from, to, len - 64);
            }
            64 => piece::<64>(from, to, 0),
            65..=128 => {
                piece::<64>(from, to, 0);
                piece::<64>(from, to, len - 64);
            }
            32..64 => {
                piece::<32>(from, to, 0);
                piece::<32>(from, to, len - 32);
            }
            16..32 => {
                piece::<16>(from, to, 0);
                piece::<16>(from, to, len - 16);
            }
            8..16 => {
                piece::<8>(from, to, 0);
                piece::<8>(from, to, len - 8);
            }
            4..8 => {
                piece::<4>(from, to, 0);
                piece::<4>(from, to, len - 4);
            }
            _ => {
                for at in 0..len {
                    piece::<1>(from, to, at);
                }
            }
        }
    }
}

/// Copies `N` octets at an offset. All are loaded before any is stored, as `memmove` does it for a number that is known.
///
/// # Safety
/// As for [`copy`], for these octets.
#[inline]
unsafe fn piece<const N: usize>(from: *const u8, to: *mut u8, at: usize) {
    // SAFETY: as the caller says.
    unsafe { std::ptr::copy(from.add(at), to.add(at), N) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_octets_are_copied_and_no_others() {
        let source: Vec<u8> = (0..600_u32).map(|n| (n * 7 + 1) as u8 | 1).collect();
        for len in 0..=SHORT + 70 {
            let mut target = vec![0; len + 2];
            // SAFETY: both vectors are long enough, and not the same.
            unsafe { copy(source.as_ptr().add(3), target.as_mut_ptr().add(1), len) };
            assert_eq!(target[1..=len], source[3..3 + len], "{len}");
            assert_eq!((target[0], target[len + 1]), (0, 0), "{len}");
        }
    }
}
