//! The crash report, as a program's signal handler writes it: one module and the raw addresses of its stack.
//!
//! ```json
//! {"module": {"build_id": "eccb3f53ef5bc0a3", "path": "/usr/bin/program"},
//!  "load_address": "0x5567a004b000", "signal": "SIGSEGV", "frames": ["0x5567a01a1ce4", "0x5567a00b7ad0"]}
//! ```
//!
//! Addresses are numbers or strings of hex digits after `0x`. Fields that are not known here are passed over,
//! so that a program can add its own.

use std::fmt;
use std::path::Path;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::trace::SymbolicateError;

/// The most frames in one report; a stack overflow's walk is cut off long before.
pub(crate) const FRAMES_MAX: usize = 1024;
/// The longest build id; the usual ones are 16 (UUID) and 20 bytes (SHA-1).
pub(crate) const BUILD_ID_BYTES_MAX: usize = 64;

/// One crash.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) module: Module,
    /// Where the start of the module's file is mapped.
    pub(crate) load_address: Address,
    /// The stack, innermost frame first, as addresses in the crashed process.
    ///
    /// The reporter adjusts them: the first is the exact program counter of the crash, and each of its
    /// callers is the return address minus 1, an address inside the call instruction. What is looked up is
    /// then just the address, less where the module is loaded: what `addr2line -i -f -e FILE` is asked.
    pub(crate) frames: Vec<Address>,
    #[serde(default)]
    pub(crate) signal: Option<String>,
}

/// The program or library that the frames are in. Frames elsewhere stay addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Module {
    #[serde(default)]
    pub(crate) build_id: Option<BuildId>,
    /// Its path where it ran. The file name counts, and only for a module without a build id.
    #[serde(default)]
    pub(crate) path: Option<String>,
}

impl Report {
    /// Reads a report, and checks what its types do not say.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, SymbolicateError> {
        let report: Self = serde_json::from_slice(json)
            .map_err(|error| SymbolicateError::Malformed { reason: error.to_string() })?;
        let malformed = |reason: String| Err(SymbolicateError::Malformed { reason });
        if report.frames.is_empty() {
            return malformed("the report has no frames".to_owned());
        }
        if report.frames.len() > FRAMES_MAX {
            return malformed(format!("{} frames; the most is {FRAMES_MAX}", report.frames.len()));
        }
        if report.module.build_id.is_none() && report.module.file_name().is_none() {
            return malformed("the module has neither a build id nor a path with a file name".to_owned());
        }
        Ok(report)
    }
}

impl Module {
    pub(crate) fn file_name(&self) -> Option<&str> {
        Path::new(self.path.as_deref()?).file_name()?.to_str()
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.build_id, &self.path) {
            (Some(id), Some(path)) => write!(f, "{path} (build id {id})"),
            (Some(id), None) => write!(f, "build id {id}"),
            (None, path) => f.write_str(path.as_deref().unwrap_or("without a name")),
        }
    }
}

/// A GNU build id: at least two bytes, as hex in JSON.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct BuildId(Vec<u8>);

impl BuildId {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (2..=BUILD_ID_BYTES_MAX).contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        if !hex.len().is_multiple_of(2) || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .filter_map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok())
            .collect();
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BuildId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BuildId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(deserializer)?;
        Self::from_hex(&hex).ok_or_else(|| {
            de::Error::custom(format_args!(
                "a build id is 2 to {BUILD_ID_BYTES_MAX} bytes as hex, not {hex:?}"
            ))
        })
    }
}

/// An address in a process or in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) u64);

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrHex;

        impl Visitor<'_> for NumberOrHex {
            type Value = Address;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address: a whole number, or a string such as \"0x55d0c0a31f04\"")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Address, E> {
                Ok(Address(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Address, E> {
                text.strip_prefix("0x")
                    .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                    .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                    .map(Address)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(NumberOrHex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        let error = Report::parse(json.as_bytes()).expect_err(json);
        assert!(error.is_permanent(), "{error}");
        error.to_string()
    }

    #[test]
    fn addresses_are_numbers_or_hex_and_unknown_fields_are_passed_over() {
        let json = br#"{"module":{"build_id":"AB01","path":"/bin/a"},"load_address":4096,
            "frames":["0x1010",4128],"signal":"SIGILL","seed":7}"#;
        let report = Report::parse(json).expect("a report");
        assert_eq!(report.load_address, Address(0x1000));
        assert_eq!(report.frames, [Address(0x1010), Address(0x1020)]);
        assert_eq!(report.module.to_string(), "/bin/a (build id ab01)");
        assert_eq!(report.signal.as_deref(), Some("SIGILL"));
    }

    #[test]
    fn a_malformed_report_is_refused_with_its_fault() {
        for (json, fault) in [
            ("", "EOF"),
            ("{}", "missing field `module`"),
            (r#"{"module":{"path":"a"},"load_address":"0x0"}"#, "missing field `frames`"),
            (r#"{"module":{"path":"a"},"load_address":"0x0","frames":[]}"#, "no frames"),
            (r#"{"module":{},"load_address":"0x0","frames":[1]}"#, "neither a build id nor a path"),
            (r#"{"module":{"path":"/"},"load_address":0,"frames":[1]}"#, "neither a build id nor a path"),
            (r#"{"module":{"path":"a"},"load_address":"12","frames":[1]}"#, "\"12\""),
            (r#"{"module":{"path":"a"},"load_address":"0x+1","frames":[1]}"#, "\"0x+1\""),
            (r#"{"module":{"path":"a"},"load_address":-1,"frames":[1]}"#, "`-1`"),
            (r#"{"module":{"build_id":"../etc"},"load_address":0,"frames":[1]}"#, "../etc"),
            (r#"{"module":{"build_id":"abc"},"load_address":0,"frames":[1]}"#, "abc"),
        ] {
            let refusal = refusal(json);
            assert!(refusal.contains(fault), "{json}: {refusal}");
        }
    }

    #[test]
    fn frames_are_bounded() {
        let frames = vec!["1"; FRAMES_MAX + 1].join(",");
        let json = format!(r#"{{"module":{{"path":"a"}},"load_address":0,"frames":[{frames}]}}"#);
        assert!(refusal(&json).contains("the most is 1024"));
    }
}
