//! The supervisor with real processes and signals, on a master that only speaks the protocol (`fixture-master`).

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper fails its test, and figures are for people"
)]

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::pty;
use roundsman_tests::proc::{Process, State};
use roundsman_tests::spawn;
use roundsman_tests::time;
use roundsman_tests::tree::{Site, Up, UpOptions, built};
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(15);

const SETTINGS: &str = "[store]\nurl = \"sqlite:jobs.db\"\n[pools.default]\ngrace = \"1s\"\n";

struct Stage {
    site: Site,
    up: Up,
}

/// A line of `masters.log`.
#[derive(Debug, Clone)]
struct Line {
    pid: u32,
    at_us: u64,
    what: String,
}

fn site() -> Site {
    Site::with_binary(built("fixture-master").unwrap(), SETTINGS).unwrap()
}

fn options(mode: &str) -> UpOptions {
    let environment =
        vec![("FIXTURE_MODE".to_owned(), mode.to_owned()), ("ROUNDSMAN_LOG".into(), "debug".into())];
    UpOptions { environment, ..UpOptions::default() }
}

impl Stage {
    fn new(mode: &str) -> Self {
        let site = site();
        let up = site.launch(&options(mode)).unwrap();
        Self { site, up }
    }

    fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.site.work().join("masters.log")).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ');
            Some(Line {
                pid: words.next()?.parse().ok()?,
                at_us: words.next()?.parse().ok()?,
                what: words.next()?.to_owned(),
            })
        };
        text.lines().filter_map(line).collect()
    }

    fn count(&self, what: &str) -> usize {
        self.lines().iter().filter(|line| line.what == what).count()
    }

    /// Waits for a line; with `after`, of a master that came after that one.
    fn line(&self, what: &str, after: Option<u32>) -> Line {
        self.line_within(what, after, SOON)
    }

    fn line_within(&self, what: &str, after: Option<u32>, deadline: Duration) -> Line {
        let found = wait_for(what, deadline, || {
            let lines = self.lines();
            let from = lines.iter().rposition(|line| Some(line.pid) == after).map_or(0, |last| last + 1);
            let found = lines[from..].iter().find(|line| line.what.starts_with(what));
            found.cloned().ok_or_else(|| format!("{lines:?}\n{}", self.up.stderr()))
        });
        found.unwrap()
    }

    /// Waits for a ready master, with `after` one that came after that.
    fn ready(&self, after: Option<u32>) -> Process {
        Process::of(self.line("ready", after).pid).expect("it was ready just now")
    }

    fn log(&self, what: &str) {
        wait_for(what, SOON, || if self.up.stderr().contains(what) { Ok(()) } else { Err(self.up.stderr()) })
            .unwrap();
    }

    fn exit(&self) -> Option<i32> {
        self.up.wait_exit(SOON).unwrap().code()
    }

    /// The programs that a `parent` started, by name.
    fn child(&self, name: &str, of: u32) -> Option<Process> {
        let line = self.lines().into_iter().find(|line| line.pid == of && line.what.starts_with(name))?;
        Process::of(line.what.split(' ').nth(1)?.parse().ok()?)
    }
}

fn gone(process: Process) {
    wait_for("a process to be gone", SOON, || {
        process.state().map_or(Ok(()), |state| Err(format!("{process}: {state:?}")))
    })
    .unwrap();
}

#[test]
fn a_fleet_starts_and_stops() {
    let stage = Stage::new("good");
    let master = stage.ready(None);
    assert_eq!(stage.line("welcome", None).what, format!("welcome test {}", stage.up.supervisor().pid));
    assert_eq!(master.command_line().unwrap(), "roundsman master");
    assert_eq!(stage.up.stdout(), format!("master {}\n", master.pid));
    stage.up.signal(Signal::TERM).unwrap();
    assert_eq!(stage.exit(), Some(0));
    assert_eq!(stage.line("stop", None).what, "stop Drain 1000");
    gone(master);
    assert_eq!((stage.count("started"), stage.count("wrong-parent")), (1, 0));
}

