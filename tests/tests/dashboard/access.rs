//! Nobody is left out: axe-core, where npm can fetch it, finds nothing serious on any page in either theme.

use std::path::Path;

use roundsman_tests::spawn;

use crate::rig::{Rig, Store};

#[test]
fn axe_finds_nothing_serious() {
    let folder = tempfile::tempdir().unwrap();
    let Some(axe) = fetch(folder.path()) else { return skipped() };
    let rig = Rig::new(Store::Sqlite);
    rig.bury(&["gone"]);
    rig.ok(&["enqueue", "default", "{}", "--id", "later", "--in", "1h"]);
    for scheme in ["light", "dark"] {
        rig.browser.prefer(scheme);
        for page in ["overview", "queues", "queue/default", "jobs", "job/default/gone", "fleet", "dead"] {
            rig.open(page);
            rig.browser.wait("document.querySelector('main .scroll, main .tree')");
            rig.browser.eval(&axe);
            let found = rig.browser.eval(
                "axe.run().then(({violations}) => violations
                    .filter(({impact}) => impact === 'serious' || impact === 'critical')
                    .map(({id, nodes}) => [id, nodes.map((it) => it.html)]))",
            );
            assert_eq!(found, serde_json::json!([]), "{page}, {scheme}");
        }
    }
}

/// The text of axe-core, as npm's registry has it; it is under the MPL, and no part of what is shipped.
fn fetch(folder: &Path) -> Option<String> {
    spawn::find("npm")?;
    let mut pack = spawn::command("npm");
    pack.args(["pack", "--silent", "axe-core@4"]).current_dir(folder);
    let packed = spawn::output(pack).ok().filter(|done| done.status.success())?;
    let mut unpack = spawn::command("tar");
    unpack.arg("-xzf").arg(String::from_utf8(packed.stdout).ok()?.trim()).current_dir(folder);
    spawn::output(unpack).ok().filter(|done| done.status.success())?;
    std::fs::read_to_string(folder.join("package/axe.min.js")).ok()
}

#[expect(clippy::print_stderr, reason = "a test that did not test says so")]
fn skipped() {
    eprintln!("axe-core cannot be had from npm here: nothing was tested");
}
