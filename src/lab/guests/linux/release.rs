//! Which release of Linux a kernel's file holds.
//!
//! A bzImage's header points at its version string (Linux' `Documentation/arch/x86/boot.rst`, `kernel_version`); an ELF
//! kernel has its banner among its data.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// `HdrS` of the boot protocol, and where it is.
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// Where a bzImage says at which octet its version is, less 0x200.
const VERSION_POINTER: usize = 0x20e;
/// What `/proc/version` starts with.
const BANNER: &[u8] = b"Linux version ";
/// A release is never longer (`__NEW_UTS_LEN`).
const MAX_RELEASE: usize = 64;
/// A kernel's file is never larger.
const MAX_FILE: u64 = 1 << 30;

/// Reads the release of the kernel in `path`.
pub(super) fn of_file(path: &Path) -> Result<String> {
    let mut image = Vec::new();
    let metadata =
        std::fs::metadata(path).with_context(|| format!("reading the kernel {}", path.display()))?;
    if !metadata.is_file() {
        bail!(
            "{} is no regular file; name a Linux kernel such as vmlinuz",
            path.display()
        );
    }
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut image))
        .with_context(|| format!("reading the kernel {}", path.display()))?;
    of_image(&image).with_context(|| {
        format!(
            "{} is no Linux kernel that tells its release; name a vmlinuz or a vmlinux",
            path.display()
        )
    })
}

fn of_image(image: &[u8]) -> Option<String> {
    let (at, magic) = MAGIC;
    let text = if image.get(at..)?.starts_with(magic) {
        let pointer: [u8; 2] = image.get(VERSION_POINTER..VERSION_POINTER + 2)?.try_into().ok()?;
        image.get(usize::from(u16::from_le_bytes(pointer)) + 0x200..)?
    } else if image.starts_with(b"\x7fELF") {
        return banner(image);
    } else {
        return None;
    };
    word(text)
}

/// The first banner that a release follows: the text `Linux version %s` stands there too.
fn banner(image: &[u8]) -> Option<String> {
    let mut rest = image;
    while let Some(at) = rest.windows(BANNER.len()).position(|window| window == BANNER) {
        rest = rest.get(at + BANNER.len()..)?;
        if let Some(release) = word(rest) {
            return Some(release);
        }
    }
    None
}

/// The release that `text` starts with: what may be in a directory's name, with a digit first.
fn word(text: &[u8]) -> Option<String> {
    let end = text.iter().position(|octet| matches!(octet, b' ' | 0))?;
    let release = text.get(..end.min(MAX_RELEASE + 1))?;
    let sound = |octet: &u8| octet.is_ascii_alphanumeric() || b".-_+~".contains(octet);
    (release.len() <= MAX_RELEASE && release.first()?.is_ascii_digit() && release.iter().all(sound))
        .then(|| String::from_utf8_lossy(release).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bz_image(version: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x180_u16.to_le_bytes());
        image.truncate(0x380);
        image.extend_from_slice(version);
        image
    }

    #[test]
    fn releases_are_found() {
        let image = bz_image(b"6.1.0-18-cloud-amd64 (someone@example) #1 SMP\0");
        assert_eq!(of_image(&image).as_deref(), Some("6.1.0-18-cloud-amd64"));
        let elf = b"\x7fELF....Linux version %s\0..Linux version 6.12.1+ (gcc)";
        let elf = [&elf[..], &[0; 0x400]].concat();
        assert_eq!(of_image(&elf).as_deref(), Some("6.12.1+"));
    }

    #[test]
    fn what_is_no_release_is_none() {
        for version in [&b"../../etc \0"[..], b"6/1 ", b"", b"6.1", &[b'6'; 200]] {
            assert_eq!(of_image(&bz_image(version)), None, "{version:?}");
        }
        assert_eq!(of_image(b""), None);
        assert_eq!(of_image(&[b'x'; 0x400]), None);
        assert_eq!(of_image(&[&b"\x7fELF"[..], &[0; 0x400]].concat()), None);
        let error = of_file(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
    }

    proptest! {
        #[test]
        fn any_image_is_judged_without_panic(mut image in prop::collection::vec(any::<u8>(), 0..0x600), linux: bool) {
            if linux && image.len() > 0x206 {
                image[0x202..0x206].copy_from_slice(b"HdrS");
            }
            if let Some(release) = of_image(&image) {
                prop_assert!(!release.contains('/') && release.len() <= MAX_RELEASE);
            }
        }
    }
}