/// The figure to reach is 200 ms; the assertion is generous, the figures are printed.
#[test]
fn a_killed_master_is_replaced_at_once() {
    const KILLS: usize = 50;
    let stage = Stage::new("good");
    let mut master = stage.ready(None);
    let mut took_us = Vec::new();
    for _ in 0..KILLS {
        let before = time::mono_us();
        master.signal(Signal::KILL).unwrap();
        let ready = stage.line("ready", Some(master.pid));
        took_us.push(ready.at_us - before);
        master = Process::of(ready.pid).unwrap();
    }
    took_us.sort_unstable();
    println!(
        "kill -9 to ready, {KILLS} times: p50 {} us, p99 {} us, max {} us",
        took_us[KILLS / 2],
        took_us[KILLS * 99 / 100],
        took_us[KILLS - 1]
    );
    assert!(took_us[KILLS / 2] < 200_000, "{took_us:?}");
    assert!(took_us[KILLS - 1] < 2_000_000, "{took_us:?}");
    let supervisor = stage.up.supervisor();
    wait_for("no zombie", SOON, || {
        let zombies: Vec<_> =
            supervisor.children().into_iter().filter(|it| it.state() == Some(State::Zombie)).collect();
        if zombies.is_empty() { Ok(()) } else { Err(format!("{zombies:?}")) }
    })
    .unwrap();
    assert_eq!(supervisor.children(), [master]);
    stage.up.signal(Signal::INT).unwrap();
    assert_eq!(stage.exit(), Some(0));
}

/// A stopped process feels no SIGABRT, so that SIGKILL must follow.
#[test]
fn a_frozen_master_is_killed_and_replaced() {
    let stage = Stage::new("good");
    let master = stage.ready(None);
    let before = time::mono_us();
    master.signal(Signal::STOP).unwrap();
    let next = stage.line_within("ready", Some(master.pid), Duration::from_secs(30));
    let took = next.at_us - before;
    println!("SIGSTOP to a new master: {} ms", took / 1000);
    assert!((10_000_000..20_000_000).contains(&took), "{took} us\n{}", stage.up.stderr());
    gone(master);
    stage.log("ended by SIGKILL");
}

#[test]
fn a_silent_master_is_aborted_and_replaced() {
    let stage = Stage::new("silent");
    let master = stage.ready(None);
    stage.line_within("ready", Some(master.pid), Duration::from_secs(30));
    stage.log("ended by SIGABRT");
    gone(master);
}

#[test]
fn a_master_that_crashes_in_a_loop_is_given_up() {
    let stage = Stage::new("crash");
    assert_eq!(stage.exit(), Some(1));
    assert_eq!(stage.count("started"), 6);
    stage.log("giving up: the master failed more than 5 times within 60 s");
    let starts: Vec<u64> = stage.lines().iter().map(|line| line.at_us).collect();
    let pauses: Vec<u64> = starts.windows(2).map(|two| (two[1] - two[0]) / 1000).collect();
    assert!(pauses[1] >= 100 && pauses[2] >= 200 && pauses[3] >= 400 && pauses[4] >= 800, "{pauses:?}");
}

#[test]
fn what_a_restart_cannot_mend_is_passed_on() {
    for (mode, code) in [("config", 78), ("unavailable", 69)] {
        let stage = Stage::new(mode);
        assert_eq!(stage.exit(), Some(code));
        assert_eq!(stage.count("started"), 1);
    }
}

#[test]
fn a_second_term_is_at_once() {
    let stage = Stage::new("deaf");
    let master = stage.ready(None);
    stage.up.signal(Signal::TERM).unwrap();
    let told = stage.line("stop Drain 1000", None);
    // Within a few milliseconds it would count as the same request.
    wait_for("a moment", SOON, || match time::mono_us() - told.at_us {
        20_000.. => Ok(()),
        passed => Err(format!("{passed} us")),
    })
    .unwrap();
    stage.up.signal(Signal::TERM).unwrap();
    stage.line("stop Release 2000", None);
    assert_eq!(stage.exit(), Some(130));
    gone(master);
}

