//! Who may call: tokens with roles, the names under which the API may be reached, and the pages that may call it.
//!
//! Without tokens everybody who reaches the address may do everything, which is why only loopback goes without. A page
//! of another site reaches loopback too: its requests are told by `Origin` and `Sec-Fetch-Site`, and by the `Host` that
//! a name which was made to point here (DNS rebinding) brings with it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, Method, StatusCode, Uri, Version, header};
use roundsman_shared::assignment::{HttpSpec, TokenSpec};
use roundsman_shared::clock::Mono;
use roundsman_shared::settings::Access;
use roundsman_shared::settings::units::Rate;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::answer::Refusal;

/// Who calls, as far as it matters to what is answered.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// Empty for all.
    queues: Vec<String>,
}

impl Caller {
    /// Whether a queue is the caller's business.
    pub(super) fn sees(&self, queue: &str) -> bool {
        self.queues.is_empty() || self.queues.iter().any(|name| name == queue)
    }

    /// Refuses a caller who is limited to some queues.
    pub(super) fn demand_all(&self) -> Result<(), Refusal> {
        if self.queues.is_empty() {
            return Ok(());
        }
        Err(Refusal::fail(
            StatusCode::FORBIDDEN,
            "token",
            "it is for some queues only, and this is about all of them",
        ))
    }

    /// Refuses a queue that is not.
    pub(super) fn demand(&self, queue: &str) -> Result<(), Refusal> {
        if self.sees(queue) {
            return Ok(());
        }
        Err(Refusal::fail(
            StatusCode::FORBIDDEN,
            "queue",
            format!("the token is not for the queue {queue:?}"),
        ))
    }
}

/// What a call says of where it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'c> {
    pub(super) method: &'c Method,
    pub(super) uri: &'c Uri,
    pub(super) version: Version,
    pub(super) headers: &'c HeaderMap,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Door {
    listen: SocketAddr,
    hosts: Vec<String>,
    tokens: Vec<TokenSpec>,
    buckets: Mutex<HashMap<usize, Bucket>>,
}

/// Calls that a token has left.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Mono,
}

impl Bucket {
    /// Takes one; else answers how long to wait for the next.
    fn take(&mut self, rate: Rate, now: Mono) -> Result<(), Duration> {
        let each = rate.per.as_secs_f64() / f64::from(rate.count);
        self.left = (self.left + now.since(self.at).as_secs_f64() / each).min(f64::from(rate.count));
        self.at = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) * each))
    }
}

impl Door {
    pub(super) fn new(spec: &HttpSpec) -> Self {
        Self {
            listen: spec.listen,
            hosts: spec.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            tokens: spec.tokens.clone(),
            buckets: Mutex::default(),
        }
    }

    /// Whether it may be a page that calls, and by which name: for every route, also those that need no token.
    pub(super) fn check(&self, call: Call<'_>) -> Result<(), Refusal> {
        self.check_host(call)?;
        self.check_origin(call)
    }

    /// Lets a caller in, or says why not.
    pub(super) fn admit(&self, headers: &HeaderMap, needed: Access) -> Result<Caller, Refusal> {
        if self.tokens.is_empty() {
            return Ok(Caller { queues: Vec::new() });
        }
        let Some(token) = bearer(headers) else {
            return Err(unauthorized("a token is needed: Authorization: Bearer …"));
        };
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        // Each is compared, so that the time tells nothing of which one it is near to.
        let mut found = None;
        for (at, known) in self.tokens.iter().enumerate() {
            if bool::from(known.sha256.ct_eq(&hash)) {
                found = Some(at);
            }
        }
        let Some((at, token)) = found.and_then(|at| Some((at, self.tokens.get(at)?))) else {
            return Err(unauthorized("the token is not known"));
        };
        if token.access < needed {
            let reason = format!("the token {:?} may not do this: it needs {}", token.name, word(needed));
            return Err(Refusal::fail(StatusCode::FORBIDDEN, "token", reason));
        }
        if let Some(rate) = token.rate_limit {
            let now = Mono::now();
            let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            let bucket = buckets.entry(at).or_insert_with(|| Bucket { left: f64::from(rate.count), at: now });
            bucket.take(rate, now).map_err(|wait| {
                let reason = format!("the token {:?} is limited to {rate}", token.name);
                Refusal::fail(StatusCode::TOO_MANY_REQUESTS, "token", reason).retry_after(wait)
            })?;
        }
        Ok(Caller { queues: token.queues.clone() })
    }

