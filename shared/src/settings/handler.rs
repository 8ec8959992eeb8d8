//! `handler` of a pool: what runs a job.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::address;
use super::amqp;
use super::secret::{Secret, SecretUrl, is_secret_name};
use super::section::Section;
use super::tree::Value;
use super::value::Setting;
use crate::reach::{Asked, Reach};

const KINDS: &str = "\"exec\", \"stream\", \"http\", \"amqp\", \"redis\", \"tcp\", \"stdout\", \"callback\"";

/// What runs a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handler {
    /// One process a job, the payload on its standard input.
    Exec(Program),
    /// A long-lived program that is sent JSON lines.
    Stream(Program),
    /// A webhook.
    Http(HttpHandler),
    /// Published to a broker, with its confirmation.
    Amqp(AmqpHandler),
    /// Pushed to a list or stream.
    Redis(RedisHandler),
    /// A framed line to `host:port`.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// One compact JSON line on the standard output of `up`.
    Stdout,
    /// Wherever the job itself says.
    Callback(CallbackHandler),
}

/// A program and what is added to its clean environment. `Debug` shows no values of variables.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    /// Program and arguments; never empty, and never read by a shell. A program without a slash is looked for in
    /// `PATH`; any other path is absolute.
    pub command: Vec<String>,
    /// Further variables; those that begin with `ROUNDSMAN_` are refused.
    pub env: BTreeMap<String, String>,
}

impl fmt::Debug for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.env.keys().collect();
        formatter.debug_struct("Program").field("command", &self.command).field("env", &names).finish()
    }
}

/// Where a webhook goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpHandler {
    /// `https://` or `http://`.
    pub url: SecretUrl,
    /// What signs it, as Standard Webhooks has it. During a change of secrets there may be two, divided by a blank or the
    /// end of a line; each signs.
    pub secret: Option<Secret>,
}

/// Jobs that name their own destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackHandler {
    /// As [`HttpHandler::secret`], for those that go by HTTP.
    pub secret: Option<Secret>,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpHandler {
    /// The broker; by default that of `[amqp]`.
    pub url: Option<SecretUrl>,
    /// Empty for the broker's default exchange, which takes the routing key as the queue's name.
    pub exchange: String,
    /// May be empty, where the exchange does not look at it.
    pub routing_key: String,
}

/// Where an entry goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisHandler {
    /// The server; by default that of the store.
    pub url: Option<SecretUrl>,
    /// The key in it.
    pub target: RedisTarget,
}

/// A key that entries are added to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisTarget {
    /// By `LPUSH`.
    List(String),
    /// By `XADD`.
    Stream(String),
}

/// What a transport may leave out, since the whole fleet has one.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) broker: bool,
    pub(super) redis: bool,
    /// Where webhooks may go.
    pub(super) http: Reach,
}

impl Handler {
    pub(super) fn read(parent: &mut Section<'_>, shared: &Shared) -> Self {
        let Some((kind, mut section)) = parent.tagged("handler", "stdout") else { return Self::Stdout };
        let handler = match kind.as_str() {
            "exec" => program(&mut section).map(Self::Exec),
            "stream" => program(&mut section).map(Self::Stream),
            "http" => http(&mut section, shared).map(Self::Http),
            "amqp" => Some(Self::Amqp(amqp(&mut section, shared))),
            "redis" => redis(&mut section, shared).map(Self::Redis),
            "tcp" => {
                let rule = |text: &String| address::check_host_port(text);
                section.required("address", "\"example.com:9000\"", rule).map(|address| Self::Tcp { address })
            }
            "stdout" => Some(Self::Stdout),
            "callback" => Some(Self::Callback(CallbackHandler { secret: signing_secret(&mut section) })),
            other => {
                section.refuse("type", format!("\"{other}\" is none of {KINDS}"));
                return Self::Stdout;
            }
        };
        section.finish();
        handler.unwrap_or(Self::Stdout)
    }

    /// Whether it hands the payload on to somebody else, and so mostly waits.
    #[must_use]
    pub const fn is_transport(&self) -> bool {
        match self {
            Self::Http(_) | Self::Amqp(_) | Self::Redis(_) | Self::Tcp { .. } | Self::Callback(_) => true,
            Self::Exec(_) | Self::Stream(_) | Self::Stdout => false,
        }
    }
}

fn program(section: &mut Section<'_>) -> Option<Program> {
    let command = section.command("command");
    let env = variables(section);
    Some(Program { command: command?, env })
}

/// Reads `env`, of whose values `config show` masks those that are secrets by their name.
fn variables(section: &mut Section<'_>) -> BTreeMap<String, String> {
    let Some(node) = section.node("env") else {
        section.row("env", BTreeMap::new().show(), super::Origin::Default);
        return BTreeMap::new();
    };
    let read = BTreeMap::<String, String>::read(&node.value).and_then(|env| {
        let wrong = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
        if let Some(name) = env.keys().find(wrong) {
            return Err(format!("{name:?} is no name for a variable"));
        }
        match env.keys().find(|name| name.starts_with("ROUNDSMAN_")) {
            Some(name) => Err(format!("{name}: names with ROUNDSMAN_ are set by Roundsman itself")),
            None => Ok(env),
        }
    });
    match read {
        Ok(env) => {
            let mut shown = env.clone();
            let secret = shown.iter_mut().filter(|(name, _)| is_secret_name(name));
            secret.for_each(|(_, value)| *value = "***".into());
            section.row("env", shown.show(), node.origin.clone());
            env
        }
        Err(message) => {
            section.refuse("env", message);
            BTreeMap::new()
        }
    }
}

