//! Each check bites: a history that keeps every promise, and one planted violation at a time.

use std::collections::BTreeSet;

use super::scenario::{
    AUDITOR, CALM, CRASHER, DRAINED, KILLED, NEMESIS, OVERDUE, PRODUCER, SINK, STOPPED, Scenario, audit,
    death, effect, end, ended, enqueue, stale, start, wall,
};
use super::*;
use crate::history::{Cause, Event, Fault, JobState, Outcome, Refusal, Role, digest};

/// The check that must name the violation, what is planted, and how.
type Planted = (&'static str, &'static str, fn(&mut Scenario));

fn is_audit(event: &Event, wanted: &str) -> bool {
    matches!(event, Event::Audit { id, .. } if id == wanted)
}

fn is_ended(event: &Event, wanted: &str) -> bool {
    matches!(event, Event::Ended { id, .. } if id == wanted)
}

fn is_start(event: &Event, wanted: &str) -> bool {
    matches!(event, Event::Start { id, .. } if id == wanted)
}

const ENQUEUE: &[Planted] = &[
    ("acked_is_never_lost", "the store forgot an accepted timer", |it| {
        it.drop_where(|entry| matches!(&entry.event,
            Event::Start { id, .. } | Event::Effect { id, .. } | Event::End { id, .. } | Event::Ended { id, .. }
            | Event::Audit { id, .. } if id == "timer"));
    }),
    ("acked_is_never_lost", "no audit was made", |it| {
        it.drop_where(|entry| entry.pid == AUDITOR);
    }),
    ("one_state_each", "a job is ready and done", |it| {
        it.add(70_002, AUDITOR, audit("plain", JobState::Ready));
    }),
    ("drained_means_final", "a job hangs in running", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Audit { id, state, .. } if id == "plain" => {
                *state = JobState::Running;
                true
            }
            _ => false,
        });
    }),
    ("no_phantom", "a refused job runs", |it| {
        it.add(1_100, CALM, start("refused", 1, 90));
    }),
    ("no_phantom", "a job that nobody enqueued is stored", |it| {
        it.add(70_002, AUDITOR, audit("from nowhere", JobState::Dead));
    }),
    ("same_content_same_answer", "other content is accepted under a known id", |it| {
        it.change(|entry| match &mut entry.event {
            Event::EnqRefused { enqueue, why: Refusal::Conflict } => {
                entry.event = Event::EnqOk(enqueue.clone());
                true
            }
            _ => false,
        });
    }),
    ("same_content_same_answer", "a repeat is refused", |it| {
        let why = Refusal::Conflict;
        it.add(1_030, PRODUCER, Event::EnqInvoke(enqueue("twice", None, "twice")));
        it.add(1_031, PRODUCER, Event::EnqRefused { enqueue: enqueue("twice", None, "twice"), why });
    }),
    ("same_content_same_answer", "a repeat moves the due time", |it| {
        it.add(1_030, PRODUCER, Event::EnqOk(enqueue("timer", Some(3_500), "timer")));
    }),
    ("a_conflict_changes_nothing", "the conflicting content was stored", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Audit { id, digest: stored, .. } if id == "twice" => {
                *stored = Some(digest(b"other"));
                true
            }
            _ => false,
        });
    }),
    ("a_conflict_changes_nothing", "the conflicting content was handed over", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Start { id, digest: given, .. } if id == "twice" => {
                *given = Some(digest(b"other"));
                true
            }
            _ => false,
        });
    }),
];

