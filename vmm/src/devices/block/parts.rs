//! The pieces of guest memory that a request consists of.

use vm_memory::Bytes;

use super::sys::GuestSlice;

/// Pieces of guest memory, consumed from the front.
#[derive(Default)]
pub(super) struct Parts<'r> {
    slices: Vec<GuestSlice<'r>>,
    first: usize,
    len: u64,
}

impl<'r> Parts<'r> {
    pub(super) fn push(&mut self, slice: GuestSlice<'r>) {
        self.len += slice.len() as u64;
        self.slices.push(slice);
    }

    /// Octets left.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What is left; no piece is empty.
    pub(super) fn slices(&self) -> &[GuestSlice<'r>] {
        self.slices.get(self.first..).unwrap_or_default()
    }

    /// Copies the next octets out and consumes them; whether there are that many.
    pub(super) fn take(&mut self, mut into: &mut [u8]) -> bool {
        while let (Some(slice), false) = (self.slices.get(self.first), into.is_empty()) {
            let count = slice.len().min(into.len());
            let (head, rest) = into.split_at_mut(count);
            slice.copy_to(head);
            self.advance(count);
            into = rest;
        }
        into.is_empty()
    }

    /// Copies `from` to the next octets and consumes them; whether there are that many.
    pub(super) fn fill(&mut self, mut from: &[u8]) -> bool {
        while let (Some(slice), false) = (self.slices.get(self.first), from.is_empty()) {
            let count = slice.len().min(from.len());
            let (head, rest) = from.split_at(count);
            slice.copy_from(head);
            self.advance(count);
            from = rest;
        }
        from.is_empty()
    }

    /// Takes the last octet away.
    pub(super) fn take_last(&mut self) -> Option<GuestSlice<'r>> {
        let last = self.slices.pop()?;
        let rest = last.len().checked_sub(1)?;
        if rest > 0 {
            self.slices.push(last.subslice(0, rest).ok()?);
        }
        self.len -= 1;
        last.subslice(rest, 1).ok()
    }

    /// Consumes `count` octets, or all.
    pub(super) fn advance(&mut self, mut count: usize) {
        while let (Some(slice), true) = (self.slices.get_mut(self.first), count > 0) {
            let here = slice.len().min(count);
            match slice.offset(here) {
                Ok(rest) if !rest.is_empty() => *slice = rest,
                _ => self.first += 1,
            }
            self.len -= here as u64;
            count -= here;
        }
    }
}

/// Writes one octet to a piece that has one.
pub(super) fn put(octet: u8, place: &GuestSlice<'_>) {
    // Fails only when the piece is empty.
    let _ = place.write_obj(octet, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(memory: &mut [Vec<u8>]) -> Parts<'_> {
        let mut parts = Parts::default();
        for piece in memory {
            parts.push(GuestSlice::from(piece.as_mut_slice()));
        }
        parts
    }

    #[test]
    fn octets_are_consumed_across_pieces() {
        let mut memory = [vec![1, 2, 3], vec![4], vec![5, 6]];
        let mut parts = parts(&mut memory);
        let status = parts.take_last().expect("six octets");
        put(9, &status);
        let mut four = [0; 4];
        assert!(parts.take(&mut four));
        assert_eq!((four, parts.len(), parts.slices().len()), ([1, 2, 3, 4], 1, 1));
        assert!(parts.fill(&[7]));
        assert!(!parts.fill(&[8]), "nothing is left");
        assert_eq!(parts.len(), 0);
        assert_eq!(memory, [vec![1, 2, 3], vec![4], vec![7, 9]]);
    }

    #[test]
    fn the_last_octet_of_nothing_is_none() {
        assert!(Parts::default().take_last().is_none());
        let mut memory = [vec![1]];
        let mut parts = parts(&mut memory);
        assert!(parts.take_last().is_some());
        assert!(parts.take_last().is_none());
        assert_eq!(parts.len(), 0);
    }
}
