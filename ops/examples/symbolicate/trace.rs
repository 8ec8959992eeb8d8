//! The readable answer to a crash report, and the pure function that makes it.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use crate::report::{Address, Module, Report};
use crate::symbols::Symbols;

/// A report made readable.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Trace {
    pub(crate) module: Module,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<String>,
    /// The file that answered, relative to the symbol directory.
    pub(crate) symbol_file: PathBuf,
    /// As many as the report has, in its order.
    pub(crate) frames: Vec<Frame>,
}

/// One raw frame of the report.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Frame {
    /// As reported.
    pub(crate) address: Address,
    /// The address in the symbol file; none if it lies before the module.
    pub(crate) file_address: Option<Address>,
    /// Innermost inlined function first; the last is the one that has the machine code. Empty if the symbol
    /// file knows nothing of the address, as for a frame in another module.
    pub(crate) functions: Vec<Function>,
}

/// One function at a frame's address, as far as it is known.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Function {
    /// The linkage name.
    pub(crate) function: Option<String>,
    /// The same for people.
    pub(crate) name: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SymbolicateError {
    #[error("malformed report: {reason}")]
    Malformed { reason: String },
    #[error("unknown module: no debug information here for {module}")]
    UnknownModule { module: Module },
    #[error(
        "unknown module: {count} files are called {name} and the report has no build id to tell them apart"
    )]
    AmbiguousName { name: String, count: usize },
    #[error("the debug information in {} is broken: {reason}", .path.display())]
    BrokenSymbols { path: PathBuf, reason: String },
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

impl SymbolicateError {
    /// True if trying again, with the same symbols or after a pause, cannot help.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Malformed { .. }
            | Self::UnknownModule { .. }
            | Self::AmbiguousName { .. }
            | Self::BrokenSymbols { .. } => true,
            Self::Unreadable { .. } => false,
        }
    }
}

/// Looks up every frame of `report` in the debug information of its module.
pub(crate) fn symbolicate(symbols: &Symbols, report: &Report) -> Result<Trace, SymbolicateError> {
    let found = symbols.find(&report.module)?;
    let frames = found.with_code(|code| {
        report
            .frames
            .iter()
            .map(|&address| {
                let file_address = code.file_address(address, report.load_address);
                let functions = file_address.map_or(Ok(Vec::new()), |at| code.functions(at))?;
                Ok(Frame { address, file_address, functions })
            })
            .collect()
    })?;
    Ok(Trace {
        module: report.module.clone(),
        signal: report.signal.clone(),
        symbol_file: found.relative_path().to_owned(),
        frames,
    })
}
