//! What a job holds stays text, whatever it is.

use serde_json::json;

use crate::rig::{Rig, Store, on_both};

on_both!(job_data_stays_text);

const MARKUP: &str = "<script>window.caught = 1</script><img src=x onerror=\"window.caught = 2\">";

fn job_data_stays_text(store: Store) {
    let rig = Rig::new(store);
    let long = "x".repeat(20_000);
    let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
    let payload = format!(
        r#"{{"html":{},"turned":"\u202egnp.exe \u2066שלום","big":12345678901234567890,"small":1.10,"long":"{long}","deep":{deep}}}"#,
        json!(MARKUP)
    );
    let mut job = format!(
        r#"{{"id":"hostile","kind":{},"payload":{payload},"in":"1h","key":{},"headers":{{"x":{}}}}}"#,
        json!(MARKUP),
        json!("\u{202e}key"),
        json!(MARKUP)
    );
    job.push('\n');
    let done = rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &job).unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    // What a handler answers is no better.
    rig.ok(&["enqueue", "default", &json!(MARKUP).to_string(), "--id", "echoed", "--kind", "echo"]);
    rig.wait_state("echoed", "done");
    for page in ["overview", "queues", "queue/default", "jobs", "job/default/hostile", "fleet", "dead"] {
        rig.open(page);
        if page.starts_with("jobs") || page.starts_with("queue/") {
            rig.browser.see("hostile");
        }
        assert_eq!(rig.browser.eval("window.caught ?? null"), json!(null), "{page}");
        assert_eq!(
            rig.browser.eval("document.querySelectorAll('main script, main img').length"),
            0,
            "{page}"
        );
        let beyond = rig.browser.eval("document.documentElement.scrollWidth - innerWidth");
        assert!(beyond.as_i64().is_some_and(|beyond| beyond <= 0), "{page}: {beyond}");
    }
    rig.open("job/default/hostile");
    rig.browser.see("<script>window.caught = 1</script>");
    rig.browser.see("12345678901234567890");
    rig.browser.see("1.10");
    rig.browser.see(r"\u202egnp.exe \u2066");
    let shown = rig.browser.eval("document.querySelector('pre').textContent");
    let shown: serde_json::Value = serde_json::from_str(shown.as_str().unwrap()).unwrap();
    assert_eq!(shown, serde_json::from_str::<serde_json::Value>(&payload).unwrap(), "nothing is lost");
    rig.open("job/default/echoed");
    rig.browser.see("Result");
    assert_eq!(rig.browser.eval("window.caught ?? null"), json!(null));
    // What the address says is text as well.
    rig.open("queue/%3Cscript%3Ewindow.caught=1%3C%2Fscript%3E");
    rig.browser.see("<script>window.caught=1</script>");
    assert_eq!(rig.browser.eval("window.caught ?? null"), json!(null));
}
