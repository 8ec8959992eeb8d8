//! The scripts: one file a verb, each made of the shared prelude and its own text, loaded once a server and called by
//! digest. A server that lost them (a restart, a failover) is given them again, and the call repeated.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};

/// A script and the digest that Redis knows it by.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    sha: String,
}

/// `allow-oom`: acknowledgements and deliveries must go on when Redis has no memory left; enqueues must not.
macro_rules! script {
    ($name:literal, $flags:literal) => {
        Script::new(concat!(
            "#!lua",
            $flags,
            "\n",
            include_str!("scripts/prelude.lua"),
            include_str!(concat!("scripts/", $name, ".lua"))
        ))
    };
}

impl Script {
    fn new(text: &str) -> Self {
        let sha = redis::Script::new(text).get_hash().to_owned();
        Self { text: text.to_owned(), sha }
    }

    /// A call of this script on a queue, still without arguments.
    pub(super) fn call(&self, base: &str) -> Cmd {
        let mut cmd = Cmd::new();
        cmd.arg("EVALSHA").arg(&self.sha).arg(1).arg(base);
        cmd
    }
}

/// All scripts.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) enqueue: Script,
    pub(super) exchange: Script,
    pub(super) renew: Script,
    pub(super) unacked: Script,
    pub(super) pulse: Script,
    pub(super) trim: Script,
    pub(super) glance: Script,
    pub(super) look: Script,
    pub(super) revise: Script,
    pub(super) tell: Script,
    pub(super) purge: Script,
    pub(super) bury: Script,
    pub(super) steer: Script,
    pub(super) beat: Script,
    pub(super) plot: Script,
    pub(super) enter: Script,
    pub(super) adjust: Script,
    pub(super) give_way: Script,
    pub(super) bare_enqueue: Script,
    pub(super) bare_drain: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            enqueue: script!("enqueue", ""),
            exchange: script!("exchange", " flags=allow-oom"),
            renew: script!("renew", " flags=allow-oom"),
            unacked: script!("unacked", " flags=no-writes"),
            pulse: script!("pulse", " flags=allow-oom"),
            trim: script!("trim", " flags=allow-oom"),
            glance: script!("glance", " flags=no-writes"),
            look: script!("look", " flags=no-writes"),
            revise: script!("revise", " flags=allow-oom"),
            tell: script!("tell", " flags=allow-oom"),
            purge: script!("purge", " flags=allow-oom"),
            bury: script!("bury", " flags=allow-oom"),
            steer: script!("steer", " flags=allow-oom"),
            beat: script!("beat", " flags=allow-oom"),
            plot: script!("plot", ""),
            enter: script!("enter", " flags=allow-oom"),
            adjust: script!("adjust", " flags=allow-oom"),
            give_way: script!("give_way", " flags=allow-oom"),
            bare_enqueue: script!("bare_enqueue", ""),
            bare_drain: script!("bare_drain", ""),
        }
    }

    fn all(&self) -> [&Script; 20] {
        [
            &self.enqueue,
            &self.exchange,
            &self.renew,
            &self.unacked,
            &self.pulse,
            &self.trim,
            &self.glance,
            &self.look,
            &self.revise,
            &self.tell,
            &self.purge,
            &self.bury,
            &self.steer,
            &self.beat,
            &self.plot,
            &self.enter,
            &self.adjust,
            &self.give_way,
            &self.bare_enqueue,
            &self.bare_drain,
        ]
    }

    /// Gives the server every script.
    pub(super) async fn load(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let mut calls = Vec::new();
        for script in self.all() {
            let mut call = redis::cmd("SCRIPT");
            call.arg("LOAD").arg(&script.text);
            calls.push(call);
        }
        send(connection, &calls).await?.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Runs calls in one round trip. Where the server does not know a script, nothing of that call has run, so the
    /// scripts are loaded and that call is repeated.
    pub(super) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        calls: &[Cmd],
    ) -> Result<Vec<Value>, RedisError> {
        let mut answers = send(connection, calls).await?;
        let missing: Vec<usize> = (0..answers.len()).filter(|at| is_no_script(&answers[*at])).collect();
        if !missing.is_empty() {
            self.load(connection).await?;
            let again: Vec<Cmd> = missing.iter().map(|at| calls[*at].clone()).collect();
            for (at, answer) in missing.into_iter().zip(send(connection, &again).await?) {
                answers[at] = answer;
            }
        }
        answers.into_iter().collect()
    }
}

type Answer = Result<Value, RedisError>;

async fn send(connection: &mut MultiplexedConnection, calls: &[Cmd]) -> Result<Vec<Answer>, RedisError> {
    if let [call] = calls {
        let answer = connection.send_packed_command(call).await;
        return match answer {
            Err(error) if error.is_io_error() || error.is_timeout() => Err(error),
            other => Ok(vec![other.and_then(Value::extract_error)]),
        };
    }
    let mut pipe = Pipeline::with_capacity(calls.len());
    for call in calls {
        pipe.add_command(call.clone());
    }
    let answers = connection.send_packed_commands(&pipe, 0, calls.len()).await?;
    Ok(answers.into_iter().map(Value::extract_error).collect())
}

fn is_no_script(answer: &Answer) -> bool {
    matches!(answer, Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
}
