//! Secrets: they are used by [`Secret::expose`] and [`SecretUrl::expose`], and never printed.

use std::fmt;

const MASK: &str = "***";

/// A password, key or token. `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the secret as it is.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(MASK)
    }
}

/// A URL whose password, and query values that look like one, are masked by `Display`; `Debug` shows only its site.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Takes a URL of one of these schemes, with a host where the scheme has one.
    /// The error never repeats the URL, which may hold a password.
    pub(super) fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        let right = || schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(", ");
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("is no URL: it begins with {}", right()));
        };
        if !schemes.contains(&scheme) {
            return Err(format!("has the unknown scheme \"{scheme}\": it begins with {}", right()));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("has blanks in it: write them as %20".into());
        }
        if scheme.ends_with("+unix") {
            if !rest.starts_with('/') {
                return Err(format!("names no socket: write {scheme}:///run/redis.sock"));
            }
            return Ok(Self(text.to_owned()));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // With `user:pa/ss@host` the password would be taken for the path, and the user for the host.
        // The paths of web pages may well have an @.
        let web = scheme.starts_with("http");
        if !web
            && !authority.contains('@')
            && path.split(['?', '#']).next().is_some_and(|path| path.contains('@'))
        {
            return Err("has an @ in its path: in a password write / as %2F, ? as %3F and # as %23".into());
        }
        let host_port = authority.rsplit_once('@').map_or(authority, |(_, host_port)| host_port);
        split_host_port(host_port)?;
        Ok(Self(text.to_owned()))
    }

    /// The URL itself, with its secrets.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What stands before `://`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// Scheme and host only, for a webhook whose path is the secret.
    #[must_use]
    pub fn site(&self) -> String {
        let masked = self.to_string();
        let Some((scheme, rest)) = masked.split_once("://") else { return MASK.into() };
        match rest.find(['/', '?', '#']) {
            Some(end) if rest.len() > end + 1 => format!("{scheme}://{}/{MASK}", &rest[..end]),
            Some(_) | None => masked,
        }
    }
}

/// Checks `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_host_port(text: &str) -> Result<(), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(""))),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("names no host".into());
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        Some(Ok(0) | Err(_)) => Err("names no right port: a port is 1 to 65535".into()),
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        write!(formatter, "{scheme}://")?;
        // Up to the last @, though it may stand in the path: rather too much masked than too little.
        let rest = match rest.rsplit_once('@') {
            Some((user, rest)) => {
                match user.split_once(':') {
                    Some((user, _)) => write!(formatter, "{user}:{MASK}@")?,
                    None => write!(formatter, "{MASK}@")?,
                }
                rest
            }
            None => rest,
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        formatter.write_str(rest)?;
        let Some(query) = query else { return Ok(()) };
        for (index, pair) in query.split('&').enumerate() {
            formatter.write_str(if index == 0 { "?" } else { "&" })?;
            match pair.split_once('=') {
                Some((name, _)) if is_secret_name(name) => write!(formatter, "{name}={MASK}")?,
                Some(_) | None => formatter.write_str(pair)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.site())
    }
}

/// Whether a parameter, header or variable of this name likely holds a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    const TELLING: [&str; 7] = ["pass", "secret", "token", "key", "auth", "sig", "credential"];
    let name = name.to_lowercase();
    TELLING.iter().any(|telling| name.contains(telling))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REDIS: [&str; 3] = ["redis", "rediss", "redis+unix"];

    #[test]
    fn secrets_are_masked() {
        for (url, masked) in [
            ("redis://host:6379/0", "redis://host:6379/0"),
            ("redis://:hunter2@host", "redis://:***@host"),
            ("redis://user:hun:ter2@host", "redis://user:***@host"),
            ("redis://hunter2@host", "redis://***@host"),
            ("redis://user:hunt@er2@host", "redis://user:***@host"),
            ("redis+unix:///run/r.sock?pass=hunter2&db=1", "redis+unix:///run/r.sock?pass=***&db=1"),
        ] {
            let url = SecretUrl::parse(url, &REDIS).unwrap();
            assert_eq!(url.to_string(), masked);
            assert!(!format!("{url:?}").contains("er2"));
        }
        assert_eq!(format!("{0} {0:?}", Secret::new("hunter2".into())), "*** ***");
    }

    #[test]
    fn a_webhook_shows_its_site_only() {
        let site = |url: &str| SecretUrl::parse(url, &["https"]).unwrap().site();
        assert_eq!(site("https://hooks.example.com/services/T0/B0"), "https://hooks.example.com/***");
        assert_eq!(site("https://hooks.example.com/"), "https://hooks.example.com/");
        assert_eq!(site("https://hooks.example.com"), "https://hooks.example.com");
    }

    #[test]
    fn bad_urls_are_refused_without_repeating_them() {
        for (url, message) in [
            ("localhost:6379", "is no URL: it begins with redis://, rediss://, redis+unix://"),
            (
                "http://:hunter2@host",
                "has the unknown scheme \"http\": it begins with redis://, rediss://, redis+unix://",
            ),
            ("redis://", "names no host"),
            ("redis://:hunter2@:6379", "names no host"),
            ("redis://host:99999", "names no right port: a port is 1 to 65535"),
            ("redis://[::1]x", "names no right port: a port is 1 to 65535"),
            ("redis://ho st", "has blanks in it: write them as %20"),
            (
                "redis://u:hunter2/x@host",
                "has an @ in its path: in a password write / as %2F, ? as %3F and # as %23",
            ),
            ("redis+unix://run/r.sock", "names no socket: write redis+unix:///run/redis.sock"),
        ] {
            assert_eq!(SecretUrl::parse(url, &REDIS).unwrap_err(), message);
        }
    }

    proptest! {
        #[test]
        fn no_password_shows(password in "[a-zA-Z0-9:@!$%]{6,20}x0x0x0") {
            if let Ok(url) = SecretUrl::parse(&format!("redis://u:{password}@host/1"), &REDIS) {
                prop_assert!(!url.to_string().contains("x0x0x0"));
                prop_assert!(!url.site().contains("x0x0x0"));
            }
        }
    }
}
