//! `config show|check`: the settings as they count, and where each comes from.

use clap::Subcommand;
use roundsman_shared::settings::Origin;
use serde_json::json;

use super::DONE;
use crate::connect::Context;
use crate::errors::Failure;

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Print every key with the value that counts; secrets are masked.
    Show {
        /// Say where each value comes from.
        #[arg(long)]
        origin: bool,
    },
    /// Check all settings; what is wrong is told with file, line and key (exit code 78).
    Check,
}

/// The settings have been read and checked already: what is wrong has been refused.
pub fn run(context: &Context, verb: &ConfigVerb) -> Result<u8, Failure> {
    let screen = context.screen;
    match verb {
        ConfigVerb::Show { .. } if screen.json => screen.document(&context.loaded.to_json())?,
        ConfigVerb::Show { origin } => {
            let lines: Vec<String> = context.loaded.effective.iter().map(ToString::to_string).collect();
            let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).min(60);
            for (line, row) in lines.iter().zip(&context.loaded.effective) {
                if *origin {
                    screen.line(&format!("{line:width$}  # {}", row.origin))?;
                } else {
                    screen.line(line)?;
                }
            }
        }
        ConfigVerb::Check => {
            let later = &context.settings().later;
            let set = context.loaded.effective.iter().filter(|row| row.origin != Origin::Default).count();
            for key in later {
                screen.warn(&key.to_string());
            }
            if screen.json {
                let later: Vec<_> = later
                    .iter()
                    .map(|later| json!({"key": later.key, "origin": later.origin.to_string()}))
                    .collect();
                screen.document(
                    &json!({"ok": true, "set": set, "later": later, "warnings": context.loaded.warnings}),
                )?;
            } else {
                screen.line(&format!(
                    "the configuration is right; {set} keys are set, the rest are defaults"
                ))?;
            }
        }
    }
    DONE
}
