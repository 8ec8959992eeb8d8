//! `[store]`: where the jobs are kept, and what an acknowledgement must be worth.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::environment::Environment;
use super::origin::Origin;
use super::secret::SecretUrl;
use super::section::Section;
use super::value::{Setting, check_name};

const RIGHT: &str = "write sqlite:PATH, redis://, rediss:// or redis+unix://";
const REDIS: [&str; 3] = ["redis", "rediss", "redis+unix"];

/// Where jobs are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSettings {
    /// Default: an SQLite file `roundsman.db` in the user's state directory.
    pub url: StoreUrl,
    /// What all keys in a shared store begin with; default `roundsman`.
    pub namespace: String,
    /// A host or worker unheard so long has lost its jobs; default 15 s, from 3 s to 10 min.
    pub lease: Duration,
    /// What the store must give, or the fleet does not start; by default whatever it gives will do.
    pub durability: Option<Durability>,
}

/// The two kinds of store. `Display` masks secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// One file on one host.
    Sqlite {
        /// Absolute.
        path: PathBuf,
    },
    /// A server that several hosts share: `redis://`, `rediss://` or `redis+unix://`.
    Redis {
        /// With its password, if it has one.
        url: SecretUrl,
    },
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { path } => write!(formatter, "sqlite:{}", path.display()),
            Self::Redis { url } => write!(formatter, "{url}"),
        }
    }
}

/// What an acknowledged enqueue survives, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The end of the client.
    Memory,
    /// The end of the store's process and of its host's power.
    Fsync,
    /// The loss of the host: so many further hosts have it.
    Replicated(u8),
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let replicas = text.strip_prefix("replicated(").and_then(|rest| rest.strip_suffix(')'));
        match (text, replicas.map(str::parse)) {
            ("memory", _) => Ok(Self::Memory),
            ("fsync", _) => Ok(Self::Fsync),
            (_, Some(Ok(replicas @ 1..))) => Ok(Self::Replicated(replicas)),
            _ => Err(format!("\"{text}\" is none of \"memory\", \"fsync\", \"replicated(1)\"")),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => formatter.write_str("memory"),
            Self::Fsync => formatter.write_str("fsync"),
            Self::Replicated(replicas) => write!(formatter, "replicated({replicas})"),
        }
    }
}

impl StoreSettings {
    pub(super) fn read(mut section: Section<'_>, environment: &Environment) -> Self {
        let url = read_url(&mut section, environment);
        let namespace = section.checked("namespace", "roundsman".to_owned(), |name| check_name(name));
        let lease = section.within(
            "lease",
            Duration::from_secs(15),
            Duration::from_secs(3)..=Duration::from_secs(600),
        );
        let durability = section.checked("durability", String::new(), |text| {
            if text.is_empty() { Ok(()) } else { text.parse::<Durability>().map(drop) }
        });
        let durability = durability.parse().ok();
        let alone = matches!((&url, durability), (StoreUrl::Sqlite { .. }, Some(Durability::Replicated(_))));
        section.demand(
            !alone,
            "durability",
            "an SQLite file is on one host only: write \"fsync\", or use Redis",
        );
        section.finish();
        Self { url, namespace, lease, durability }
    }
}

fn read_url(section: &mut Section<'_>, environment: &Environment) -> StoreUrl {
    let key = if section.has("url_file") { "url_file" } else { "url" };
    let given = section.secret("url", "url_file");
    let stand_in = || StoreUrl::Sqlite { path: PathBuf::from("roundsman.db") };
    let Some((text, origin)) = given else {
        if !section.is_sound() {
            return stand_in();
        }
        let Some(dir) = environment.state_dir() else {
            section.refuse("url", format!("there is no home directory to keep a file in: {RIGHT}"));
            return stand_in();
        };
        let url = StoreUrl::Sqlite { path: dir.join("roundsman.db") };
        section.row("url", url.to_string().show(), Origin::Default);
        return url;
    };
    match parse_url(text.expose(), |path| section.resolve(&origin, path)) {
        Ok(url) => {
            section.row("url", url.to_string().show(), origin);
            url
        }
        Err(message) => {
            section.refuse(key, message);
            stand_in()
        }
    }
}

/// The error names at most the scheme, since the rest may hold a password.
fn parse_url(text: &str, resolve: impl FnOnce(&str) -> PathBuf) -> Result<StoreUrl, String> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(format!("is no URL: {RIGHT}"));
    };
    match scheme {
        "sqlite" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() {
                return Err("names no file: write one like sqlite:roundsman.db".into());
            }
            if path == ":memory:" {
                return Err(
                    "would lose every job with the process: write a file like sqlite:roundsman.db".into()
                );
            }
            if path.contains(['?', '#', '\0']) {
                return Err("has options, but sqlite: takes only a path".into());
            }
            Ok(StoreUrl::Sqlite { path: resolve(path) })
        }
        _ if REDIS.contains(&scheme) => {
            let url = SecretUrl::parse(text, &REDIS)?;
            check_database(&url)?;
            Ok(StoreUrl::Redis { url })
        }
        _ if scheme.ends_with("+sentinel") || scheme.ends_with("+cluster") => {
            Err(format!("{scheme}:// is not supported yet: {RIGHT}"))
        }
        _ if rest.starts_with("//") => Err(format!("{scheme}:// is no store: {RIGHT}")),
        _ => Err(format!("is no URL: {RIGHT}")),
    }
}

