//! `[http]`: where API and dashboard listen, and who may call them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::address;
use super::secret::Secret;
use super::section::Section;
use super::units::Rate;
use super::value::{Setting, check_name};

/// API, metrics and dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Default `127.0.0.1:7070`; `None` turns it off.
    pub listen: Option<SocketAddr>,
    /// Whether a proxy that speaks TLS stands before it.
    pub behind_proxy: bool,
    /// Its own certificate.
    pub tls: Option<Tls>,
    /// Names under which browsers reach it, besides the address it listens on.
    pub hosts: Vec<String>,
    /// Needed on any other address than loopback.
    pub tokens: Vec<ApiToken>,
}

/// Certificate chain and key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `tls_cert`
    pub cert: PathBuf,
    /// `tls_key`
    pub key: PathBuf,
}

/// A caller of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// For logs.
    pub name: String,
    /// What it may do.
    pub access: Access,
    /// What the token is recognised by.
    pub proof: TokenProof,
    /// The queues it is limited to; empty for all.
    pub queues: Vec<String>,
    /// Calls at most.
    pub rate_limit: Option<Rate>,
}

/// Each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// See everything.
    Read,
    /// Enqueue, cancel, retry, pause.
    Operate,
    /// Change settings and the fleet.
    Admin,
}

/// What a token is recognised by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenProof {
    /// `hash`: the token's SHA-256.
    Sha256([u8; 32]),
    /// `token_file`: the token itself, from a file such as a container's secret.
    Token(Secret),
}

impl HttpSettings {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let text = section.checked("listen", "127.0.0.1:7070".to_owned(), |text| {
            if text.is_empty() { Ok(()) } else { address::listen(text).map(drop) }
        });
        let listen = if text.is_empty() { None } else { address::listen(&text).ok() };
        let behind_proxy = section.get("behind_proxy", false);
        let (cert, key) = (section.path("tls_cert"), section.path("tls_key"));
        if cert.is_some() != key.is_some() {
            let (given, missing) =
                if cert.is_some() { ("tls_cert", "tls_key") } else { ("tls_key", "tls_cert") };
            section.demand(false, given, format!("needs {missing} too"));
        }
        let tls = cert.zip(key).map(|(cert, key)| Tls { cert, key });
        let hosts = section.get("hosts", Vec::new());
        let mut tokens: Vec<ApiToken> = Vec::new();
        for mut item in section.list("tokens") {
            let token = ApiToken::read(&mut item);
            if let Some(token) = token {
                let is_new = tokens.iter().all(|other| other.name != token.name);
                item.demand(is_new, "name", format!("\"{}\" is taken by another token", token.name));
                tokens.push(token);
            }
            item.finish();
        }
        let open = listen.filter(|address| !address.ip().is_loopback() && !is_mapped_loopback(address));
        if let Some(address) = open {
            section.demand(
                !tokens.is_empty(),
                "listen",
                format!("{address} is not loopback and demands tokens: write one under [[http.tokens]]"),
            );
            section.demand(
                tls.is_some() || behind_proxy,
                "listen",
                format!("{address} is not loopback and demands tls_cert and tls_key, or behind_proxy = true"),
            );
        }
        section.finish();
        Self { listen, behind_proxy, tls, hosts, tokens }
    }
}

fn is_mapped_loopback(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(address) => {
            address.ip().to_ipv4_mapped().is_some_and(|address: Ipv4Addr| address.is_loopback())
        }
    }
}

impl ApiToken {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let name = section.required("name", "\"ci\"", |name: &String| check_name(name));
        let choices = [("read", Access::Read), ("operate", Access::Operate), ("admin", Access::Admin)];
        let access = section.choice("access", "read", &choices);
        let proof = read_proof(section);
        let queues = section.checked("queues", Vec::new(), |queues: &Vec<String>| {
            queues.iter().try_for_each(|queue| check_name(queue))
        });
        let rate_limit = section.get("rate_limit", None);
        Some(Self { name: name?, access: access?, proof: proof?, queues, rate_limit })
    }
}

