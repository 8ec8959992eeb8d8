//! Reading the flat arrays that the scripts answer with.

use std::str::FromStr;

use redis::Value;

use crate::clock::StoreTime;
use crate::store::StoreError;

/// Takes one part after another out of an answer.
pub(super) struct Parts(std::vec::IntoIter<Value>);

fn odd(what: &str) -> StoreError {
    StoreError::Corrupt(format!("a script's answer has {what}"))
}

impl Parts {
    pub(super) fn new(answer: Value) -> Result<Self, StoreError> {
        match answer {
            Value::Array(parts) => Ok(Self(parts.into_iter())),
            _ => Err(odd("no array")),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    /// The next part as text; bytes that are no UTF-8 are replaced.
    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => Ok(String::from_utf8(bytes)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())),
            Some(Value::SimpleString(text)) => Ok(text),
            Some(Value::Int(number)) => Ok(number.to_string()),
            Some(_) => Err(odd("a part that is no text")),
            None => Err(odd("too few parts")),
        }
    }

    pub(super) fn number<N: FromStr + TryFrom<i64>>(&mut self) -> Result<N, StoreError> {
        match self.0.next() {
            Some(Value::Int(number)) => {
                N::try_from(number).map_err(|_out_of_range| odd("a number out of range"))
            }
            Some(Value::BulkString(bytes)) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| odd("a part that is no number")),
            _ => Err(odd("no number where one should be")),
        }
    }

    /// Microseconds.
    pub(super) fn time(&mut self) -> Result<StoreTime, StoreError> {
        Ok(StoreTime::from_micros(self.number()?))
    }

    /// Microseconds, or nothing where the text is empty.
    pub(super) fn maybe_time(&mut self) -> Result<Option<StoreTime>, StoreError> {
        let text = self.text()?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .map(|micros| Some(StoreTime::from_micros(micros)))
            .map_err(|_no_number| odd("a time that is none"))
    }

    pub(super) fn flag(&mut self) -> Result<bool, StoreError> {
        Ok(self.number::<i64>()? == 1)
    }
}