fn check_database(url: &SecretUrl) -> Result<(), String> {
    if url.scheme() == "redis+unix" {
        return Ok(());
    }
    let rest = url.expose().split_once("://").map_or("", |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or("");
    let database = rest.split_once('/').map_or("", |(_, database)| database);
    if database.is_empty() || database.parse::<u16>().is_ok() {
        return Ok(());
    }
    Err("names its database by something else than a number: write one like redis://localhost:6379/0".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};

    #[test]
    fn defaults() {
        let store = settings("").store;
        assert_eq!(store.url.to_string(), "sqlite:/home/a/.local/state/roundsman/roundsman.db");
        assert_eq!(store.namespace, "roundsman");
        assert_eq!(store.lease, Duration::from_secs(15));
        assert_eq!(store.durability, None);
    }

    #[test]
    fn urls_are_read() {
        for (url, read) in [
            ("sqlite:jobs.db", "sqlite:/etc/r/jobs.db"),
            ("sqlite:./jobs.db", "sqlite:/etc/r/jobs.db"),
            ("sqlite:/var/jobs.db", "sqlite:/var/jobs.db"),
            ("sqlite:///var/jobs.db", "sqlite:/var/jobs.db"),
            ("redis://localhost", "redis://localhost"),
            ("rediss://u:p@host:6380/2", "rediss://u:***@host:6380/2"),
            ("redis+unix:///run/redis.sock", "redis+unix:///run/redis.sock"),
        ] {
            assert_eq!(settings(&format!("[store]\nurl = \"{url}\"")).store.url.to_string(), read);
        }
    }

    #[test]
    fn durability_has_an_order() {
        let read =
            |text: &str| settings(&format!("store = {{ url = \"redis://a\", durability = \"{text}\" }}"));
        assert_eq!(read("memory").store.durability, Some(Durability::Memory));
        assert_eq!(read("replicated(2)").store.durability, Some(Durability::Replicated(2)));
        assert!(Durability::Memory < Durability::Fsync && Durability::Fsync < Durability::Replicated(1));
        assert!(Durability::Replicated(1) < Durability::Replicated(2));
    }

    #[test]
    fn bad_values_are_refused() {
        for (line, message) in [
            ("url = \"\"", format!("url: is no URL: {RIGHT}")),
            ("url = \"roundsman.db\"", format!("url: is no URL: {RIGHT}")),
            ("url = \"localhost:6379\"", format!("url: is no URL: {RIGHT}")),
            ("url = \"postgres://u:p@h\"", format!("url: postgres:// is no store: {RIGHT}")),
            ("url = \"redis+sentinel://a\"", format!("url: redis+sentinel:// is not supported yet: {RIGHT}")),
            ("url = \"redis+cluster://a\"", format!("url: redis+cluster:// is not supported yet: {RIGHT}")),
            (
                "url = \"sqlite::memory:\"",
                "url: would lose every job with the process: write a file like sqlite:roundsman.db".into(),
            ),
            ("url = \"sqlite:\"", "url: names no file: write one like sqlite:roundsman.db".into()),
            ("url = \"sqlite:a?mode=ro\"", "url: has options, but sqlite: takes only a path".into()),
            ("url = \"redis://\"", "url: names no host".into()),
            (
                "url = \"redis://a/jobs\"",
                "url: names its database by something else than a number: write one like redis://localhost:6379/0"
                    .into(),
            ),
            ("url = 5", "url: expected a string, found an integer".into()),
            ("lease = \"2s\"", "lease: must be between 3s and 10m, not 2s".into()),
            ("lease = 15", "lease: \"15\" has no unit: write \"15s\" or \"15ms\"".into()),
            (
                "namespace = \"a b\"",
                "namespace: \"a b\" is no right name: 1 to 64 characters of A-Z a-z 0-9 . _ -".into(),
            ),
            (
                "durability = \"disk\"",
                "durability: \"disk\" is none of \"memory\", \"fsync\", \"replicated(1)\"".into(),
            ),
            (
                "durability = \"replicated(1)\"",
                "durability: an SQLite file is on one host only: write \"fsync\", or use Redis".into(),
            ),
            ("leese = \"5s\"", "leese: unknown key; did you mean \"lease\"?".into()),
        ] {
            let expected = format!("/etc/r/r.toml:2: store.{message}");
            assert_eq!(problems(&format!("[store]\n{line}")), [expected]);
        }
    }
}