fn http(section: &mut Section<'_>, shared: &Shared) -> Option<HttpHandler> {
    let url = address::url(section, &["https", "http"]);
    section.demand(url.is_some(), "url", "is missing: write one like \"https://example.com/hook\"");
    let secret = signing_secret(section);
    let url = url?;
    match check_web(&url, &shared.http) {
        Ok(()) => Some(HttpHandler { url, secret }),
        Err(message) => {
            section.refuse(if section.has("url_file") { "url_file" } else { "url" }, message);
            None
        }
    }
}

/// Refuses now what no delivery could do later. What a name stands for is known only then.
fn check_web(url: &SecretUrl, reach: &Reach) -> Result<(), String> {
    let parsed = url::Url::parse(url.expose()).map_err(|error| format!("is no URL: {error}"))?;
    let address: IpAddr = match parsed.host() {
        Some(url::Host::Ipv4(address)) => address.into(),
        Some(url::Host::Ipv6(address)) => address.into(),
        Some(url::Host::Domain(_)) => return Ok(()),
        None => return Err("names no host".into()),
    };
    let host = address.to_string();
    let port = parsed.port_or_known_default().unwrap_or_default();
    let refused = reach.check(Asked { scheme: parsed.scheme(), host: &host, port }, address);
    refused.map_err(|refused| {
        format!("{address} is {}: permit it with allow = [\"{address}\"] in [transports.http]", refused.what)
    })
}

/// The bytes that sign: those behind `whsec_`, or the text itself.
#[must_use]
pub fn signing_key(secret: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    match secret.strip_prefix("whsec_") {
        Some(coded) => base64::engine::general_purpose::STANDARD.decode(coded).ok(),
        None => Some(secret.as_bytes().to_vec()),
    }
}

/// Reads `secret` or `secret_file`.
pub(super) fn signing_secret(section: &mut Section<'_>) -> Option<Secret> {
    let (secret, origin) = section.secret("secret", "secret_file")?;
    if secret.expose().is_empty() {
        section.refuse("secret", "is empty: leave it out, or write one like \"whsec_…\"".into());
        return None;
    }
    let keys = secret.expose().split_ascii_whitespace();
    if let Some(at) = keys.clone().position(|key| signing_key(key).is_none()) {
        let which =
            if at == 0 && keys.count() == 1 { String::new() } else { format!(" (number {})", at + 1) };
        section.refuse(
            "secret",
            format!("begins with whsec_ and goes on with something else than base64{which}"),
        );
        return None;
    }
    section.row("secret", secret.to_string().show(), origin);
    Some(secret)
}

fn amqp(section: &mut Section<'_>, shared: &Shared) -> AmqpHandler {
    let url = address::url(section, &amqp::SCHEMES);
    let has_broker = url.is_some() || shared.broker;
    section.demand(has_broker, "url", "is missing: write one here, or amqp.url for all pools");
    let exchange = section.get("exchange", String::new());
    let routing_key = section.get("routing_key", String::new());
    let aimed = !(exchange.is_empty() && routing_key.is_empty());
    section.demand(aimed, "exchange", "is missing, and so is routing_key: write one of them, or both");
    AmqpHandler { url, exchange, routing_key }
}

