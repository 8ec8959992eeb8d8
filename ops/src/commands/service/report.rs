//! What the service verbs print.

use std::path::Path;

use serde_json::json;

use super::describe::{Which, refresh};
use super::{DONE, Scene, look};
use crate::errors::{Failure, chain};
use crate::print::{clean, many};
use crate::service::control::{Control, Said};
use crate::service::place::Found;
use crate::service::stamp::Origin;
use crate::service::{Description, Manager, Scope};

/// Commands that people may want next, and what for.
pub type Next = Vec<(String, &'static str)>;

pub fn next(control: &Control, description: &Description, path: &str, now: bool, running: bool) -> Next {
    let mut next = control.hints(path);
    if now {
        next.remove(0);
    } else if running {
        next[0] = (
            "roundsman service install --now".to_owned(),
            "restarts the running one; its jobs may finish first",
        );
    }
    if description.manager == Manager::Systemd && description.scope == Scope::User {
        next.push(("loginctl enable-linger".to_owned(), "lets it run while you are logged out"));
    }
    next
}

pub fn installed(
    scene: &Scene,
    path: &Path,
    changed: bool,
    ran: &[String],
    next: &Next,
) -> Result<u8, Failure> {
    let screen = scene.screen;
    if screen.json {
        let next: Vec<&String> = next.iter().map(|(command, _)| command).collect();
        screen.document(&json!({"path": path, "changed": changed, "ran": ran, "next": next}))?;
        return DONE;
    }
    let did = if changed { "wrote" } else { "left as it was:" };
    screen.line(&format!("{did} {}", path.display()))?;
    for command in ran {
        screen.line(&format!("ran {command}"))?;
    }
    let width = next.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    for (at, (command, why)) in next.iter().enumerate() {
        let lead = if at == 0 { "next:" } else { "" };
        screen.line(&format!("{lead:5} {command:width$}  {why}"))?;
    }
    DONE
}

pub fn removed(scene: &Scene, path: &Path, ran: &[String]) -> Result<u8, Failure> {
    let screen = scene.screen;
    if screen.json {
        screen.document(&json!({"path": path, "removed": true, "ran": ran}))?;
        return DONE;
    }
    for command in ran {
        screen.line(&format!("ran {command}"))?;
    }
    screen.line(&format!("removed {}; jobs and settings are left where they are", path.display()))?;
    let drop_ins = path.with_extension("service.d");
    if drop_ins.is_dir() {
        screen.line(&format!("{} with changes of yours is left too", drop_ins.display()))?;
    }
    DONE
}

/// Where else a service may be.
pub fn elsewhere(which: &Which) -> String {
    match which.scope() {
        Scope::System => "a user's own service: --user; one of another name: --name NAME".to_owned(),
        Scope::User => "the machine's service: without --user; one of another name: --name NAME".to_owned(),
    }
}

pub async fn status(scene: &Scene, which: &Which) -> Result<u8, Failure> {
    let (manager, scope) = (Manager::here(), which.scope());
    let (_, path) = scene.places(manager, scope, &which.name)?;
    let found = look(manager, &path)?;
    let (state, changes, problem) = compare(scene, &found);
    let control = Control::new(manager, scope, &which.name);
    let said = match scene.live {
        true => Some(match control.probe().await {
            Ok(()) => control.said().await.map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        }),
        false => None,
    };
    if scene.screen.json {
        let (says, silent) = match &said {
            Some(Ok(said)) => (Some(said), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        scene.screen.document(&json!({
            "manager": manager,
            "scope": scope,
            "name": which.name,
            "path": path,
            "file": state,
            "changes": changes,
            "settings_error": problem,
            "manager_says": says,
            "manager_error": silent,
        }))?;
    } else {
        lines(scene, &path, state, &changes, problem.as_deref())?;
        match said {
            Some(Ok(said)) => manager_lines(scene, manager, &said)?,
            Some(Err(why)) => scene.screen.line(&format!("{:8} does not answer: {why}", manager.as_str()))?,
            None => {}
        }
    }
    if found == Found::Nothing {
        return Err(Failure::not_found("it is not installed").advise(format!(
            "roundsman service install{}; {}",
            if which.user { " --user" } else { "" },
            elsewhere(which)
        )));
    }
    DONE
}

/// What the file is, the lines by which it differs from what would be written today, and what hinders knowing them.
fn compare(scene: &Scene, found: &Found) -> (&'static str, Vec<String>, Option<String>) {
    match found {
        Found::Nothing => ("absent", Vec::new(), None),
        Found::Other | Found::File { origin: Origin::Foreign, .. } => ("foreign", Vec::new(), None),
        Found::File { origin: Origin::Edited, .. } => ("edited", Vec::new(), None),
        Found::File { origin: Origin::Ours(description), text } => match refresh(description, &scene.here) {
            Ok(today) if today.render() == *text => ("current", Vec::new(), None),
            Ok(today) => ("outdated", difference(text, &today.render()), None),
            Err(failure) => ("unknown", Vec::new(), Some(failure.lines().collect::<Vec<_>>().join("\n"))),
        },
    }
}

/// Lines of one alone, then lines of the other alone; comments left out.
fn difference(old: &str, new: &str) -> Vec<String> {
    let counts = |line: &&str| !line.is_empty() && !line.starts_with(['#']) && !line.starts_with("<!--");
    let only = |mark: char, of: &str, other: &str| {
        let lines = of.lines().filter(counts).filter(|line| !other.lines().any(|it| it == *line));
        lines.map(|line| format!("{mark}{}", line.trim())).collect::<Vec<_>>()
    };
    [only('-', old, new), only('+', new, old)].concat()
}

fn lines(
    scene: &Scene,
    path: &Path,
    state: &str,
    changes: &[String],
    problem: Option<&str>,
) -> Result<(), Failure> {
    let screen = scene.screen;
    let says = match state {
        "absent" => "is not there",
        "foreign" => "was not written by this program",
        "edited" => "was changed by hand since it was installed",
        "current" => "is as it would be written today",
        "outdated" => "differs from what would be written today; install it again with the same flags",
        _ => "cannot be compared, since its settings are wrong",
    };
    screen.line(&format!("{:8} {} {says}", "file", path.display()))?;
    for change in changes {
        screen.line(&format!("{:8}   {change}", ""))?;
    }
    for line in problem.iter().flat_map(|problem| problem.lines()) {
        screen.line(&format!("{:8}   {line}", ""))?;
    }
    Ok(())
}

fn manager_lines(scene: &Scene, manager: Manager, said: &Said) -> Result<(), Failure> {
    let mut facts = vec![said.state.clone()];
    facts.extend(said.pid.map(|pid| format!("pid {pid}")));
    facts.extend(said.enabled.map(|enabled| if enabled { "enabled" } else { "not enabled" }.to_owned()));
    facts.extend(
        said.restarts.filter(|count| *count > 0).map(|count| format!("restarted {}", many(count, "time"))),
    );
    facts.extend(said.last_exit.map(|code| format!("last exit code {code}")));
    scene.screen.line(&format!("{:8} {}", manager.as_str(), facts.join(", ")))?;
    if let Some(status) = &said.status {
        scene.screen.line(&format!("{:8} {}", "fleet", clean(status)))?;
    }
    if said.reload_needed {
        scene.screen.warn("systemd has not read the file since it changed: systemctl daemon-reload");
    }
    Ok(())
}
