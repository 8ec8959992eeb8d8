//! What a newcomer sees within a minute of `up --demo`.

use roundsman_tests::ports::free_port;
use roundsman_tests::tree::{Site, Up, UpOptions};
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::Value;

use crate::rig::{LATE, SOON, log, outcomes};

/// Settings of somebody's own, none of which may be touched.
const OWN: &str = "[store]\nurl = \"sqlite:own.db\"\n[pools.own]\nqueues = [\"own\"]\ncommand = [\"./own.sh\"]\nmin_workers = 1\n";

struct Demo {
    up: Up,
    site: Site,
    store: String,
}

impl Demo {
    fn json(&self, arguments: &[&str]) -> Value {
        let all = [&["--store", &self.store, "--json"], arguments].concat();
        let done = self.site.cli(&all).unwrap();
        assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}\n{}", log(&self.up));
        serde_json::from_str(&done.stdout).unwrap()
    }

    #[track_caller]
    fn wait(&self, what: &str, look: impl Fn() -> Option<Value>) -> Value {
        let seen = wait_for(what, LATE, || look().ok_or_else(|| self.json(&["status"]).to_string()));
        seen.unwrap_or_else(|late| panic!("{late}\n{}", log(&self.up)))
    }

    fn pool(&self) -> Option<Value> {
        let status = self.json(&["status"]);
        status["hosts"][0]["pools"].as_array()?.iter().find(|pool| pool["pool"] == "demo").cloned()
    }

    fn jobs(&self, kind: &str, state: &str) -> Option<Value> {
        self.json(&["job", "list", "--queue", "demo", "--kind", kind, "--state", state])["jobs"]
            .get(0)
            .cloned()
    }
}

#[test]
fn a_minute_shows_what_it_can() {
    let site = Site::new(OWN).unwrap();
    let port = free_port().unwrap();
    let options = UpOptions {
        arguments: vec!["--demo".to_owned()],
        environment: vec![
            ("ROUNDSMAN_HTTP__LISTEN".to_owned(), format!("127.0.0.1:{port}")),
            ("AMQP_URL".to_owned(), "amqp://127.0.0.1:1".to_owned()),
        ],
        workers: 0,
    };
    let up = site.launch(&options).unwrap();
    let store = wait_for("the hint", SOON, || {
        let errors = up.stderr();
        let found = errors.split_once("--store ").and_then(|(_, rest)| rest.split_once(" status"));
        found.map(|(store, _)| store.to_owned()).ok_or(errors)
    });
    let demo = Demo { store: store.unwrap(), up, site };
    let folder =
        std::path::Path::new(demo.store.strip_prefix("sqlite:").unwrap()).parent().unwrap().to_owned();
    assert!(folder.exists());
    let grown = demo.wait("the workers to grow", || {
        demo.pool().filter(|pool| pool["workers"].as_array().is_some_and(|workers| workers.len() >= 6))
    });
    assert!(grown["why"].as_str().is_some_and(|why| why.contains("ready")), "{grown}");
    let frozen = demo.wait("the frozen worker to be replaced", || demo.jobs("freeze", "done"));
    assert_eq!(outcomes(&demo.json(&["job", "show", frozen["id"].as_str().unwrap()])).last(), Some(&"done"));
    let dead = demo.wait("the crashing job to be set aside", || demo.jobs("crash", "dead"));
    assert!(dead["error"].as_str().is_some_and(|error| error.contains("SIGABRT")), "{dead}");
    demo.wait("the fleet to shrink", || demo.pool().filter(|pool| pool["desired"] == 1));
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    demo.up.signal(Signal::TERM).unwrap();
    assert_eq!(demo.up.wait_exit(SOON).unwrap().code(), Some(0));
    assert!(!folder.exists(), "it cleans up");
    assert!(!demo.site.work().join("own.db").exists(), "the store of its user is left alone");
}

#[test]
fn it_brings_all_it_needs() {
    let site = Site::new(OWN).unwrap();
    for arguments in
        [&["--store", "sqlite:own.db"][..], &["--namespace", "x"], &["--config", "roundsman.toml"]]
    {
        let done = site.cli(&[arguments, &["up", "--demo"]].concat()).unwrap();
        assert_eq!(done.code, Some(2), "{done:?}");
        assert!(done.stderr.contains("of its own"), "{done:?}");
    }
}
