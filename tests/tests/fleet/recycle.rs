//! Workers that are replaced: another is ready before they leave.

use roundsman_tests::tree::{Up, built};
use roundsman_tests::wait::wait_for;

use crate::rig::{LATE, Rig, SOON, Store, log, on_both, outcomes};

/// The first is a worker at once, each further one when there is a file `go`.
const LATECOMERS: &str =
    "#!/bin/sh\nmkdir first 2>/dev/null || until [ -e go ]; do sleep 0.05; done\nexec \"$@\"\n";

/// Somebody who serves, whenever one looks.
fn somebody_serves(up: &Up) {
    let status = up.status().unwrap();
    let pools = status.hosts.iter().flat_map(|host| &host.pools);
    let mut workers = pools.flat_map(|pool| &pool.workers);
    let serves = workers.any(|it| ["idle", "busy", "suspect"].contains(&it.state.as_str()));
    assert!(serves, "{:?}\n{}", status.hosts, log(up));
}

fn a_worker_that_leaks_serves_until_another_is_ready(store: Store) {
    let rig = Rig::new(store, "");
    rig.script("late.sh", LATECOMERS);
    let late = rig.site.work().join("late.sh");
    let fixture = built("fixture-handler").unwrap();
    rig.configure(&format!(
        "[pools.default]\nqueues = [\"default\"]\ncommand = [\"{}\", \"{}\", \"{}\"]\n\
         min_workers = 1\nmax_workers = 1\nmax_memory = \"128MiB\"\n",
        late.display(),
        fixture.display(),
        rig.folder().display()
    ));
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    rig.enqueue("leak", "leak", r#"{"mib":180}"#);
    let leaked = rig.wait_start(&up, "leak", 1, SOON).process;
    assert_eq!(outcomes(&rig.wait_state(&up, "leak", "done")), ["done"]);

    // Its successor does not come up, however often it is started.
    wait_for("a successor to be given up", LATE, || {
        somebody_serves(&up);
        if up.stderr().contains("no hello in") { Ok(()) } else { Err(log(&up)) }
    })
    .unwrap();
    rig.enqueue("meanwhile", "echo", "1");
    assert_eq!(outcomes(&rig.wait_state(&up, "meanwhile", "done")), ["done"]);
    assert_eq!(rig.starts("meanwhile")[0].process, leaked, "{}", log(&up));

    std::fs::write(rig.site.work().join("go"), "").unwrap();
    wait_for("the worker to be replaced", LATE, || {
        somebody_serves(&up);
        if leaked.is_alive() { Err(log(&up)) } else { Ok(()) }
    })
    .unwrap();
    rig.enqueue("after", "echo", "1");
    assert_eq!(outcomes(&rig.wait_state(&up, "after", "done")), ["done"]);
    assert_ne!(rig.starts("after")[0].process, leaked);
}

fn a_change_of_settings_lets_nobody_go_before_another_is_ready(store: Store) {
    let rig = Rig::new(store, "");
    rig.script("late.sh", LATECOMERS);
    let late = rig.site.work().join("late.sh");
    let pool =
        rig.fixture_pool("default").replace("command = [", &format!("command = [\"{}\", ", late.display()));
    rig.configure(&format!("{pool}min_workers = 1\nmax_workers = 1\n"));
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    rig.enqueue("before", "echo", "1");
    let old = rig.wait_start(&up, "before", 1, SOON).process;
    rig.configure(&format!("{pool}min_workers = 1\nmax_workers = 1\nslots = 2\n"));
    rig.ok(&["reload"]);
    wait_for("the successor to be there", SOON, || {
        let status = up.status().map_err(|error| error.to_string())?;
        let workers: Vec<_> =
            status.hosts.iter().flat_map(|host| &host.pools).flat_map(|pool| &pool.workers).collect();
        if workers.iter().any(|it| it.state == "starting") { Ok(()) } else { Err(format!("{workers:?}")) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    rig.enqueue("meanwhile", "echo", "1");
    rig.wait_state(&up, "meanwhile", "done");
    assert_eq!(rig.starts("meanwhile")[0].process, old, "{}", log(&up));
    std::fs::write(rig.site.work().join("go"), "").unwrap();
    wait_for("the worker to be replaced", LATE, || {
        somebody_serves(&up);
        if old.is_alive() { Err(log(&up)) } else { Ok(()) }
    })
    .unwrap();
}

on_both!(
    a_worker_that_leaks_serves_until_another_is_ready,
    a_change_of_settings_lets_nobody_go_before_another_is_ready
);
