//! TCP sequence numbers (RFC 9293, 3.4): arithmetic modulo 2^32.

/// How far `to` lies after `from`; negative when it lies before it.
pub(crate) const fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

/// Whether `a` lies before `b`.
pub(crate) const fn before(a: u32, b: u32) -> bool {
    distance(a, b) > 0
}

/// The later of two.
pub(crate) const fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        assert_eq!(distance(u32::MAX, 4), 5);
        assert_eq!(distance(4, u32::MAX), -5);
        assert!(before(u32::MAX, 0) && !before(0, 0) && !before(0, u32::MAX));
        assert_eq!(later(u32::MAX - 1, 7), 7);
    }
}
