//! Random sequences of operations, on a store and on the model.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use crate::op::{Op, sequence};
use crate::stores::{Bed, Kind};
use crate::twin::{Checked, Twin};

/// Sequences a store, unless `ROUNDSMAN_CONTRACT_CASES` says otherwise.
const CASES: u32 = 1000;
/// The whole state is compared after so many operations, and at the end.
const COMPARE_EVERY: usize = 24;

async fn follow(bed: &Bed, case: u64, held_back: bool, sequence: &[(u8, Op)]) -> Checked {
    let mut twin = Twin::begin(&bed.store, case, held_back).await?;
    for (at, (queue, op)) in sequence.iter().enumerate() {
        twin.apply(*queue, op)
            .await
            .map_err(|why| format!("operation {at}, {op:?} in queue {queue}: {why}"))?;
        if twin.has_stalled() {
            return Ok(());
        }
        if at % COMPARE_EVERY == COMPARE_EVERY - 1 {
            twin.compare().await.map_err(|why| format!("after operation {at}, {op:?}: {why}"))?;
        }
    }
    twin.compare().await.map_err(|why| format!("at the end: {why}"))
}

fn random_sequences(kind: Kind) {
    let cases = roundsman_tests::spawn::variable("ROUNDSMAN_CONTRACT_CASES");
    let cases = cases.map_or(CASES, |text| text.parse().expect("ROUNDSMAN_CONTRACT_CASES is a number"));
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_time: 60_000,
        max_shrink_iters: u32::MAX,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bed = runtime.block_on(Bed::make(kind));
    let next = Cell::new(0_u64);
    let result =
        TestRunner::new(config).run(&(prop::bool::weighted(0.2), sequence()), |(held_back, sequence)| {
            let case = next.replace(next.get() + 1);
            runtime.block_on(follow(&bed, case, held_back, &sequence)).map_err(TestCaseError::fail)
        });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (held_back, sequence))) => {
            let steps: Vec<_> = sequence.iter().map(|(queue, op)| format!("  {queue} {op:?}")).collect();
            panic!("{why}\nheld back: {held_back}\nthe shortest sequence found:\n{}", steps.join("\n"));
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

#[test]
fn redis() {
    random_sequences(Kind::Redis);
}

#[test]
fn sqlite() {
    random_sequences(Kind::Sqlite);
}
