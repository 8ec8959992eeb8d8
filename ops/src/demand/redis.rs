//! A list's, sorted set's or stream's length, or how much of a stream a consumer group has not been given yet.

use std::collections::BTreeMap;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, FromRedisValue, RedisError, Value};
use roundsman_shared::assignment::Confidential;

use super::Reading;

/// Where Redis does not know a group's lag, so many entries are counted at most.
const COUNTED: usize = 1000;

/// What is counted.
pub(super) enum What {
    List(String),
    SortedSet(String),
    /// Without a group the stream's length.
    Stream {
        key: String,
        group: String,
    },
}

pub(super) struct Reader {
    url: Confidential,
    what: What,
    connection: Option<MultiplexedConnection>,
}

impl Reader {
    pub(super) const fn new(url: Confidential, what: What) -> Self {
        Self { url, what, connection: None }
    }

    /// The connection is made anew.
    pub(super) fn forget(&mut self) {
        self.connection = None;
    }

    pub(super) async fn read(&mut self) -> Reading {
        let said = |error: RedisError| error.to_string();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let client = Client::open(self.url.expose()).map_err(said)?;
                client.get_multiplexed_async_connection().await.map_err(said)?
            }
        };
        let length = match &self.what {
            What::List(key) => ask(&mut connection, redis::cmd("LLEN").arg(key)).await?,
            What::SortedSet(key) => ask(&mut connection, redis::cmd("ZCARD").arg(key)).await?,
            What::Stream { key, group } if group.is_empty() => {
                ask(&mut connection, redis::cmd("XLEN").arg(key)).await?
            }
            What::Stream { key, group } => lag(&mut connection, key, group).await?,
        };
        self.connection = Some(connection);
        Ok(length)
    }
}

async fn ask<T: FromRedisValue>(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<T, String> {
    command.query_async(connection).await.map_err(|error: RedisError| error.to_string())
}

async fn lag(connection: &mut MultiplexedConnection, key: &str, group: &str) -> Reading {
    let groups: Vec<BTreeMap<String, Value>> =
        ask(connection, redis::cmd("XINFO").arg("GROUPS").arg(key)).await?;
    let is_it = |fields: &&BTreeMap<String, Value>| text(fields.get("name")).as_deref() == Some(group);
    let Some(found) = groups.iter().find(is_it) else {
        return Err(format!("the stream has no group \"{group}\""));
    };
    if let Some(Value::Int(lag)) = found.get("lag") {
        return Ok(u64::try_from(*lag).unwrap_or(0));
    }
    // Entries were deleted, or the server is old.
    let last = text(found.get("last-delivered-id")).unwrap_or_else(|| "0-0".to_owned());
    let mut rest = redis::cmd("XRANGE");
    rest.arg(key).arg(format!("({last}")).arg("+").arg("COUNT").arg(COUNTED);
    let entries: Vec<Value> = ask(connection, &rest).await?;
    Ok(entries.len() as u64)
}

fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}
