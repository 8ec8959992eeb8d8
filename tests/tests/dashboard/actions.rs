//! What the dashboard does: asked for first, done by the API, and told.

use roundsman_tests::browser::SEEN;

use crate::rig::{Rig, Store, on_both};

on_both!(
    a_queue_is_paused_and_resumed,
    a_job_is_cancelled_and_retried,
    many_jobs_are_cancelled_at_once,
    dead_letters_of_a_cause_run_again,
);

fn a_queue_is_paused_and_resumed(store: Store) {
    let rig = Rig::new(store);
    let is_paused = || rig.json(&["queue", "show", "default"])["paused"].clone();
    rig.ok(&["enqueue", "default", "{}", "--in", "1h"]);
    rig.open("queues");
    rig.browser.click("button", "Pause default");
    rig.browser.see("Pause the queue default?");
    rig.browser.see("roundsman queue pause default");
    rig.browser.press(&["Escape"]);
    rig.browser.wait("!document.querySelector('dialog')");
    assert_eq!(is_paused(), false, "Escape leaves it");
    rig.browser.click("button", "Pause default");
    rig.browser.click("dialog button", "Pause");
    rig.browser.see("The queue default is paused");
    assert_eq!(is_paused(), true);
    rig.browser.click("button", "Resume default");
    rig.browser.click("dialog button", "Resume");
    rig.browser.see("The queue default is open");
    assert_eq!(is_paused(), false);
    rig.assert_calm();
}

fn a_job_is_cancelled_and_retried(store: Store) {
    let rig = Rig::new(store);
    rig.ok(&["enqueue", "default", "{}", "--id", "later", "--kind", "echo", "--in", "1h"]);
    rig.open("job/default/later");
    rig.browser.see("It is not due yet.");
    rig.browser.click("button", "Cancel");
    rig.browser.see("roundsman job cancel default/later");
    rig.browser.click("dialog button", "Cancel the job");
    rig.browser.see("Somebody cancelled it");
    rig.wait_state("later", "cancelled");
    rig.browser.click("button", "Retry");
    rig.browser.click("dialog button", "Retry the job");
    rig.wait_state("later", "done");
    rig.assert_calm();
}

fn many_jobs_are_cancelled_at_once(store: Store) {
    let rig = Rig::new(store);
    for id in ["a", "b", "c"] {
        rig.ok(&["enqueue", "default", "{}", "--id", id, "--in", "1h"]);
    }
    rig.open("jobs?state=scheduled");
    rig.browser.see("Page 1, 3 jobs");
    rig.browser.click("input", "Select default/a");
    rig.browser.click("input", "Select default/c");
    rig.browser.see("2 jobs selected");
    rig.browser.see("Paused");
    rig.browser.click("button", "Cancel 2");
    rig.browser.click("dialog button", "Cancel 2 jobs");
    rig.browser.see("2 jobs cancelled");
    for (id, state) in [("a", "cancelled"), ("b", "scheduled"), ("c", "cancelled")] {
        assert_eq!(rig.json(&["job", "show", id])["state"], state, "{id}");
    }
    rig.browser.see("Page 1, 1 job");
    rig.assert_calm();
}

fn dead_letters_of_a_cause_run_again(store: Store) {
    let rig = Rig::new(store);
    let ids = ["gone-1", "gone-2", "gone-3", "gone-4", "gone-5"];
    rig.bury(&ids);
    rig.enqueue("odd", "no-such-kind-of-job", "{}");
    rig.open("dead");
    rig.browser.see("5 jobs, 1 cause");
    rig.browser.click("td.do button", "");
    rig.browser.see("Retry 5 dead letters?");
    rig.browser.see("roundsman dead retry --error");
    rig.browser.click("dialog button", "Retry 5 jobs");
    rig.browser.see("5 jobs will run again");
    for id in ids {
        let look = || {
            let job = rig.json(&["job", "show", id]);
            // It is given up again: its handler has not changed its mind.
            let again =
                job["state"] == "dead" && job["attempts"].as_array().is_some_and(|all| all.len() == 2);
            if again { Ok(()) } else { Err(job.to_string()) }
        };
        rig.up.wait_for(SEEN, look).unwrap();
    }
    rig.assert_calm();
}
