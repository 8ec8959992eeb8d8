//! From any failure to one exit code and one message, at the edge. Nothing below prints an error or picks a code.

use std::error::Error;
use std::io;

use roundsman_shared::exit;
use roundsman_shared::job::SpecError;
use roundsman_shared::job::record::RecordError;
use roundsman_shared::names::NameError;
use roundsman_shared::settings::SettingsError;
use roundsman_shared::settings::units::UnitError;
use roundsman_shared::store::StoreError;

use crate::service::control::ControlError;

/// Why a verb did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    /// With its causes; one message a line. Empty when all has been said already.
    text: String,
    /// What to do about it.
    advice: Option<String>,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), advice: None }
    }

    pub fn failed(text: impl Into<String>) -> Self {
        Self::new(exit::FAILED, text)
    }

    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(exit::USAGE, text)
    }

    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(exit::NOT_FOUND, text)
    }

    pub fn refused(text: impl Into<String>) -> Self {
        Self::new(exit::CONFLICT, text)
    }

    pub fn unavailable(text: impl Into<String>) -> Self {
        Self::new(exit::UNAVAILABLE, text)
    }

    pub fn try_again(text: impl Into<String>) -> Self {
        Self::new(exit::TRY_AGAIN, text)
    }

    pub fn configuration(text: impl Into<String>) -> Self {
        Self::new(exit::CONFIG, text)
    }

    pub fn timed_out(text: impl Into<String>) -> Self {
        Self::new(exit::TIMED_OUT, text)
    }

    /// As a fleet said it.
    pub fn with_code(code: u8, text: impl Into<String>) -> Self {
        Self::new(code, text)
    }

    pub fn interrupted() -> Self {
        Self::new(exit::INTERRUPTED, "interrupted")
    }

    /// All has been said already; only the code is left.
    pub fn said(code: u8) -> Self {
        Self::new(code, "")
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    pub const fn code(&self) -> u8 {
        self.code
    }

    /// The lines to print, without the program's name.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().chain(self.advice.iter().flat_map(|advice| advice.lines()))
    }
}

/// An error with its causes, none of them twice.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let text = chain(&error);
        match error {
            StoreError::Unavailable(_) => Self::unavailable(text),
            StoreError::NearLimit(_) => Self::try_again(text).advise(
                "nothing was stored; give the store more room, or let the fleet work off what it holds",
            ),
            StoreError::Unfit(_) => Self::configuration(text),
            StoreError::Corrupt(_) => Self::failed(text),
        }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::configuration(chain(&error))
    }
}

impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Self {
        Self::failed(chain(&error))
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::failed(chain(&error))
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::failed(chain(&error))
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        Self::usage(chain(&error))
    }
}

impl From<UnitError> for Failure {
    fn from(error: UnitError) -> Self {
        Self::usage(chain(&error))
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::failed(chain(&error))
    }
}

/// A reader that has gone away ends the program quietly, as SIGPIPE would.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::said(exit::OK);
        }
        Self::failed(chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_code() {
        let store = |error: StoreError| Failure::from(error).code();
        assert_eq!(store(StoreError::Unavailable(String::new())), 69);
        assert_eq!(store(StoreError::NearLimit(String::new())), 75);
        assert_eq!(store(StoreError::Unfit(String::new())), 78);
        assert_eq!(store(StoreError::Corrupt(String::new())), 1);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).code(), 0);
    }

    #[test]
    fn advice_follows_the_message() {
        let failure = Failure::refused("a\nb").advise("c");
        assert_eq!(failure.lines().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(Failure::said(3).lines().count(), 0);
    }
}
