//! A fleet with its API, and a client of it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use roundsman_tests::ports::free_port;
use roundsman_tests::proc::Process;
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::tree::{Site, Up, UpOptions};
use roundsman_tests::wait::wait_for;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{Method, Request};

/// For what takes moments on a machine with nothing else to do.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// For what waits for time-outs of the product.
pub(crate) const LATE: Duration = Duration::from_secs(60);

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

/// A pool that runs nothing, so that jobs stay as they were enqueued.
pub(crate) const NOBODY: &str = "[pools.default]\nqueues = [\"nobody\"]\n";
/// A pool that answers with its payload.
pub(crate) const ECHO: &str =
    "[pools.default]\nhandler = { type = \"exec\", command = [\"cat\"] }\nmin_workers = 1\n";

pub(crate) struct Rig {
    pub(crate) server: Option<RedisServer>,
    pub(crate) site: Site,
    pub(crate) client: Client,
}

impl Rig {
    /// With these settings; the store and the address are added.
    pub(crate) fn new(store: Store, settings: &str) -> Self {
        let server = (store == Store::Redis).then(|| RedisServer::start(RedisOptions::default()).unwrap());
        let port = free_port().unwrap();
        let rig = Self { server, site: Site::new("").unwrap(), client: Client::new(port) };
        rig.configure(settings);
        rig
    }

    pub(crate) fn configure(&self, settings: &str) {
        let url = self.server.as_ref().map_or_else(|| "sqlite:jobs.db".to_owned(), RedisServer::url);
        let http = format!("[http]\nlisten = \"127.0.0.1:{}\"\n", self.client.port);
        // Settings of [http] itself come first.
        let (more, rest) = settings.split_once("---\n").unwrap_or(("", settings));
        self.site.configure(&format!("[store]\nurl = \"{url}\"\n{http}{more}{rest}")).unwrap();
    }

    /// A fleet that serves the API.
    pub(crate) fn up(&self) -> Up {
        let up = self.site.up(&UpOptions { workers: 0, ..UpOptions::default() }).unwrap();
        self.client.wait_ready(&up);
        up
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Of a success with this status.
    #[track_caller]
    pub(crate) fn data(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let mut body = self.json();
        assert_eq!(body["status"], "success", "{self:?}");
        body["data"].take()
    }

    /// Of a refusal with this status, the reason of this field.
    #[track_caller]
    pub(crate) fn fails(&self, status: u16, field: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], "fail", "{self:?}");
        let reason = body["data"][field].as_str().unwrap_or_else(|| panic!("no {field:?} in {self:?}"));
        reason.to_owned()
    }

    /// A header's value, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// A client of one server, with connections that are kept.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) port: u16,
    agent: Agent,
}

impl Client {
    pub(crate) fn new(port: u16) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(LATE))
            .max_redirects(0)
            .allow_non_standard_methods(true);
        Self { port, agent: config.build().into() }
    }

    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, ureq::Error> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request =
            Request::builder().method(method).uri(format!("http://127.0.0.1:{}{path}", self.port));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answered = if body.is_empty() {
            self.agent.run(request.body(()).unwrap())
        } else {
            self.agent.run(request.body(body.to_owned()).unwrap())
        };
        let mut answer = answered?;
        let headers = answer.headers().iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        let headers = headers.collect();
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(1 << 30).read_to_string()?;
        Ok(Answer { status, headers, body })
    }

    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let answer = self.try_send(method, path, headers, body);
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[], body)
    }

    /// A job on this queue.
    #[track_caller]
    pub(crate) fn enqueue(&self, queue: &str, job: &Value) -> Answer {
        self.post(&format!("/api/v1/queues/{queue}/jobs"), &job.to_string())
    }

    #[track_caller]
    pub(crate) fn job(&self, queue: &str, id: &str) -> Value {
        self.get(&format!("/api/v1/queues/{queue}/jobs/{id}")).data(200)
    }

    #[track_caller]
    pub(crate) fn wait_ready(&self, up: &Up) {
        let ready =
            wait_for("the API to be ready", SOON, || match self.try_send("GET", "/readyz", &[], "") {
                Ok(Answer { status: 200, .. }) => Ok(()),
                other => Err(format!("{other:?}")),
            });
        ready.unwrap_or_else(|late| panic!("{late}\n{}", up.stderr()));
    }

    /// Bytes as they are; answers all that comes until the server closes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may have closed before it has read all.
        let _ = stream.write_all(bytes);
        read_all(&mut stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(LATE)).unwrap();
        stream
    }
}

/// Until the other side closes.
pub(crate) fn read_all(stream: &mut TcpStream) -> String {
    let (mut all, mut chunk) = (Vec::new(), [0; 64 * 1024]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => all.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&all)),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// The process that serves the API.
#[track_caller]
pub(crate) fn http_process(up: &Up) -> Process {
    let found = wait_for("the process of the API", SOON, || {
        let alive = up.alive();
        let part = alive.iter().find(|process| {
            let line = std::fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            line.split('\0').nth(1) == Some("http")
        });
        part.copied().ok_or_else(|| format!("{alive:?}"))
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", up.stderr()))
}
