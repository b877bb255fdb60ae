//! Gives back the parts of the program that only the making of a machine needs: command line, decompression, tables.
//!
//! The pages of a program's text are the file's own in the page cache. What was dropped comes back with the next access, a
//! few microseconds later, so a machine that runs keeps what it uses and nothing else.
#![allow(unsafe_code)] // madvise has no safe wrapper, since it can change what memory holds

use std::fs::File;
use std::io::{self, BufRead, BufReader};

/// Drops all pages of program text from this process. A machine works without that as well.
pub(crate) fn drop_text() -> io::Result<()> {
    let maps = BufReader::with_capacity(4096, File::open("/proc/self/maps")?);
    // Collected first: reading on would only see what reading itself has brought back.
    let ranges: Vec<_> = maps
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| text(&line))
        .collect();
    for (start, end) in ranges {
        // SAFETY: the range is a private mapping of a file that this process can execute and cannot write, so its pages
        // equal the file's, from which they come back. Text is relocated by nobody: the linker makes only
        // position-independent programs, whose relocations are in data.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
    Ok(())
}

/// The range of a line of `/proc/self/maps`, if it is text out of a file.
fn text(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    (fields.next()? == "r-xp" && fields.nth(3)?.starts_with('/')).then_some(())?;
    let range = [start, end].map(|address| usize::from_str_radix(address, 16));
    match range {
        [Ok(start), Ok(end)] if start < end => Some((start, end)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident program text in KiB.
    fn resident() -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("procfs");
        let (mut sum, mut is_text) = (0, false);
        for line in smaps.lines() {
            match line.strip_prefix("Rss:") {
                Some(rest) if is_text => {
                    sum += rest
                        .trim()
                        .trim_end_matches(" kB")
                        .parse::<u64>()
                        .expect("a size");
                }
                None if !line.split(' ').next().is_some_and(|first| first.ends_with(':')) => {
                    is_text = text(line).is_some();
                }
                _ => {}
            }
        }
        sum
    }

    #[test]
    fn only_text_out_of_files_is_dropped() {
        let text_of = |rest: &str| text(&format!("55e0000000-55e0004000 {rest}"));
        assert_eq!(
            text_of("r-xp 00001000 fe:01 77   /usr/bin/a program"),
            Some((0x55_e000_0000, 0x55_e000_4000))
        );
        for other in [
            "r--p 00001000 fe:01 77   /usr/bin/enlight",
            "rwxp 00001000 fe:01 77   /usr/bin/enlight",
            "r-xs 00001000 fe:01 77   /usr/bin/enlight",
            "r-xp 00000000 00:00 0    [vdso]",
            "r-xp 00000000 00:00 0",
            "r-xp",
        ] {
            assert_eq!(text_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_was_dropped_comes_back() {
        let before = resident();
        drop_text().expect("procfs");
        let after = resident();
        assert!(0 < after && after < before, "{after} KiB of {before}");
    }
}