#[test]
fn a_master_that_does_not_stop_is_killed() {
    let stage = Stage::new("deaf");
    let master = stage.ready(None);
    stage.up.signal(Signal::TERM).unwrap();
    assert_eq!(stage.up.wait_exit(Duration::from_secs(30)).unwrap().code(), Some(1));
    stage.log("did not stop in time");
    gone(master);
}

#[test]
fn orphans_are_adopted_reaped_and_killed_at_the_end() {
    let stage = Stage::new("parent");
    let first = stage.ready(None);
    let (long, short) = (stage.child("long", first.pid).unwrap(), stage.child("short", first.pid));
    first.signal(Signal::KILL).unwrap();
    let second = stage.ready(Some(first.pid));
    let other = stage.child("long", second.pid).unwrap();
    assert_eq!(long.parent(), Some(stage.up.supervisor().pid));
    // The one that ends by itself leaves no zombie.
    if let Some(short) = short {
        gone(short);
    }
    assert!(long.is_alive());
    stage.up.signal(Signal::TERM).unwrap();
    // They are given the grace, then killed: nothing runs headless.
    assert_eq!(stage.exit(), Some(0));
    for process in [first, second, long, other] {
        gone(process);
    }
}

#[test]
fn a_second_supervisor_is_refused() {
    let stage = Stage::new("good");
    stage.ready(None);
    let refused = stage.site.cli(&["up"]).unwrap();
    assert_eq!(refused.code, Some(4));
    let named = format!("is served as host test already, by process {}", stage.up.supervisor().pid);
    assert!(refused.stderr.contains(&named), "{}", refused.stderr);
    // Another name, or another store, is another fleet.
    for arguments in [["--host-id", "other"], ["--store", "sqlite:other.db"]] {
        let mut options = options("good");
        options.arguments = arguments.map(str::to_owned).to_vec();
        let ready = stage.count("ready");
        let _up = stage.site.launch(&options).unwrap();
        wait_for("another fleet", SOON, || {
            if stage.count("ready") > ready { Ok(()) } else { Err(String::new()) }
        })
        .unwrap();
    }
    // The kernel frees the lock of a supervisor however it ends; its master leaves by itself.
    stage.up.signal(Signal::KILL).unwrap();
    stage.up.wait_exit(SOON).unwrap();
    let again = stage.site.launch(&options("good")).unwrap();
    let stage = Stage { site: stage.site, up: again };
    let supervisor = stage.up.supervisor();
    stage.line(&format!("welcome test {}", supervisor.pid), None);
}

#[test]
fn signals_reach_the_master_as_messages() {
    let stage = Stage::new("good");
    let master = stage.ready(None);
    stage.up.signal(Signal::HUP).unwrap();
    stage.line("{\"t\":\"reload\"}", None);
    stage.site.configure("[store]\nurl = \"sqlite:jobs.db\"\nleese = \"5s\"\n").unwrap();
    stage.up.signal(Signal::HUP).unwrap();
    stage.log("did you mean \\\"lease\\\"?");
    stage.site.configure("[store]\nurl = \"sqlite:other.db\"\n").unwrap();
    stage.up.signal(Signal::HUP).unwrap();
    stage.log("another store needs a restart");
    assert_eq!(stage.count("{\"t\":\"reload\"}"), 1);
    for (signal, by) in [(Signal::TTIN, 1), (Signal::TTOU, -1)] {
        stage.up.signal(signal).unwrap();
        stage.line(&format!("{{\"t\":\"resize\",\"by\":{by}}}"), None);
    }
    stage.up.signal(Signal::USR1).unwrap();
    stage.line("{\"t\":\"pause\"}", None);
    // A new master is quiet too.
    master.signal(Signal::KILL).unwrap();
    let next = stage.ready(Some(master.pid));
    stage.line("{\"t\":\"pause\"}", Some(master.pid));
    stage.up.signal(Signal::QUIT).unwrap();
    assert_eq!(stage.exit(), Some(0));
    stage.line("{\"t\":\"dump\"}", Some(master.pid));
    stage.log(&format!("state: quiet; master {} ready", next.pid));
}

