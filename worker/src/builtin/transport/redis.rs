//! `redis`: an entry of a list (`LPUSH`, the payload as it is) or of a stream (`XADD`, with the fields `payload`, `id`,
//! `attempt`, `token` and, where the job has them, `kind` and `traceparent`). Done means that the server answered; how much
//! that is worth is a matter of its settings. Whoever reads a list has no id to drop repeats by, unless the payload has one.

use std::cell::Cell;
use std::rc::Rc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, IntoConnectionInfo as _, RedisError};
use roundsman_shared::job::settle::Outcome;
use roundsman_shared::reach::Reach;
use roundsman_shared::settings::RedisTarget;
use url::Url;

use super::Letter;
use super::circuit::{Destination, Verdict};
use super::connect::{Connector, Stream, Trouble, chain};
use super::lasting::Lasting;

/// What a server says that cannot serve anybody now, beside a connection that breaks.
const UNABLE: [&str; 9] =
    ["OOM", "READONLY", "LOADING", "MISCONF", "NOAUTH", "WRONGPASS", "BUSY", "CLUSTERDOWN", "MASTERDOWN"];

/// See the module's text.
#[derive(Default)]
pub(super) struct Redis {
    servers: Lasting<Live>,
}

#[derive(Clone)]
struct Live {
    connection: MultiplexedConnection,
    /// Its driver has ended.
    dead: Rc<Cell<bool>>,
}

impl Redis {
    pub(super) async fn deliver(
        &self,
        connector: &Connector,
        server: &Url,
        to: &Destination,
        key: &RedisTarget,
        letter: &Letter<'_>,
        reach: &Reach,
    ) -> Result<(Outcome, Verdict), Trouble> {
        let place = self.servers.of(server.as_str());
        let mut live = {
            let mut place = place.lock().await;
            match place.as_ref().filter(|live| !live.dead.get()) {
                Some(live) => live.clone(),
                None => place.insert(open(connector, server, to, reach).await?).clone(),
            }
        };
        let answer: Result<redis::Value, RedisError> =
            command(key, letter).query_async(&mut live.connection).await;
        match answer {
            Ok(redis::Value::BulkString(id)) => {
                let id = String::from_utf8_lossy(&id);
                let result = serde_json::value::to_raw_value(&*id).ok();
                Ok((Outcome::Done { result, follow_ups: Vec::new(), note: None }, Verdict::Well))
            }
            Ok(_) => Ok((Outcome::Done { result: None, follow_ups: Vec::new(), note: None }, Verdict::Well)),
            Err(error) => {
                let text = format!("{to}: {}", chain(&error));
                match error.code() {
                    Some(code) if !UNABLE.contains(&code) => Err(Trouble::Unwanted(text)),
                    Some(_) => Err(Trouble::Broken(text)),
                    None => {
                        live.dead.set(true);
                        Err(Trouble::Broken(text))
                    }
                }
            }
        }
    }

    /// It did not answer.
    pub(super) fn forget(&self, server: &Url) {
        self.servers.forget(server.as_str());
    }
}

async fn open(connector: &Connector, server: &Url, to: &Destination, reach: &Reach) -> Result<Live, Trouble> {
    let failed = |error: RedisError| Trouble::Broken(format!("{to}: {}", chain(&error)));
    let info = server.as_str().into_connection_info().map_err(failed)?;
    let stream: Stream = match info.addr() {
        redis::ConnectionAddr::Unix(path) => {
            let connected = tokio::net::UnixStream::connect(path).await;
            Box::new(connected.map_err(|error| Trouble::Broken(format!("{to}: {error}")))?)
        }
        _ => connector.open(to, reach, server.scheme() == "rediss").await?,
    };
    // The exchange has a deadline already.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let made = MultiplexedConnection::new_with_config(info.redis_settings(), stream, config);
    let (connection, driver) = made.await.map_err(failed)?;
    let live = Live { connection, dead: Rc::default() };
    let dead = live.dead.clone();
    tokio::task::spawn_local(async move {
        driver.await;
        dead.set(true);
    });
    Ok(live)
}

fn command(key: &RedisTarget, letter: &Letter<'_>) -> Cmd {
    let task = letter.task;
    match key {
        RedisTarget::List(name) => {
            let mut command = redis::cmd("LPUSH");
            command.arg(name).arg(letter.body.as_str());
            command
        }
        RedisTarget::Stream(name) => {
            let mut command = redis::cmd("XADD");
            command.arg(name).arg("*").arg("payload").arg(letter.body.as_str());
            command.arg("id").arg(task.id.as_str()).arg("attempt").arg(task.attempt);
            command.arg("token").arg(task.token);
            if let Some(kind) = &task.spec.kind {
                command.arg("kind").arg(kind);
            }
            if let Some(trace) = task.spec.headers.get("traceparent") {
                command.arg("traceparent").arg(trace);
            }
            command
        }
    }
}