    /// A browser says the name that it looked up. An address, or a name of this machine's own, was looked up nowhere.
    fn check_host(&self, call: Call<'_>) -> Result<(), Refusal> {
        let mut named = call.headers.get_all(header::HOST).iter();
        let (host, more) = (named.next(), named.next());
        if more.is_some() {
            return Err(Refusal::bad("host", "is given twice"));
        }
        let Some(host) =
            call.uri.authority().map(|it| it.as_str()).or_else(|| Some(host?.to_str().unwrap_or("?")))
        else {
            if call.version < Version::HTTP_11 {
                return Ok(());
            }
            return Err(Refusal::bad("host", "is missing"));
        };
        if self.is_own(host) {
            return Ok(());
        }
        let name = name_of(host);
        let reason = format!("{name:?} is no name of this server: add it to hosts under [http]");
        Err(Refusal::fail(StatusCode::MISDIRECTED_REQUEST, "host", reason))
    }

    /// Whether a name, with a port or without, is one of this server.
    fn is_own(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let name = name_of(&host);
        name == "localhost"
            || name
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|address| !self.listen.ip().is_loopback() || address.is_loopback())
            || self.hosts.iter().any(|known| *known == host || known == name)
    }

    /// What changes something must not come from a page of another site.
    fn check_origin(&self, call: Call<'_>) -> Result<(), Refusal> {
        if matches!(*call.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        let text = |name: header::HeaderName| {
            call.headers.get(name).map(|value| value.to_str().unwrap_or("?").to_ascii_lowercase())
        };
        let is_strange = match text(header::ORIGIN) {
            // Another port of this host is another site.
            Some(origin) => origin.split_once("://").is_none_or(|(_, from)| {
                text(header::HOST).as_deref() != Some(from) && !self.hosts.iter().any(|known| known == from)
            }),
            None => text(header::HeaderName::from_static("sec-fetch-site"))
                .is_some_and(|site| !["same-origin", "none"].contains(&&*site)),
        };
        if is_strange {
            return Err(Refusal::fail(
                StatusCode::FORBIDDEN,
                "origin",
                "a page of another site may not do this",
            ));
        }
        Ok(())
    }
}

/// The host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(reason: &str) -> Refusal {
    Refusal::fail(StatusCode::UNAUTHORIZED, "token", reason)
}

const fn word(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Operate => "operate",
        Access::Admin => "admin",
    }
}

#[cfg(test)]
mod tests {
    use roundsman_shared::assignment::Reaches;

    use super::*;