const ENDING: &[Planted] = &[
    ("ended_once", "the thawed worker's ack was accepted too", |it| {
        it.add(12_221, STOPPED, ended("stopped", JobState::Done, Some(9)));
    }),
    ("ended_once", "a done job also became a dead letter", |it| {
        it.add(2_000, CALM, ended("plain", JobState::Dead, None));
    }),
    ("ended_once", "its record shows two outcomes", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Audit { id, finals, .. } if id == "plain" => {
                *finals = Some(2);
                true
            }
            _ => false,
        });
    }),
    ("ended_by_the_current_token", "a replaced delivery ended the job", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Ended { id, token, .. } if id == "killed" => {
                *token = Some(7);
                true
            }
            _ => false,
        });
    }),
    ("final_is_final", "a done job was run again", |it| {
        it.add(8_000, CALM, start("plain", 2, 91));
    }),
    ("final_is_final", "a done job came back", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Audit { id, state, .. } if id == "plain" => {
                *state = JobState::Dead;
                true
            }
            _ => false,
        });
    }),
    ("stale_changes_nothing", "the delivery that was told stale ended the job", |it| {
        it.add(1_020, CALM, stale("plain", 1));
    }),
    ("done_has_an_effect", "an acknowledged job never ran", |it| {
        it.drop_where(|entry| {
            matches!(&entry.event,
            Event::Start { id, .. } | Event::Effect { id, .. } | Event::End { id, .. } if id == "plain")
        });
    }),
    ("done_has_an_effect", "it only ran after it was done", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Start { id, token, .. } | Event::Effect { id, token, .. } if id == "plain" => {
                *token += 100;
                true
            }
            _ => false,
        });
    }),
    ("follow_ups_exist_once", "the follow-up was lost", |it| {
        it.drop_where(|entry| {
            matches!(&entry.event,
            Event::Start { id, .. } | Event::Ended { id, .. } | Event::Audit { id, .. } if id == "child")
        });
    }),
    ("follow_ups_exist_once", "a refused delivery's follow-up exists", |it| {
        it.change(|entry| match &mut entry.event {
            Event::FollowUp { token, .. } => {
                *token = 16;
                true
            }
            _ => false,
        });
    }),
    ("cancelled_never_starts", "a cancelled timer fired", |it| {
        it.add(5_001, CALM, start("cancelled", 1, 92));
    }),
    ("cancelled_never_starts", "a running job that was cancelled is begun much later", |it| {
        it.drop_where(|entry| is_ended(&entry.event, "plain"));
        let (queue, id) = ("q".into(), "plain".into());
        it.add(1_015, PRODUCER, Event::CancelOk { queue, id, was_running: true });
        it.add(4_000, CALM, start("plain", 2, 93));
    }),
];

const DELIVERY: &[Planted] = &[
    ("never_early", "a timer fired a millisecond early", |it| {
        it.change(|entry| {
            let found = is_start(&entry.event, "timer");
            entry.ms -= u64::from(found);
            found
        });
    }),
    ("never_early", "a retry came before its backoff", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Start { id, due_ms, attempt: 2, .. } if id == "retried" => {
                *due_ms = Some(wall(1_501));
                true
            }
            _ => false,
        });
    }),
    ("tokens_rise", "a token was given twice", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Start { id, token, attempt: 2, .. } if id == "killed" => {
                *token = 7;
                true
            }
            _ => false,
        });
    }),
    ("runs_never_overlap", "a job was given away while it ran", |it| {
        it.drop_where(|entry| matches!(entry.event, Event::Fault { fault: Fault::Kill, .. }));
        it.drop_where(|entry| matches!(entry.event, Event::Death { target_pid: KILLED, .. }));
    }),
    ("runs_never_overlap", "it was given away long before its worker was dead", |it| {
        it.drop_where(|entry| matches!(entry.event, Event::Fault { fault: Fault::Kill, .. }));
        it.change(|entry| {
            let found = matches!(entry.event, Event::Death { target_pid: KILLED, .. });
            entry.ms += if found { 500 } else { 0 };
            found
        });
        it.change(|entry| {
            let found = matches!(&entry.event, Event::End { id, token: 8, .. } if id == "killed");
            entry.ms += if found { 300 } else { 0 };
            found
        });
    }),
    ("runs_never_overlap", "a thawed worker goes on with a job that is not its own", |it| {
        // The second run is still on when the first is let go on and runs for a second.
        it.change(|entry| {
            let found = matches!(&entry.event,
                Event::End { id, token: 10, .. } | Event::Ended { id, token: Some(10), .. } if id == "stopped");
            entry.ms += if found { 2_000 } else { 0 };
            found
        });
        it.change(|entry| {
            let found = entry.pid == STOPPED && entry.ms > 12_000
                || matches!(entry.event, Event::Death { target_pid: STOPPED, .. });
            entry.ms += if found { 1_000 } else { 0 };
            found
        });
    }),
    ("a_rerun_has_a_cause", "a finished job's ack was dropped", |it| {
        it.drop_where(|entry| is_ended(&entry.event, "plain"));
        it.add(1_900, CALM, start("plain", 2, 94)).add(1_901, CALM, end("plain", 94, Outcome::Done));
        it.add(1_902, CALM, ended("plain", JobState::Done, Some(94)));
    }),
    ("a_rerun_has_a_cause", "a job was run again long after its worker's kill had not hit it", |it| {
        it.change(|entry| {
            let found = is_start(&entry.event, "killed") && entry.pid == KILLED;
            entry.ms -= if found { 800 } else { 0 };
            found
        });
        it.add(1_200, KILLED, end("killed", 7, Outcome::Done));
    }),
    ("extra_runs_are_bounded", "one kill, three runs more", |it| {
        it.drop_where(|entry| is_ended(&entry.event, "killed"));
        for (more, ms) in (0..8).zip((2_100..).step_by(100)) {
            it.add(ms, CALM, start("killed", 3, 95 + more)).add(
                ms + 1,
                CALM,
                end("killed", 95 + more, Outcome::Done),
            );
        }
        it.add(3_500, CALM, ended("killed", JobState::Done, Some(102)));
    }),
    ("recovery_is_prompt", "a dead worker's job waits for its lease", |it| {
        it.change(|entry| {
            let found = entry.ms >= 2_003 && matches!(&entry.event,
                Event::Start { id, .. } | Event::Effect { id, .. } | Event::End { id, .. } | Event::Ended { id, .. }
                if id == "killed");
            entry.ms += if found { 15_000 } else { 0 };
            found
        });
    }),
    ("recovery_is_prompt", "it is never run again", |it| {
        it.drop_where(|entry| entry.pid != KILLED && matches!(&entry.event,
            Event::Start { id, .. } | Event::Effect { id, .. } | Event::End { id, .. } | Event::Ended { id, .. }
            if id == "killed"));
    }),
    ("attempts_are_charged_fairly", "a give-back was charged", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Start { id, attempt, token: 12, .. } if id == "released" => {
                *attempt = 2;
                true
            }
            _ => false,
        });
    }),
    ("attempts_are_charged_fairly", "a retry was not", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Start { id, attempt, token: 4, .. } if id == "retried" => {
                *attempt = 1;
                true
            }
            _ => false,
        });
    }),
];

