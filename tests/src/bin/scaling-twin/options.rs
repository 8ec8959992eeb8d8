//! What the command line says.

use std::path::PathBuf;

/// So many fleets at the same time at most.
const MOST_AT_ONCE: usize = 16;

#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// All if none is named.
    pub(crate) loads: Vec<String>,
    /// Of the length of each trace.
    pub(crate) scale: f64,
    pub(crate) seed: u64,
    /// Loads that are played at the same time.
    pub(crate) parallel: usize,
    pub(crate) rough: bool,
    /// Where logs and runs are kept.
    pub(crate) keep: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options =
            Self { loads: Vec::new(), scale: 0.1, seed: 1, parallel: 2, rough: false, keep: None };
        while let Some(word) = arguments.next() {
            if word == "--rough" {
                options.rough = true;
                continue;
            }
            if !word.starts_with('-') {
                options.loads.push(word);
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{word} needs a value"))?;
            let wrong = |error: &dyn std::fmt::Display| format!("{word} {value}: {error}");
            match word.as_str() {
                "--scale" => {
                    let scale: f64 = value.parse().map_err(|error| wrong(&error))?;
                    let fits = (0.001..=1.0).contains(&scale);
                    options.scale = fits.then_some(scale).ok_or_else(|| wrong(&"from 0.001 to 1"))?;
                }
                "--seed" => options.seed = value.parse().map_err(|error| wrong(&error))?,
                "--parallel" => {
                    let count: usize = value.parse().map_err(|error| wrong(&error))?;
                    let fits = (1..=MOST_AT_ONCE).contains(&count);
                    options.parallel = fits.then_some(count).ok_or_else(|| wrong(&"from 1 to 16"))?;
                }
                "--keep" => options.keep = Some(PathBuf::from(&value)),
                _ => return Err(format!("no option {word}")),
            }
        }
        Ok(options)
    }
}
