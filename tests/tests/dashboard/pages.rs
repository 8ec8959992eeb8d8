//! Each page shows what is there, in both themes and at both widths, and the console stays silent.

use serde_json::json;

use crate::rig::{Rig, Store, on_both};

on_both!(each_page_shows_what_is_there, the_address_holds_the_filter, pages_of_jobs_follow_each_other);

fn each_page_shows_what_is_there(store: Store) {
    let rig = Rig::new(store);
    rig.enqueue("quick", "echo", r#"{"n":1}"#);
    rig.wait_state("quick", "done");
    rig.bury(&["gone"]);
    rig.ok(&["enqueue", "default", "{}", "--id", "later", "--in", "2h", "--kind", "echo"]);
    let kind = if store == Store::Redis { "redis" } else { "sqlite" };
    let master = rig.up.master().unwrap().unwrap();
    let pages: [(&str, Vec<String>); 7] = [
        ("overview", vec!["An acknowledged job survives".into(), kind.into(), "Newest causes".into()]),
        ("queues", vec!["default".into(), "other".into(), "Pause".into()]),
        ("queue/default", vec!["Served by".into(), "gone".into(), "later".into(), "quick".into()]),
        ("jobs", vec!["quick".into(), "later".into(), "gone".into(), "done".into()]),
        ("job/default/gone", vec!["It was given up".into(), "Attempts".into()]),
        ("fleet", vec!["supervisor".into(), format!("pid {}", master.pid), "Why".into(), "default/1".into()]),
        ("dead", vec!["default 1".into(), "gone".into(), "Retry all".into()]),
    ];
    for (scheme, width) in [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)] {
        rig.browser.prefer(scheme);
        rig.browser.resize(width, 860);
        for (page, texts) in &pages {
            rig.open(page);
            for text in texts {
                // What is left out on a narrow page is in the document all the same.
                rig.browser.wait(&format!("document.body.textContent.includes({})", json!(text)));
            }
            let beyond = rig.browser.eval("document.documentElement.scrollWidth - innerWidth");
            // A scroll bar takes some of the width.
            assert!(
                beyond.as_i64().is_some_and(|beyond| beyond <= 0),
                "{page} is wider than {width} by {beyond}"
            );
            rig.assert_calm();
        }
        let ground = rig.browser.eval("getComputedStyle(document.body).backgroundColor");
        let light = ground.as_str().unwrap().trim_start_matches("rgb(").split(',').next().unwrap().to_owned();
        let is_light = light.parse::<u32>().unwrap() > 128;
        assert_eq!(is_light, scheme == "light", "{ground}");
    }
}

fn the_address_holds_the_filter(store: Store) {
    let rig = Rig::new(store);
    rig.bury(&["gone-1", "gone-2"]);
    rig.enqueue("fine", "echo", "{}");
    rig.wait_state("fine", "done");
    rig.open("jobs?state=dead&queue=default&kind=dead");
    rig.browser.see("gone-1");
    assert_eq!(rig.browser.eval("document.querySelectorAll('[data-row]').length"), 2);
    assert_eq!(rig.browser.eval("document.querySelector('[name=state]').value"), "dead");
    rig.browser.click("a", "Clear");
    rig.browser.see("fine");
    rig.browser.click("input[name=id]", "");
    rig.browser.write("gone-2");
    rig.browser.press(&["Enter"]);
    rig.browser.wait("document.querySelectorAll('[data-row]').length === 1");
    assert_eq!(rig.browser.eval("location.hash"), "#/jobs?id=gone-2");
    rig.browser.click("a", "gone-2");
    rig.browser.see("It was given up");
    rig.browser.eval("history.back()");
    rig.browser.wait("location.hash === '#/jobs?id=gone-2'");
    rig.browser.see("gone-2");
    rig.assert_calm();
}

fn pages_of_jobs_follow_each_other(store: Store) {
    let rig = Rig::new(store);
    let jobs: Vec<String> = (0..120)
        .map(|n| json!({"id": format!("job-{n:03}"), "payload": n, "in": "1h"}).to_string())
        .collect();
    let done = rig.site.cli_with_input(&["enqueue", "other", "--ndjson"], &jobs.join("\n")).unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    rig.open("jobs?queue=other");
    let mut seen = std::collections::BTreeSet::new();
    for (page, size) in [(1, 50), (2, 50), (3, 20)] {
        rig.browser.see(&format!("Page {page}, {size} jobs"));
        rig.browser.wait(&format!("document.querySelectorAll('tbody th').length === {size}"));
        let ids = rig.browser.eval("[...document.querySelectorAll('tbody th')].map((it) => it.innerText)");
        seen.extend(ids.as_array().unwrap().iter().map(ToString::to_string));
        if page < 3 {
            rig.browser.click("button", "Next page");
        }
    }
    assert_eq!(seen.len(), 120);
    assert_eq!(rig.browser.eval("[...document.querySelectorAll('.pager button')].at(1).disabled"), true);
    rig.browser.click("button", "Newer page");
    rig.browser.see("Page 2, 50 jobs");
    rig.assert_calm();
}
