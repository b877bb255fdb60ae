//! Several filters behind each other.
//!
//! A chain shows each member what the one before it lets through, when it lets it through. It does not own frames, so
//! of a frame that a member holds it can keep the headers but not the payload, and a member that is shown a frame
//! released by one before it sees headers only. Therefore a member that needs payload must not stand behind one that
//! holds; [`FilterChain::new`] refuses that. Judging before holding is the sensible order anyway: a frame that will be
//! dropped is not worth keeping.

use std::collections::HashMap;
use std::sync::Arc;

use offload::FrameMeta;

use crate::rules::{RuleMatch, RuleSet};
use crate::{
    Action, Direction, Filter, FilterCounters, FrameId, FrameRef, Instant, Needs, PartHold, PartWork,
    Profile, ReleaseCause,
};

/// Why filters make no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No filter at all.
    #[error("a chain needs at least one filter")]
    Empty,
    /// A filter's frames would come without what it has to see.
    #[error(
        "the filter \"{member}\" needs payload, but \"{holder}\" before it holds frames; put it before that one"
    )]
    PayloadBehindHold {
        /// The filter that holds.
        holder: Profile,
        /// The filter that needs payload.
        member: Profile,
    },
}

/// What is kept of a frame that some member holds.
#[derive(Clone, Copy, Debug)]
struct Kept {
    direction: Direction,
    meta: FrameMeta,
    gso_size: u16,
    /// Since when a member holds it.
    since: Instant,
}

/// Filters behind each other, as one filter. A frame passes when all let it pass; it may be held by several, one after the
/// other, so its deadline is the sum of theirs.
pub struct FilterChain {
    members: Vec<Box<dyn Filter>>,
    /// One list for each member, so that they are not allocated anew.
    answers: Vec<Vec<Action>>,
    kept: HashMap<FrameId, Kept>,
    clock: Instant,
    /// How members are measured, if they are.
    stopwatch: Option<fn() -> Instant>,
    work: PartWork,
}

/// A frame on its way through the chain.
#[derive(Clone, Copy)]
struct Passing<'a> {
    frame: FrameRef<'a>,
    /// Why the member before released it; `None` for a frame of the current burst that nobody has held.
    released: Option<ReleaseCause>,
}

impl FilterChain {
    /// A chain of `members`, the first of which sees frames first in both directions.
    pub fn new(members: Vec<Box<dyn Filter>>) -> Result<Self, ChainError> {
        let mut holder = None;
        for member in &members {
            if let Some(holder) = holder.filter(|_| member.needs() == Needs::Payload) {
                return Err(ChainError::PayloadBehindHold {
                    holder,
                    member: member.profile(),
                });
            }
            holder = holder.or(Some(member.profile()).filter(|profile| profile.holds()));
        }
        if members.is_empty() {
            return Err(ChainError::Empty);
        }
        Ok(Self {
            answers: members.iter().map(|_| Vec::new()).collect(),
            members,
            kept: HashMap::new(),
            clock: Instant(0),
            stopwatch: None,
            work: PartWork::default(),
        })
    }

    /// Shows a frame to the member at `index`, and carries on with what that says. Behind the last one the frame is out.
    fn show(&mut self, index: usize, passing: Passing<'_>, out: &mut Vec<Action>) {
        let id = passing.frame.id;
        let (Some(member), Some(answers)) = (self.members.get_mut(index), self.answers.get_mut(index)) else {
            out.push(match passing.released {
                Some(cause) => Action::Release(id, cause),
                None => Action::Forward(id),
            });
            return;
        };
        let mut actions = core::mem::take(answers);
        let begun = self.stopwatch.map(|clock| (clock, clock()));
        member.inspect(self.clock, &[passing.frame], &mut actions);
        if let (Some((clock, begun)), Some(judged)) = (begun, self.work.judged.get_mut(index)) {
            *judged += clock().since(begun);
        }
        for action in actions.drain(..) {
            match action {
                Action::Forward(_) => self.show(index + 1, passing, out),
                Action::Hold(_) => {
                    self.keep(&passing.frame);
                    if passing.released.is_none() {
                        out.push(Action::Hold(id));
                    }
                }
                other => self.carry_on(index, other, out),
            }
        }
        self.give_back(index, actions);
    }

