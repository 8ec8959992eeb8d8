use serde_json::{Value, json};

use crate::rig::Rig;

/// The settings of a pool, and another beside them.
#[test]
fn two_settings_side_by_side() {
    let rig = Rig::with("[pools.default]\nmax_workers = 40\ntarget_wait = \"2s\"\n");
    let seen = rig.json(&["simulate", "spikes", "--against", "max_workers=4,target_wait=5s"]);
    let courses = seen["courses"].as_array().unwrap();
    assert_eq!(courses.len(), 2, "{seen}");
    let setting =
        |place: usize| [&courses[place]["setting"]["max_workers"], &courses[place]["setting"]["target_wait"]];
    assert_eq!((setting(0), setting(1)), ([&json!(40), &json!(2.0)], [&json!(4), &json!(5.0)]));
    let number = |place: usize, key: &str| courses[place][key].as_f64().unwrap();
    assert!(number(0, "missed") < number(1, "missed"), "four workers are too few for it: {seen}");
    assert!(number(1, "most_workers") <= 4.0);
    assert_eq!(
        rig.json(&["simulate", "spikes", "--against", "max_workers=4,target_wait=5s"]),
        seen,
        "it is seeded"
    );
    assert_ne!(rig.json(&["simulate", "spikes", "--seed", "2"])["courses"][0], seen["courses"][0]);
}

#[test]
fn a_recorded_load_is_played_and_drawn() {
    let rig = Rig::new();
    let lines: String = (0..100)
        .rev()
        .map(|n| format!("{{\"due\":{},\"ran\":200}}\n", 1_700_000_000_000_u64 + n * 100))
        .collect();
    std::fs::write(rig.site.work().join("jobs.ndjson"), lines).unwrap();
    let seen = rig.json(&["simulate", "--file", "jobs.ndjson"]);
    assert_eq!(seen["courses"][0]["jobs"], 100, "{seen}");
    let text = rig.ok(&["simulate", "--file", "jobs.ndjson", "--plot"]);
    assert!(text.contains("LATE") && text.contains("waiting") && text.contains('█'), "{text}");
    let listed: Value = rig.json(&["simulate", "--list"]);
    assert_eq!(listed.as_object().unwrap().len(), 13, "{listed}");
}

#[test]
fn what_cannot_be_played_is_refused() {
    let rig = Rig::new();
    std::fs::write(rig.site.work().join("wrong"), "{\"due\":1,\"ran\":1}\n{\"due\":-1,\"ran\":1}\n").unwrap();
    std::fs::write(rig.site.work().join("empty"), "").unwrap();
    for (arguments, phrases) in [
        (&["monday"][..], &["\"monday\" is none of step, ramp"][..]),
        (&["--pool", "none"], &["there is no pool \"none\"", "default"]),
        (&["--against", "speed=2"], &["\"speed\" is none of target_wait"]),
        (&["--min-workers", "9", "--max-workers", "2"], &["min_workers 9 is more than max_workers 2"]),
        (&["--file", "absent"], &["absent: No such file"]),
        (&["--file", "wrong"], &["wrong:2: due and ran are milliseconds"]),
        (&["--file", "empty"], &["empty: holds no job", "write a line a job"]),
        (&["--slots", "0"], &["--slots"]),
    ] {
        rig.fails(&[&["simulate"], arguments].concat(), 2, phrases);
    }
}
