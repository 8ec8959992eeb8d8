//! Transports: handlers that hand the payload on.
//!
//! ```text
//!   job ─▶ where to? ─▶ circuit: may it go now? ─▶ one exchange, one deadline ─▶ outcome
//!          (pool, or     go │ wait │ hold            http │ amqp │ redis │ tcp      │
//!           the job)                 └─▶ put back for later, uncharged              └─▶ circuit
//! ```
//! Everything lives on the slots' thread. Each destination has connections of its own, and `circuit` sees to it that none
//! of them delays another. What is kept (destinations, idle connections, bytes of answers) is bounded.

mod amqp;
pub mod broker;
mod circuit;
mod connect;
pub mod document;
mod http;
mod lasting;
mod redis;
mod retry_after;
mod sign;
mod tcp;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use roundsman_shared::assignment::{Broker, Confidential, HandlerSpec, Limits, RedisKey};
use roundsman_shared::callback::{Body, Callback, ReplyLetter, Target};
use roundsman_shared::clock::Mono;
use roundsman_shared::job::settle::Outcome;
use roundsman_shared::reach::Reach;
use roundsman_shared::settings::RedisTarget;
use tokio::sync::Notify;
use url::Url;

use self::amqp::Amqp;
use self::circuit::{Admission, Circuits, Destination, Pass, Verdict};
use self::connect::{Connector, Trouble};
use self::http::Http;
use self::redis::Redis;
use self::sign::Signer;
use self::tcp::Tcp;
use super::stdout::Stdout;
use crate::api::{Context, Ended, Handler, Patience, Request, Run};
use crate::session::Task;

/// A job that waits in its slot looks again after so long, should nothing else have called it.
const LOOK: Duration = Duration::from_millis(100);

/// What is handed on.
struct Letter<'a> {
    task: &'a Task,
    body: Body,
}

/// Where jobs go.
enum Way {
    To(Target, Limits),
    /// Nowhere: the address that the settings name is none.
    Wrong(String),
    AsTheySay {
        http: Limits,
        amqp: Limits,
        redis: Limits,
        tcp: Limits,
        stdout: Stdout,
        replies: Option<Replies>,
    },
}

/// The jobs are replies, and so written otherwise. The broker is that of the settings.
struct Replies {
    broker: Option<(Url, Limits)>,
}

/// See the module's text.
pub(super) struct Transport {
    shared: Rc<Shared>,
}

struct Shared {
    way: Way,
    signer: Signer,
    circuits: RefCell<Circuits>,
    waiting: Cell<usize>,
    /// An exchange is over: there may be room.
    ended: Notify,
    seed: Cell<u64>,
    connector: Connector,
    http: Http,
    amqp: Amqp,
    redis: Redis,
    tcp: Tcp,
}

impl Transport {
    pub(super) fn new(spec: &HandlerSpec, slots: usize) -> Self {
        let signer = |secrets: &[Confidential]| Signer::new(secrets.iter().map(Confidential::expose));
        let none = || Signer::new([]);
        let (way, signer) = match spec {
            HandlerSpec::Http { url: server, secrets, limits } => {
                let target = url(server, &["http", "https"]);
                let target = target.map(|url| Target::Http { method: "POST".to_owned(), url });
                (Way::of(target, limits), signer(secrets))
            }
            HandlerSpec::Amqp { url: server, exchange, routing_key, limits } => {
                let target = url(server, &["amqp", "amqps"]).map(|server| Target::Amqp {
                    server,
                    exchange: exchange.clone(),
                    routing_key: routing_key.clone(),
                });
                (Way::of(target, limits), none())
            }
            HandlerSpec::Redis { url: server, key, limits } => {
                let key = match key {
                    RedisKey::List(name) => RedisTarget::List(name.clone()),
                    RedisKey::Stream(name) => RedisTarget::Stream(name.clone()),
                };
                let target = url(server, &["redis", "rediss", "redis+unix"]);
                (Way::of(target.map(|server| Target::Redis { server, key }), limits), none())
            }
            HandlerSpec::Tcp { address, limits } => {
                (Way::of(Target::parse("tcp", "", &format!("tcp://{address}")), limits), none())
            }
            HandlerSpec::Callback { secrets, http, amqp, redis, tcp } => {
                let (http, amqp, redis, tcp) = (http.clone(), amqp.clone(), redis.clone(), tcp.clone());
                let stdout = Stdout::open();
                (Way::AsTheySay { http, amqp, redis, tcp, stdout, replies: None }, signer(secrets))
            }
            HandlerSpec::Reply { broker, http, amqp, redis, tcp } => {
                let (http, amqp, redis, tcp) = (http.clone(), amqp.clone(), redis.clone(), tcp.clone());
                let own = |broker: &Broker| {
                    Some((url(&broker.url, &["amqp", "amqps"]).ok()?, broker.limits.clone()))
                };
                let replies = Some(Replies { broker: broker.as_ref().and_then(own) });
                (Way::AsTheySay { http, amqp, redis, tcp, stdout: Stdout::open(), replies }, none())
            }
            HandlerSpec::Exec { .. }
            | HandlerSpec::Stream { .. }
            | HandlerSpec::Stdout
            | HandlerSpec::Noop => (Way::Wrong("its handler is no transport".to_owned()), none()),
        };
        let several = matches!(way, Way::AsTheySay { .. });
        let shared = Shared {
            way,
            signer,
            circuits: RefCell::new(Circuits::new(slots, several)),
            waiting: Cell::new(0),
            ended: Notify::new(),
            seed: Cell::new(Mono::now().as_nanos() ^ (u64::from(std::process::id()) << 40)),
            connector: Connector::default(),
            http: Http::default(),
            amqp: Amqp::default(),
            redis: Redis::default(),
            tcp: Tcp::default(),
        };
        Self { shared: Rc::new(shared) }
    }
}