const PROCESS: &[Planted] = &[
    ("poison_is_contained", "a job crashed four workers", |it| {
        it.drop_where(|entry| matches!(entry.event, Event::Start { token: 16, .. }));
        for (pid, ms) in (30..33).zip((5_000..).step_by(100)) {
            it.add(ms, pid, start("crashes", 1, 100 + u64::from(pid)));
            it.add(ms + 1, NEMESIS, death(pid, Cause::Crashed));
        }
    }),
    ("poison_is_contained", "a job goes on after its third crash", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Audit { id, state, crashes, .. } if id == "plain" => {
                (*crashes, *state) = (3, JobState::Ready);
                true
            }
            _ => false,
        });
    }),
    ("poison_is_contained", "a job is dead for an operator's kills", |it| {
        it.change(|entry| match &mut entry.event {
            Event::Audit { id, state, killed, .. } if id == "plain" => {
                (*killed, *state) = (3, JobState::Dead);
                true
            }
            _ => false,
        });
    }),
    ("a_stall_kill_has_a_cause", "an idle worker was taken for dead", |it| {
        it.add(30_000, NEMESIS, death(CALM, Cause::Stalled));
    }),
    ("no_timeout_before_its_time", "a long job was killed inside its timeout", |it| {
        it.change(|entry| {
            let found = matches!(entry.event, Event::Death { target_pid: OVERDUE, .. });
            entry.ms -= if found { 30_000 } else { 0 };
            found
        });
    }),
    ("overdue_is_ended", "a stuck job was left alone", |it| {
        it.drop_where(|entry| matches!(entry.event, Event::Death { target_pid: OVERDUE, .. }));
        it.add(200_000, SINK, effect("plain", 1));
    }),
    ("scaling_kills_no_job", "a busy worker was scaled away", |it| {
        it.drop_where(|entry| entry.pid == DRAINED && matches!(entry.event, Event::End { .. }));
    }),
];

fn tolerances() -> Tolerances {
    Tolerances { recovery_us: Some(500_000), ..Tolerances::default() }
}

