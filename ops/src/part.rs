//! A part of the fleet that runs no jobs: a process of its own under the master, speaking the same protocol as a worker,
//! so that what parses the words of strangers can break without taking the fleet with it.
//!
//! ```text
//! hello → welcome with the assignment → ready → a beat a second → told to stop → bye
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use roundsman_shared::assignment::Assignment;
use roundsman_shared::figures::Figures;
use roundsman_shared::job::Policy;
use roundsman_shared::names::QueueName;
use roundsman_shared::outlook::Outlook;
use roundsman_shared::pipe::{self, Incoming, Outgoing};
use roundsman_shared::protocol::{self, BEAT_MS, Beat, Doing, FromChild, StopMode, ToChild};
use roundsman_shared::settings::Environment;
use roundsman_shared::{exit, launch, telemetry};
use tokio::sync::mpsc;

const WELCOME_WITHIN: Duration = Duration::from_secs(10);

/// Why a part has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Finish what is under way, within this time.
    Drain(Duration),
    /// Leave now: the time to finish is over, or the master is gone.
    Now,
}

/// What a part says with each sign of life.
#[derive(Debug, Default)]
pub struct Said {
    pub store_ok: bool,
    /// What it has done so far.
    pub done: u64,
    /// How it stands with what it serves.
    pub words: Option<String>,
}

/// What the fleet of this host has counted and how things stand, as the master told it last.
#[derive(Debug, Default)]
pub struct Seen {
    pub figures: Figures,
    pub outlook: Outlook,
}

pub type Watched = Arc<Mutex<Seen>>;

/// The policies of queues as the master told them last.
pub type Policies = Arc<Mutex<BTreeMap<QueueName, Policy>>>;

/// The pipe to the master.
#[derive(Debug)]
pub struct Part {
    outgoing: Outgoing,
    incoming: mpsc::Receiver<Incoming>,
    policies: Policies,
    watched: Watched,
}

/// What a part does, from its assignment to its exit code and why it leaves.
pub trait Role: AsyncFnOnce(&mut Part, Assignment) -> (u8, String) {}
impl<F: AsyncFnOnce(&mut Part, Assignment) -> (u8, String)> Role for F {}

/// Runs a part; answers the exit code. Must be called before the process has other threads.
pub fn run(role: impl Role) -> u8 {
    let environment = Environment::capture();
    let _ = telemetry::start(&environment, telemetry::Level::Info);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be started");
            return exit::FAILED;
        }
    };
    let code = runtime.block_on(serve(&environment, role));
    runtime.shutdown_background();
    code
}

async fn serve(environment: &Environment, role: impl Role) -> u8 {
    let (outgoing, incoming) = match pipe::open() {
        Ok(pipe) => pipe,
        Err(error) => {
            tracing::error!(%error, "the pipe to the master cannot be set up");
            return exit::FAILED;
        }
    };
    outgoing.send(FromChild::Hello {
        v: [protocol::VERSION, protocol::VERSION],
        pid: std::process::id(),
        nonce: environment.get(launch::NONCE).and_then(|nonce| nonce.parse().ok()).unwrap_or(0),
        build: concat!("roundsman ", env!("CARGO_PKG_VERSION")).to_owned(),
    });
    let mut part = Part { outgoing, incoming, policies: Policies::default(), watched: Watched::default() };
    let (code, why) = match part.welcome().await {
        Ok(assignment) => {
            part.policies = Arc::new(Mutex::new(assignment.policies.clone()));
            role(&mut part, assignment).await
        }
        Err(left) => left,
    };
    part.outgoing.close(FromChild::Bye { why, code: i32::from(code) });
    code
}

impl Part {
    async fn welcome(&mut self) -> Result<Assignment, (u8, String)> {
        loop {
            match tokio::time::timeout(WELCOME_WITHIN, self.incoming.recv()).await {
                Ok(Some(Incoming::Message(ToChild::Welcome { work, .. }))) => {
                    return serde_json::from_value(work).map_err(|error| (exit::CONFIG, error.to_string()));
                }
                Ok(Some(Incoming::Message(ToChild::Stop { .. }) | Incoming::Closed) | None) | Err(_) => {
                    return Err((exit::OK, "the master is gone".to_owned()));
                }
                Ok(Some(_)) => {}
            }
        }
    }

