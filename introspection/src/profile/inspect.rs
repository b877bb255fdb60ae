//! `inspect`: every frame gets its verdict at once.

use std::sync::Arc;
use std::time::Duration;

use super::FilterOptions;
use super::core::Core;
use crate::rules::{RuleMatch, RuleSet};
use crate::{Action, Filter, FilterCounters, FrameRef, Instant, Needs, Profile};

/// Tracks flows, reassembles streams and applies rules, and never holds a frame. Without rules it looks at headers only.
#[derive(Debug)]
pub(super) struct Inspect {
    core: Core<()>,
}

impl Inspect {
    pub(super) fn new(options: FilterOptions) -> Self {
        Self {
            core: Core::new(options, Duration::ZERO),
        }
    }
}

impl Filter for Inspect {
    fn profile(&self) -> Profile {
        Profile::Inspect
    }

    fn needs(&self) -> Needs {
        self.core.judge().needs()
    }

    fn inspect(&mut self, now: Instant, burst: &[FrameRef<'_>], actions: &mut Vec<Action>) {
        for frame in burst {
            if self.core.admit(now, frame, actions).is_some() {
                actions.push(Action::Forward(frame.id));
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.core.tick(now);
        self.core.reclaim(actions);
    }

    fn drain(&mut self, _actions: &mut Vec<Action>) {}

    fn counters(&self) -> FilterCounters {
        self.core.counters()
    }

    fn set_rules(&mut self, rules: Option<Arc<RuleSet>>) -> bool {
        self.core.judge_mut().set_rules(rules);
        true
    }

    fn take_matches(&mut self, matches: &mut Vec<RuleMatch>) {
        self.core.judge_mut().drain_matches(matches);
    }
}