fn url(text: &Confidential, schemes: &[&str]) -> Result<Url, String> {
    let url = Url::parse(text.expose()).map_err(|error| format!("the URL of its handler: {error}"))?;
    if schemes.contains(&url.scheme()) {
        Ok(url)
    } else {
        Err("the URL of its handler is none for it".to_owned())
    }
}

impl Way {
    fn of(target: Result<Target, String>, limits: &Limits) -> Self {
        target.map_or_else(Self::Wrong, |target| Self::To(target, limits.clone()))
    }
}

impl Handler for Transport {
    fn start(&self, task: &Task, _: Context) -> Run {
        let (shared, task) = (self.shared.clone(), task.clone());
        Box::pin(async move { run(&shared, &task).await })
    }

    fn patience(&self) -> Patience {
        Patience::Drop
    }
}

async fn run(shared: &Shared, task: &Task) -> Ended {
    let fixed;
    let (target, body, limits) = match &shared.way {
        Way::To(target, limits) => (target, Body::Json(task.spec.payload.clone()), limits),
        Way::Wrong(error) => return Outcome::Retry { error: error.clone(), after: None }.into(),
        Way::AsTheySay { http, amqp, redis, tcp, stdout, replies } => {
            let (to, body, own) = match read(&task.spec.payload, replies.as_ref()) {
                Ok(read) => read,
                Err(error) => return Outcome::Dead { error }.into(),
            };
            fixed = to;
            let limits = match &fixed {
                Target::Amqp { .. } if let Some(own) = own => own,
                Target::Http { .. } => http,
                Target::Amqp { .. } => amqp,
                Target::Redis { .. } => redis,
                Target::Tcp { .. } => tcp,
                Target::Stdout => return counted(&fixed, stdout.write(&body.to_json()).await),
            };
            (&fixed, body, limits)
        }
    };
    let letter = Letter { task, body };
    let within = task.timeout.min(limits.timeout);
    let delivered = deliver(shared, target, &letter, &limits.reach, within);
    let outcome = tokio::time::timeout(within, delivered).await.unwrap_or_else(|_| {
        // Every exchange ends by itself before this; who waits for a slot of a destination all the time does not.
        Outcome::Held { why: "its turn did not come".to_owned(), after: LOOK }
    });
    counted(target, outcome.into())
}

/// What there is to count of a delivery. One that was held made no request, and is counted for that.
fn counted(target: &Target, ended: Ended) -> Ended {
    let transport = match target {
        Target::Http { .. } => "http",
        Target::Amqp { .. } => "amqp",
        Target::Redis { .. } => "redis",
        Target::Tcp { .. } => "tcp",
        Target::Stdout => "stdout",
    };
    let outcome = match ended.outcome {
        Outcome::Done { .. } => "ok",
        Outcome::Dead { .. } => "refused",
        Outcome::TimedOut { .. } => "timed_out",
        Outcome::Held { .. } => "held",
        _ => "failed",
    };
    Ended { request: Some(Request { transport, outcome }), ..ended }
}

/// Where a job that names its own destination goes; with the limits, where these are the broker's of the settings.
fn read<'a>(
    payload: &str,
    replies: Option<&'a Replies>,
) -> Result<(Target, Body, Option<&'a Limits>), String> {
    let Some(Replies { broker }) = replies else {
        let Callback { to, body } = Callback::parse(payload)?;
        return Ok((to, body, None));
    };
    let broker = broker.as_ref();
    let ReplyLetter { to, body, is_own } = ReplyLetter::parse(payload, broker.map(|(url, _)| url))?;
    Ok((to, body, broker.map(|(_, limits)| limits).filter(|_| is_own)))
}

