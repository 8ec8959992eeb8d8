//! Two machines of one name on one store. The other machine is a pid namespace of its own, as a container has.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use roundsman_tests::spawn;
use roundsman_tests::tree::Site;
use roundsman_tests::wait::wait_for;
use serde_json::json;

use crate::rig::{LATE, Rig, SOON, Store, figure, outcomes};

/// What runs a command as the first process of a pid namespace, which ends with that command.
const APART: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];

/// `up` as another machine would run it.
struct Apart {
    site: Site,
    child: Child,
}

impl Apart {
    /// None where the system does not let us.
    fn start(rig: &Rig) -> Option<Self> {
        let mut probe = spawn::command("unshare");
        probe.args(APART).arg("true");
        if !spawn::output(probe).is_ok_and(|done| done.status.success()) {
            figure("skipped: no pid namespace can be made here");
            return None;
        }
        let site =
            Site::new(&std::fs::read_to_string(rig.site.work().join("roundsman.toml")).unwrap()).unwrap();
        let up = site.command(&["up"]);
        let mut command: Command = spawn::bound_command("unshare");
        command.args(APART).arg(up.get_program()).args(up.get_args()).current_dir(site.work()).env_clear();
        command.envs(up.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let log = File::create(site.work().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = spawn::start(command).unwrap();
        Some(Self { site, child })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.site.work().join("log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_namesake_is_refused_and_touches_no_job() {
    let rig = Rig::with_fixture(Store::Redis, "min_workers = 2\nmax_workers = 2\n", "");
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    rig.enqueue("a", "sleep", r#"{"ms":25000}"#);
    let first = rig.wait_start(&up, "a", 1, SOON);
    let Some(mut other) = Apart::start(&rig) else { return };
    let status = wait_for("the namesake to leave", LATE, || match other.child.try_wait() {
        Ok(Some(status)) => Ok(status),
        state => Err(format!("{state:?}\n{}", other.log())),
    });
    assert_eq!(status.unwrap().code(), Some(4), "{}", other.log());
    assert!(other.log().contains("--host-id"), "{}", other.log());
    let hosts = up.status().unwrap().hosts;
    assert_eq!(hosts.len(), 1, "{hosts:?}");
    let job = rig.wait_state(&up, "a", "done");
    assert_eq!((outcomes(&job), rig.starts("a").len()), (vec!["done"], 1), "{job}");
    assert_eq!(job["attempts"][0]["token"], json!(first.token), "{job}");
}

#[test]
fn a_namesake_that_is_gone_is_waited_for() {
    let rig = Rig::with_fixture(Store::Redis, "min_workers = 1\nmax_workers = 1\n", "");
    rig.enqueue("a", "sleep", r#"{"ms":3000}"#);
    let Some(mut other) = Apart::start(&rig) else { return };
    let begun = wait_for("the job to start", SOON, || match rig.starts("a").len() {
        0 => Err(other.log()),
        _ => Ok(()),
    });
    begun.unwrap();
    other.kill();
    let up = rig.up(0);
    let job = rig.wait_state(&up, "a", "done");
    assert_eq!(outcomes(&job), ["lapsed", "done"], "{job}");
    assert!(up.stderr().contains("waiting to see whether it is gone"), "{}", up.stderr());
}
