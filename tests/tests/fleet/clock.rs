//! The store's clock jumps: nothing starts early, and nothing stops.

use roundsman_tests::wait::wait_for;

use crate::rig::{Rig, SOON, Store, log};

/// The server's clock cannot be stepped here, but what the scripts read is its time and this offset.
const JUMP_OF_AN_HOUR: &[&str] = &["HSET", "roundsman:{default}:meta", "offset", "3600000000"];

#[test]
fn a_jump_forward_starts_nothing_early_and_stops_nothing() {
    let rig = Rig::with_fixture(Store::Redis, "min_workers = 2", "");
    let up = rig.up(2);
    rig.enqueue("before", "echo", "1");
    rig.wait_state(&up, "before", "done");
    rig.ok(&["enqueue", "default", "1", "--id", "later", "--kind", "echo", "--in", "30m"]);
    assert_eq!(rig.redis().cli(JUMP_OF_AN_HOUR).trim(), "1");
    let corrected = wait_for("the clock to be corrected", SOON, || {
        let offset = rig.redis().cli(&["HGET", "roundsman:{default}:meta", "offset"]);
        let millis = offset.trim().parse::<i64>().map(|micros| micros / 1_000);
        if millis.is_ok_and(|millis| millis.abs() < 2_000) { Ok(()) } else { Err(offset) }
    });
    corrected.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    rig.enqueue("after", "echo", "2");
    rig.wait_state(&up, "after", "done");
    let later = rig.job("later");
    assert_eq!(
        (later["state"].as_str(), rig.starts("later").len()),
        (Some("scheduled"), 0),
        "{later}\n{}",
        log(&up)
    );
    wait_for("the alarm in the log", SOON, || {
        if log(&up).contains("has jumped") { Ok(()) } else { Err(log(&up)) }
    })
    .unwrap();
}
