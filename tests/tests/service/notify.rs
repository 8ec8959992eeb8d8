//! A whole fleet under a socket that hears what systemd would.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use roundsman_tests::proc::Process;
use roundsman_tests::time;
use roundsman_tests::tree::{Site, Up, UpOptions};
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(30);
/// Pings are asked for twice in so long.
const WATCHDOG_USEC: u64 = 400_000;

const STORE: &str = "[store]\nurl = \"sqlite:jobs.db\"\n";

/// A service manager as far as its socket goes, and the fleet that it started.
struct Stage {
    site: Site,
    socket: UnixDatagram,
    /// Everything that was said, with the moment.
    heard: Vec<(u64, String)>,
    up: Up,
}

impl Stage {
    fn new(settings: &str) -> Self {
        let site = Site::new(&format!("{STORE}{settings}")).unwrap();
        let path = site.work().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let environment = [
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", &WATCHDOG_USEC.to_string()),
            ("LISTEN_FDNAMES", "x"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let up = site.launch(&UpOptions { environment, ..UpOptions::default() }).unwrap();
        Self { site, socket, heard: Vec::new(), up }
    }

    fn configure(&self, settings: &str) {
        self.site.configure(&format!("{STORE}{settings}")).unwrap();
    }

    /// Listens until this is said, from now on; answers the whole datagram.
    #[track_caller]
    fn hear(&mut self, what: &str) -> String {
        wait_for(what, SOON, || {
            let mut buffer = [0; 1024];
            let length =
                self.socket.recv(&mut buffer).map_err(|error| format!("{error}: {:?}", self.heard))?;
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            self.heard.push((time::mono_us(), said.clone()));
            if said.contains(what) { Ok(said) } else { Err(format!("{:?}", self.heard)) }
        })
        .unwrap_or_else(|late| panic!("{late}\n{}", self.up.stderr()))
    }

    /// As `status` has it, so once it has reached the store.
    fn master(&self) -> Process {
        let found = wait_for("a master", SOON, || {
            self.up.master().map_err(|error| error.to_string())?.ok_or_else(|| self.up.stderr())
        });
        found.unwrap()
    }

    fn pings(&self) -> Vec<u64> {
        self.heard.iter().filter(|(_, said)| said == "WATCHDOG=1").map(|(at, _)| *at).collect()
    }

    fn job(&self, id: &str) -> serde_json::Value {
        self.site.cli_json(&["job", "show", id]).unwrap()
    }
}

fn environment_of(process: Process) -> String {
    let bytes = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap();
    String::from_utf8_lossy(&bytes).replace('\0', "\n")
}

fn oom_score(process: Process) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", process.pid)).unwrap();
    text.trim().parse().unwrap()
}

#[test]
fn a_fleet_says_how_it_is_and_nobody_below_it_can() {
    const POOL: &str = "[pools.default]\nmin_workers = 1\nmax_workers = 1\ngrace = \"20s\"\n\
        handler = { type = \"exec\", command = [\"sh\", \"-c\", \"env; read line; [ $line = null ] || sleep 600\"] }\n";
    let mut stage = Stage::new(POOL);
    let ready = stage.hear("READY=1");
    let master = stage.master();
    assert!(ready.starts_with(&format!("READY=1\nSTATUS=serving, master {}", master.pid)), "{ready}");
    stage.hear("WATCHDOG=1");

    let enqueued = stage.site.cli(&["enqueue", "default", "null", "--id", "look", "--wait", "30s"]).unwrap();
    assert_eq!(enqueued.code, Some(0), "{enqueued:?}\n{}", stage.up.stderr());
    let workers = stage.up.workers().unwrap();
    let (_, worker) = workers[0];
    let seen = [environment_of(master), environment_of(worker), stage.job("look")["result"].to_string()];
    assert!(seen[2].contains("ROUNDSMAN_JOB_ID"), "{seen:?}");
    for environment in seen {
        for name in ["NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_"] {
            assert!(!environment.contains(name), "{environment}");
        }
    }
    assert_eq!(oom_score(master), oom_score(stage.up.supervisor()));
    assert_eq!(oom_score(worker), (oom_score(master) + 200).min(1000));

    stage.configure("[stoer]\n");
    stage.up.signal(Signal::HUP).unwrap();
    stage.hear("RELOADING=1\nMONOTONIC_USEC=");
    let refused = stage.hear("READY=1");
    assert!(refused.contains("the last reload was refused: the new settings are wrong"), "{refused}");

    stage.configure(POOL);
    stage.up.signal(Signal::HUP).unwrap();
    let reloaded = stage.hear("READY=1");
    assert!(reloaded.contains("serving, master") && !reloaded.contains("refused"), "{reloaded}");

    stage.site.cli(&["enqueue", "default", "{}", "--id", "long"]).unwrap();
    wait_for("the job to run", SOON, || {
        let job = stage.job("long");
        if job["attempts"][0]["started"].is_null() { Err(job.to_string()) } else { Ok(()) }
    })
    .unwrap();
    stage.up.signal(Signal::TERM).unwrap();
    let stopping = stage.hear("STOPPING=1");
    // The grace, 10 s of the supervisor's and 10 s for the kernel.
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=40000000"), "{stopping}");
    stage.hear("STATUS=draining: 1 job runs, and may for");
    stage.up.signal(Signal::TERM).unwrap();
    stage.hear("STATUS=stopping at once");
    assert_eq!(stage.up.wait_exit(SOON).unwrap().code(), Some(130));
}

/// The watchdog is for a supervisor that hangs; but while no master's loop turns, nothing says that all is well.
#[test]
fn pings_stop_with_the_masters_loop_and_go_on_with_the_next() {
    let mut stage = Stage::new("");
    stage.hear("READY=1");
    stage.hear("WATCHDOG=1");
    let first = stage.master();
    let frozen = time::mono_us();
    first.signal(Signal::STOP).unwrap();
    let ended = stage.hear("ended by SIGKILL; starting another");
    assert!(ended.contains(&format!("master {}", first.pid)), "{ended}");
    let replaced = time::mono_us();
    let last = stage.pings().last().copied().unwrap();
    // One that beats once a second is believed for 3.5 s, and given up after 10 s.
    assert!(last < frozen + 6_000_000, "pinged {} µs after the freeze", last - frozen);
    assert!(replaced > last + 3_000_000, "{} µs without a ping", replaced - last);
    stage.hear("READY=1");
    stage.hear("WATCHDOG=1");
    assert_ne!(stage.master(), first);

    stage.up.signal(Signal::TERM).unwrap();
    stage.hear("STOPPING=1");
    assert_eq!(stage.up.wait_exit(SOON).unwrap().code(), Some(0));
}

/// systemd kills a supervisor that does not ping, and all the rest by the unit's KillMode.
#[test]
fn a_frozen_supervisor_does_not_ping() {
    let mut stage = Stage::new("");
    stage.hear("READY=1");
    stage.hear("WATCHDOG=1");
    stage.up.signal(Signal::STOP).unwrap();
    // What it sent before; then nothing for five seconds.
    let mut buffer = [0; 1024];
    let silence = loop {
        if let Err(error) = stage.socket.recv(&mut buffer) {
            break error;
        }
    };
    assert_eq!(silence.kind(), std::io::ErrorKind::WouldBlock);
    stage.up.signal(Signal::CONT).unwrap();
    stage.hear("WATCHDOG=1");
}
