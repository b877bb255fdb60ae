//! What a ratio is to be: at least so much where more is better, at most so much where less is.

use std::fmt;

/// Bounds of a ratio, ours to the peer's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goal {
    better: Better,
    /// What is acceptable.
    pub(crate) required: f64,
    /// What is aimed at.
    pub(crate) aim: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

impl Goal {
    /// Of something that is the better the more there is of it.
    pub(crate) const fn at_least(required: f64, aim: f64) -> Self {
        Self {
            better: Better::More,
            required,
            aim,
        }
    }

    /// Of something that is the better the less there is of it.
    pub(crate) const fn at_most(required: f64, aim: f64) -> Self {
        Self {
            better: Better::Less,
            required,
            aim,
        }
    }

    /// Which way is better: `more` or `less`.
    pub(crate) const fn better(self) -> &'static str {
        match self.better {
            Better::More => "more",
            Better::Less => "less",
        }
    }

    /// Whether a ratio is acceptable.
    pub(crate) fn is_reached(self, ratio: f64) -> bool {
        self.holds(ratio, self.required)
    }

    pub(crate) fn verdict(self, ratio: f64) -> &'static str {
        if self.holds(ratio, self.aim) {
            "aim reached"
        } else if self.is_reached(ratio) {
            "goal reached"
        } else {
            "goal missed"
        }
    }

    fn holds(self, ratio: f64, bound: f64) -> bool {
        match self.better {
            Better::More => ratio >= bound,
            Better::Less => ratio <= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.better {
            Better::More => "at least",
            Better::Less => "at most",
        };
        write!(f, "{word} {}, aim {}", self.required, self.aim)
    }
}
