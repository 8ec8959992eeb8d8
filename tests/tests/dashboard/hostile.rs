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

/// What is run if a page takes it for its own: markup, handlers, addresses, and what breaks out of quotes.
const CORES: &[&str] = &[
    "<script>caught=1</script>",
    "<ScRiPt >caught=1</sCrIpT>",
    "<script/src=data:,caught=1></script>",
    "<img src=x onerror=caught=1>",
    "<img/src='x'/onerror='caught=1'>",
    "<svg onload=caught=1>",
    "<svg><script>caught&#61;1</script></svg>",
    "<svg><animate onbegin=caught=1 attributeName=x dur=1s>",
    "<math><mtext><table><mglyph><style><img src=x onerror=caught=1>",
    "<iframe srcdoc='<script>parent.caught=1</script>'></iframe>",
    "<iframe src=javascript:parent.caught=1></iframe>",
    "<object data=javascript:caught=1></object>",
    "<embed src=javascript:caught=1>",
    "<a href=javascript:caught=1 autofocus onfocus=caught=1>x</a>",
    "<input autofocus onfocus=caught=1>",
    "<details open ontoggle=caught=1>",
    "<video><source onerror=caught=1></video>",
    "<body onload=caught=1>",
    "<style>@import 'data:text/css,*{background:red}';</style>",
    "<link rel=stylesheet href=data:text/css,*{display:none}>",
    "<base href=//example.com/>",
    "<meta http-equiv=refresh content='0;url=javascript:caught=1'>",
    "<form action=javascript:caught=1><button autofocus>x</button></form>",
    "<template><script>caught=1</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=caught=1>'>",
    "javascript:caught=1",
    "java\u{0}script:caught=1",
    "data:text/html,<script>caught=1</script>",
    "&lt;script&gt;caught=1&lt;/script&gt;",
    "%3Cscript%3Ecaught=1%3C/script%3E",
    "\\u003cscript\\u003ecaught=1\\u003c/script\\u003e",
    "${caught=1}",
    "{{constructor.constructor('caught=1')()}}",
    "__proto__",
    "constructor",
    "toString",
    "\u{202e}gnp.exe\u{2066}",
    "\u{feff}\u{200b}\u{2028}\u{2029}",
    "\u{1b}[2J\u{1b}]0;caught\u{7}",
    "Z\u{351}\u{36b}\u{343}\u{36a}\u{302}\u{36b}\u{33d}",
];

/// What they may stand in.
const AROUND: &[(&str, &str)] = &[
    ("", ""),
    ("\">", ""),
    ("'>", "<!--"),
    ("</td></tr></table>", ""),
    ("</script>", ""),
    ("-->", "<!--"),
    ("</textarea></title></style>", ""),
    ("`);", "//"),
];

/// Each string in every field that holds text: payload, kind, key, header, error; and in the fields of the page.
#[test]
fn three_hundred_strings_run_nothing() {
    let rig = Rig::new(Store::Sqlite);
    let strings: Vec<String> = AROUND
        .iter()
        .flat_map(|(before, after)| CORES.iter().map(move |core| format!("{before}{core}{after}")))
        .collect();
    assert!(strings.len() >= 300, "{}", strings.len());
    let mut lines = String::new();
    for (number, string) in strings.iter().enumerate() {
        let breaks = json!({"id": format!("d{number}"), "kind": "dead", "payload": {"error": string, string: [string]}});
        // A field takes what its rules let it; what they refuse, a page never sees.
        let mut rich = json!({"id": format!("r{number}"), "payload": string, "in": "1h"});
        for (field, value) in
            [("kind", json!(string)), ("key", json!(string)), ("headers", json!({"x": string}))]
        {
            rich[field] = value;
        }
        lines.extend([breaks.to_string(), "\n".to_owned(), rich.to_string(), "\n".to_owned()]);
    }
    let _some_are_refused = rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap();
    let count = strings.len();
    rig.up
        .wait_for(roundsman_tests::browser::SEEN, || {
            let dead = rig.json(&["queue", "show", "default"])["dead"].clone();
            if dead == json!(count) { Ok(()) } else { Err(dead.to_string()) }
        })
        .unwrap();
    let rich = rig.json(&["queue", "show", "default"])["scheduled"].as_u64().unwrap();
    assert!(rich >= 200, "{rich} jobs hold a string in each of their fields");
    rig.open("dead");
    rig.browser.see("causes");
    // Each job's own page, and each string in every field of the search, one after another in the same document.
    let walk = format!(
        "(async () => {{\n\
           const strings = {strings};\n\
           const shown = async (hash, test) => {{\n\
             // A browser refuses to move faster than 200 times in 10 s.\n\
             const isThere = () => location.hash === hash && test();\n\
             for (let turn = 0; turn < 1000 && !isThere(); turn += 1) {{\n\
               if (location.hash !== hash) location.hash = hash;\n\
               await new Promise((done) => setTimeout(done, 20));\n\
             }}\n\
             return isThere();\n\
           }};\n\
           const strange = [];\n\
           const look = async (hash, test) => {{\n\
             if (!(await shown(hash, test))) strange.push(`${{hash}} is not shown`);\n\
             if (window.caught !== undefined) strange.push(`${{hash}} ran`);\n\
             if (document.querySelector('main :is(script, img, iframe, object, embed, style, link, meta, base, form[action])')) strange.push(`${{hash}} is markup`);\n\
           }};\n\
           const title = () => document.querySelector('h1')?.textContent ?? '';\n\
           for (let at = 0; at < strings.length; at += 1) {{\n\
             await look(`#/job/default/d${{at}}`, () => title().includes(`d${{at}}`));\n\
             const word = encodeURIComponent(strings[at]);\n\
             await look(`#/jobs?kind=${{word}}&error=${{word}}&id=${{word}}`, () => document.querySelector('[name=error]')?.value !== undefined);\n\
             if (at < 40) await look(`#/queue/${{word}}`, () => title() !== 'Jobs');\n\
           }}\n\
           return strange;\n\
         }})()",
        strings = json!(strings)
    );
    assert_eq!(rig.browser.eval(&walk), json!([]));
    for page in ["overview", "queues", "jobs", "jobs?state=dead", "dead"] {
        rig.open(page);
        assert_eq!(rig.browser.eval("window.caught ?? null"), json!(null), "{page}");
    }
    let complaints = rig.browser.complaints();
    assert!(!complaints.iter().any(|it| it.contains("Content Security Policy")), "{complaints:?}");
}
