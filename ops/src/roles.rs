//! The processes of a fleet, each a role of this one binary: `up` is the supervisor, which starts `master`, which starts
//! `worker`, `keep`, `intake`, `amqp`, `demand` and `http`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::DirBuilder;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;

use roundsman_shared::names::Namespace;
use roundsman_shared::settings::{
    Environment, Handler, LoadInput, Override, PoolRun, PoolSettings, Settings, StoreUrl,
};
use roundsman_shared::{exit, telemetry};
use roundsman_supervisor::Launch;

use crate::cli::UpArgs;
use crate::demo::Demo;

/// Runs the fleet in the foreground; the answer is the exit code.
#[must_use]
pub fn up(args: UpArgs) -> u8 {
    let _ = telemetry::start(&Environment::capture(), telemetry::Level::Info);
    let Prepared { launch, warnings, demo } = match prepare(args) {
        Ok(prepared) => prepared,
        Err(refusal) => return refusal.tell(),
    };
    if let Some(demo) = &demo {
        tracing::info!("{}", demo.hint());
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let pid = std::process::id();
    let summary = Summary(&launch.settings).to_string();
    let serving = move || tracing::info!("serving {summary} (pid {pid}); Ctrl-C drains");
    match roundsman_supervisor::run(launch, serving) {
        Ok(code) => code,
        Err(error) => Refusal { code: error.exit_code(), problems: vec![error.to_string()] }.tell(),
    }
}

/// The fleet of this host. Started by `up` only.
#[must_use]
pub fn master() -> u8 {
    let _ = telemetry::start(&Environment::capture(), telemetry::Level::Info);
    roundsman_master::serve()
}

/// One worker. Started by the master only.
#[must_use]
pub fn worker() -> u8 {
    roundsman_worker::serve()
}

/// What takes jobs in from inboxes. Started by the master only.
#[must_use]
pub fn intake() -> u8 {
    crate::intake::run()
}

/// What takes messages in from a broker. Started by the master only.
#[must_use]
pub fn amqp() -> u8 {
    crate::amqp::run()
}

/// What serves the API. Started by the master only.
#[must_use]
pub fn http() -> u8 {
    crate::http::run()
}

/// What reads how much waits for foreign pools. Started by the master only.
#[must_use]
pub fn demand() -> u8 {
    crate::demand::run()
}

/// What keeps one worker of a foreign pool. Started by the master only.
#[must_use]
pub fn keep() -> u8 {
    crate::keep::run()
}

/// Why nothing was started.
struct Refusal {
    code: u8,
    problems: Vec<String>,
}

impl Refusal {
    fn one(code: u8, problem: impl fmt::Display) -> Self {
        Self { code, problems: vec![problem.to_string()] }
    }

    /// To whoever typed the command, so in plain words wherever the log goes.
    fn tell(self) -> u8 {
        let mut stderr = io::stderr().lock();
        for problem in self.problems {
            // Who closed standard error has the exit code.
            let _ = writeln!(stderr, "roundsman: {problem}");
        }
        self.code
    }
}

struct Prepared {
    launch: Launch,
    warnings: Vec<String>,
    /// Its store goes with it.
    demo: Option<Demo>,
}

fn prepare(args: UpArgs) -> Result<Prepared, Refusal> {
    let mut input = LoadInput::capture()
        .map_err(|error| Refusal::one(exit::CONFIG, format!("the current directory: {error}")))?;
    let host = host_id(args.host_id)?;
    let globals = args.globals;
    if globals.config.as_ref().is_some_and(|path| path.to_str().is_none()) {
        return Err(Refusal::one(exit::CONFIG, "--config: the path is not UTF-8"));
    }
    if args.demo && (globals.config.is_some() || globals.store.is_some() || globals.namespace.is_some()) {
        let problem =
            "--demo brings settings and a store of its own: leave out --config, --store and --namespace";
        return Err(Refusal::one(exit::USAGE, problem));
    }
    input.config = globals.config;
    input.overrides.extend(globals.store.map(|url| Override::text("--store", "store.url", url)));
    input
        .overrides
        .extend(globals.namespace.map(|name| Override::text("--namespace", "store.namespace", name)));
    if !args.command.is_empty() {
        input.overrides.push(Override::handler_command(args.command));
    }
    let demo = args.demo.then(|| Demo::prepare(&mut input)).transpose();
    let demo = demo.map_err(|failure| Refusal {
        code: failure.code(),
        problems: failure.lines().map(str::to_owned).collect(),
    })?;
    let loaded = input.read_files().and_then(|()| Settings::load(&input)).map_err(|error| Refusal {
        code: exit::CONFIG,
        problems: error.problems.iter().map(ToString::to_string).collect(),
    })?;
    make_store_folder(&loaded.settings.store.url)?;
    let launch = Launch { input, settings: loaded.settings, host };
    Ok(Prepared { launch, warnings: loaded.warnings, demo })
}

/// `--host-id`, else the name of this machine with every character that an id has no place for made a dash.
fn host_id(given: Option<String>) -> Result<String, Refusal> {
    if let Some(id) = given {
        // The alphabet of ids that people choose is one and the same.
        return match Namespace::new(&id) {
            Ok(_) => Ok(id),
            Err(_) => Err(Refusal::one(
                exit::USAGE,
                format!("--host-id: \"{id}\" is no right name: 1 to 64 characters of A-Z a-z 0-9 . _ -"),
            )),
        };
    }
    let name = nix::unistd::gethostname().unwrap_or_default();
    let id = sanitised(&name.to_string_lossy());
    Ok(if id.is_empty() { "localhost".to_owned() } else { id })
}

fn sanitised(name: &str) -> String {
    let right = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().take(64).map(right).collect()
}

/// So that the file can be made at the first use.
fn make_store_folder(url: &StoreUrl) -> Result<(), Refusal> {
    let StoreUrl::Sqlite { path } = url else { return Ok(()) };
    let Some(folder) = path.parent() else { return Ok(()) };
    // Payloads are no one else's business.
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        Refusal::one(exit::CONFIG, format!("store.url: cannot make {}: {error}", folder.display()))
    })
}

