//! `[transports.NAME]`: where transports may go though the address is not a global one, or a job chose it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::section::Section;

const SECOND: Duration = Duration::from_secs(1);

/// What each transport may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportSettings {
    /// `[transports.http]`
    pub http: TransportLimits,
    /// `[transports.amqp]`
    pub amqp: TransportLimits,
    /// `[transports.redis]`
    pub redis: TransportLimits,
    /// `[transports.tcp]`
    pub tcp: TransportLimits,
}

/// The limits of one transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportLimits {
    /// Destinations that are permitted though they are not global.
    pub allow: Vec<Allow>,
    /// For one whole exchange, from looking up the name to the last byte of the answer; a job's own timeout counts where
    /// it is shorter. Default 30 s.
    pub timeout: Duration,
}

/// One permitted destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Allow {
    /// `127.0.0.0/8`, or a single address.
    Net {
        /// Bits beyond the prefix are zero.
        address: IpAddr,
        /// Up to 32, or 128 for IPv6.
        prefix: u8,
    },
    /// `https://*.example.com:8443`, of which scheme and port may be left out.
    Host {
        /// In lower case.
        scheme: Option<String>,
        /// In lower case; `*.` at the front stands for one or more labels, `*` alone for any host.
        host: String,
        /// Any, when left out.
        port: Option<u16>,
    },
}

impl TryFrom<String> for Allow {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Allow> for String {
    fn from(rule: Allow) -> Self {
        rule.to_string()
    }
}

impl FromStr for Allow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("\"{text}\" allows nothing: write one like \"127.0.0.0/8\" or \"https://*.example.com\"")
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net { address, prefix: widest(address) });
        }
        if let Some((address, prefix)) = text.split_once('/')
            && let Ok(address) = address.parse::<IpAddr>()
        {
            let prefix: u8 =
                prefix.parse().ok().filter(|prefix| *prefix <= widest(address)).ok_or_else(wrong)?;
            let network = mask(address, prefix);
            if network != address {
                return Err(format!("\"{text}\" has bits beyond its prefix: write \"{network}/{prefix}\""));
            }
            return Ok(Self::Net { address, prefix });
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().ok().ok_or_else(wrong)?)),
            None => (rest, None),
        };
        let labels = if host == "*" { "any" } else { host.strip_prefix("*.").unwrap_or(host) };
        let right = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let right_scheme = scheme
            .is_none_or(|scheme| !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric()));
        if !right_scheme || labels.split('.').any(str::is_empty) || !labels.chars().all(right) {
            return Err(wrong());
        }
        Ok(Self::Host { scheme: scheme.map(str::to_lowercase), host: host.to_lowercase(), port })
    }
}

fn widest(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net { address, prefix } => write!(formatter, "{address}/{prefix}"),
            Self::Host { scheme, host, port } => {
                if let Some(scheme) = scheme {
                    write!(formatter, "{scheme}://")?;
                }
                formatter.write_str(host)?;
                port.map_or(Ok(()), |port| write!(formatter, ":{port}"))
            }
        }
    }
}

impl TransportSettings {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let mut limits = |transport: &'static str| {
            let mut section = section.table(transport);
            let rules = section.checked("allow", Vec::new(), |rules: &Vec<String>| {
                rules.iter().try_for_each(|rule| rule.parse::<Allow>().map(drop))
            });
            let timeout = section.within("timeout", 30 * SECOND, Duration::from_millis(100)..=3600 * SECOND);
            section.finish();
            TransportLimits { allow: rules.iter().filter_map(|rule| rule.parse().ok()).collect(), timeout }
        };
        let settings =
            Self { http: limits("http"), amqp: limits("amqp"), redis: limits("redis"), tcp: limits("tcp") };
        section.finish();
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};

    #[test]
    fn rules_are_read() {
        for (text, shown) in [
            ("127.0.0.0/8", "127.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::/8", "fd00::/8"),
            ("HTTPS://*.Example.com", "https://*.example.com"),
            ("hooks.internal:8080", "hooks.internal:8080"),
            ("*", "*"),
        ] {
            assert_eq!(text.parse::<Allow>().map(|rule| rule.to_string()), Ok(shown.to_owned()));
        }
        let text = "[transports.http]\nallow = [\"127.0.0.0/8\"]\ntimeout = \"2m\"";
        let transports = settings(text).transports;
        assert_eq!(transports.http.allow, [Allow::Net { address: [127, 0, 0, 0].into(), prefix: 8 }]);
        assert_eq!(transports.http.timeout, 120 * SECOND);
        assert_eq!(transports.tcp, TransportLimits { allow: Vec::new(), timeout: 30 * SECOND });
    }

    #[test]
    fn bad_values_are_refused() {
        let nothing = |text: &str| {
            format!("\"{text}\" allows nothing: write one like \"127.0.0.0/8\" or \"https://*.example.com\"")
        };
        for text in
            ["", "10.0.0.0/33", "https://", "a b", "*.*.com", "https://a/path", "a:99999", "..", "a..b"]
        {
            assert_eq!(text.parse::<Allow>(), Err(nothing(text)), "{text}");
        }
        let bits = "\"127.0.0.1/8\" has bits beyond its prefix: write \"127.0.0.0/8\"";
        assert_eq!(
            problems("[transports.http]\nallow = [\"127.0.0.1/8\"]"),
            [format!("/etc/r/r.toml:2: transports.http.allow: {bits}")]
        );
        let unknown = "/etc/r/r.toml:1: transports.htp: unknown key; did you mean \"http\"?";
        assert_eq!(problems("[transports.htp]"), [unknown]);
    }
}
