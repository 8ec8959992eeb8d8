//! Where the API wants a token, the page asks for it, and keeps it for the tab.

use crate::rig::{Rig, Store};

/// SHA-256 of `open sesame`.
const HASH: &str = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";

#[test]
fn a_token_is_asked_for_once() {
    let rig = Rig::with(
        Store::Sqlite,
        &format!("[[http.tokens]]\nname = \"reader\"\naccess = \"read\"\nhash = \"sha256:{HASH}\"\n"),
    );
    let browser = &rig.browser;
    rig.ok(&["enqueue", "default", "{}", "--in", "1h"]);
    rig.open("queues");
    browser.see("A token is needed");
    browser.write("wrong");
    browser.click("dialog button", "Sign in");
    browser.see("The token is not known");
    browser.write("open sesame");
    browser.click("dialog button", "Sign in");
    browser.wait("document.querySelector('tbody')?.innerText.includes('default')");
    rig.open("jobs");
    browser.see("Page 1, 1 job");
    assert_eq!(browser.eval("document.querySelector('dialog')"), serde_json::Value::Null, "it is kept");
    rig.open("queues");
    browser.click("button", "Pause default");
    browser.click("dialog button", "Pause");
    browser.see("it needs operate");
    assert_eq!(rig.json(&["queue", "show", "default"])["paused"], false);
}

/// To a token of some queues, these are shown.
#[test]
fn a_token_of_some_queues_shows_these() {
    let limited = format!(
        "[[http.tokens]]\nname = \"limited\"\naccess = \"operate\"\nqueues = [\"other\"]\nhash = \"sha256:{HASH}\"\n"
    );
    let rig = Rig::with(Store::Sqlite, &limited);
    let browser = &rig.browser;
    rig.ok(&["enqueue", "other", "{}", "--id", "mine", "--in", "1h"]);
    rig.ok(&["enqueue", "default", "{}", "--id", "theirs", "--in", "1h"]);
    rig.open("overview");
    browser.see("A token is needed");
    browser.write("open sesame");
    browser.click("dialog button", "Sign in");
    browser.see("the fleet is not shown");
    rig.open("fleet");
    browser.see("the fleet is not shown");
    rig.open("queues");
    browser.wait("document.querySelector('tbody')?.innerText.includes('other')");
    let shown = browser.eval("document.querySelector('tbody').innerText");
    assert!(!shown.as_str().unwrap().contains("default"), "{shown}");
    rig.open("jobs");
    browser.see("mine");
    browser.see("Page 1, 1 job");
    // Its numbers follow.
    rig.open("queues");
    browser.click("button", "Pause other");
    browser.click("dialog button", "Pause");
    browser.wait("[...document.querySelectorAll('button')].some((it) => it.ariaLabel === 'Resume other')");
    assert_eq!(rig.json(&["queue", "show", "other"])["paused"], true);
}
