//! The lines in which a lab guest reports, on its serial port.
//!
//! Guests are not trusted: whatever is no such line is kept for people, and nothing else is done with it.

use microguest::report::{Line, PREFIX};

/// Reads a line; `None` when the guest program did not write it. Something without an end may stand before it.
pub(super) fn read(text: &str) -> Option<Line<'_>> {
    let at = text.find(PREFIX)?;
    Line::parse(text.get(at..)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_and_other_text_is_nobodys() {
        assert_eq!(read("enlight-guest: done\r"), Some(Line::Done));
        assert_eq!(read("\u{1b}[2Jenlight-guest: connected"), Some(Line::Connected));
        for text in [
            "",
            "Booting from ROM",
            "enlight-guest:",
            "enlight-guest: ready phase=x",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
