//! Which worker serves which lane, by measured load.
//!
//! A pure function: the same loads give the same moves. It moves little, because a move costs cold caches, and it moves
//! nothing that would only trade places: a move must lower the load of the busiest worker by [`MIN_GAIN`], and a lane
//! that was moved rests for [`REST`] evaluations.

/// Thousandths of a worker's time.
pub type Permille = u32;

/// What the busiest worker has to be relieved of for a move to be worth it.
pub const MIN_GAIN: Permille = 50;
/// Moves of one evaluation.
pub const MAX_MOVES: usize = 4;
/// Evaluations for which a lane that was moved stays where it is.
pub const REST: u32 = 3;

/// A lane as the placement sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLoad {
    /// The worker that serves it.
    pub worker: usize,
    /// What of that worker's time it took since the last evaluation.
    pub load: Permille,
    /// Evaluations since it was last moved.
    pub rested: u32,
}

/// One lane's move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The lane's place in the list that was judged.
    pub lane: usize,
    /// The worker that gives it away, and that worker's load with it.
    pub from: (usize, Permille),
    /// The worker that takes it, and that worker's load without it.
    pub to: (usize, Permille),
}

/// The moves that even out the load of `workers` workers, at most [`MAX_MOVES`], the most useful one first.
pub fn rebalance(lanes: &[LaneLoad], workers: usize) -> Vec<Move> {
    let mut lanes = lanes.to_vec();
    let mut moves = Vec::new();
    while moves.len() < MAX_MOVES {
        let Some(best) = next_move(&lanes, workers) else {
            break;
        };
        if let Some(lane) = lanes.get_mut(best.lane) {
            lane.worker = best.to.0;
            lane.rested = 0;
        }
        moves.push(best);
    }
    moves
}

fn next_move(lanes: &[LaneLoad], workers: usize) -> Option<Move> {
    let loads = worker_loads(lanes, workers);
    let from = (0..workers).rev().max_by_key(|worker| loads[*worker])?;
    let to = (0..workers).min_by_key(|worker| loads[*worker])?;
    let gap = loads[from].checked_sub(loads[to])?;
    let movable = |lane: &LaneLoad| lane.worker == from && lane.rested >= REST;
    // Between the two workers, the higher load falls by `load` or, past the middle, by what is left of the gap.
    let gain = |load: Permille| load.min(gap.saturating_sub(load));
    let (lane, gained) = lanes
        .iter()
        .enumerate()
        .filter(|(_, lane)| movable(lane))
        .map(|(index, lane)| (index, gain(lane.load)))
        .rev()
        .max_by_key(|(_, gained)| *gained)?;
    (gained >= MIN_GAIN).then_some(Move {
        lane,
        from: (from, loads[from]),
        to: (to, loads[to]),
    })
}

/// The load of each worker. A lane whose worker does not exist counts nowhere.
fn worker_loads(lanes: &[LaneLoad], workers: usize) -> Vec<Permille> {
    let mut loads = vec![0; workers];
    for lane in lanes {
        if let Some(load) = loads.get_mut(lane.worker) {
            *load = lane.load.saturating_add(*load);
        }
    }
    loads
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane(worker: usize, load: Permille) -> LaneLoad {
        LaneLoad {
            worker,
            load,
            rested: REST,
        }
    }

    #[test]
    fn the_move_that_evens_out_best_is_chosen() {
        let lanes = [lane(0, 500), lane(0, 300), lane(0, 150), lane(1, 40)];
        // 950 and 40: moving 500 leaves 450 and 540, moving 300 leaves 650 and 340.
        let best = Move {
            lane: 0,
            from: (0, 950),
            to: (1, 40),
        };
        assert_eq!(rebalance(&lanes, 2), [best]);
    }

    #[test]
    fn nothing_moves_that_only_trades_places() {
        assert_eq!(
            rebalance(&[lane(0, 900)], 2),
            [],
            "one busy lane is busy anywhere"
        );
        assert_eq!(rebalance(&[lane(0, 500), lane(1, 480), lane(0, 40)], 2), []);
        assert_eq!(rebalance(&[lane(0, 500), lane(0, 300)], 1), []);
        assert_eq!(rebalance(&[lane(0, 500), lane(0, 300)], 0), []);
        assert_eq!(rebalance(&[], 4), []);
    }

    #[test]
    fn a_lane_that_was_moved_rests() {
        let mut lanes = [lane(0, 400), lane(0, 400)];
        for lane in &mut lanes {
            lane.rested = REST - 1;
        }
        assert_eq!(rebalance(&lanes, 2), []);
        lanes[1].rested = REST;
        assert_eq!(rebalance(&lanes, 2)[0].lane, 1);
    }

    #[test]
    fn shifting_load_settles() {
        let mut lanes: Vec<_> = (0..16).map(|n| lane(0, 20 + 10 * n)).collect();
        let mut rounds = 0;
        loop {
            let moves = rebalance(&lanes, 4);
            if moves.is_empty() {
                break;
            }
            for step in moves {
                lanes[step.lane].worker = step.to.0;
            }
            rounds += 1;
            assert!(rounds < 10, "it does not settle");
        }
        let loads = worker_loads(&lanes, 4);
        assert!(
            loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 2 * MIN_GAIN,
            "{loads:?}"
        );
    }

    proptest! {
        #[test]
        fn the_busiest_worker_is_never_made_busier(
            lanes in prop::collection::vec((0_usize..5, 0_u32..1000, 0..2 * REST), 0..40),
            workers in 1_usize..5,
        ) {
            let mut lanes: Vec<_> = lanes
                .into_iter()
                .map(|(worker, load, rested)| LaneLoad { worker: worker % workers, load, rested })
                .collect();
            let moves = rebalance(&lanes, workers);
            prop_assert!(moves.len() <= MAX_MOVES);
            for step in moves {
                let before = *worker_loads(&lanes, workers).iter().max().unwrap();
                prop_assert!(lanes[step.lane].rested >= REST);
                prop_assert_eq!(lanes[step.lane].worker, step.from.0);
                prop_assert!(step.to.0 < workers);
                lanes[step.lane].worker = step.to.0;
                lanes[step.lane].rested = 0;
                let loads = worker_loads(&lanes, workers);
                prop_assert!(*loads.iter().max().unwrap() <= before);
                prop_assert!(loads[step.from.0].max(loads[step.to.0]) + MIN_GAIN <= step.from.1);
            }
        }
    }
}