#[test]
fn an_heir_that_dies_leaves_all_as_it_was() {
    let stage = Stage::new("good");
    let master = stage.ready(None);
    stage.up.signal(Signal::USR2).unwrap();
    stage.log("rolling onto the program that is on disk now");
    let heir = stage.ready(Some(master.pid));
    Process::of(heir.pid).unwrap().signal(Signal::KILL).unwrap();
    stage.log("not rolled, the old program serves: the new master ended by SIGKILL");
    assert!(master.is_alive());
    stage.line("{\"t\":\"share\",\"percent\":100}", None);
    stage.up.signal(Signal::TERM).unwrap();
    assert_eq!(stage.exit(), Some(0));
}

#[test]
fn a_service_manager_is_told() {
    let site = site();
    let path = site.work().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let mut options = options("good");
    options.environment.extend([
        ("NOTIFY_SOCKET".to_owned(), path.to_string_lossy().into_owned()),
        ("WATCHDOG_USEC".to_owned(), "1000000".to_owned()),
    ]);
    let up = site.launch(&options).unwrap();
    let stage = Stage { site, up };
    let hear = |what: &str| {
        wait_for(what, SOON, || {
            let mut buffer = [0; 512];
            let length = manager.recv(&mut buffer).map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if said.contains(what) { Ok(()) } else { Err(said) }
        })
        .unwrap();
    };
    hear("READY=1\nSTATUS=serving, master ");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    stage.up.signal(Signal::TERM).unwrap();
    hear("STOPPING=1");
    assert_eq!(stage.exit(), Some(0));
    assert_eq!((stage.count("NOTIFY_SOCKET"), stage.count("WATCHDOG_USEC")), (0, 0));
}

#[test]
fn a_closed_terminal_drains() {
    let site = site();
    // Not openpty: a program that another test starts at this moment would inherit what it opens.
    let terminal = pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    pty::grantpt(&terminal).unwrap();
    pty::unlockpt(&terminal).unwrap();
    let slave = pty::ptsname_r(&terminal).unwrap();
    let slave =
        fs::File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(slave).unwrap();
    let mut command = site.command(&["up"]);
    let log = fs::File::create(site.work().join("log")).unwrap();
    command.env("FIXTURE_MODE", "good").stdin(slave).stdout(Stdio::null()).stderr(log);
    let mut child = spawn::start(command).unwrap();
    let supervisor = Process::of(child.id()).unwrap();
    let log = |what: &str| {
        wait_for(what, SOON, || {
            let text = fs::read_to_string(site.work().join("log")).unwrap_or_default();
            if text.contains(what) { Ok(()) } else { Err(text) }
        })
        .unwrap();
    };
    log("is ready");
    // While the terminal is there, it is an operator who wants the settings loaded anew.
    supervisor.signal(Signal::HUP).unwrap();
    log("loaded anew");
    drop(terminal);
    supervisor.signal(Signal::HUP).unwrap();
    log("stopping (the terminal was closed)");
    let ended =
        wait_for("the end", SOON, || child.try_wait().ok().flatten().ok_or_else(String::new)).unwrap();
    assert_eq!(ended.code(), Some(0));
}

/// `sh -c 'other & exec roundsman up'`: the shell's child becomes the supervisor's, and stays none of its business.
#[test]
fn a_process_that_was_there_before_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("roundsman");
    let fixture = built("fixture-master").unwrap();
    let text = format!("#!/bin/sh\nsleep 600 & echo $! >stranger\nexec {} \"$@\"\n", fixture.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let site = Site::with_binary(script, "[store]\nurl = \"sqlite:jobs.db\"\n").unwrap();
    let up = site.launch(&options("good")).unwrap();
    let stage = Stage { site, up };
    let master = stage.ready(None);
    let stranger = fs::read_to_string(stage.site.work().join("stranger")).unwrap();
    let stranger = Process::of(stranger.trim().parse().unwrap()).unwrap();
    assert_eq!(stranger.parent(), Some(stage.up.supervisor().pid));
    stage.up.signal(Signal::TERM).unwrap();
    // At once, not after the grace of 30 s.
    assert_eq!(stage.exit(), Some(0));
    gone(master);
    assert!(stranger.is_alive());
}
