//! How a child process finds what its parent prepared for it: names of environment variables, and for a master what
//! `welcome` carries. No variable holds a secret, and none is handed on to handlers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::settings::{Files, Override};

/// The pid of the parent that started this process; another parent means that it has been orphaned.
pub const PARENT: &str = "ROUNDSMAN_INTERNAL_PARENT";
/// The nonce to say `hello` with.
pub const NONCE: &str = "ROUNDSMAN_INTERNAL_NONCE";
/// The path of the board to post running jobs on.
pub const BOARD: &str = "ROUNDSMAN_INTERNAL_BOARD";
/// The number of the descriptor that is the standard output of `up`.
pub const STDOUT: &str = "ROUNDSMAN_INTERNAL_STDOUT";

/// The `work` of the `welcome` that a supervisor sends to its master: all that the master needs, beside its inherited
/// environment and directory, to load the settings that the supervisor has checked. It comes over the pipe, since an
/// override may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterStart {
    /// `--config`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Nothing but that file and flags counts.
    #[serde(default)]
    pub alone: bool,
    /// The files that are in force; they may have changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    /// What the flags of `up` say, in their order.
    #[serde(default)]
    pub overrides: Vec<Override>,
    /// The id of this host: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
    pub host: String,
    /// To show beside the master's own.
    pub supervisor_pid: u32,
    /// Pools that are to have a number of workers of somebody's choice.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scaled: BTreeMap<String, u32>,
    /// Another master serves this host, and this one is to take over from it; so many percent at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heir: Option<u8>,
    /// Where the API's socket is handed from one master's to the next one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_survives_the_wire() {
        let start = MasterStart {
            config: Some("/etc/r.toml".into()),
            alone: true,
            files: Some(Files::default()),
            overrides: vec![
                Override::text("--store", "store.url", "redis://:secret@host"),
                Override::handler_command(vec!["./t.sh".into(), "{x}".into()]),
            ],
            host: "mill-1".into(),
            supervisor_pid: 7,
            scaled: BTreeMap::from([("mail".to_owned(), 3)]),
            heir: Some(25),
            handover: Some("/run/r.api".into()),
        };
        let line = serde_json::to_string(&start).unwrap();
        assert_eq!(serde_json::from_str::<MasterStart>(&line).unwrap(), start);
        let least = serde_json::from_str::<MasterStart>(r#"{"host":"a","supervisor_pid":7}"#).unwrap();
        assert_eq!((least.config, least.overrides), (None, Vec::new()));
    }
}