    /// Carries on with what the member at `index` says of frames that it held.
    fn carry_on(&mut self, index: usize, action: Action, out: &mut Vec<Action>) {
        match action {
            Action::Release(id, cause) | Action::Join(id, cause) => {
                let kept = self.kept.remove(&id);
                self.work.held.extend(kept.map(|kept| PartHold {
                    id,
                    part: index,
                    ns: self.clock.since(kept.since),
                }));
                // The last member's frames leave as it says; what stands behind it is not made one before that.
                if index + 1 == self.members.len() {
                    out.push(action);
                    return;
                }
                let Some(kept) = kept else { return };
                let frame = FrameRef {
                    id,
                    direction: kept.direction,
                    meta: &kept.meta,
                    payload: &[],
                    gso_size: kept.gso_size,
                };
                let released = Some(cause);
                self.show(index + 1, Passing { frame, released }, out);
            }
            Action::Drop(id, _) => {
                self.kept.remove(&id);
                out.push(action);
            }
            Action::Forward(_) | Action::Hold(_) | Action::Reset(_) | Action::Mirror(..) => out.push(action),
        }
    }

    fn keep(&mut self, frame: &FrameRef<'_>) {
        let kept = Kept {
            direction: frame.direction,
            meta: *frame.meta,
            gso_size: frame.gso_size,
            since: self.clock,
        };
        self.kept.insert(frame.id, kept);
    }

    /// A call begins.
    fn begin(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        self.work.held.clear();
        self.work.judged.clear();
        self.work.judged.resize(self.members.len(), 0);
    }

    fn give_back(&mut self, index: usize, mut actions: Vec<Action>) {
        actions.clear();
        if let Some(answers) = self.answers.get_mut(index) {
            *answers = actions;
        }
    }

    /// Lets each member release frames by `work`, first to last, so that what one releases the next has seen before
    /// its own turn.
    fn each(&mut self, out: &mut Vec<Action>, work: impl Fn(&mut dyn Filter, &mut Vec<Action>)) {
        for index in 0..self.members.len() {
            let mut actions = self
                .answers
                .get_mut(index)
                .map(core::mem::take)
                .unwrap_or_default();
            if let Some(member) = self.members.get_mut(index) {
                work(member.as_mut(), &mut actions);
            }
            for action in actions.drain(..) {
                self.carry_on(index, action, out);
            }
            self.give_back(index, actions);
        }
    }
}

impl Filter for FilterChain {
    /// The first member's that holds, else the first member's.
    fn profile(&self) -> Profile {
        let profiles = || self.members.iter().map(|member| member.profile());
        profiles()
            .find(|profile| profile.holds())
            .or_else(|| profiles().next())
            .unwrap_or(Profile::Off)
    }

    fn needs(&self) -> Needs {
        if self.members.iter().any(|member| member.needs() == Needs::Payload) {
            Needs::Payload
        } else {
            Needs::Headers
        }
    }

