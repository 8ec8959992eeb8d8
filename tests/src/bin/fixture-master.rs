//! A supervisor whose master only speaks the protocol, and as badly as a test wants it to.
//!
//! `fixture-master up [--store URL] [--host-id ID]` is the real supervisor, which starts its own program again as
//! `fixture-master master`. Every such master appends what happens to it to `masters.log` in the working directory, a
//! line each: `PID MONO_US WHAT`. `FIXTURE_MODE` says what else it does:
//!
//! | mode | |
//! |---|---|
//! | `good` | serves, and leaves when told |
//! | `silent` | says nothing after `ready` |
//! | `crash` | exits with 1 at once |
//! | `config`, `unavailable` | exits with 78, 69 at once |
//! | `deaf` | does not leave when told |
//! | `parent` | as `good`, and starts two programs that outlive it: one for long, one for a moment |

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use roundsman_shared::launch::{self, MasterStart};
use roundsman_shared::protocol::{BEAT_MS, Beat, FromChild, ToChild, VERSION, decode, encode};
use roundsman_shared::settings::{Environment, LoadInput, Override, Settings};
use roundsman_shared::telemetry;
use roundsman_supervisor::Launch;
use roundsman_tests::{spawn, time};

fn main() -> ExitCode {
    let _ = telemetry::start(&Environment::capture(), telemetry::Level::Info);
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("up") => up(words),
        Some("master") => master().unwrap_or(ExitCode::FAILURE),
        _ => ExitCode::from(2),
    }
}

fn up(mut words: impl Iterator<Item = String>) -> ExitCode {
    let mut input = LoadInput::capture().expect("there is a current directory");
    let mut host = "test".to_owned();
    while let Some(word) = words.next() {
        match (word.as_str(), words.next()) {
            ("--store", Some(url)) => input.overrides.push(Override::text("--store", "store.url", url)),
            ("--host-id", Some(id)) => host = id,
            (other, _) => panic!("{other}: unknown"),
        }
    }
    let settings = Settings::load(&input).expect("the settings are right").settings;
    let code = match roundsman_supervisor::run(Launch { input, settings, host }, || ()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            error.exit_code()
        }
    };
    ExitCode::from(code)
}

/// Appends a line to `masters.log`, whole.
fn record(what: &str) -> io::Result<()> {
    let line = format!("{} {} {what}\n", std::process::id(), time::mono_us());
    OpenOptions::new().create(true).append(true).open("masters.log")?.write_all(line.as_bytes())
}

fn say(message: &FromChild) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(encode(message).as_bytes())?;
    stdout.flush()
}

fn master() -> io::Result<ExitCode> {
    let variable = |name: &str| spawn::variable(name).unwrap_or_default();
    let mode = variable("FIXTURE_MODE");
    record("started")?;
    match mode.as_str() {
        "crash" => return Ok(ExitCode::from(1)),
        "config" => return Ok(ExitCode::from(78)),
        "unavailable" => return Ok(ExitCode::from(69)),
        _ => {}
    }
    if variable(launch::PARENT)
        != rustix::process::getppid().map_or(0, |it| it.as_raw_nonzero().get()).to_string()
    {
        record("wrong-parent")?;
    }
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"] {
        if spawn::variable(name).is_some() {
            record(name)?;
        }
    }
    let (pid, nonce) = (std::process::id(), variable(launch::NONCE).parse().unwrap_or(0));
    say(&FromChild::Hello { v: [VERSION, VERSION], pid, nonce, build: "fixture 0".into() })?;

    let (tell, told) = sync_channel::<ToChild>(8);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if let Ok(Some(message)) = decode(&line)
                && tell.send(message).is_err()
            {
                return;
            }
        }
    });
    let mut ready = false;
    loop {
        match told.recv_timeout(Duration::from_millis(BEAT_MS)) {
            Ok(ToChild::Welcome { work, .. }) => {
                let MasterStart { host, supervisor_pid, .. } = serde_json::from_value(work)?;
                record(&format!("welcome {host} {supervisor_pid}"))?;
                if mode == "parent" {
                    for (seconds, name) in [("600", "long"), ("0.3", "short")] {
                        let mut command = spawn::command("sleep");
                        let child = command.arg(seconds).process_group(0).spawn()?;
                        record(&format!("{name} {}", child.id()))?;
                    }
                }
                // As the `stdout` handler will.
                let output = format!("/dev/fd/{}", variable(launch::STDOUT));
                writeln!(File::options().append(true).open(output)?, "master {pid}")?;
                say(&FromChild::Ready)?;
                ready = true;
                record("ready")?;
            }
            Ok(ToChild::Stop { mode: how, by_ms, .. }) => {
                record(&format!("stop {how:?} {by_ms}"))?;
                if mode != "deaf" {
                    say(&FromChild::Bye { why: "told to".into(), code: 0 })?;
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Ok(other) => record(encode(&other).trim())?,
            Err(RecvTimeoutError::Timeout) if mode == "silent" && ready => {}
            Err(RecvTimeoutError::Timeout) => say(&FromChild::Hb(Beat::default()))?,
            Err(RecvTimeoutError::Disconnected) => {
                record("orphaned")?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}
