//! Jobs that name their own destination, as timers set over HTTP do. Pure: where the payload is to go and what is sent
//! there; whether it may is for [`crate::reach`].
//!
//! ```text
//! {"transport":"http",  "method":"post",      "uri":"https://example.com/hook",                    "data":{"a":1}}
//! {"transport":"redis", "method":"list",      "uri":"redis://example.com:6379/0?key=jobs",         "data":"text"}
//! {"transport":"redis", "method":"stream",    "uri":"redis://example.com/0?key=events"}
//! {"transport":"amqp",  "method":"mail.sent", "uri":"amqp://user:pw@example.com/%2f?exchange=all", "data":{}}
//! {"transport":"tcp",   "uri":"tcp://example.com:9000",                                            "data":{}}
//! {"transport":"stdout",                                                                           "data":{}}
//! ```
//! For `amqp` the method is the routing key, and without `exchange` the broker's default exchange takes it as the name of
//! a queue. `data` that is a text is sent as that text, other JSON compactly, `null` and nothing as nothing.

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use crate::job::spec::compact;
use crate::settings::RedisTarget;

/// The queue of timers that are set in Skyring's way; its handler is `callback`.
pub const QUEUE: &str = "timers";
/// Where it may go, in the order in which it is told.
pub const TRANSPORTS: [&str; 5] = ["http", "amqp", "redis", "tcp", "stdout"];
const METHODS: [&str; 7] = ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "HEAD"];
/// AMQP carries names as short strings.
const SHORT_STRING: usize = 255;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    pub to: Target,
    pub body: Body,
}

/// Where a payload goes. `Debug` shows neither path nor password.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// The method in capitals.
    Http {
        method: String,
        url: Url,
    },
    /// The URL names the broker and its virtual host only.
    Amqp {
        server: Url,
        exchange: String,
        routing_key: String,
    },
    /// The URL names the server and its database only.
    Redis {
        server: Url,
        key: RedisTarget,
    },
    Tcp {
        host: String,
        port: u16,
    },
    Stdout,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Empty,
    Text(String),
    Json(String),
}

impl Body {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Empty => "",
            Self::Text(text) | Self::Json(text) => text,
        }
    }

    /// As JSON, for receivers that are sent lines of it.
    #[must_use]
    pub fn to_json(&self) -> String {
        match self {
            Self::Empty => "null".to_owned(),
            Self::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            Self::Json(json) => json.clone(),
        }
    }

    #[must_use]
    pub const fn content_type(&self) -> Option<&'static str> {
        match self {
            Self::Empty => None,
            Self::Text(_) => Some("text/plain; charset=utf-8"),
            Self::Json(_) => Some("application/json"),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, url) = match self {
            Self::Http { url, .. } => ("Http", url),
            Self::Amqp { server, .. } => ("Amqp", server),
            Self::Redis { server, .. } => ("Redis", server),
            Self::Tcp { host, port } => return write!(f, "Tcp({host}:{port})"),
            Self::Stdout => return f.write_str("Stdout"),
        };
        write!(f, "{name}({}://{})", url.scheme(), url.host_str().unwrap_or(""))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    transport: String,
    #[serde(default)]
    method: String,
    #[serde(default)]
    uri: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

impl Callback {
    /// Reads the payload of a job.
    ///
    /// # Errors
    /// What is wrong with it, in words that name the field; secrets in the URI are not repeated.
    pub fn parse(payload: &str) -> Result<Self, String> {
        let written: Written =
            serde_json::from_str(payload).map_err(|error| format!("the payload is no callback: {error}"))?;
        let Written { transport, method, uri, data } = written;
        Ok(Self { to: Target::parse(&transport, &method, &uri)?, body: body(data.as_deref())? })
    }
}

fn body(data: Option<&RawValue>) -> Result<Body, String> {
    let Some(text) = data.map(RawValue::get).filter(|text| *text != "null") else { return Ok(Body::Empty) };
    if text.starts_with('"') {
        return serde_json::from_str(text).map(Body::Text).map_err(|error| format!("data: {error}"));
    }
    compact(text).map(Body::Json).map_err(|error| format!("data: {error}"))
}