fn redis(section: &mut Section<'_>, shared: &Shared) -> Option<RedisHandler> {
    let url = address::url(section, &["redis", "rediss", "redis+unix"]);
    let has_server = url.is_some() || shared.redis;
    section.demand(has_server, "url", "is missing: the store is no Redis whose server could serve here too");
    let named = |section: &mut Section<'_>, key: &'static str| {
        let node = section.node(key)?;
        if matches!(&node.value, Value::String(text) | Value::Text(text) if text.is_empty()) {
            section.refuse(key, "names no key".into());
            return None;
        }
        Some(section.get(key, String::new()))
    };
    let (list, stream) = (named(section, "list"), named(section, "stream"));
    let target = match (list, stream) {
        (Some(list), None) => RedisTarget::List(list),
        (None, Some(stream)) => RedisTarget::Stream(stream),
        (Some(_), Some(_)) => {
            section.demand(false, "stream", "contradicts list: write one of them");
            return None;
        }
        (None, None) => {
            section.demand(false, "list", "is missing, and so is stream: write one of them");
            return None;
        }
    };
    Some(RedisHandler { url, target })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};
    use crate::settings::pool::PoolRun;

    fn pool(handler: &str) -> String {
        format!("[pools.default]\nhandler = {handler}")
    }

    fn handler(text: &str) -> Handler {
        match settings(&pool(text)).pools["default"].run.clone() {
            PoolRun::Handler(handler) => handler,
            PoolRun::Command(command) => panic!("{command:?}"),
        }
    }

    #[test]
    fn handlers_are_read() {
        let program = |command: &[&str], env: &[(&str, &str)]| Program {
            command: command.iter().map(ToString::to_string).collect(),
            env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        };
        let exec =
            handler("{ type = \"exec\", command = [\"./thumb.sh\", \"./x\"], env = { A = \"b\", N = 1 } }");
        assert_eq!(exec, Handler::Exec(program(&["/etc/r/thumb.sh", "./x"], &[("A", "b"), ("N", "1")])));
        let stream = handler("{ type = \"stream\", command = [\"python3\", \"app.py\"] }");
        assert_eq!(stream, Handler::Stream(program(&["python3", "app.py"], &[])));
        assert_eq!(handler("{ type = \"stdout\" }"), Handler::Stdout);
        assert_eq!(handler("\"stdout\""), Handler::Stdout);
        let tcp = handler("{ type = \"tcp\", address = \"a:1\" }");
        assert_eq!(tcp, Handler::Tcp { address: "a:1".into() });
        let Handler::Http(http) = handler("{ type = \"http\", url = \"https://a/b\", secret = \"s\" }")
        else {
            panic!("no webhook");
        };
        assert_eq!(http.secret.unwrap().expose(), "s");
        let Handler::Redis(redis) = handler("{ type = \"redis\", url = \"redis://a\", list = \"l\" }") else {
            panic!("no redis");
        };
        assert_eq!(redis.target, RedisTarget::List("l".into()));
    }

    #[test]
    fn bad_values_are_refused() {
        let missing = "is missing: write one like [\"./thumb.sh\", \"--fast\"]";
        for (text, message) in [
            ("{ type = \"shell\" }", format!("type: \"shell\" is none of {KINDS}")),
            ("{ command = [\"a\"] }", "type: is missing: write one like type = \"stdout\"".into()),
            ("\"exec\"", format!("command: {missing}")),
            (
                "{ type = \"exec\", command = \"a b\" }",
                "command: is a list, since no shell reads it: write one like [\"./thumb.sh\", \"--fast\"]"
                    .into(),
            ),
            (
                "{ type = \"exec\", command = [] }",
                "command: names no program: write one like [\"./thumb.sh\", \"--fast\"]".into(),
            ),
            (
                "{ type = \"exec\", command = [\"a\"], env = { ROUNDSMAN_X = \"\" } }",
                "env: ROUNDSMAN_X: names with ROUNDSMAN_ are set by Roundsman itself".into(),
            ),
            (
                "{ type = \"exec\", command = [\"a\"], env = { \"A=B\" = \"\" } }",
                "env: \"A=B\" is no name for a variable".into(),
            ),
            (
                "{ type = \"exec\", command = [\"a\"], evn = {} }",
                "evn: unknown key; did you mean \"env\"?".into(),
            ),
            ("{ type = \"stdout\", command = [\"a\"] }", "command: unknown key; known here: type".into()),
            ("{ type = \"http\" }", "url: is missing: write one like \"https://example.com/hook\"".into()),
            (
                "{ type = \"http\", url = \"ftp://a\" }",
                "url: has the unknown scheme \"ftp\": it begins with https://, http://".into(),
            ),
            (
                "{ type = \"http\", url = \"https://a\", secret = \"\" }",
                "secret: is empty: leave it out, or write one like \"whsec_…\"".into(),
            ),
            (
                "{ type = \"http\", url = \"https://a\", secret = \"a\", secret_file = \"b\" }",
                "secret: contradicts secret_file: write one of them".into(),
            ),
            (
                "{ type = \"http\", url = \"https://a\", secret_file = \"none\" }",
                "secret_file: cannot read /etc/r/none: No such file or directory (os error 2)".into(),
            ),
            (
                "{ type = \"amqp\", exchange = \"a\" }",
                "url: is missing: write one here, or amqp.url for all pools".into(),
            ),
            (
                "{ type = \"amqp\", url = \"amqp://a\" }",
                "exchange: is missing, and so is routing_key: write one of them, or both".into(),
            ),
            (
                "{ type = \"redis\", list = \"a\" }",
                "url: is missing: the store is no Redis whose server could serve here too".into(),
            ),
            (
                "{ type = \"redis\", url = \"redis://a\" }",
                "list: is missing, and so is stream: write one of them".into(),
            ),
            (
                "{ type = \"redis\", url = \"redis://a\", list = \"a\", stream = \"b\" }",
                "stream: contradicts list: write one of them".into(),
            ),
            ("{ type = \"tcp\" }", "address: is missing: write one like \"example.com:9000\"".into()),
            (
                "{ type = \"tcp\", address = \"a\" }",
                "address: \"a\" is no address: write one like \"example.com:9000\"".into(),
            ),
        ] {
            assert_eq!(problems(&pool(text)), [format!("/etc/r/r.toml:2: pools.default.handler.{message}")]);
        }
    }
}
