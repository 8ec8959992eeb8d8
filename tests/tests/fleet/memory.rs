//! Workers that want more memory than there is: the end of them is told for what it is, and all others live.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use roundsman_tests::proc::Process;
use roundsman_tests::tree::{Site, Up, built};
use roundsman_tests::wait::wait_for;
use serde_json::Value;

use crate::rig::{LATE, Rig, SOON, Store, figure, log, on_both, outcomes};

/// For a cgroup; a worker at rest needs a fifth of it.
const LIMIT: u64 = 96 << 20;

/// A cgroup with a limit of memory; removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Of so many bytes, below this process's own, or why there can be none.
    fn make(name: &str, limit: u64) -> Result<Self, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let path = |controllers: &str| {
            groups
                .lines()
                .find_map(|line| line.split_once(':')?.1.strip_prefix(controllers)?.strip_prefix(":/"))
        };
        let (root, own, file) = match path("memory") {
            Some(own) => ("/sys/fs/cgroup/memory", own, "memory.limit_in_bytes"),
            None => ("/sys/fs/cgroup", path("").ok_or("no cgroup")?, "memory.max"),
        };
        let folder = Path::new(root).join(own).join(format!("{name}-{}", std::process::id()));
        let error = |error: std::io::Error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(error)?;
        let cgroup = Self(folder.clone());
        fs::write(folder.join(file), limit.to_string()).map_err(error)?;
        // Else what is over the limit is swapped, where there is room for that.
        let _ = fs::write(folder.join("memory.swap.max"), "0");
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let gone = wait_for("the cgroup to be empty", SOON, || {
            fs::remove_dir(&self.0).map_err(|error| error.to_string())
        });
        if let Err(late) = gone
            && !std::thread::panicking()
        {
            panic!("{late}");
        }
    }
}

/// Two pools: `default`, whose workers a shell command limits first, and `other`.
fn rig(store: Store, limit: &str, settings: &str) -> Rig {
    let rig = Rig::new(store, "");
    rig.script("limited.sh", &format!("#!/bin/sh\n{limit}\nexec \"$@\"\n"));
    let limited = rig.site.work().join("limited.sh");
    let pool = rig
        .fixture_pool("default")
        .replace("command = [", &format!("command = [\"{}\", ", limited.display()));
    let other = rig.fixture_pool("other");
    rig.configure(&format!("{pool}min_workers = 1\nmax_workers = 1\n{other}min_workers = 1\n{settings}"));
    rig
}

fn of_pool(up: &Up, pool: &str) -> Process {
    let workers = up.workers().unwrap();
    let found = workers.iter().find(|(name, _)| name.starts_with(&format!("{pool}/")));
    found.unwrap_or_else(|| panic!("{workers:?}")).1
}

/// The first attempt says so, with the most memory in MiB with which its worker was seen.
fn peak(job: &Value) -> Option<u64> {
    let error = job["attempts"][0]["error"].as_str()?;
    let (_, rest) = error.split_once("out of memory: ")?.1.split_once("it was seen with ")?;
    rest.split_once(" MiB at most")?.0.parse().ok()
}

#[track_caller]
fn is_explained(rig: &Rig, up: &Up, id: &str) {
    let text = rig.ok(&["job", "explain", id]);
    assert!(text.contains("out of memory: ") && text.contains(" MiB at most"), "{text}\n{}", log(up));
}