impl Target {
    /// Reads the three fields that name a destination.
    ///
    /// # Errors
    /// As [`Callback::parse`].
    pub fn parse(transport: &str, method: &str, uri: &str) -> Result<Self, String> {
        match transport.to_ascii_lowercase().as_str() {
            "http" => http(method, uri),
            "amqp" => amqp(method, uri),
            "redis" => redis(method, uri),
            "tcp" => {
                let url = read(uri, &["tcp"])?;
                let port =
                    url.port().ok_or("uri: names no port: write one like \"tcp://example.com:9000\"")?;
                Ok(Self::Tcp { host: host(&url)?, port })
            }
            "stdout" => Ok(Self::Stdout),
            _ => Err(format!("transport: {transport:?} is none of {}", TRANSPORTS.join(", "))),
        }
    }

    /// The transport's name, as in `[transports.NAME]`.
    #[must_use]
    pub const fn transport(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Amqp { .. } => "amqp",
            Self::Redis { .. } => "redis",
            Self::Tcp { .. } => "tcp",
            Self::Stdout => "stdout",
        }
    }
}

fn read(uri: &str, schemes: &[&str]) -> Result<Url, String> {
    let url = Url::parse(uri).map_err(|error| format!("uri: {error}"))?;
    if !schemes.contains(&url.scheme()) {
        let right: Vec<_> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
        return Err(format!("uri: has the scheme {:?}: it begins with {}", url.scheme(), right.join(" or ")));
    }
    if url.port() == Some(0) {
        return Err("uri: a port is 1 to 65535".to_owned());
    }
    host(&url)?;
    Ok(url)
}

fn host(url: &Url) -> Result<String, String> {
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("uri: names no host")?;
    Ok(host.to_owned())
}

fn http(method: &str, uri: &str) -> Result<Target, String> {
    let url = read(uri, &["http", "https"])?;
    let method = method.to_ascii_uppercase();
    if !METHODS.contains(&method.as_str()) {
        return Err(format!("method: {method:?} is none of {}", METHODS.join(", ").to_ascii_lowercase()));
    }
    Ok(Target::Http { method, url })
}

/// The value of this parameter; any other one is a slip.
fn only_parameter(url: &Url, name: &str) -> Result<Option<String>, String> {
    let mut found = None;
    for (key, value) in url.query_pairs() {
        if key != name {
            return Err(format!("uri: has the unknown parameter {key:?}; known here: {name}"));
        }
        found = Some(value.into_owned());
    }
    Ok(found)
}

fn bare(mut url: Url) -> Url {
    url.set_query(None);
    url.set_fragment(None);
    url
}

fn amqp(routing_key: &str, uri: &str) -> Result<Target, String> {
    let url = read(uri, &["amqp", "amqps"])?;
    let exchange = only_parameter(&url, "exchange")?.unwrap_or_default();
    if exchange.is_empty() && routing_key.is_empty() {
        return Err("method: names no routing key, and the uri no exchange: write one of them".to_owned());
    }
    if exchange.len() > SHORT_STRING || routing_key.len() > SHORT_STRING {
        return Err(format!("method: exchange and routing key have at most {SHORT_STRING} bytes"));
    }
    Ok(Target::Amqp { server: bare(url), exchange, routing_key: routing_key.to_owned() })
}

