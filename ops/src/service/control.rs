//! Talking to a service manager by its own program, `systemctl` or `launchctl`.

use std::io;
use std::process::Stdio;

use serde::Serialize;
use tokio::process::Command;

use super::{Manager, Scope, label};

/// One service, as its manager knows it.
#[derive(Debug, Clone)]
pub struct Control {
    manager: Manager,
    scope: Scope,
    name: String,
}

/// Why a manager did not do what it was asked, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("there is no {0} here")]
    NoProgram(&'static str),
    #[error("`{command}` failed: {why}")]
    Failed { command: String, why: String },
    #[error("`{command}` cannot be started")]
    Start { command: String, source: io::Error },
}

/// What a manager says of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Said {
    /// It has read the file.
    pub loaded: bool,
    /// In its own words: `active (running)`, `failed (exit-code)`.
    pub state: String,
    pub active: bool,
    /// Whether it is started at boot or login.
    pub enabled: Option<bool>,
    pub pid: Option<u32>,
    /// What the supervisor said of itself.
    pub status: Option<String>,
    /// Times that it was restarted by itself.
    pub restarts: Option<u64>,
    /// The file has changed since it was read.
    pub reload_needed: bool,
    pub last_exit: Option<i32>,
}

impl Control {
    pub fn new(manager: Manager, scope: Scope, name: &str) -> Self {
        Self { manager, scope, name: name.to_owned() }
    }

    const fn program(&self) -> &'static str {
        match self.manager {
            Manager::Systemd => "systemctl",
            Manager::Launchd => "launchctl",
        }
    }

    /// `system`, or the session of this user.
    fn domain(&self) -> String {
        match self.scope {
            Scope::System => "system".to_owned(),
            Scope::User => format!("gui/{}", rustix::process::geteuid().as_raw()),
        }
    }

    fn target(&self) -> String {
        format!("{}/{}", self.domain(), label(self.manager, &self.name))
    }

    fn systemctl<'a>(&self, words: &[&'a str]) -> Vec<&'a str> {
        let scope = if self.scope == Scope::User { &["--user"][..] } else { &[] };
        [scope, words].concat()
    }

    /// What people would type.
    fn shown(&self, words: &[&str]) -> String {
        format!("{} {}", self.program(), words.join(" "))
    }

    /// Whether the manager runs.
    ///
    /// # Errors
    /// Why not, as far as its program says.
    pub async fn probe(&self) -> Result<(), ControlError> {
        match self.manager {
            Manager::Systemd => {
                self.run(&self.systemctl(&["show", "--property=Version", "--value"])).await.map(drop)
            }
            Manager::Launchd => self.run(&["managerpid"]).await.map(drop),
        }
    }

    /// Has the manager read the file, where it does not do so when it starts a service; answers what was run.
    ///
    /// # Errors
    /// As the manager has them.
    pub async fn reread(&self) -> Result<Option<String>, ControlError> {
        match self.manager {
            Manager::Systemd => self.show_and_run(&self.systemctl(&["daemon-reload"])).await.map(Some),
            Manager::Launchd => Ok(None),
        }
    }

    /// Starts it now and at every boot or login; one that runs is restarted, and its jobs drain. Answers what was run.
    ///
    /// # Errors
    /// As the manager has them; systemd waits until the service says that it serves.
    pub async fn start(&self, path: &str) -> Result<Vec<String>, ControlError> {
        match self.manager {
            Manager::Systemd => {
                let mut ran = Vec::new();
                for verb in ["enable", "restart"] {
                    ran.push(self.show_and_run(&self.systemctl(&[verb, &self.name])).await?);
                }
                Ok(ran)
            }
            Manager::Launchd => {
                let mut ran = Vec::new();
                if self.said().await?.loaded {
                    ran.push(self.show_and_run(&["bootout", &self.target()]).await?);
                }
                ran.push(self.show_and_run(&["bootstrap", &self.domain(), path]).await?);
                Ok(ran)
            }
        }
    }

    /// Stops it, and has it not started again; answers what was run.
    ///
    /// # Errors
    /// As the manager has them.
    pub async fn stop(&self) -> Result<Vec<String>, ControlError> {
        match self.manager {
            Manager::Systemd => {
                let ran = self.show_and_run(&self.systemctl(&["disable", "--now", &self.name])).await?;
                // Else one that failed goes on being listed without its file; one that did not has nothing to forget.
                let _ = self.run(&self.systemctl(&["reset-failed", &self.name])).await;
                Ok(vec![ran])
            }
            Manager::Launchd if self.said().await?.loaded => {
                Ok(vec![self.show_and_run(&["bootout", &self.target()]).await?])
            }
            Manager::Launchd => Ok(Vec::new()),
        }
    }

    /// What people type to start it, to see its log and to make it load its settings anew.
    pub fn hints(&self, path: &str) -> Vec<(String, &'static str)> {
        let user = if self.scope == Scope::User { " --user" } else { "" };
        let name = &self.name;
        match self.manager {
            Manager::Systemd => vec![
                (format!("systemctl{user} enable --now {name}"), "starts it, now and at every boot or login"),
                (format!("journalctl{user} --unit {name} --follow"), "shows its log"),
                (format!("systemctl{user} reload {name}"), "loads changed settings"),
            ],
            Manager::Launchd => vec![
                (
                    format!("launchctl bootstrap {} '{path}'", self.domain()),
                    "starts it, now and at every boot or login",
                ),
                (format!("launchctl kill SIGHUP {}", self.target()), "loads changed settings"),
            ],
        }
    }

    /// # Errors
    /// When the manager cannot be asked.
    pub async fn said(&self) -> Result<Said, ControlError> {
        match self.manager {
            Manager::Systemd => {
                let properties = format!("--property={}", PROPERTIES.join(","));
                let name = label(self.manager, &self.name);
                self.run(&self.systemctl(&["show", &properties, &name])).await.map(|text| by_systemd(&text))
            }
            Manager::Launchd => match self.run(&["print", &self.target()]).await {
                Ok(text) => Ok(by_launchd(Some(&text))),
                Err(ControlError::Failed { .. }) => Ok(by_launchd(None)),
                Err(error) => Err(error),
            },
        }
    }

    async fn show_and_run(&self, words: &[&str]) -> Result<String, ControlError> {
        self.run(words).await?;
        Ok(self.shown(words))
    }

    /// Runs the manager's program to its end; answers its standard output.
    #[expect(clippy::disallowed_methods, reason = "the one place of the command line that starts a program")]
    async fn run(&self, words: &[&str]) -> Result<String, ControlError> {
        let mut command = Command::new(self.program());
        // No pager, no questions, no colours, no words of another language.
        command
            .args(words)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .env("LC_ALL", "C")
            .env("SYSTEMD_PAGER", "");
        let done = command.output().await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ControlError::NoProgram(self.program()),
            _ => ControlError::Start { command: self.shown(words), source },
        })?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        let why = if why.is_empty() { done.status.to_string() } else { why };
        Err(ControlError::Failed { command: self.shown(words), why })
    }
}

