//! Which addresses a transport may connect to. Pure: it judges the address that a socket is about to use, so that neither
//! a name that resolves to somewhere else the second time nor an odd spelling of an address gets around it.
//!
//! Only the open internet is permitted without being asked for. Everything else (this host, its neighbours, the pages where
//! clouds keep their machines' credentials) needs a rule in `[transports.NAME] allow`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::settings::Allow;

/// Where a transport may go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Everywhere: the operator himself wrote the address.
    #[serde(default)]
    pub anywhere: bool,
    /// Beyond what is global.
    #[serde(default)]
    pub allow: Vec<Allow>,
}

/// Where a connection is to go, as it was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// As `https`.
    pub scheme: &'a str,
    /// A name, or an address as text.
    pub host: &'a str,
    pub port: u16,
}

/// Why an address may not be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub address: IpAddr,
    pub what: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the address {} is refused: it is {}, and no rule allows it", self.address, self.what)
    }
}

impl Reach {
    /// What is global, and what these rules add.
    #[must_use]
    pub fn global_and(allow: &[Allow]) -> Self {
        Self { anywhere: false, allow: allow.to_vec() }
    }

    /// Everything.
    #[must_use]
    pub const fn anywhere() -> Self {
        Self { anywhere: true, allow: Vec::new() }
    }

    /// Judges the address that is about to be used.
    ///
    /// # Errors
    /// When it is neither global nor allowed.
    pub fn check(&self, asked: Asked<'_>, address: IpAddr) -> Result<(), Refused> {
        if self.anywhere {
            return Ok(());
        }
        let Some(what) = closed(address) else { return Ok(()) };
        if self.allow.iter().any(|rule| rule.covers(asked, address)) {
            return Ok(());
        }
        Err(Refused { address, what })
    }
}

impl Allow {
    /// Whether this rule permits the address, or the name that it was asked for by.
    #[must_use]
    pub fn covers(&self, asked: Asked<'_>, address: IpAddr) -> bool {
        match self {
            Self::Net { address: network, prefix } => {
                within(address.to_canonical(), *network, *prefix) || within(address, *network, *prefix)
            }
            Self::Host { scheme, host, port } => {
                scheme.as_deref().is_none_or(|scheme| scheme.eq_ignore_ascii_case(asked.scheme))
                    && port.is_none_or(|port| port == asked.port)
                    && host_covers(host, asked.host)
            }
        }
    }
}

fn within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let shift = width.saturating_sub(u32::from(prefix));
        a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn host_covers(rule: &str, host: &str) -> bool {
    // A final dot says that the name is complete; it is the same name.
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    match rule.strip_prefix("*.") {
        _ if rule == "*" => true,
        Some(domain) => {
            host.strip_suffix(domain).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
        }
        None => host == rule.trim_end_matches('.'),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, what: &'static str) -> (Ipv4Addr, u8, &'static str) {
    (Ipv4Addr::new(a, b, c, d), prefix, what)
}

/// By the registry of special-purpose addresses (RFC 6890 and what was added since), and two services of clouds.
const CLOSED_V4: [(Ipv4Addr, u8, &str); 17] = [
    v4(0, 0, 0, 0, 8, "of \"this network\""),
    v4(10, 0, 0, 0, 8, "private"),
    v4(100, 64, 0, 0, 10, "shared by a carrier's customers"),
    v4(127, 0, 0, 0, 8, "this host itself"),
    v4(168, 63, 129, 16, 32, "a cloud's own service"),
    v4(169, 254, 0, 0, 16, "link-local, where clouds keep their metadata"),
    v4(172, 16, 0, 0, 12, "private"),
    v4(192, 0, 0, 0, 24, "set aside for protocols"),
    v4(192, 0, 2, 0, 24, "for documentation"),
    v4(192, 88, 99, 0, 24, "a 6to4 relay"),
    v4(192, 168, 0, 0, 16, "private"),
    v4(198, 18, 0, 0, 15, "for benchmarks"),
    v4(198, 51, 100, 0, 24, "for documentation"),
    v4(203, 0, 113, 0, 24, "for documentation"),
    v4(224, 0, 0, 0, 4, "multicast"),
    v4(255, 255, 255, 255, 32, "broadcast"),
    v4(240, 0, 0, 0, 4, "reserved"),
];

const fn v6(a: u16, b: u16, c: u16, prefix: u8, what: &'static str) -> (Ipv6Addr, u8, &'static str) {
    (Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix, what)
}

/// What is closed of IPv6, with names for what people meet. Beyond it only 2000::/3 is given to hosts at all.
const CLOSED_V6: [(Ipv6Addr, u8, &str); 13] = [
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "this host itself"),
    v6(0x64, 0xff9b, 0, 96, "an IPv4 address behind NAT64"),
    v6(0x64, 0xff9b, 1, 48, "an IPv4 address behind a local NAT64"),
    v6(0x100, 0, 0, 64, "discarded"),
    v6(0x2001, 0, 0, 23, "set aside for protocols, as Teredo"),
    v6(0x2001, 0xdb8, 0, 32, "for documentation"),
    v6(0x2002, 0, 0, 16, "an IPv4 address behind 6to4"),
    v6(0x3fff, 0, 0, 20, "for documentation"),
    v6(0xfc00, 0, 0, 7, "private"),
    v6(0xfe80, 0, 0, 10, "link-local"),
    v6(0xfec0, 0, 0, 10, "site-local"),
    v6(0xff00, 0, 0, 8, "multicast"),
];

/// What an address is that does not belong to the open internet; nothing if it does.
#[must_use]
pub fn closed(address: IpAddr) -> Option<&'static str> {
    // ::ffff:a.b.c.d is sent as IPv4.
    match address.to_canonical() {
        IpAddr::V4(_) => CLOSED_V4
            .iter()
            .find(|(network, prefix, _)| within(address.to_canonical(), IpAddr::V4(*network), *prefix))
            .map(|(.., what)| *what),
        IpAddr::V6(v6) => {
            let named = CLOSED_V6
                .iter()
                .find(|(network, prefix, _)| within(address, IpAddr::V6(*network), *prefix))
                .map(|(.., what)| *what);
            let given_to_hosts = v6.segments()[0] & 0xe000 == 0x2000;
            named.or_else(|| (!given_to_hosts).then_some("outside of what is given to hosts"))
        }
    }
}

#[cfg(test)]
mod tests;