fn redis(method: &str, uri: &str) -> Result<Target, String> {
    let url = read(uri, &["redis", "rediss"])?;
    let key = only_parameter(&url, "key")?.filter(|key| !key.is_empty());
    let key = key.ok_or("uri: names no key: write one like \"redis://example.com/0?key=jobs\"")?;
    let database = url.path().trim_start_matches('/');
    if !database.is_empty() && database.parse::<u16>().is_err() {
        return Err(format!(
            "uri: {database:?} is no database: write one like \"redis://example.com/0?key=jobs\""
        ));
    }
    let key = match method.to_ascii_lowercase().as_str() {
        "list" => RedisTarget::List(key),
        "stream" => RedisTarget::Stream(key),
        _ => return Err(format!("method: {method:?} is none of list, stream")),
    };
    Ok(Target::Redis { server: bare(url), key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Callback, String> {
        Callback::parse(text)
    }

    fn target(transport: &str, method: &str, uri: &str) -> Target {
        Target::parse(transport, method, uri).unwrap()
    }

    #[test]
    fn what_is_sent_follows_from_the_data() {
        let body = |data: &str| {
            let payload = format!(r#"{{"transport":"http","method":"post","uri":"http://a/"{data}}}"#);
            parse(&payload).unwrap().body
        };
        assert_eq!(body(""), Body::Empty);
        assert_eq!(body(r#","data":null"#), Body::Empty);
        assert_eq!(body(r#","data":"h\u00e9 \"x\"""#), Body::Text("hé \"x\"".into()));
        assert_eq!(body(r#","data":"""#), Body::Text(String::new()));
        assert_eq!(body(r#","data":{ "b" : 1.0, "a": [] }"#), Body::Json(r#"{"b":1.0,"a":[]}"#.into()));
        assert_eq!(body(r#","data":5"#), Body::Json("5".into()));
        assert_eq!(Body::Empty.content_type(), None);
    }

    #[test]
    fn destinations_are_read() {
        for method in ["post", "PUT", "Patch", "delete", "get", "options", "head"] {
            let Target::Http { method: read, .. } = target("HTTP", method, "https://a.example/x?y") else {
                panic!("{method}");
            };
            assert_eq!(read, method.to_uppercase());
        }
        let Target::Amqp { server, exchange, routing_key } =
            target("amqp", "a.b", "amqp://u:p@h:5673/%2f?exchange=ev%20ents")
        else {
            panic!("no broker");
        };
        assert_eq!((server.as_str(), &*exchange, &*routing_key), ("amqp://u:p@h:5673/%2f", "ev ents", "a.b"));
        let Target::Redis { server, key } = target("redis", "Stream", "redis://h/3?key=a%3Ab") else {
            panic!("no server");
        };
        assert_eq!((server.as_str(), key), ("redis://h/3", RedisTarget::Stream("a:b".into())));
        assert_eq!(target("tcp", "", "tcp://[::1]:9"), Target::Tcp { host: "[::1]".into(), port: 9 });
        assert_eq!(target("stdout", "", ""), Target::Stdout);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (transport, method, uri, message) in [
            ("smtp", "x", "http://a", "transport: \"smtp\" is none of http, amqp, redis, tcp, stdout"),
            (
                "http",
                "brew",
                "http://a",
                "method: \"BREW\" is none of post, put, patch, delete, get, options, head",
            ),
            ("http", "post", "ftp://a", "uri: has the scheme \"ftp\": it begins with http:// or https://"),
            ("http", "post", "/hook", "uri: relative URL without a base"),
            ("http", "post", "http://", "uri: empty host"),
            ("http", "post", "http://a:0/", "uri: a port is 1 to 65535"),
            ("tcp", "", "tcp://a", "uri: names no port: write one like \"tcp://example.com:9000\""),
            ("tcp", "", "tcp:a:1", "uri: names no host"),
            (
                "redis",
                "list",
                "redis://a/0",
                "uri: names no key: write one like \"redis://example.com/0?key=jobs\"",
            ),
            ("redis", "push", "redis://a/0?key=b", "method: \"push\" is none of list, stream"),
            (
                "redis",
                "list",
                "redis://a/b?key=c",
                "uri: \"b\" is no database: write one like \"redis://example.com/0?key=jobs\"",
            ),
            (
                "redis",
                "list",
                "redis://a/?key=b&x=1",
                "uri: has the unknown parameter \"x\"; known here: key",
            ),
            (
                "amqp",
                "",
                "amqp://a",
                "method: names no routing key, and the uri no exchange: write one of them",
            ),
        ] {
            assert_eq!(Target::parse(transport, method, uri), Err(message.to_owned()));
        }
        for payload in ["5", "{}", r#"{"transport":"stdout","x":1}"#] {
            assert!(parse(payload).unwrap_err().starts_with("the payload is no callback: "), "{payload}");
        }
    }

    #[test]
    fn nothing_secret_shows() {
        let shown = format!("{:?}", target("redis", "list", "redis://u:hunter2@h/0?key=hunter2"));
        assert_eq!(shown, "Redis(redis://h)");
        let shown = format!("{:?}", target("http", "post", "https://u:hunter2@h/hunter2"));
        assert_eq!(shown, "Http(https://h)");
    }
}