#[test]
fn a_good_history_passes_every_check() {
    let (verdict, report) = Scenario::good().verdict(&tolerances());
    assert_eq!(report, "");
    assert!(verdict.violations.is_empty());
    let Seen { jobs, acked, starts, ended, faults, audits } = verdict.seen;
    assert_eq!((jobs, acked, starts, ended, faults, audits), (16, 14, 22, 16, 3, 1));
}

#[test]
fn every_planted_violation_is_found_by_name() {
    for (check, planted, plant) in [ENQUEUE, ENDING, DELIVERY, PROCESS].concat() {
        let mut scenario = Scenario::good();
        plant(&mut scenario);
        let (verdict, report) = scenario.verdict(&tolerances());
        let found = verdict.violations.iter().find(|violation| violation.check == check);
        let Some(found) = found else { panic!("{planted}: {check} found nothing\n{report}") };
        assert!(!found.evidence.is_empty(), "{planted}: no evidence");
        assert!(report.contains(check), "{planted}:\n{report}");
    }
}

#[test]
fn every_check_has_a_planted_violation() {
    let planted: BTreeSet<&str> =
        [ENQUEUE, ENDING, DELIVERY, PROCESS].concat().into_iter().map(|(check, _, _)| check).collect();
    let all: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(all.len(), CHECKS.len(), "a name is used twice");
    // The whole history is about files, not about events: its own test follows.
    let bare: Vec<&&str> = all.difference(&planted).filter(|name| **name != "history_is_whole").collect();
    assert_eq!(bare, Vec::<&&str>::new());
}

#[test]
fn a_hole_in_a_file_is_found_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let line = |seq: u32| {
        format!(
            "{{\"seq\":{seq},\"mono_us\":1,\"boot_us\":1,\"wall_us\":1,\"pid\":7,\"start\":4,\"event\":\"audit_pass\",\"audit\":1,\"drained\":true}}\n"
        )
    };
    let file = folder.path().join("a.history.jsonl");
    let names = |text: String| {
        std::fs::write(&file, text).unwrap();
        let verdict = check_folder(folder.path(), &tolerances()).unwrap();
        verdict.violations.iter().map(|it| (it.check, it.message.clone())).collect::<Vec<_>>()
    };
    assert_eq!(names([line(0), line(1)].concat()), []);
    assert_eq!(names([line(0), "{\"seq\":1".to_owned()].concat()), [], "a torn end is the writer's death");
    let hole = ("history_is_whole", "line 1 of this writer is missing".to_owned());
    assert_eq!(names([line(0), line(2)].concat()), [hole]);
    let malformed = names([line(0), "{}\n".to_owned(), line(1)].concat());
    assert!(
        matches!(&*malformed, [("history_is_whole", message)] if message.contains("no line of a history"))
    );
}

#[test]
fn a_death_seen_late_is_no_overlap() {
    let mut scenario = Scenario::good();
    // The harness polls: it sees the crash 10 ms after the product gave the job away.
    scenario.change(|entry| {
        let found = matches!(entry.event, Event::Death { target_pid: CRASHER, .. });
        entry.ms += if found { 20 } else { 0 };
        found
    });
    assert_eq!(scenario.verdict(&tolerances()).1, "");
}

#[test]
fn a_store_outage_excuses_a_second_run() {
    let mut scenario = Scenario::good();
    scenario.drop_where(|entry| is_ended(&entry.event, "plain") || is_audit(&entry.event, "plain"));
    let store = Event::Fault {
        fault: Fault::StoreKill,
        target_pid: Some(99),
        target_start: None,
        role: Some(Role::Store),
    };
    scenario.add(1_011, NEMESIS, store).add(2_500, CALM, start("plain", 2, 94));
    scenario.add(2_501, CALM, end("plain", 94, Outcome::Done));
    scenario.add(2_502, CALM, ended("plain", JobState::Done, Some(94)));
    assert_eq!(scenario.verdict(&tolerances()).1, "");
}