fn what_the_kernel_kills_for_want_of_memory_is_told_as_such(store: Store) {
    let cgroup = match Cgroup::make("roundsman-kill", LIMIT) {
        Ok(cgroup) => cgroup,
        Err(why) => return figure(&format!("skipped: no memory cgroup can be made here: {why}")),
    };
    let rig = rig(store, &format!("echo $$ > {}/cgroup.procs", cgroup.0.display()), "");
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    let (master, other, limited) = (up.master().unwrap(), of_pool(&up, "other"), of_pool(&up, "default"));

    // Somebody else's SIGKILL is none.
    rig.enqueue("killed", "sleep", r#"{"ms":1000}"#);
    assert_eq!(rig.wait_start(&up, "killed", 1, SOON).process, limited);
    limited.signal(rustix::process::Signal::KILL).unwrap();
    let killed = rig.wait_state(&up, "killed", "done");
    assert_eq!(outcomes(&killed), ["killed", "done"], "{killed}");
    assert!(killed["attempts"][0]["error"].as_str().unwrap().contains("from outside"), "{killed}");

    rig.enqueue("hoard", "hoard", r#"{"mib":2,"ms":50}"#);
    let job = rig.wait_job(&up, "hoard", LATE, |job| job["attempts"][0]["ended"].is_i64());
    assert_eq!(outcomes(&job)[0], "killed", "{job}\n{}", log(&up));
    let peak = peak(&job).unwrap_or_else(|| panic!("{job}\n{}", log(&up)));
    assert!((20..=LIMIT >> 20).contains(&peak), "{peak} MiB: {job}");
    is_explained(&rig, &up, "hoard");
    assert!(up.stderr().contains("out of memory (signal SIGKILL)"), "{}", log(&up));
    assert_eq!((up.master().unwrap(), of_pool(&up, "other")), (master, other), "{}", log(&up));
}

fn who_is_refused_memory_and_aborts_is_told_as_such(store: Store) {
    // Of addresses, in KiB: threads and their heaps reserve much and use little.
    let rig = rig(store, "ulimit -v 2000000", "[queues.default]\nmax_crashes = 1\n");
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    let (master, other) = (up.master().unwrap(), of_pool(&up, "other"));
    rig.enqueue("large", "leak", r#"{"mib":4000}"#);
    let job = rig.wait_state(&up, "large", "dead");
    assert_eq!(outcomes(&job), ["crashed"], "{job}\n{}", log(&up));
    assert!(peak(&job).is_some_and(|mib| mib < 500), "{job}\n{}", log(&up));
    let tail = job["attempts"][0]["stderr_tail"].as_str().unwrap_or_default();
    assert!(tail.contains("bytes failed"), "{job}");
    is_explained(&rig, &up, "large");
    rig.enqueue("after", "echo", "1");
    rig.wait_state(&up, "after", "done");
    assert_eq!((up.master().unwrap(), of_pool(&up, "other")), (master, other), "{}", log(&up));
}

/// Each of eight jobs has its worker keep 40 MiB; there is room for about five of them.
#[test]
fn no_more_workers_are_started_than_there_is_memory_for() {
    const ROOM: u64 = 320 << 20;
    let cgroup = match Cgroup::make("roundsman-room", ROOM) {
        Ok(cgroup) => cgroup,
        Err(why) => return figure(&format!("skipped: no memory cgroup can be made here: {why}")),
    };
    let within = tempfile::tempdir().unwrap();
    let script = within.path().join("within");
    let (folder, own) = (cgroup.0.display(), built("roundsman").unwrap());
    let join = format!("#!/bin/sh\necho $$ > {folder}/cgroup.procs\nexec {} \"$@\"\n", own.display());
    fs::write(&script, join).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let site = Site::with_binary(script, "").unwrap();
    let rig = Rig { server: None, site };
    rig.configure(&format!("{}max_workers = 8\n", rig.fixture_pool("default")));
    let up = rig.up(0);
    let hold = |id: &str| rig.enqueue(id, "until", r#"{"mib":40,"file":"go"}"#);
    hold("first");
    rig.wait_start(&up, "first", 1, SOON);
    wait_for("its memory to be told", SOON, || {
        let status = rig.json(&["status"]);
        let rss = &status["hosts"][0]["pools"][0]["workers"][0]["rss"];
        if rss.as_u64().is_some_and(|rss| rss > 40 << 20) { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    (1..8).for_each(|n| hold(&format!("j{n}")));
    let held = wait_for("the pool to be held", LATE, || {
        let status = rig.json(&["status"]);
        let pool = &status["hosts"][0]["pools"][0];
        let why = pool["why"].as_str().unwrap_or_default();
        let workers = pool["workers"].as_array().map_or(0, Vec::len);
        if why.contains("held at") && workers > 1 { Ok(pool.clone()) } else { Err(status.to_string()) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let (desired, why) = (held["desired"].as_u64().unwrap(), held["why"].as_str().unwrap());
    assert!((2..8).contains(&desired), "{held}");
    assert!(why.contains("this machine has ") || why.contains("wait for memory"), "{why}");
    figure(&format!("eight jobs of 40 MiB each in 320 MiB: {why}"));
    // Who is there does them one after the other.
    fs::write(rig.folder().join("go"), "").unwrap();
    for id in ["first", "j1", "j7"] {
        rig.wait_state(&up, id, "done");
    }
}

on_both!(
    what_the_kernel_kills_for_want_of_memory_is_told_as_such,
    who_is_refused_memory_and_aborts_is_told_as_such
);