    fn door(listen: &str, hosts: &[&str], tokens: Vec<TokenSpec>) -> Door {
        Door::new(&HttpSpec {
            listen: listen.parse().unwrap(),
            behind_proxy: false,
            tls: None,
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            tokens,
            reaches: Reaches::default(),
            store: String::new(),
            beside: false,
            handover: None,
        })
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn status(door: &Door, method: &Method, pairs: &[(&'static str, &str)], needed: Access) -> u16 {
        let headers = headers(pairs);
        let call =
            Call { method, uri: &Uri::from_static("/x"), version: Version::HTTP_11, headers: &headers };
        let admitted = door.check(call).and_then(|()| door.admit(&headers, needed));
        admitted.map_or_else(|refusal| refusal.status.as_u16(), |_| 200)
    }

    fn token(text: &str, access: Access, rate_limit: Option<Rate>) -> TokenSpec {
        let sha256 = Sha256::digest(text.as_bytes()).into();
        TokenSpec { name: "t".into(), access, sha256, queues: vec!["a".into()], rate_limit }
    }

    #[test]
    fn only_names_of_this_server_are_served() {
        let loopback = door("127.0.0.1:7070", &["jobs.example.com"], Vec::new());
        for (host, expected) in [
            ("localhost:7070", 200),
            ("127.0.0.1", 200),
            ("[::1]:7070", 200),
            ("LOCALHOST", 200),
            ("jobs.example.com", 200),
            ("jobs.example.com:443", 200),
            ("evil.example.com", 421),
            ("10.0.0.1", 421),
            ("localhost.evil.example", 421),
            ("", 421),
        ] {
            assert_eq!(status(&loopback, &Method::GET, &[("host", host)], Access::Read), expected, "{host}");
        }
        let open = door("0.0.0.0:7070", &[], Vec::new());
        assert_eq!(status(&open, &Method::GET, &[("host", "10.0.0.1:7070")], Access::Read), 200);
        assert_eq!(status(&open, &Method::GET, &[("host", "rebound.example")], Access::Read), 421);
    }

    #[test]
    fn a_name_is_given_once() {
        let door = door("127.0.0.1:7070", &[], Vec::new());
        let check = |uri: &'static str, version, pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            let uri = Uri::from_static(uri);
            let call = Call { method: &Method::GET, uri: &uri, version, headers: &headers };
            door.check(call).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
        };
        let host = ("host", "localhost");
        assert_eq!(check("/", Version::HTTP_11, &[]), 400);
        assert_eq!(check("/", Version::HTTP_10, &[]), 200);
        assert_eq!(check("/", Version::HTTP_11, &[host, host]), 400);
        assert_eq!(check("http://evil.example/", Version::HTTP_11, &[host]), 421);
        assert_eq!(check("http://localhost/", Version::HTTP_11, &[host]), 200);
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let door = door("127.0.0.1:7070", &["jobs.example.com"], Vec::new());
        let host = ("host", "localhost:7070");
        for (more, expected) in [
            (vec![], 200),
            (vec![("origin", "http://localhost:7070")], 200),
            (vec![("origin", "http://localhost:8080")], 403),
            (vec![("origin", "https://evil.example")], 403),
            (vec![("origin", "null")], 403),
            (vec![("origin", "https://jobs.example.com")], 200),
            (vec![("sec-fetch-site", "cross-site")], 403),
            (vec![("sec-fetch-site", "same-site")], 403),
            (vec![("sec-fetch-site", "none")], 200),
        ] {
            let all = [vec![host], more].concat();
            assert_eq!(status(&door, &Method::POST, &all, Access::Operate), expected, "{all:?}");
            assert_eq!(status(&door, &Method::GET, &all, Access::Read), 200, "{all:?}");
        }
    }

    #[test]
    fn tokens_have_roles_queues_and_rates() {
        let rate = Rate { count: 2, per: Duration::from_secs(3600) };
        let door = door(
            "127.0.0.1:7070",
            &[],
            vec![token("reader", Access::Read, None), token("hurried", Access::Operate, Some(rate))],
        );
        let host = ("host", "localhost");
        let call =
            |value: &str, needed| status(&door, &Method::GET, &[host, ("authorization", value)], needed);
        assert_eq!(status(&door, &Method::GET, &[host], Access::Read), 401);
        assert_eq!(call("Bearer wrong", Access::Read), 401);
        assert_eq!(call("Basic reader", Access::Read), 401);
        assert_eq!(call("bearer reader", Access::Read), 200);
        assert_eq!(call("Bearer reader", Access::Operate), 403);
        assert_eq!(call("Bearer hurried", Access::Admin), 403);
        assert_eq!(call("Bearer hurried", Access::Operate), 200);
        assert_eq!(call("Bearer hurried", Access::Operate), 200);
        assert_eq!(call("Bearer hurried", Access::Read), 429);
        let caller = door.admit(&headers(&[("authorization", "Bearer reader")]), Access::Read).unwrap();
        assert!(caller.sees("a") && !caller.sees("b"));
        assert_eq!(caller.demand("b").unwrap_err().status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn a_bucket_fills_again() {
        let rate = Rate { count: 10, per: Duration::from_secs(1) };
        let start = Mono::from_nanos(0);
        let mut bucket = Bucket { left: 0.0, at: start };
        assert_eq!(bucket.take(rate, start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(rate, start + Duration::from_millis(100)), Ok(()));
        assert!(bucket.take(rate, start + Duration::from_millis(150)).is_err());
        assert_eq!(bucket.take(rate, start + Duration::from_secs(60)), Ok(()));
        assert!(bucket.left <= 9.0);
    }
}
