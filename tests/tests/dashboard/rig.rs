//! A fleet with its dashboard on a free port, and a browser before it.

use roundsman_tests::browser::Browser;
use roundsman_tests::ports::free_port;
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::tree::{Site, Up, UpOptions, built};
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Redis,
    Sqlite,
}

/// Runs each of these functions once on each store, as `redis::NAME` and `sqlite::NAME`.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod redis {
            $(#[test] fn $name() { super::$name(crate::rig::Store::Redis); })+
        }
        mod sqlite {
            $(#[test] fn $name() { super::$name(crate::rig::Store::Sqlite); })+
        }
    };
}
pub(crate) use on_both;

/// Fields in the order of their end: the browser, the fleet, its store.
pub(crate) struct Rig {
    pub(crate) browser: Browser,
    pub(crate) up: Up,
    pub(crate) site: Site,
    _server: Option<RedisServer>,
    port: u16,
}

impl Rig {
    pub(crate) fn new(store: Store) -> Self {
        Self::with(store, "")
    }

    /// With further settings of `[http]`.
    pub(crate) fn with(store: Store, http: &str) -> Self {
        let server = (store == Store::Redis).then(|| RedisServer::start(RedisOptions::default()).unwrap());
        let url = server.as_ref().map_or_else(|| "sqlite:jobs.db".to_owned(), RedisServer::url);
        let port = free_port().unwrap();
        let site = Site::new("").unwrap();
        let (handler, history) = (built("fixture-handler").unwrap(), site.work().join("history"));
        let settings = format!(
            "[store]\nurl = \"{url}\"\n\
             [pools.default]\nqueues = [\"default\", \"other\"]\nmin_workers = 1\n\
             command = [\"{}\", \"{}\"]\n\
             [http]\nlisten = \"127.0.0.1:{port}\"\n{http}",
            handler.display(),
            history.display()
        );
        site.configure(&settings).unwrap();
        let up = site.up(&UpOptions { workers: 1, ..UpOptions::default() }).unwrap();
        up.wait_for(roundsman_tests::browser::SEEN, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        })
        .unwrap();
        Self { browser: Browser::start(1280, 860), up, site, _server: server, port }
    }

    /// Loads a page, as `queues` or `jobs?state=dead`, and waits for its heading.
    #[track_caller]
    pub(crate) fn open(&self, page: &str) {
        self.browser.open(&format!("http://127.0.0.1:{}/#/{page}", self.port));
        self.browser.wait("document.querySelector('h1')?.innerText");
    }

    /// Standard output of a verb that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let done = self.site.cli(arguments).unwrap();
        assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
        done.stdout
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.site.cli_json(arguments).unwrap()
    }

    #[track_caller]
    pub(crate) fn enqueue(&self, id: &str, kind: &str, payload: &str) {
        self.ok(&["enqueue", "default", payload, "--id", id, "--kind", kind]);
    }

    #[track_caller]
    pub(crate) fn wait_state(&self, id: &str, state: &str) -> Value {
        let look = || {
            let job = self.json(&["job", "show", id]);
            if job["state"] == state { Ok(job) } else { Err(job.to_string()) }
        };
        self.up.wait_for(roundsman_tests::browser::SEEN, look).unwrap()
    }

    /// Jobs that are given up at once.
    #[track_caller]
    pub(crate) fn bury(&self, ids: &[&str]) {
        for id in ids {
            self.enqueue(id, "dead", "{}");
        }
        for id in ids {
            self.wait_state(id, "dead");
        }
    }

    /// The console has heard of nothing wrong.
    #[track_caller]
    pub(crate) fn assert_calm(&self) {
        assert_eq!(self.browser.complaints(), Vec::<String>::new());
    }
}
