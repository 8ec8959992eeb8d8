//! The keyboard, the theme, and news that wait.

use crate::rig::{Rig, Store};

#[test]
fn keys_go_places_but_not_from_fields() {
    let rig = Rig::new(Store::Sqlite);
    rig.ok(&["enqueue", "default", "{}", "--id", "first", "--in", "1h"]);
    rig.ok(&["enqueue", "default", "{}", "--id", "second", "--in", "2h"]);
    let browser = &rig.browser;
    rig.open("overview");
    for (key, place) in [("q", "queues"), ("f", "fleet"), ("d", "dead"), ("o", "overview"), ("j", "jobs")] {
        browser.press(&["g", key]);
        browser.wait(&format!("location.hash === '#/{place}'"));
    }
    browser.see("second");
    let focus = "document.activeElement.innerText";
    browser.press(&["j"]);
    assert_eq!(browser.eval(focus), "first");
    browser.press(&["j", "j"]);
    assert_eq!(browser.eval(focus), "second", "the last row is the last");
    browser.press(&["x"]);
    browser.see("1 job selected");
    browser.press(&["x", "k"]);
    browser.wait("document.activeElement.innerText === 'first'");
    browser.eval("document.activeElement.click()");
    browser.wait("location.hash === '#/job/default/first'");
    browser.press(&["/"]);
    browser.wait("document.activeElement.name === 'id'");
    browser.press(&["g", "q", "?", "p"]);
    assert_eq!(browser.eval("document.activeElement.value"), "gq?p", "a field takes them");
    assert_eq!(browser.eval("document.querySelector('dialog')"), serde_json::Value::Null);
    browser.eval("document.activeElement.blur()");
    browser.press(&["?"]);
    browser.click("dialog label.check", "");
    browser.press(&["Escape"]);
    browser.wait("!document.querySelector('dialog')");
    let before = browser.eval("location.hash");
    browser.press(&["g", "f"]);
    assert_eq!(browser.eval("location.hash"), before, "they are turned off");
    rig.assert_calm();
}

#[test]
fn the_theme_is_remembered_and_tab_finds_the_way() {
    let rig = Rig::new(Store::Sqlite);
    let browser = &rig.browser;
    let ground = "getComputedStyle(document.body).backgroundColor";
    browser.prefer("light");
    rig.open("overview");
    let light = browser.eval(ground);
    browser.click("button", "Light or dark");
    let dark = browser.eval(ground);
    assert_ne!(light, dark);
    rig.open("queues");
    assert_eq!(browser.eval(ground), dark, "remembered");
    browser.press(&["Tab"]);
    assert_eq!(browser.eval("document.activeElement.className"), "skip");
    browser.press(&["Enter"]);
    assert_eq!(browser.eval("document.activeElement.id"), "main");
    rig.assert_calm();
}

#[test]
fn what_is_new_is_shown_and_waits_under_the_mouse() {
    let rig = Rig::new(Store::Sqlite);
    let browser = &rig.browser;
    rig.ok(&["enqueue", "default", "{}", "--in", "1h"]);
    rig.open("queues");
    browser.see("Live");
    let count = "document.querySelector('a[href=\"#/jobs?queue=default&state=scheduled\"]')?.innerText";
    browser.wait(&format!("{count} === '1'"));
    rig.ok(&["enqueue", "default", "{}", "--in", "1h"]);
    browser.wait(&format!("{count} === '2'"));
    browser.point("tbody td", "");
    browser.see("Paused");
    rig.ok(&["enqueue", "default", "{}", "--in", "1h"]);
    browser.wait("import('/dashboard/live.js').then((it) => it.queue('default').scheduled === 3)");
    assert_eq!(browser.eval(count), "2", "nothing moves under the mouse");
    browser.point("h1", "");
    browser.wait(&format!("{count} === '3'"));
    browser.see("Live");
    rig.assert_calm();
}
