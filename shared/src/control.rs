//! What is asked of a running fleet over its control socket: one JSON object a line each way. The first line of a
//! connection is the order; lines of the answer follow until one that ends it.
//!
//! The socket lies beside the supervisor's lock, in a folder that only its user may enter, so that whoever reaches it
//! may do what the user may do anyway.

use serde::{Deserialize, Serialize};

/// Bytes of a line, newline included.
pub const MAX_LINE: usize = 16 * 1024;

/// What a fleet is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    /// Finish what runs within the grace of its pools, and end; `now`: give it back at once.
    Stop {
        #[serde(default)]
        now: bool,
    },
    /// Read the settings again.
    Reload,
    /// Have so many workers in a pool whatever it needs; `None`: as many as it needs.
    Scale { pool: String, to: Option<u32> },
    /// Have a worker, `POOL/NUMBER`, leave after its jobs; `now`: give them back. Another takes its place where one is
    /// needed.
    StopWorker {
        worker: String,
        #[serde(default)]
        now: bool,
    },
    /// Say what a worker is at.
    DumpWorker { worker: String },
    /// Run the program that is now on disk.
    Deploy {
        /// Workers that change at a time, over all pools; by default a quarter of them.
        batch: Option<u32>,
        /// How long the new program is watched, in ms, before the old one can no more come back.
        watch_ms: u64,
    },
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum Reply {
    /// How far it is; more follows.
    Says { text: String },
    /// It is done; nothing follows.
    Done { text: String },
    /// It is not done, and nothing has changed unless the text says so; nothing follows. `code` is what to exit with.
    Refused { code: u8, text: String },
}

impl Reply {
    #[must_use]
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Refused { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_replies_survive_the_wire() {
        for (order, text) in [
            (Order::Stop { now: false }, r#"{"do":"stop"}"#),
            (Order::Scale { pool: "mail".into(), to: None }, r#"{"do":"scale","pool":"mail","to":null}"#),
            (Order::Deploy { batch: Some(2), watch_ms: 5 }, r#"{"do":"deploy","batch":2,"watch_ms":5}"#),
        ] {
            assert_eq!(serde_json::from_str::<Order>(text).unwrap(), order);
            let line = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), order);
        }
        let reply = Reply::Refused { code: 3, text: "no".into() };
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"t":"refused","code":3,"text":"no"}"#);
        assert!(reply.is_last() && !Reply::Says { text: String::new() }.is_last());
    }
}
