//! Every profile, and a chain of them, keeps the filter contract under arbitrary traffic, with filters changed in between.

#[path = "common/contract.rs"]
mod contract;

use contract::{Kind, play};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_contract_is_kept(kind in 0..Kind::ALL.len(), script in proptest::collection::vec(any::<u8>(), 0..800)) {
        play(Kind::ALL[kind], &script);
    }
}
