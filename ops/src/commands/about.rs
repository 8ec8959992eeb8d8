//! `version`, `completions` and `man`: about the program itself.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Command, CommandFactory as _};
use serde_json::json;

use super::DONE;
use crate::cli::{Cli, Globals};
use crate::errors::Failure;
use crate::print::Screen;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh.
    shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for every verb into this directory instead.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn version(globals: &Globals) -> Result<u8, Failure> {
    let screen = Screen::new(globals, &roundsman_shared::settings::Environment::default());
    let version = env!("CARGO_PKG_VERSION");
    if screen.json {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        screen.document(&json!({"name": "roundsman", "version": version, "os": os, "arch": arch}))?;
    } else {
        screen.line(&format!("roundsman {version}"))?;
    }
    DONE
}

pub fn completions(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "roundsman", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    DONE
}

pub fn man(args: &ManArgs) -> Result<u8, Failure> {
    let command = Cli::command();
    match &args.out {
        Some(directory) => {
            std::fs::create_dir_all(directory)?;
            clap_mangen::generate_to(command, directory)?;
        }
        None => page(command)?,
    }
    DONE
}

fn page(command: Command) -> Result<(), Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(std::io::stdout().lock().write_all(&page)?)
}