/// What a fleet does, in a few words.
struct Summary<'a>(&'a Settings);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pools = || self.0.pools.values();
        let queues: BTreeSet<&str> = pools().flat_map(|pool| pool.queues.names()).collect();
        let runs: BTreeSet<&str> = pools().map(runs).collect();
        let queues = queues.into_iter().collect::<Vec<_>>();
        let plural = |many: bool| if many { "s" } else { "" };
        if queues.is_empty() {
            f.write_str("foreign queues")?;
        } else {
            write!(f, "queue{} {}", plural(queues.len() > 1), queues.join(", "))?;
        }
        let handlers = runs.iter().copied().collect::<Vec<_>>().join(", ");
        write!(f, " with handler{} {handlers} on {}", plural(runs.len() > 1), self.0.store.url)
    }
}

fn runs(pool: &PoolSettings) -> &'static str {
    match &pool.run {
        PoolRun::Command(_) => "of its own",
        PoolRun::Handler(handler) => match handler {
            Handler::Exec(_) => "exec",
            Handler::Stream(_) => "stream",
            Handler::Http(_) => "http",
            Handler::Amqp(_) => "amqp",
            Handler::Redis(_) => "redis",
            Handler::Tcp { .. } => "tcp",
            Handler::Stdout => "stdout",
            Handler::Callback(_) => "callback",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_name_becomes_an_id() {
        assert_eq!(sanitised("mill-1.example"), "mill-1.example");
        assert_eq!(sanitised("Ann's Mühle"), "Ann-s-M-hle");
        assert_eq!(sanitised(&"x".repeat(99)).len(), 64);
        assert!(Namespace::new(&host_id(None).unwrap_or_default()).is_ok());
    }

    #[test]
    fn a_wrong_id_is_refused() {
        for id in ["", "a b", "a:b", &"x".repeat(65)] {
            assert_eq!(
                host_id(Some(id.to_owned())).map_err(|refusal| refusal.code),
                Err(exit::USAGE),
                "{id}"
            );
        }
        assert_eq!(host_id(Some("a.b_c-1".into())).map_err(|refusal| refusal.code), Ok("a.b_c-1".to_owned()));
    }

    #[test]
    fn a_fleet_is_told_in_a_few_words() {
        let mut input = LoadInput {
            environment: [("HOME", "/home/a")].into_iter().collect(),
            system_file: "/none".into(),
            current_dir: "/work".into(),
            config: None,
            alone: false,
            files: None,
            overrides: vec![Override::text("--store", "store.url", "redis://:hunter2@h")],
            cores: 1,
        };
        let told = |input: &LoadInput| {
            Summary(&Settings::load(input).unwrap_or_else(|error| panic!("{error}")).settings).to_string()
        };
        assert_eq!(told(&input), "queue default with handler stdout on redis://:***@h");
        input.overrides.push(Override::text("--x", "pools.a.queues", "[\"b\", \"a\"]"));
        input.overrides.push(Override::text("--x", "pools.a.command", "[\"w\"]"));
        input.overrides.push(Override::handler_command(vec!["c".into()]));
        assert_eq!(told(&input), "queues a, b, default with handlers exec, of its own on redis://:***@h");
    }
}
