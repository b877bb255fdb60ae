//! Writing fields into headers.

/// Writes octets at an offset; `None`, and nothing written, when they do not fit.
pub(crate) fn put<const N: usize>(out: &mut [u8], at: usize, octets: [u8; N]) -> Option<()> {
    *out.get_mut(at..)?.first_chunk_mut()? = octets;
    Some(())
}