const PROPERTIES: [&str; 9] = [
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "StatusText",
    "NRestarts",
    "NeedDaemonReload",
    "ExecMainStatus",
];

fn by_systemd(text: &str) -> Said {
    let value = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).filter(|value| !value.is_empty())
    };
    let number = |name: &str| value(name).and_then(|value| value.parse().ok());
    let active = value("ActiveState").unwrap_or("unknown");
    let state = match value("SubState") {
        Some(sub) if sub != active => format!("{active} ({sub})"),
        _ => active.to_owned(),
    };
    Said {
        loaded: value("LoadState") == Some("loaded"),
        active: matches!(active, "active" | "activating" | "reloading" | "deactivating"),
        state,
        enabled: value("UnitFileState").map(|state| state.starts_with("enabled")),
        pid: number("MainPID").filter(|pid| *pid != 0),
        status: value("StatusText").map(str::to_owned),
        restarts: value("NRestarts").and_then(|value| value.parse().ok()),
        reload_needed: value("NeedDaemonReload") == Some("yes"),
        last_exit: value("ExecMainStatus").and_then(|value| value.parse().ok()).filter(|code| *code != 0),
    }
}

/// `launchctl print` is meant for people; these lines have stayed the same over its versions.
fn by_launchd(text: Option<&str>) -> Said {
    let value = |name: &str| {
        text?.lines().find_map(|line| line.trim().strip_prefix(name)?.trim_start().strip_prefix("= "))
    };
    let state = match text {
        None => "not loaded",
        Some(_) => value("state").unwrap_or("unknown"),
    };
    Said {
        loaded: text.is_some(),
        state: state.to_owned(),
        active: state == "running",
        enabled: None,
        pid: value("pid").and_then(|value| value.parse().ok()),
        status: None,
        restarts: None,
        reload_needed: false,
        last_exit: value("last exit code").and_then(|value| value.parse().ok()).filter(|code| *code != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_managers_say_is_understood() {
        let text = "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nMainPID=7\n\
                    StatusText=serving, master 8 (a=b)\nNRestarts=2\nNeedDaemonReload=yes\nExecMainStatus=0\n";
        let said = by_systemd(text);
        assert_eq!(
            said,
            Said {
                loaded: true,
                state: "active (running)".into(),
                active: true,
                enabled: Some(true),
                pid: Some(7),
                status: Some("serving, master 8 (a=b)".into()),
                restarts: Some(2),
                reload_needed: true,
                last_exit: None,
            }
        );
        let absent = by_systemd("LoadState=not-found\nActiveState=inactive\nSubState=dead\nMainPID=0\n");
        assert_eq!((absent.loaded, absent.active, absent.pid, absent.enabled), (false, false, None, None));
        assert_eq!(absent.state, "inactive (dead)");
        let failed = by_systemd("LoadState=loaded\nActiveState=failed\nSubState=failed\nExecMainStatus=78\n");
        assert_eq!((failed.state.as_str(), failed.last_exit), ("failed", Some(78)));

        let text = "gui/501/dev.roundsman.roundsman = {\n\tactive count = 1\n\tstate = running\n\n\tpid = 7\n\
                    \tlast exit code = (never exited)\n\tproperties = keepalive | runatload\n}\n";
        let said = by_launchd(Some(text));
        assert_eq!(
            (said.state.as_str(), said.active, said.pid, said.last_exit),
            ("running", true, Some(7), None)
        );
        assert!(!by_launchd(None).loaded);
    }
}