    fn inspect(&mut self, now: Instant, burst: &[FrameRef<'_>], actions: &mut Vec<Action>) {
        self.begin(now);
        for frame in burst {
            let passing = Passing {
                frame: *frame,
                released: None,
            };
            self.show(0, passing, actions);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.members
            .iter()
            .filter_map(|member| member.next_deadline())
            .min()
    }

    fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.begin(now);
        let now = self.clock;
        self.each(actions, |member, answers| member.expire(now, answers));
    }

    fn drain(&mut self, actions: &mut Vec<Action>) {
        self.begin(self.clock);
        self.each(actions, |member, answers| member.drain(answers));
    }

    /// Sums over the members, but frames as the first sees them and the most flows that one tracks.
    fn counters(&self) -> FilterCounters {
        let mut sum = FilterCounters::default();
        for (index, member) in self.members.iter().enumerate() {
            let one = member.counters();
            sum.frames += if index == 0 { one.frames } else { 0 };
            sum.flows = sum.flows.max(one.flows);
            sum.inspected_octets += one.inspected_octets;
            sum.flows_evicted += one.flows_evicted;
            sum.held += one.held;
            sum.released += one.released;
            sum.deadline_released += one.deadline_released;
            sum.matches += one.matches;
            sum.dropped += one.dropped;
            sum.resets += one.resets;
            sum.failed_open += one.failed_open;
            sum.conflicts += one.conflicts;
            sum.fragments += one.fragments;
            sum.reassembled += one.reassembled;
            sum.fragments_expired += one.fragments_expired;
            sum.fragments_evicted += one.fragments_evicted;
            sum.mirrored += one.mirrored;
            sum.joined += one.joined;
            sum.thinned += one.thinned;
        }
        sum
    }

    /// Rules are the first member's.
    fn set_rules(&mut self, rules: Option<Arc<RuleSet>>) -> bool {
        self.members
            .first_mut()
            .is_some_and(|member| member.set_rules(rules))
    }

    fn measure(&mut self, clock: Option<fn() -> Instant>) {
        self.stopwatch = clock;
    }

    fn parts(&self) -> Option<&PartWork> {
        Some(&self.work)
    }

    fn take_matches(&mut self, matches: &mut Vec<RuleMatch>) {
        for member in &mut self.members {
            member.take_matches(matches);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Port, Segment};
    use crate::{FilterOptions, Rule, RuleAction, build};

    fn member(profile: Profile) -> Box<dyn Filter> {
        build(profile, FilterOptions::default()).expect("not off")
    }

    fn judging(profile: Profile) -> Box<dyn Filter> {
        let rule = Rule {
            name: "x".to_owned(),
            pattern: "x".to_owned(),
            action: RuleAction::Drop,
            ..Rule::default()
        };
        let rules = Some(Arc::new(RuleSet::compile(&[rule]).expect("good")));
        let options = FilterOptions {
            rules,
            ..FilterOptions::default()
        };
        build(profile, options).expect("not off")
    }

    #[test]
    fn payload_must_be_judged_before_frames_are_held() {
        assert_eq!(FilterChain::new(vec![]).err(), Some(ChainError::Empty));
        let refused = FilterChain::new(vec![
            member(Profile::Inspect),
            member(Profile::Hold),
            judging(Profile::Inspect),
        ]);
        let error = ChainError::PayloadBehindHold {
            holder: Profile::Hold,
            member: Profile::Inspect,
        };
        assert_eq!(refused.err(), Some(error));
        let chain =
            FilterChain::new(vec![judging(Profile::Hold), member(Profile::Serialize)]).expect("in order");
        assert_eq!(chain.needs(), Needs::Payload);
        assert_eq!(chain.profile(), Profile::Hold);
    }

    #[test]
    fn each_part_tells_what_it_did() {
        let chain = FilterChain::new(vec![member(Profile::Hold), member(Profile::Serialize)]).expect("good");
        let mut chain: Box<dyn Filter> = Box::new(chain);
        thread_local! {
            static NOW: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
        }
        chain.measure(Some(|| Instant(NOW.replace(NOW.get() + 7))));
        let mut actions = Vec::new();
        for (id, seq) in [(0, 0), (1, 100)] {
            let meta = Segment::tx().data(seq, 100).meta();
            let frame = FrameRef {
                id: FrameId(id),
                direction: Direction::Tx,
                meta: &meta,
                payload: &[],
                gso_size: 0,
            };
            chain.inspect(Instant(1_000), &[frame], &mut actions);
            let work = chain.parts().expect("several parts");
            assert_eq!((&work.judged[..], work.held.len()), (&[7, 0][..], 0));
        }
        let hold = |id, part, ns| PartHold {
            id: FrameId(id),
            part,
            ns,
        };
        chain.expire(Instant(50_001_000), &mut actions);
        let work = chain.parts().expect("several parts");
        assert_eq!(
            work.judged,
            [0, 14],
            "what the first lets go is shown to the second"
        );
        assert_eq!(work.held, [hold(0, 0, 50_000_000), hold(1, 0, 50_000_000)]);
        chain.measure(None);
        chain.expire(Instant(1_050_001_000), &mut actions);
        let work = chain.parts().expect("several parts");
        assert_eq!(work.held, [hold(1, 1, 1_000_000_000)]);
    }

    #[test]
    fn a_frame_is_held_by_one_after_the_other() {
        let chain = FilterChain::new(vec![member(Profile::Hold), member(Profile::Serialize)]).expect("good");
        let mut port = Port::with(Some(Box::new(chain)));
        for seq in [0, 100] {
            port.carry(0, Segment::tx().data(seq, 100));
        }
        assert_eq!(port.left(), []);
        port.wait(50_000); // hold lets both go; serialize keeps the second
        assert_eq!(port.left(), [(Direction::Tx, 0, 100)]);
        port.carry(60_000, Segment::rx().ack(100));
        assert_eq!(port.left(), [(Direction::Rx, 0, 0), (Direction::Tx, 100, 100)]);
        let counters = port.counters();
        assert_eq!((counters.frames, counters.held), (3, 3));
        port.switch_off(60_001);
    }
}
