//! Addresses in settings: URLs that may hold secrets, and sockets.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value as Json;

use super::origin::Origin;
use super::secret::SecretUrl;
use super::section::Section;

/// The section's `url` or `url_file`, if there is one that is not empty.
pub(super) fn url(section: &mut Section<'_>, schemes: &[&str]) -> Option<SecretUrl> {
    read_url(section, schemes, SecretUrl::to_string)
}

/// As [`url`], for a webhook whose path may be its secret, so that only the site is shown.
pub(super) fn webhook(section: &mut Section<'_>) -> Option<SecretUrl> {
    read_url(section, &["https", "http"], SecretUrl::site)
}

fn read_url(
    section: &mut Section<'_>,
    schemes: &[&str],
    show: fn(&SecretUrl) -> String,
) -> Option<SecretUrl> {
    let key = if section.has("url_file") { "url_file" } else { "url" };
    let given = section.secret("url", "url_file");
    let absent = given.is_none() && section.is_sound();
    let origin = given.as_ref().map_or(Origin::Default, |(_, origin)| origin.clone());
    match given {
        Some((text, _)) if !text.expose().is_empty() => match SecretUrl::parse(text.expose(), schemes) {
            Ok(url) => {
                section.row("url", show(&url).into(), origin);
                return Some(url);
            }
            Err(message) => section.refuse(key, message),
        },
        Some(_) => section.row("url", Json::from(""), origin),
        None if absent => section.row("url", Json::from(""), Origin::Default),
        None => {}
    }
    None
}

/// Reads `127.0.0.1:7070`, `[::1]:7070` or `localhost:7070`.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        return Err(format!(
            "\"{text}\" names no address: write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for all"
        ));
    }
    text.parse()
        .ok()
        .ok_or_else(|| format!("\"{text}\" is no address to listen on: write one like \"127.0.0.1:7070\""))
}

/// Checks `host:port` of somewhere to connect to.
pub(super) fn check_host_port(text: &str) -> Result<(), String> {
    let right = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        let blank = host.chars().any(|c| c.is_whitespace() || c == '/');
        !host.is_empty() && !bare_v6 && !blank && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if right { Ok(()) } else { Err(format!("\"{text}\" is no address: write one like \"example.com:9000\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_addresses_are_read() {
        for (text, address) in [
            ("127.0.0.1:7070", "127.0.0.1:7070"),
            ("localhost:0", "127.0.0.1:0"),
            ("[::1]:7070", "[::1]:7070"),
        ] {
            assert_eq!(listen(text).map(|address| address.to_string()), Ok(address.to_owned()));
        }
        for (text, message) in [
            (":7070", "\":7070\" names no address: write \"127.0.0.1:7070\", or \"0.0.0.0:7070\" for all"),
            ("7070", "\"7070\" is no address to listen on: write one like \"127.0.0.1:7070\""),
            ("127.0.0.1", "\"127.0.0.1\" is no address to listen on: write one like \"127.0.0.1:7070\""),
        ] {
            assert_eq!(listen(text), Err(message.to_owned()));
        }
    }

    #[test]
    fn addresses_to_connect_to_have_host_and_port() {
        for right in ["example.com:9000", "[::1]:1", "10.0.0.1:65535"] {
            assert_eq!(check_host_port(right), Ok(()));
        }
        for wrong in ["example.com", ":9000", "a:0", "::1:9000", "http://a:80", "a b:1"] {
            assert!(check_host_port(wrong).is_err(), "{wrong}");
        }
    }
}