fn read_proof(section: &mut Section<'_>) -> Option<TokenProof> {
    let key = if section.has("token_file") { "token_file" } else { "hash" };
    let (text, origin) = match section.secret("hash", "token_file") {
        Some(found) => found,
        None if section.has("hash") || section.has("token_file") => return None,
        None => {
            section.refuse("hash", "is missing: write the token's SHA-256 in hex, or token_file".into());
            return None;
        }
    };
    if key == "token_file" {
        if text.expose().len() < 32 {
            section.refuse(key, "holds a token that can be guessed: it needs at least 32 characters".into());
            return None;
        }
        return Some(TokenProof::Token(text));
    }
    let digits = text.expose();
    let Some(hash) = from_hex(digits.strip_prefix("sha256:").unwrap_or(digits)) else {
        section.refuse(key, "is no SHA-256: write its 64 hexadecimal digits".into());
        return None;
    };
    section.row(key, text.to_string().show(), origin);
    Some(TokenProof::Sha256(hash))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};

    fn token(lines: &str) -> String {
        format!("[[http.tokens]]\nname = \"ci\"\n{lines}")
    }

    #[test]
    fn defaults_and_off() {
        let http = settings("").http;
        assert_eq!(http.listen, Some(([127, 0, 0, 1], 7070).into()));
        assert!(http.tokens.is_empty() && http.tls.is_none() && !http.behind_proxy);
        assert_eq!(settings("[http]\nlisten = \"\"").http.listen, None);
    }

    #[test]
    fn an_open_address_with_tokens_is_read() {
        let hash = "0f".repeat(32);
        let text = format!(
            "[http]\nlisten = \"0.0.0.0:80\"\nbehind_proxy = true\n{}",
            token(&format!(
                "access = \"operate\"\nhash = \"sha256:{hash}\"\nqueues = [\"a\"]\nrate_limit = \"9/s\""
            ))
        );
        let http = settings(&text).http;
        assert_eq!(http.tokens[0].access, Access::Operate);
        assert_eq!(http.tokens[0].proof, TokenProof::Sha256([15; 32]));
        assert_eq!(http.tokens[0].queues, ["a"]);
    }

    #[test]
    fn bad_values_are_refused() {
        let hash = format!("hash = \"{}\"", "0f".repeat(32));
        for (text, line, message) in [
            (
                "[http]\nlisten = \"0.0.0.0:80\"\nbehind_proxy = true".to_owned(),
                2,
                "listen: 0.0.0.0:80 is not loopback and demands tokens: write one under [[http.tokens]]",
            ),
            (
                format!("[http]\nlisten = \"0.0.0.0:80\"\n{}", token(&hash)),
                2,
                "listen: 0.0.0.0:80 is not loopback and demands tls_cert and tls_key, or behind_proxy = true",
            ),
            (
                "[http]\nlisten = \":80\"".into(),
                2,
                "listen: \":80\" names no address: write \"127.0.0.1:80\", or \"0.0.0.0:80\" for all",
            ),
            ("[http]\ntls_cert = \"a.pem\"".into(), 2, "tls_cert: needs tls_key too"),
            (
                "[http]\nbehind_proxy = \"yes\"".into(),
                2,
                "behind_proxy: expected true or false, found a string",
            ),
            (token(""), 1, "tokens[0].hash: is missing: write the token's SHA-256 in hex, or token_file"),
            (token("hash = \"abc\""), 3, "tokens[0].hash: is no SHA-256: write its 64 hexadecimal digits"),
            (
                token(&format!("{hash}\naccess = \"root\"")),
                4,
                "tokens[0].access: \"root\" is none of \"read\", \"operate\", \"admin\"",
            ),
            (
                token(&format!("{hash}\n[[http.tokens]]\nname = \"ci\"\n{hash}")),
                5,
                "tokens[1].name: \"ci\" is taken by another token",
            ),
            (
                token(&format!("{hash}\ntoken = \"x\"")),
                4,
                "tokens[0].token: unknown key; known here: access, hash, name, queues, rate_limit, token_file",
            ),
        ] {
            assert_eq!(problems(&text), [format!("/etc/r/r.toml:{line}: http.{message}")]);
        }
    }
}
