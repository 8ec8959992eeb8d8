//! The lines by which we know again what we wrote: the description that a text was made of, and a checksum over all the
//! rest, so that an edit by hand is seen.
//!
//! ```text
//! # checksum: 0f3c9a…
//! # roundsman: {"manager":"systemd","name":"roundsman",…}
//! ```

use sha2::{Digest as _, Sha256};

use super::{Description, Manager};

const DESCRIPTION: &str = "roundsman: ";
const CHECKSUM: &str = "checksum: ";

/// How comments are written.
struct Comment {
    /// What must stand before the first comment.
    head: &'static str,
    open: &'static str,
    close: &'static str,
}

const fn comment(manager: Manager) -> Comment {
    match manager {
        Manager::Systemd => Comment { head: "", open: "# ", close: "" },
        Manager::Launchd => {
            Comment { head: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", open: "<!-- ", close: " -->" }
        }
    }
}

/// What an installed text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// As we wrote it, of this description.
    Ours(Box<Description>),
    /// We wrote it, and somebody changed it.
    Edited,
    /// We did not write it.
    Foreign,
}

/// A text with its stamp.
pub fn put(description: &Description, body: &str) -> String {
    let Comment { head, open, close } = comment(description.manager);
    let advice = match description.manager {
        Manager::Systemd => format!(
            "What you change belongs into a drop-in, which outlives the next install: systemctl edit {}",
            description.label()
        ),
        Manager::Launchd => "What you change is gone with the next install.".to_owned(),
    };
    // In XML a comment must not hold two dashes; outside of strings JSON has none.
    let described = serde_json::to_string(description).expect("a description serialises");
    let described = described.replace("--", "\\u002d\\u002d");
    let written = "Written by `roundsman service install`; `roundsman service uninstall` removes it.";
    let comment = |line: &str| format!("{open}{line}{close}\n");
    let before = [head.to_owned(), comment(written), comment(&advice)].concat();
    let after = [&comment(&format!("{DESCRIPTION}{described}")), "\n", body].concat();
    let sum = checksum(before.lines().chain(after.lines()));
    [before, comment(&format!("{CHECKSUM}{sum}")), after].concat()
}

/// What a text is that was found where one of ours would lie.
pub fn origin(manager: Manager, text: &str) -> Origin {
    let Comment { open, close, .. } = comment(manager);
    let stamped = |line: &str, name: &str| {
        let value = line.strip_prefix(open)?.strip_prefix(name)?.strip_suffix(close)?;
        Some(value.to_owned())
    };
    let value = |name: &str| text.lines().find_map(|line| stamped(line, name));
    let Some(described) = value(DESCRIPTION) else { return Origin::Foreign };
    let rest = text.lines().filter(|line| stamped(line, CHECKSUM).is_none());
    match serde_json::from_str(&described) {
        Ok(description) if value(CHECKSUM).is_some_and(|sum| sum == checksum(rest)) => {
            Origin::Ours(Box::new(description))
        }
        _ => Origin::Edited,
    }
}

fn checksum<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let digest = lines.fold(Sha256::new(), |sum, line| sum.chain_update(line).chain_update("\n")).finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::description;
    use super::*;

    #[test]
    fn what_was_written_is_known_again_and_an_edit_is_seen() {
        for manager in [Manager::Systemd, Manager::Launchd] {
            let mut given = description(manager);
            given.command = ["/bin/a --b", "--", "-->", "é\"\\", "{\"x\": 1}"].map(str::to_owned).to_vec();
            let text = given.render();
            assert_eq!(origin(manager, &text), Origin::Ours(Box::new(given.clone())), "{text}");
            for edited in [
                text.replace("dev", "Dev").replace("Restart=", "Restart=x"),
                text.replace("checksum", "checkSum"),
                text.replace(r#""name":"#, r#""nom":"#),
                format!("{text}\n"),
            ] {
                assert_ne!(edited, text);
                assert_eq!(origin(manager, &edited), Origin::Edited, "{edited}");
            }
            for foreign in ["", "[Service]\nExecStart=/bin/true\n", "\u{0}"] {
                assert_eq!(origin(manager, foreign), Origin::Foreign);
            }
        }
    }
}
