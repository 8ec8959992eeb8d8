//! Short forms of the chaos runs (`ops/chaos` has the long ones): real fleets, real faults, and the checker's verdict.
//!
//! Each test runs `chaos-run` as a program, so that what CI does and what a person does is the same.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its fixtures")]

use std::process::Command;

use roundsman_tests::spawn;
use roundsman_tests::tree::built;

/// A run that must keep every promise, and may take so long as it waits for.
#[track_caller]
fn kept(arguments: &[&str]) {
    let mut command: Command = spawn::bound_command(built("chaos-run").unwrap());
    command.args(arguments);
    let done = spawn::output(command).unwrap();
    let (figures, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "chaos-run {}: {}\n{figures}{errors}", arguments.join(" "), done.status);
}

#[test]
fn redis_every_crash_report_is_read_once_while_workers_are_killed() {
    kept(&["symbolicate", "--jobs", "500", "--every", "100", "--store", "redis"]);
}

#[test]
fn sqlite_every_crash_report_is_read_once_while_workers_are_killed() {
    kept(&["symbolicate", "--jobs", "500", "--every", "100", "--store", "sqlite"]);
}

#[test]
fn redis_nothing_is_lost_or_ended_twice_when_anyone_is_killed() {
    kept(&["kills", "--jobs", "3000", "--kills", "30", "--store", "redis"]);
}

#[test]
fn sqlite_nothing_is_lost_or_ended_twice_when_anyone_is_killed() {
    kept(&["kills", "--jobs", "3000", "--kills", "30", "--store", "sqlite"]);
}

#[test]
fn redis_a_worker_that_stops_for_a_moment_keeps_its_jobs() {
    kept(&["pauses", "--row", "worker-6", "--store", "redis"]);
}

#[test]
fn redis_a_frozen_master_is_replaced_and_its_workers_finish_their_jobs() {
    kept(&["pauses", "--row", "master-30", "--seconds", "20", "--store", "redis"]);
}

#[test]
fn redis_nobody_is_killed_who_only_looks_stuck() {
    kept(&["calm", "--seconds", "24", "--store", "redis"]);
}

#[test]
fn redis_an_outage_of_the_store_costs_nothing() {
    kept(&["pauses", "--row", "store-10", "--seconds", "6", "--store", "redis"]);
}

#[test]
fn redis_a_full_store_refuses_clearly_and_drains() {
    kept(&["full", "--jobs", "2000", "--store", "redis"]);
}

#[test]
fn redis_no_message_is_lost_or_taken_twice_when_channels_and_the_broker_are_killed() {
    kept(&["amqp", "--jobs", "10000", "--channel-kills", "20", "--broker-kills", "2", "--store", "redis"]);
}

#[test]
fn sqlite_no_message_is_lost_or_taken_twice_when_channels_and_the_broker_are_killed() {
    kept(&["amqp", "--jobs", "10000", "--channel-kills", "20", "--broker-kills", "2", "--store", "sqlite"]);
}

#[test]
fn redis_what_was_acknowledged_survives_the_death_of_the_store() {
    kept(&["outages", "--jobs", "500", "--kills", "3", "--every", "1000", "--store", "redis"]);
}

#[test]
fn redis_deploys_and_reloads_lose_and_repeat_nothing() {
    kept(&["rolls", "--rolls", "20", "--store", "redis"]);
}

#[test]
fn sqlite_deploys_and_reloads_lose_and_repeat_nothing() {
    kept(&["rolls", "--rolls", "20", "--store", "sqlite"]);
}

#[test]
fn redis_a_minute_of_all_sorts_of_faults_costs_nothing() {
    kept(&["soak", "--seconds", "60", "--store", "redis"]);
}

#[test]
fn sqlite_a_minute_of_all_sorts_of_faults_costs_nothing() {
    kept(&["soak", "--seconds", "60", "--store", "sqlite"]);
}
