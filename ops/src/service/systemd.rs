//! The text of a systemd unit. Keys that are unknown before systemd 244 are avoided, as an old one would ignore them.

use super::{Description, FILES, Scope};

/// What stops before these do can still talk to them; they need not exist.
const STORES: &str = "redis-server.service redis.service valkey.service rabbitmq-server.service";

/// Seconds without a sign of life, after which systemd kills and restarts everything. A silent master is replaced by the
/// supervisor within 13 s, in which nothing is said; this is for a supervisor that hangs itself.
const WATCHDOG_SECONDS: u32 = 30;

pub(super) fn body(description: &Description) -> String {
    let sections = [
        unit(description.scope),
        service(description),
        format!(
            "[Install]\nWantedBy={}\n",
            match description.scope {
                Scope::System => "multi-user.target",
                Scope::User => "default.target",
            }
        ),
    ];
    sections.join("\n")
}

fn unit(scope: Scope) -> String {
    // A user's manager knows nothing of the system's units.
    let order = match scope {
        Scope::System => format!(
            "Wants=network-online.target\n\
             # Only an order: whichever of these runs here is stopped after the jobs are.\n\
             After=network-online.target {STORES}\n"
        ),
        Scope::User => String::new(),
    };
    format!(
        "[Unit]\n\
         Description=Roundsman: background jobs and timers\n\
         {order}\
         # A trouble of some minutes heals by itself; after about a quarter of an hour of failed starts the unit fails,\n\
         # for OnFailure= and whoever watches.\n\
         StartLimitIntervalSec=1h\n\
         StartLimitBurst=200\n"
    )
}

fn service(description: &Description) -> String {
    let Description { name, binary, directory, run_as, stop_seconds, .. } = description;
    let system = description.scope == Scope::System;
    let mut lines = vec![
        "[Service]".to_owned(),
        "# The supervisor says when it serves, how it is (STATUS), and that the master's loop turns (WATCHDOG).".to_owned(),
        "Type=notify".to_owned(),
        "NotifyAccess=main".to_owned(),
        format!("WatchdogSec={WATCHDOG_SECONDS}s"),
        format!("ExecStart={}", command_line(binary, &description.arguments())),
        "ExecReload=/bin/kill -HUP $MAINPID".to_owned(),
    ];
    lines.extend(run_as.iter().map(|user| format!("User={user}")));
    lines.push(format!("WorkingDirectory={}", directory.as_deref().map_or_else(|| "%h".to_owned(), bare)));
    lines.push(match &description.environment_file {
        Some(path) => format!("EnvironmentFile={}", bare(path)),
        // %E is /etc, or the user's ~/.config.
        None => format!("EnvironmentFile=-%E/roundsman/{name}.env"),
    });
    if system {
        lines.extend([format!("StateDirectory={name}"), "StateDirectoryMode=0700".to_owned()]);
    }
    lines.extend([
        "UMask=0077".to_owned(),
        String::new(),
        "Restart=on-failure".to_owned(),
        "RestartSec=3s".to_owned(),
        "# 2 and 78: the command line or the settings are wrong, which no restart mends.".to_owned(),
        "RestartPreventExitStatus=2 78".to_owned(),
        "# 130: told to stop twice.".to_owned(),
        "SuccessExitStatus=130".to_owned(),
        String::new(),
        "# TERM goes to the supervisor alone, which lets running jobs finish; what is left after it is killed.".to_owned(),
        "KillMode=mixed".to_owned(),
        "# The longest grace of all pools and 20 s; when a reload has changed it, the supervisor asks for more.".to_owned(),
        format!("TimeoutStopSec={stop_seconds}s"),
        String::new(),
        "# A job that eats all memory costs its worker, not the fleet.".to_owned(),
        "OOMPolicy=continue".to_owned(),
    ]);
    if system {
        lines.push("# For supervisor and master; workers and their jobs stand 200 above them.".to_owned());
        lines.push("OOMScoreAdjust=-200".to_owned());
    }
    lines.push(format!("LimitNOFILE={FILES}"));
    // Root's service is root's business, and a user's manager may not do most of this.
    if run_as.as_ref().is_some_and(|user| user != "root") {
        lines.push(String::new());
        lines.push(
            "# Takes from jobs only what a user without rights has no use for; ops/docs/service.md has a stricter set."
                .to_owned(),
        );
        lines.extend(HARDENING.map(str::to_owned));
    }
    lines.join("\n") + "\n"
}

/// Absent on purpose, since commands that jobs run need them: /tmp and /home, devices, namespaces (browsers sandbox
/// themselves by these), memory that is written and run (every JIT), any filter of system calls.
const HARDENING: [&str; 8] = [
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "ProtectSystem=full",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
];

/// A command line. In the program's own path a `$` means itself, in its arguments a variable.
fn command_line(program: &str, arguments: &[&str]) -> String {
    let arguments = arguments.iter().map(|word| quoted(&word.replace('$', "$$")));
    let words: Vec<String> = std::iter::once(quoted(program)).chain(arguments).collect();
    words.join(" ")
}

/// A word, in quotes where it needs them (systemd.syntax(7), "Quoting"), with its specifiers escaped.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%$".contains(c);
    let word = bare(word);
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    let mut text = String::from('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            _ => text.push(c),
        }
    }
    text.push('"');
    text
}

/// A value that is taken as it stands, but for specifiers.
fn bare(value: &str) -> String {
    value.replace('%', "%%")
}
