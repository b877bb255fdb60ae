//! Disks as they are written on the command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::{OsStringValueParser, TypedValueParser as _, ValueParser};
use vmm::{DiskConfig, DiskFormat};

/// Reads `FILE[,ro][,format=F]`; a comma in the file's name is written twice.
pub(super) fn parser() -> ValueParser {
    OsStringValueParser::new()
        .try_map(|text| parse(&text).map_err(|error| error.to_string()))
        .into()
}

fn parse(text: &OsStr) -> Result<DiskConfig> {
    let mut parts = split(text.as_bytes()).into_iter();
    let path = parts.next().filter(|path| !path.is_empty());
    let Some(path) = path.map(|path| PathBuf::from(OsString::from_vec(path))) else {
        bail!("a disk needs a file, such as root.img or root.qcow2,ro");
    };
    let (mut read_only, mut format) = (false, None);
    for part in parts {
        let again = match part.as_slice() {
            b"ro" => std::mem::replace(&mut read_only, true),
            b"format=raw" => format.replace(DiskFormat::Raw).is_some(),
            b"format=qcow2" => format.replace(DiskFormat::Qcow2).is_some(),
            b"format=vhd" => format.replace(DiskFormat::Vhd).is_some(),
            part => bail!(
                "\"{}\" is none of ro, format=raw, format=qcow2, format=vhd; a comma in a file's name is written twice",
                String::from_utf8_lossy(part)
            ),
        };
        if again {
            bail!("a disk has each setting once: {}", String::from_utf8_lossy(&part));
        }
    }
    Ok(DiskConfig {
        path,
        read_only,
        format,
    })
}

/// Splits at single commas; double ones become one.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let (mut parts, mut part) = (Vec::new(), Vec::new());
    let mut octets = text.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        if octet != b',' || octets.next_if_eq(&b',').is_some() {
            part.push(octet);
        } else {
            parts.push(std::mem::take(&mut part));
        }
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(text: &str) -> DiskConfig {
        parse(OsStr::new(text)).expect(text)
    }

    #[test]
    fn disks_are_read() {
        let plain = disk("/var/root.img");
        assert_eq!(plain.path, PathBuf::from("/var/root.img"));
        assert_eq!((plain.read_only, plain.format), (false, None));
        let all = disk("a,,b,,,ro,format=qcow2");
        assert_eq!(all.path, PathBuf::from("a,b,"));
        assert_eq!((all.read_only, all.format), (true, Some(DiskFormat::Qcow2)));
        assert_eq!(disk("x,format=raw").format, Some(DiskFormat::Raw));
        assert_eq!(disk("x,format=vhd").format, Some(DiskFormat::Vhd));
        let odd = parse(OsStr::from_bytes(b"\xff,ro")).expect("any name");
        assert_eq!(odd.path.as_os_str().as_bytes(), b"\xff");
    }

    #[test]
    fn bad_disks_are_refused_with_what_would_do() {
        for (text, needle) in [
            ("", "needs a file"),
            (",ro", "needs a file"),
            ("a,", "none of ro"),
            ("a,rw", "written twice"),
            ("a,format=vmdk", "format=qcow2"),
            ("a,ro,ro", "each setting once"),
            ("a,format=raw,format=raw", "each setting once"),
        ] {
            let error = parse(OsStr::new(text)).expect_err(text).to_string();
            assert!(error.contains(needle), "{text}: {error}");
        }
    }
}