    /// They follow the settings while the part serves.
    pub fn policies(&self) -> Policies {
        self.policies.clone()
    }

    /// Kept up to date while the part serves, for parts that the master shows it to.
    pub fn watched(&self) -> Watched {
        self.watched.clone()
    }

    fn heed(&self, told: BTreeMap<String, serde_json::Value>) {
        let told = told.into_iter().filter_map(|(queue, policy)| {
            Some((QueueName::new(&queue).ok()?, serde_json::from_value(policy).ok()?))
        });
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).extend(told);
    }

    /// For parts that have a loop of their own.
    pub fn say(&self, message: FromChild) {
        self.outgoing.send(message);
    }

    /// The same: what the master says next.
    pub async fn hear(&mut self) -> Incoming {
        self.incoming.recv().await.unwrap_or(Incoming::Closed)
    }

    /// It serves from now on.
    pub fn ready(&self) {
        self.outgoing.send(FromChild::Ready);
    }

    fn beat(&self, doing: Doing, store_ok: bool) {
        self.outgoing.send(FromChild::Hb(Beat { doing, store_ok, ..Beat::default() }));
    }

    /// Beats as one that is not ready yet, until the time is over; or until it is told to stop.
    pub async fn starting(&mut self, wait: Duration) -> Option<Stop> {
        self.beat(Doing::Starting, false);
        tokio::time::timeout(wait, self.stop()).await.ok()
    }

    /// Beats as one that serves, until it is told to stop.
    pub async fn serving(&mut self, is_store_there: impl Fn() -> bool) -> Stop {
        self.telling(|| Said { store_ok: is_store_there(), ..Said::default() }).await
    }

    /// The same, and tells how it stands with what it serves.
    pub async fn telling(&mut self, say: impl Fn() -> Said) -> Stop {
        loop {
            let Said { store_ok, done, words } = say();
            let says = words.map(|text| protocol::cut(text, protocol::MAX_SAYS));
            let beat = Beat { doing: Doing::Idle, store_ok, done, says, ..Beat::default() };
            self.outgoing.send(FromChild::Hb(beat));
            let pause = Duration::from_millis(BEAT_MS);
            if let Ok(stop) = tokio::time::timeout(pause, self.stop()).await {
                return stop;
            }
        }
    }

    /// Beats as one that leaves, until it is done or told to leave at once.
    pub async fn draining(&mut self, done: impl Future<Output = ()>) {
        self.outgoing.send(FromChild::Draining { why: "told to stop".to_owned() });
        let mut done = std::pin::pin!(done);
        loop {
            self.beat(Doing::Draining, true);
            tokio::select! {
                () = &mut done => return,
                stop = self.stop() => if stop == Stop::Now { return },
                () = tokio::time::sleep(Duration::from_millis(BEAT_MS)) => {}
            }
        }
    }

    /// Waits until the master says stop, or is gone.
    async fn stop(&mut self) -> Stop {
        loop {
            match self.incoming.recv().await {
                Some(Incoming::Message(ToChild::Stop { mode: StopMode::Drain, by_ms, .. })) => {
                    return Stop::Drain(Duration::from_millis(by_ms));
                }
                Some(Incoming::Message(ToChild::Stop { mode: StopMode::Release, .. }) | Incoming::Closed)
                | None => return Stop::Now,
                Some(Incoming::Message(ToChild::Policies { queues })) => self.heed(queues),
                Some(Incoming::Message(ToChild::Figures { figures })) => {
                    let mut seen = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
                    figures.into_iter().for_each(|figure| seen.figures.replace(figure));
                }
                Some(Incoming::Message(ToChild::Outlook(outlook))) => {
                    self.watched.lock().unwrap_or_else(PoisonError::into_inner).outlook = outlook;
                }
                Some(_) => {}
            }
        }
    }
}
