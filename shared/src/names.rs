//! Names that users choose, checked once and trusted from then on.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a name was refused. The text says what a right one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a {what} must not be empty")]
    Empty { what: &'static str },
    #[error("a {what} has at most {max} characters, this one has {length}")]
    TooLong { what: &'static str, max: usize, length: usize },
    #[error("a {what} is made of {alphabet}; {found:?} is not among them")]
    Character { what: &'static str, alphabet: &'static str, found: char },
}

fn check(what: &'static str, max: usize, colon: bool, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    let alphabet = if colon { "A-Z a-z 0-9 . _ : -" } else { "A-Z a-z 0-9 . _ -" };
    let stranger =
        text.chars().find(|c| !(c.is_ascii_alphanumeric() || ".-_".contains(*c) || (colon && *c == ':')));
    if let Some(found) = stranger {
        return Err(NameError::Character { what, alphabet, found });
    }
    if text.len() > max {
        return Err(NameError::TooLong { what, max, length: text.len() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:literal, $colon:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the text.
            ///
            /// # Errors
            /// When it is empty, too long or holds a character outside the alphabet.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check($what, $max, $colon, text)?;
                Ok(Self(text.into()))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name!(
    /// A queue: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
    QueueName, "queue name", 64, false
);
name!(
    /// The prefix of everything that one installation keeps in a store: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
    Namespace, "namespace", 64, false
);
name!(
    /// A job's id, unique in its queue: 1 to 128 characters of `A-Z a-z 0-9 . _ : -`.
    JobId, "job id", 128, true
);
name!(
    /// One life of one worker process: `HOST:POOL:NUMBER:INCARNATION`. Never used twice, since the incarnation
    /// is drawn when the process is started; leases are held in this name.
    WorkerId, "worker id", 256, true
);

impl WorkerId {
    /// The host part.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// What people see: `POOL/NUMBER`.
    #[must_use]
    pub fn label(&self) -> String {
        let mut parts = self.0.split(':').skip(1);
        let (pool, number) = (parts.next().unwrap_or("?"), parts.next().unwrap_or("?"));
        format!("{pool}/{number}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabets_and_lengths() {
        assert!(QueueName::new("mail.high_1-x").is_ok());
        assert!(JobId::new("order:17").is_ok());
        assert_eq!(
            QueueName::new("a:b").unwrap_err().to_string(),
            "a queue name is made of A-Z a-z 0-9 . _ -; ':' is not among them"
        );
        assert_eq!(QueueName::new("").unwrap_err().to_string(), "a queue name must not be empty");
        assert!(JobId::new(&"x".repeat(128)).is_ok());
        assert_eq!(
            JobId::new(&"x".repeat(129)).unwrap_err().to_string(),
            "a job id has at most 128 characters, this one has 129"
        );
    }

    #[test]
    fn worker_labels() {
        let worker = WorkerId::new("box:mail:3:1f00").unwrap();
        assert_eq!((worker.host(), worker.label().as_str()), ("box", "mail/3"));
    }
}
