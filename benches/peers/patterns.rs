//! What is looked for: 1,000 rules in Suricata's syntax, of which payload has none but those that are planted.

use fastrand::Rng;

/// How many rules there are.
pub(crate) const RULES: usize = 1000;
/// Octets of the payload: a mebibyte of made-up words.
const TEXT: usize = 1 << 20;
const SEED: u64 = 1;

/// A pattern that is sent on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// It lies in two segments.
    Split,
    /// It is sent behind the transfer.
    Behind,
    /// It must not arrive.
    Dropped,
}

impl Planted {
    pub(crate) const ALL: [Self; 3] = [Self::Split, Self::Behind, Self::Dropped];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Split => "planted-in-two-segments",
            Self::Dropped => "planted-and-dropped",
            Self::Behind => "planted-behind-the-transfer",
        }
    }

    /// The rule's number, which no other rule has.
    pub(crate) const fn sid(self) -> usize {
        RULES + self as usize
    }

    const fn action(self) -> &'static str {
        match self {
            Self::Dropped => "drop",
            Self::Split | Self::Behind => "alert",
        }
    }
}

/// The rules: patterns of 8 to 31 letters, and those that are planted.
pub(crate) fn rules() -> String {
    let mut rng = Rng::with_seed(SEED);
    let made_up = (Planted::ALL.len()..RULES).map(|number| {
        let len = rng.usize(8..32);
        let letters: String = (0..len).map(|_| rng.lowercase()).collect();
        ("alert", number, letters)
    });
    let planted = Planted::ALL.map(|one| (one.action(), one.sid(), one.text().to_owned()));
    let rule = |(action, sid, content)| {
        format!(
            "{action} tcp any any -> any any (msg:\"rule {sid}\"; content:\"{content}\"; sid:{sid}; rev:1;)\n"
        )
    };
    made_up.chain(planted).map(rule).collect()
}

/// Payload: words of 2 to 9 letters with spaces between, of the letters that patterns have, too.
pub(crate) fn text() -> Vec<u8> {
    let mut rng = Rng::with_seed(SEED + 1);
    let mut text = Vec::with_capacity(TEXT);
    while text.len() < TEXT {
        let len = rng.usize(2..10);
        text.extend((0..len).map(|_| rng.lowercase() as u8));
        text.push(b' ');
    }
    text.truncate(TEXT);
    text
}