/// From the wait for leave to the outcome.
async fn deliver(
    shared: &Shared,
    target: &Target,
    letter: &Letter<'_>,
    reach: &Reach,
    within: Duration,
) -> Outcome {
    let to = destination(target);
    let began = Mono::now();
    let mut leave = match shared.leave(&to).await {
        Ok(leave) => leave,
        Err(held) => return held,
    };
    // A little less than the whole, so that it is this that ends it, and the circuit hears of it.
    let left = within.saturating_sub(Mono::now().since(began)).mul_f64(0.999);
    match tokio::time::timeout(left, Box::pin(exchange(shared, target, &to, letter, reach))).await {
        Ok(Ok((outcome, verdict))) => {
            leave.verdict = verdict;
            outcome
        }
        Ok(Err(trouble)) => {
            let (outcome, verdict) = judge(trouble);
            leave.verdict = verdict;
            outcome
        }
        Err(_) => {
            shared.forget(target);
            let error = format!("{to} did not answer within {within:?}");
            leave.verdict = Verdict::Ill(error.clone());
            Outcome::TimedOut { error }
        }
    }
}

fn judge(trouble: Trouble) -> (Outcome, Verdict) {
    let retry = |error| Outcome::Retry { error, after: None };
    match trouble {
        Trouble::Refused(error) => (retry(error), Verdict::Unknown),
        Trouble::Broken(error) => (retry(error.clone()), Verdict::Ill(error)),
        Trouble::Unwanted(error) => (retry(error), Verdict::Well),
        Trouble::Hopeless(error) => (Outcome::Dead { error }, Verdict::Unknown),
    }
}

async fn exchange(
    shared: &Shared,
    target: &Target,
    to: &Destination,
    letter: &Letter<'_>,
    reach: &Reach,
) -> Result<(Outcome, Verdict), Trouble> {
    match target {
        Target::Http { method, url } => {
            let (connector, signer) = (&shared.connector, &shared.signer);
            shared.http.deliver(connector, method, url, letter, reach, signer).await
        }
        Target::Amqp { server, exchange, routing_key } => {
            let connector = &shared.connector;
            shared.amqp.deliver(connector, server, to, exchange, routing_key, letter, reach).await
        }
        Target::Redis { server, key } => {
            shared.redis.deliver(&shared.connector, server, to, key, letter, reach).await
        }
        Target::Tcp { .. } => shared.tcp.deliver(to, letter, reach).await,
        Target::Stdout => Err(Trouble::Hopeless("standard output is no server".to_owned())),
    }
}

fn destination(target: &Target) -> Destination {
    match target {
        Target::Http { url, .. } | Target::Amqp { server: url, .. } | Target::Redis { server: url, .. } => {
            Destination::of(url)
        }
        Target::Tcp { host, port } => {
            Destination { scheme: "tcp".to_owned(), host: host.clone(), port: *port }
        }
        Target::Stdout => Destination { scheme: "stdout".to_owned(), host: String::new(), port: 0 },
    }
}

impl Shared {
    /// What many jobs share is made anew after it did not answer one of them.
    fn forget(&self, target: &Target) {
        match target {
            Target::Amqp { server, .. } => self.amqp.forget(server),
            Target::Redis { server, .. } => self.redis.forget(server),
            Target::Http { .. } | Target::Tcp { .. } | Target::Stdout => {}
        }
    }

    /// Waits until the job may go, or learns when it may.
    async fn leave(&self, to: &Destination) -> Result<Leave<'_>, Outcome> {
        let mut place = None;
        loop {
            let ended = self.ended.notified();
            let waiting = self.waiting.get() - usize::from(place.is_some());
            let admission = self.circuits.borrow_mut().admit(Mono::now(), to, waiting, self.random());
            match admission {
                Admission::Go(pass) => return Ok(Leave { shared: self, pass, verdict: Verdict::Unknown }),
                Admission::Hold { after, why } => return Err(Outcome::Held { why, after }),
                Admission::Wait => {
                    place.get_or_insert_with(|| Place::take(&self.waiting));
                    let _ = tokio::time::timeout(LOOK, ended).await;
                }
            }
        }
    }

    /// A number from 0 to 1 (splitmix64).
    fn random(&self) -> f64 {
        let seed = self.seed.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.seed.set(seed);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }
}

/// One of those who wait in their slots.
struct Place<'a>(&'a Cell<usize>);

impl<'a> Place<'a> {
    fn take(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A pass, handed in however the exchange ends.
struct Leave<'a> {
    shared: &'a Shared,
    pass: Pass,
    verdict: Verdict,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let verdict = std::mem::replace(&mut self.verdict, Verdict::Unknown);
        let random = self.shared.random();
        self.shared.circuits.borrow_mut().settle(Mono::now(), &self.pass, verdict, random);
        self.shared.ended.notify_waiters();
    }
}