#[test]
fn a_store_that_is_away_takes_no_acks() {
    // Its worker leaves when its leases are about to lapse, and what it had to say of the job is not heard.
    for (away, fair) in [(true, true), (false, false)] {
        let mut scenario = Scenario::good();
        scenario.drop_where(|entry| is_start(&entry.event, "released") && entry.ms > 3_000);
        scenario.drop_where(|entry| matches!(&entry.event, Event::End { id, .. } if id == "released"));
        scenario.add(3_005, DRAINED, end("released", 11, Outcome::Retry));
        scenario.add(3_100, CALM, start("released", 1, 12)).add(
            3_102,
            CALM,
            end("released", 12, Outcome::Done),
        );
        if away {
            let (target_pid, role) = (Some(99), Some(Role::Store));
            let killed = Event::Fault { fault: Fault::StoreKill, target_pid, target_start: None, role };
            scenario.add(3_002, NEMESIS, killed);
        }
        let said = scenario.verdict(&tolerances()).1;
        assert_eq!(!said.contains("attempts_are_charged_fairly (P8)"), fair, "{said}");
    }
}

#[test]
fn who_is_stopped_sends_no_acks() {
    // Its worker says how the job ended, and stands still before that can have been sent.
    for (stopped_ms, goes_on_ms, fair) in
        [(3_005, None, true), (3_005, Some(3_050), false), (3_005, Some(3_350), true), (3_200, None, false)]
    {
        let mut scenario = Scenario::good();
        scenario.drop_where(|entry| is_start(&entry.event, "released") && entry.ms > 3_000);
        scenario.drop_where(|entry| matches!(&entry.event, Event::End { id, .. } if id == "released"));
        scenario.drop_where(|entry| matches!(entry.event, Event::Death { target_pid: DRAINED, .. }));
        scenario.add(3_005, DRAINED, end("released", 11, Outcome::Retry));
        scenario.add(3_300, CALM, start("released", 1, 12)).add(
            3_302,
            CALM,
            end("released", 12, Outcome::Done),
        );
        let told = |fault| Event::Fault {
            fault,
            target_pid: Some(DRAINED),
            target_start: None,
            role: Some(Role::Worker),
        };
        scenario.add(stopped_ms, NEMESIS, told(Fault::Stop));
        if let Some(ms) = goes_on_ms {
            scenario.add(ms, NEMESIS, told(Fault::Continue));
        }
        let said = scenario.verdict(&tolerances()).1;
        assert_eq!(!said.contains("attempts_are_charged_fairly (P8)"), fair, "{stopped_ms}: {said}");
    }
}

/// The job runs on past its time, while its master is stopped from 50 s to `until` s.
fn overdue_while_its_master_is_stopped(until: u64, ended: Event) -> String {
    const MASTER: u32 = 98;
    let mut scenario = Scenario::good();
    scenario.change(|entry| {
        let is_death = matches!(entry.event, Event::Death { target_pid: OVERDUE, .. });
        let is_later = entry.ms >= 64_000;
        entry.ms += if is_later { 20_000 } else { 0 };
        is_death
    });
    let stop = Event::Fault {
        fault: Fault::Stop,
        target_pid: Some(MASTER),
        target_start: Some(u64::from(MASTER)),
        role: Some(Role::Master),
    };
    scenario.add(50_000, NEMESIS, stop).add(until * 1_000, NEMESIS, ended);
    scenario.verdict(&tolerances()).1
}

#[test]
fn who_is_stopped_can_end_nobody() {
    const MASTER: u32 = 98;
    let gone_on = Event::Fault {
        fault: Fault::Continue,
        target_pid: Some(MASTER),
        target_start: Some(u64::from(MASTER)),
        role: Some(Role::Master),
    };
    for end in [gone_on, death(MASTER, Cause::Stalled)] {
        // 81 s with a timeout of 60 and 10 allowed: 12 s without a master excuse it, 10 do not.
        assert_eq!(overdue_while_its_master_is_stopped(62, end.clone()), "");
        let said = overdue_while_its_master_is_stopped(60, end);
        assert!(said.contains("overdue_is_ended (P7): 1 violations"), "{said}");
    }
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let mut scenario = Scenario::good();
    // The kill names a process of the same pid that had ended before.
    scenario.change(|entry| match &mut entry.event {
        Event::Fault { fault: Fault::Kill, target_start, .. } => {
            *target_start = Some(1);
            true
        }
        _ => false,
    });
    scenario.drop_where(|entry| matches!(entry.event, Event::Death { target_pid: KILLED, .. }));
    let (verdict, _) = scenario.verdict(&tolerances());
    assert!(verdict.violations.iter().any(|it| it.check == "runs_never_overlap"));
}
