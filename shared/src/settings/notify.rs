//! `[[notify]]`: who is told when something is wrong.

use super::address;
use super::handler::signing_secret;
use super::secret::{Secret, SecretUrl};
use super::section::Section;

/// Who is told, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifySettings {
    /// A program or a webhook.
    pub target: NotifyTarget,
    /// Never empty; default all.
    pub on: Vec<Trouble>,
}

/// How it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotifyTarget {
    /// Program and arguments; the news on its standard input.
    Command(Vec<String>),
    /// A webhook.
    Webhook {
        /// Its path may be its secret.
        url: SecretUrl,
        /// What signs it.
        secret: Option<Secret>,
    },
}

/// What someone wants to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// `crash-loop`
    CrashLoop,
    /// `quarantine` of a pool
    Quarantine,
    /// `saturated`
    Saturated,
    /// `host-lost`
    HostLost,
    /// `dead-letters` rising
    DeadLetters,
    /// `clock-jump`
    ClockJump,
    /// `durability` of the store lost
    Durability,
}

const TROUBLES: [(&str, Trouble); 7] = [
    ("crash-loop", Trouble::CrashLoop),
    ("quarantine", Trouble::Quarantine),
    ("saturated", Trouble::Saturated),
    ("host-lost", Trouble::HostLost),
    ("dead-letters", Trouble::DeadLetters),
    ("clock-jump", Trouble::ClockJump),
    ("durability", Trouble::Durability),
];

fn trouble(name: &str) -> Option<Trouble> {
    TROUBLES.iter().find(|(known, _)| *known == name).map(|(_, trouble)| *trouble)
}

impl NotifySettings {
    pub(super) fn read_all(root: &mut Section<'_>) -> Vec<Self> {
        let mut all = Vec::new();
        for mut section in root.list("notify") {
            let target = read_target(&mut section);
            let names = TROUBLES.map(|(name, _)| name.to_owned()).to_vec();
            let on = section.checked("on", names, |names: &Vec<String>| {
                if names.is_empty() {
                    return Err("is empty: leave it out to be told of everything".into());
                }
                match names.iter().find(|name| trouble(name).is_none()) {
                    Some(name) => {
                        let known = TROUBLES.map(|(name, _)| format!("\"{name}\"")).join(", ");
                        Err(format!("\"{name}\" is none of {known}"))
                    }
                    None => Ok(()),
                }
            });
            let on = on.iter().filter_map(|name| trouble(name)).collect();
            all.extend(target.map(|target| Self { target, on }));
            section.finish();
        }
        all
    }
}

fn read_target(section: &mut Section<'_>) -> Option<NotifyTarget> {
    let by_web = section.has("url") || section.has("url_file");
    if section.has("command") {
        let command = section.command("command");
        section.demand(!by_web, "command", "contradicts url: write one of them");
        section.node("url");
        section.node("url_file");
        return command.map(NotifyTarget::Command);
    }
    section.node("command");
    if !by_web {
        section.refuse("url", "is missing, and so is command: write one of them".into());
        return None;
    }
    let url = address::webhook(section);
    section.demand(url.is_some(), "url", "is empty: write one like \"https://example.com/hook\"");
    let secret = signing_secret(section);
    Some(NotifyTarget::Webhook { url: url?, secret })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};

    #[test]
    fn notifications_are_read() {
        let notify = settings(
            "[[notify]]\ncommand = [\"./page\"]\n[[notify]]\nurl = \"https://a/b\"\non = [\"host-lost\"]",
        )
        .notify;
        assert_eq!(notify[0].target, NotifyTarget::Command(vec!["/etc/r/page".into()]));
        assert_eq!(notify[0].on.len(), TROUBLES.len());
        assert_eq!(notify[1].on, [Trouble::HostLost]);
    }

    #[test]
    fn bad_values_are_refused() {
        for (lines, message) in [
            ("on = [\"host-lost\"]", "1: notify[0].url: is missing, and so is command: write one of them"),
            (
                "command = [\"a\"]\nurl = \"https://a\"",
                "2: notify[0].command: contradicts url: write one of them",
            ),
            ("url = \"\"", "2: notify[0].url: is empty: write one like \"https://example.com/hook\""),
            (
                "command = [\"a\"]\non = []",
                "3: notify[0].on: is empty: leave it out to be told of everything",
            ),
            (
                "command = [\"a\"]\non = [\"fire\"]",
                "3: notify[0].on: \"fire\" is none of \"crash-loop\", \"quarantine\", \"saturated\", \"host-lost\", \
                 \"dead-letters\", \"clock-jump\", \"durability\"",
            ),
        ] {
            assert_eq!(problems(&format!("[[notify]]\n{lines}")), [format!("/etc/r/r.toml:{message}")]);
        }
    }
}
