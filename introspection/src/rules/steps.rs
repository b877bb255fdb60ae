//! Counts what a search does, in tests only: how much work a sender can make is told in steps, never in time.

#[cfg(test)]
thread_local! {
    static STEPS: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

/// Notes a look into a table, or an octet that an automaton read.
#[inline]
pub(super) fn step() {
    #[cfg(test)]
    STEPS.set(STEPS.get() + 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::matcher::{Literal, Matcher, Seen};

    /// Steps that an octet may cost, and a piece beside its octets.
    const FOR_OCTET: usize = 3;
    const FOR_PIECE: usize = 64;

    /// Numbers without end; the same ones each time (Knuth's MMIX generator).
    fn numbers() -> impl FnMut() -> usize {
        let mut state = 42_u64;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        }
    }

    /// A thousand patterns of so many octets at least, of few letters, and one that begins with many of one letter.
    fn patterns(shortest: usize) -> Vec<Vec<u8>> {
        let mut next = numbers();
        let word = |number: usize| match number {
            0 => [vec![b'a'; shortest + 7], vec![b'b']].concat(),
            _ => (0..shortest + number % 9)
                .map(|_| b"abcdefg0"[next() % 8])
                .collect(),
        };
        (0..1000).map(word).collect()
    }

    fn payloads(patterns: &[Vec<u8>]) -> Vec<(&'static str, Vec<u8>)> {
        let len = 6000;
        let mut next = numbers();
        let all = patterns.iter().flat_map(|pattern| &pattern[..pattern.len() - 1]);
        let fours = patterns.iter().flat_map(|pattern| &pattern[..4]);
        vec![
            ("all but the ends of patterns", all.copied().take(len).collect()),
            ("the beginnings of patterns", fours.copied().take(len).collect()),
            ("one letter", vec![b'a'; len]),
            (
                "letters of patterns",
                (0..len).map(|_| b"abcdefg0"[next() % 8]).collect(),
            ),
            (
                "octets of no pattern",
                (0..len).map(|_| 128 | next() as u8).collect(),
            ),
            ("zeros", vec![0; len]),
        ]
    }

    /// The automata read no octet twice, and skipping what they need not read takes a few looks for each at most, whatever is sent.
    #[test]
    fn whatever_is_sent_costs_a_bounded_number_of_steps_for_each_octet() {
        for shortest in [4, 8, 24, 60] {
            let patterns = patterns(shortest);
            let literal = |(number, octets): (u32, &Vec<u8>)| Literal {
                number,
                octets: octets.clone(),
                nocase: false,
            };
            let literals: Vec<Literal> = (0..).zip(&patterns).map(literal).collect();
            let matcher = Matcher::new(&literals, Vec::new()).expect("few");
            for (kind, payload) in payloads(&patterns) {
                for piece in [1, 5, 64, 1448, payload.len()] {
                    let mut state = matcher.start();
                    STEPS.take();
                    for octets in payload.chunks(piece) {
                        matcher.scan(&mut state, octets, |_, _| false);
                    }
                    let stream = STEPS.take();
                    for octets in payload.chunks(piece) {
                        matcher.scan_whole(&mut Seen::new(), octets, |_, _| false);
                    }
                    let datagrams = STEPS.take();
                    let most = payload.len() * FOR_OCTET + payload.len().div_ceil(piece) * FOR_PIECE;
                    assert!(
                        stream <= most,
                        "{shortest}, {kind}, in pieces of {piece}: {stream}"
                    );
                    assert!(
                        datagrams <= most,
                        "{shortest}, {kind}, datagrams of {piece}: {datagrams}"
                    );
                }
            }
        }
    }
}
