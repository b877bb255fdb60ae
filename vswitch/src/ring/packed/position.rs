//! Positions in a packed ring: a slot in bits 0 to 14, a wrap counter in bit 15 (virtio 1.2, 2.8.1).

/// The wrap counter's bit.
pub(in crate::ring) const WRAP: u16 = 1 << 15;

/// The slot of a position.
pub(in crate::ring) const fn slot(at: u16) -> u16 {
    at & !WRAP
}

/// Whether the wrap counter is 1.
pub(in crate::ring) const fn wrap(at: u16) -> bool {
    at & WRAP != 0
}

/// The position `slots` places on in a ring of `size`; `slots` is `size` at most.
pub(in crate::ring) const fn after(at: u16, slots: u16, size: u16) -> u16 {
    let next = slot(at) as u32 + slots as u32;
    if next < size as u32 {
        return next as u16 | at & WRAP;
    }
    (next - size as u32) as u16 | (at & WRAP ^ WRAP)
}

/// The position `slots` places back.
pub(in crate::ring) const fn before(at: u16, slots: u16, size: u16) -> u16 {
    let (slot, slots) = (slot(at), slots);
    if slots <= slot {
        return (slot - slots) | at & WRAP;
    }
    (slot + (size - slots)) | (at & WRAP ^ WRAP)
}

/// The places from one position to another, both in the ring: less than twice `size`, after which positions repeat.
pub(in crate::ring) const fn distance(from: u16, to: u16, size: u16) -> u32 {
    let (from, to) = (place(from, size), place(to, size));
    if from <= to {
        return to - from;
    }
    to + 2 * size as u32 - from
}

/// A position as a number below twice `size`.
const fn place(at: u16, size: u16) -> u32 {
    let lap = if wrap(at) { 0 } else { size as u32 };
    slot(at) as u32 + lap
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn going_on_and_back_are_each_others_opposite(size in 1u16..=32_768, start: u16, steps: u16) {
            let from = (start % WRAP % size) | start & WRAP;
            let steps = steps % (size + 1);
            let to = after(from, steps, size);
            prop_assert!(slot(to) < size);
            prop_assert_eq!(before(to, steps, size), from);
            prop_assert_eq!(distance(from, to, size), u32::from(steps));
        }

        #[test]
        fn a_distance_is_less_than_two_rounds(size in 1u16..=32_768, from: u16, to: u16) {
            let [from, to] = [from, to].map(|at| (at % WRAP % size) | at & WRAP);
            prop_assert!(distance(from, to, size) < 2 * u32::from(size));
            let round = distance(from, to, size) + distance(to, from, size);
            prop_assert!(round.is_multiple_of(2 * u32::from(size)));
        }
    }

    #[test]
    fn the_wrap_counter_changes_at_the_end() {
        assert_eq!(after(3 | WRAP, 1, 4), 0);
        assert_eq!(after(3, 1, 4), WRAP);
        assert_eq!(after(2 | WRAP, 4, 4), 2);
        assert_eq!(distance(2 | WRAP, 2, 4), 4);
        assert_eq!(distance(2, 2 | WRAP, 4), 4);
    }
}
