//! What the profiles that hold frames have in common as filters.

use std::fmt::Debug;
use std::sync::Arc;

use offload::TcpMeta;

use super::core::Core;
use crate::flow::Slot;
use crate::rules::{RuleMatch, RuleSet};
use crate::{Action, Direction, Filter, FilterCounters, FrameRef, Instant, Needs, Profile};

/// A profile that holds frames: where it puts a segment, and what it does when one is due.
pub(super) trait Holding: Send {
    /// What it keeps for each flow and direction.
    type State: Default + Debug + Send;

    /// Its name.
    const PROFILE: Profile;

    fn core(&self) -> &Core<Self::State>;

    fn core_mut(&mut self) -> &mut Core<Self::State>;

    /// Forwards or holds a segment that the rules let pass.
    fn place(&mut self, slot: Slot, tcp: &TcpMeta, frame: &FrameRef<'_>, actions: &mut Vec<Action>);

    /// Forwards a segment of the direction that is to be left alone.
    fn pass_by(&mut self, _slot: Slot, _tcp: &TcpMeta, frame: &FrameRef<'_>, actions: &mut Vec<Action>) {
        actions.push(Action::Forward(frame.id));
    }

    /// Lets go of at least the first frame that a flow holds in a direction: its deadline has passed.
    fn overdue(&mut self, slot: Slot, direction: Direction, actions: &mut Vec<Action>);
}

impl<H: Holding> Filter for H {
    fn profile(&self) -> Profile {
        H::PROFILE
    }

    fn needs(&self) -> Needs {
        self.core().judge().needs()
    }

    fn inspect(&mut self, now: Instant, burst: &[FrameRef<'_>], actions: &mut Vec<Action>) {
        for frame in burst {
            let Some((slot, tcp)) = self.core_mut().admit(now, frame, actions) else {
                continue;
            };
            if self.core().acts_on(frame.direction) {
                self.place(slot, &tcp, frame, actions);
            } else {
                self.pass_by(slot, &tcp, frame, actions);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.core().next_deadline()
    }

    fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.core_mut().tick(now);
        while let Some((slot, direction)) = self.core().due() {
            self.overdue(slot, direction, actions);
        }
        self.core_mut().reclaim(actions);
    }

    fn drain(&mut self, actions: &mut Vec<Action>) {
        self.core_mut().drain(actions);
    }

    fn counters(&self) -> FilterCounters {
        self.core().counters()
    }

    fn set_rules(&mut self, rules: Option<Arc<RuleSet>>) -> bool {
        self.core_mut().judge_mut().set_rules(rules);
        true
    }

    fn take_matches(&mut self, matches: &mut Vec<RuleMatch>) {
        self.core_mut().judge_mut().drain_matches(matches);
    }
}
