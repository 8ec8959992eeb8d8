//! From all layers to checked settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::amqp::AmqpSettings;
use super::environment::Environment;
use super::handler::Shared;
use super::http::HttpSettings;
use super::later::{self, Later};
use super::layers::{self, Files, Override};
use super::notify::NotifySettings;
use super::origin::{Origin, SettingsError};
use super::pool::{DEFAULT_POOL, PoolSettings};
use super::queue::QueueSettings;
use super::schedule::ScheduleSettings;
use super::section::{Report, Section};
use super::store::{StoreSettings, StoreUrl};
use super::transports::TransportSettings;
use crate::reach::Reach;

/// All that settings depend on, so that a load with the same input and files gives the same answer.
#[derive(Debug, Clone)]
pub struct LoadInput {
    /// Variables, and through them the user's directories.
    pub environment: Environment,
    /// `/etc/roundsman/roundsman.toml`, except in tests.
    pub system_file: PathBuf,
    /// Where `./roundsman.toml` is looked for and relative paths start.
    pub current_dir: PathBuf,
    /// `--config`
    pub config: Option<PathBuf>,
    /// Nothing but that file and flags counts: no other file, and no variable.
    pub alone: bool,
    /// The files, if they were read already.
    pub files: Option<Files>,
    /// What flags say; of two for one key the later counts.
    pub overrides: Vec<Override>,
    /// Of which there are by default two workers each.
    pub cores: usize,
}

impl LoadInput {
    /// This process's environment and directory, without any flag.
    ///
    /// # Errors
    /// The current directory is gone or may not be read.
    pub fn capture() -> io::Result<Self> {
        Ok(Self {
            environment: Environment::capture(),
            system_file: PathBuf::from("/etc/roundsman/roundsman.toml"),
            current_dir: std::env::current_dir()?,
            config: None,
            alone: false,
            files: None,
            overrides: Vec::new(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        })
    }

    /// Reads the files, so that all loads from here on see them as they are now.
    ///
    /// # Errors
    /// Every file that cannot be read.
    pub fn read_files(&mut self) -> Result<(), SettingsError> {
        let (files, problems) = Files::read(self);
        if !problems.is_empty() {
            return Err(SettingsError { problems });
        }
        self.files = Some(files);
        Ok(())
    }
}

/// Checked settings, to be trusted: what can be refused has been refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `[store]`
    pub store: StoreSettings,
    /// `[pools.NAME]`; never empty.
    pub pools: BTreeMap<String, PoolSettings>,
    /// `[queues.NAME]`, and each queue that a pool here serves. See [`Settings::queue`].
    pub queues: BTreeMap<String, QueueSettings>,
    /// `[http]`
    pub http: HttpSettings,
    /// `[amqp]`
    pub amqp: AmqpSettings,
    /// `[[schedules]]`
    pub schedules: Vec<ScheduleSettings>,
    /// `[[notify]]`
    pub notify: Vec<NotifySettings>,
    /// `[transports.NAME]`
    pub transports: TransportSettings,
    /// What is set and checked, but not served yet; for `doctor`.
    pub later: Vec<Later>,
}

/// A value as it counts and where it comes from: a line of `config show`.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// Dotted, as in `pools.default.max_workers`.
    pub key: String,
    /// As a file could say it, with secrets masked.
    pub value: Json,
    /// What set it.
    pub origin: Origin,
}

impl Effective {
    /// The value as TOML writes it.
    #[must_use]
    pub fn printable(&self) -> String {
        match toml::Value::try_from(&self.value) {
            Ok(value) => value.to_string(),
            // TOML has no null.
            Err(_) => self.value.to_string(),
        }
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} = {}", self.key, self.printable())
    }
}

/// What a load gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Checked.
    pub settings: Settings,
    /// Every key with its value, those that nothing sets included.
    pub effective: Vec<Effective>,
    /// What does no harm but is likely a slip.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// `{"settings": [{"key", "value", "origin"}], "later": [{"key", "origin"}], "warnings": [...]}`
    #[must_use]
    pub fn to_json(&self) -> Json {
        let row =
            |row: &Effective| json!({"key": row.key, "value": row.value, "origin": row.origin.to_string()});
        let later = |later: &Later| json!({"key": later.key, "origin": later.origin.to_string()});
        json!({
            "settings": self.effective.iter().map(row).collect::<Vec<_>>(),
            "later": self.settings.later.iter().map(later).collect::<Vec<_>>(),
            "warnings": self.warnings,
        })
    }
}

impl Settings {
    /// Reads all layers and checks what they say together.
    ///
    /// ```no_run
    /// use roundsman_shared::settings::{LoadInput, Override, Settings};
    /// let mut input = LoadInput::capture()?;
    /// input.overrides.push(Override::text("--store", "store.url", "redis://localhost"));
    /// let loaded = Settings::load(&input)?;
    /// println!("{}", loaded.settings.store.url);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Every unknown key, bad value and impossible combination that was found, each with its origin.
    pub fn load(input: &LoadInput) -> Result<Loaded, SettingsError> {
        let (tree, unreadable) = layers::collect(input);
        let report = Report::new(&input.current_dir);
        let mut settings = Self::read(Section::root(&report, &tree), input);
        let mut problems = unreadable;
        problems.extend(report.problems.into_inner());
        if !problems.is_empty() {
            return Err(SettingsError { problems });
        }
        let rows = report.rows.into_inner();
        settings.later = later::unserved(&rows);
        let effective: Vec<Effective> = rows.into_iter().map(|row| row.effective).collect();
        let warnings = input.environment.near_misses(effective.iter().map(|row| row.key.as_str()));
        Ok(Loaded { settings, effective, warnings })
    }

    fn read(mut root: Section<'_>, input: &LoadInput) -> Self {
        let store = StoreSettings::read(root.table("store"), &input.environment);
        let amqp = AmqpSettings::read(root.table("amqp"));
        let transports = TransportSettings::read(root.table("transports"));
        let shared = Shared {
            broker: amqp.url.is_some(),
            redis: matches!(store.url, StoreUrl::Redis { .. }),
            http: Reach::global_and(&transports.http.allow),
        };

        let mut sections = root.named("pools");
        if sections.is_empty() {
            sections.push((DEFAULT_POOL.to_owned(), root.unnamed("pools", DEFAULT_POOL)));
        }
        let pool = |(name, section): (String, Section<'_>)| {
            let settings = PoolSettings::read(section, &name, input.cores, &shared);
            (name, settings)
        };
        let pools: BTreeMap<_, _> = sections.into_iter().map(pool).collect();

        let mut sections = root.named("queues");
        let named: BTreeSet<_> = sections.iter().map(|(name, _)| name.clone()).collect();
        let served: BTreeSet<_> = pools.values().flat_map(|pool| pool.queues.names()).collect();
        for name in served.into_iter().filter(|name| !named.contains(*name)) {
            sections.push((name.to_owned(), root.unnamed("queues", name)));
        }
        let queue = |(name, section)| (name, QueueSettings::read(section, &QueueSettings::DEFAULT));
        let queues = sections.into_iter().map(queue).collect();

        let settings = Self {
            store,
            pools,
            queues,
            http: HttpSettings::read(root.table("http")),
            amqp,
            schedules: ScheduleSettings::read_all(&mut root),
            notify: NotifySettings::read_all(&mut root),
            transports,
            later: Vec::new(),
        };
        root.finish();
        settings
    }

    /// The policy of a queue: its own, or the default one if nothing describes it.
    #[must_use]
    pub fn queue(&self, name: &str) -> &QueueSettings {
        static DEFAULT: QueueSettings = QueueSettings::DEFAULT;
        self.queues.get(name).unwrap_or(&DEFAULT)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::settings::{Durability, Handler, OverrideValue, PoolRun};

    /// A machine of its own: `write` makes files in it, and nothing of the real one counts.
    struct Machine {
        dir: tempfile::TempDir,
        input: LoadInput,
    }

    impl Machine {
        fn new(variables: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let home = dir.path().join("home").to_string_lossy().into_owned();
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let variables = variables.chain([("HOME".to_owned(), home)]);
            let input = LoadInput {
                environment: variables.collect(),
                system_file: dir.path().join("etc/roundsman.toml"),
                current_dir: dir.path().join("work"),
                config: None,
                alone: false,
                files: None,
                overrides: Vec::new(),
                cores: 4,
            };
            let machine = Self { dir, input };
            machine.write("work/.keep", "");
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn path(&self, path: &str) -> String {
            self.dir.path().join(path).to_string_lossy().into_owned()
        }

        fn flag(mut self, flag: &str, key: &str, value: &str) -> Self {
            self.input.overrides.push(Override::text(flag, key, value));
            self
        }

        fn load(&self) -> Loaded {
            Settings::load(&self.input).unwrap_or_else(|error| panic!("{error}"))
        }

        /// With the machine's own directory cut off.
        fn error(&self) -> String {
            let text = Settings::load(&self.input).unwrap_err().to_string();
            text.replace(&format!("{}/", self.dir.path().display()), "")
        }

        fn origin(&self, key: &str) -> String {
            let loaded = self.load();
            let row = loaded.effective.iter().find(|row| row.key == key).unwrap();
            row.origin.to_string().replace(&format!("{}/", self.dir.path().display()), "")
        }
    }

    /// Loads a text as if it were `/etc/r/r.toml`, on a machine without anything else.
    fn load_text(text: &str) -> Result<Loaded, SettingsError> {
        let environment = Environment::from_iter([("HOME", "/home/a")]);
        let current_dir = PathBuf::from("/work");
        let input = LoadInput {
            environment,
            system_file: "/none".into(),
            current_dir: current_dir.clone(),
            config: None,
            alone: false,
            files: None,
            overrides: Vec::new(),
            cores: 4,
        };
        let parsed = super::super::tree::parse_file(Path::new("/etc/r/r.toml"), text);
        let tree = parsed.map_err(|problem| SettingsError { problems: vec![problem] })?;
        let report = Report::new(&current_dir);
        let mut settings = Settings::read(Section::root(&report, &tree), &input);
        let problems = report.problems.into_inner();
        if !problems.is_empty() {
            return Err(SettingsError { problems });
        }
        let rows = report.rows.into_inner();
        settings.later = later::unserved(&rows);
        let effective = rows.into_iter().map(|row| row.effective).collect();
        Ok(Loaded { settings, effective, warnings: Vec::new() })
    }

    pub(in crate::settings) fn loaded(text: &str) -> Loaded {
        load_text(text).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(in crate::settings) fn settings(text: &str) -> Settings {
        loaded(text).settings
    }

    pub(in crate::settings) fn problems(text: &str) -> Vec<String> {
        let error = load_text(text).expect_err(text);
        error.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_strongest_layer_wins_and_is_named() {
        let key = "store.namespace";
        let line = |name: &str| format!("\n[store]\nnamespace = \"{name}\"");
        let mut machine = Machine::new(&[]);
        assert_eq!(machine.origin(key), "default");
        machine.write("etc/roundsman.toml", &line("etc"));
        assert_eq!(machine.origin(key), "etc/roundsman.toml:3");
        machine.write("home/.config/roundsman/roundsman.toml", &line("user"));
        assert_eq!(machine.origin(key), "home/.config/roundsman/roundsman.toml:3");
        machine.write("work/roundsman.toml", &line("local"));
        assert_eq!(machine.origin(key), "roundsman.toml:3");
        machine.write("work/conf/a.toml", &line("asked"));
        machine.input.config = Some("conf/a.toml".into());
        assert_eq!(machine.origin(key), "conf/a.toml:3");
        let home = machine.path("home");
        machine.input.environment =
            Environment::from_iter([("HOME", home.as_str()), ("ROUNDSMAN_STORE__NAMESPACE", "env")]);
        assert_eq!(machine.origin(key), "ROUNDSMAN_STORE__NAMESPACE");
        let machine = machine.flag("--namespace", key, "flag");
        assert_eq!(machine.origin(key), "--namespace");
        assert_eq!(machine.load().settings.store.namespace, "flag");
        let machine = machine.flag("-n", key, "later");
        assert_eq!(machine.load().settings.store.namespace, "later");
    }

    #[test]
    fn a_bare_url_counts_only_alone() {
        let url = |machine: &Machine| machine.load().settings.store.url.to_string();
        let bare = [("REDIS_URL", "redis://:hunter2@bare"), ("AMQP_URL", "amqp://bare")];
        let machine = Machine::new(&bare);
        assert_eq!(url(&machine), "redis://:***@bare");
        assert_eq!(machine.origin("store.url"), "REDIS_URL");
        assert_eq!(machine.origin("amqp.url"), "AMQP_URL");
        machine.write("work/roundsman.toml", "[store]\nurl = \"redis://named\"");
        assert_eq!(url(&machine), "redis://named");
        machine.write("work/roundsman.toml", "[store]\nurl_file = \"secret\"");
        machine.write("work/secret", " redis://:hunter2@filed \n");
        assert_eq!(url(&machine), "redis://:***@filed");
        let machine = Machine::new(&[("REDIS_URL", "http://u:hunter2@bare")]);
        assert!(machine.error().starts_with("REDIS_URL: store.url: http:// is no store: write sqlite:PATH"));
        let machine = Machine::new(&[("REDIS_URL", "")]);
        assert_eq!(machine.origin("store.url"), "default");
    }

    #[test]
    fn paths_start_where_they_are_written() {
        let machine = Machine::new(&[]);
        machine.write("etc/roundsman.toml", "[store]\nurl = \"sqlite:a.db\"");
        assert_eq!(
            machine.load().settings.store.url.to_string(),
            format!("sqlite:{}", machine.path("etc/a.db"))
        );
        let machine = machine.flag("--store", "store.url", "sqlite:b.db");
        assert_eq!(
            machine.load().settings.store.url.to_string(),
            format!("sqlite:{}", machine.path("work/b.db"))
        );
    }

    #[test]
    fn a_command_given_to_up_displaces_handler_and_command() {
        let mut machine = Machine::new(&[]);
        machine.input.overrides.push(Override::handler_command(vec!["./t.sh".into(), "{x}".into()]));
        for file in
            ["", "[pools.default]\ncommand = [\"w\"]", "[pools.default]\nhandler = \"stdout\"\nslots = 3"]
        {
            machine.write("work/roundsman.toml", file);
            let PoolRun::Handler(Handler::Exec(program)) =
                machine.load().settings.pools["default"].run.clone()
            else {
                panic!("{file}");
            };
            assert_eq!(program.command, [machine.path("work/t.sh"), "{x}".into()]);
        }
        assert_eq!(machine.load().settings.pools["default"].slots, 3);
        assert_eq!(machine.origin("pools.default.handler.command"), "-- CMD");
    }

    #[test]
    fn variables_have_the_types_of_their_keys() {
        let machine = Machine::new(&[
            ("ROUNDSMAN_STORE__URL", "redis://a"),
            ("ROUNDSMAN_STORE__DURABILITY", "replicated(1)"),
            ("ROUNDSMAN_POOLS__DEFAULT__MAX_WORKERS", "3"),
            ("ROUNDSMAN_POOLS__DEFAULT__QUEUES", "[\"b\", \"a\"]"),
            ("ROUNDSMAN_POOLS__DEFAULT__HANDLER", "{ type = \"exec\", command = [\"c\"] }"),
            ("ROUNDSMAN_QUEUES__A__BACKOFF__TYPE", "fixed"),
            ("ROUNDSMAN_QUEUES__A__BACKOFF__DELAY", "3s"),
            ("ROUNDSMAN_HTTP__LISTEN", "[::1]:80"),
            ("ROUNDSMAN_JOB_ID", "5"),
            ("ROUNDSMAN_STORE_LEASE", "5s"),
        ]);
        let loaded = machine.load();
        assert_eq!(loaded.settings.store.durability, Some(Durability::Replicated(1)));
        let pool = &loaded.settings.pools["default"];
        assert_eq!(pool.max_workers, 3);
        assert_eq!(pool.queues.names().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(loaded.settings.http.listen.unwrap().port(), 80);
        assert_eq!(
            loaded.warnings,
            ["ROUNDSMAN_STORE_LEASE is not read; did you mean ROUNDSMAN_STORE__LEASE?"]
        );
    }

    #[test]
    fn each_layer_names_itself_in_errors() {
        let mut machine = Machine::new(&[
            ("ROUNDSMAN_POOLS__DEFAULT__MAX_WORKERS", "many"),
            ("ROUNDSMAN_STOR__URL", "x"),
            ("ROUNDSMAN_CONFIG", "none.toml"),
        ]);
        machine.write("etc/roundsman.toml", "[store]\nlease = 5");
        machine.write("work/roundsman.toml", "[store\n");
        machine = machine.flag("--slots", "pools.default.slots", "0");
        assert_eq!(
            machine.error().lines().collect::<Vec<_>>(),
            [
                "ROUNDSMAN_CONFIG: cannot read none.toml: No such file or directory (os error 2)",
                "roundsman.toml:1: unclosed table, expected `]`",
                "etc/roundsman.toml:2: store.lease: \"5\" has no unit: write \"5s\" or \"5ms\"",
                "ROUNDSMAN_POOLS__DEFAULT__MAX_WORKERS: pools.default.max_workers: expected a whole number, found \"many\"",
                "--slots: pools.default.slots: must be between 1 and 256, not 0",
                "ROUNDSMAN_STOR__URL: stor: unknown key; did you mean \"store\"?",
            ]
        );
        machine.input.config = Some("conf".into());
        machine.write("work/conf/x", "");
        assert!(machine.error().contains("--config: cannot read conf: Is a directory"));
    }

    #[test]
    fn a_file_asked_for_is_read_once() {
        let mut machine = Machine::new(&[]);
        machine.write("work/roundsman.toml", "[store\n");
        machine.input.config = Some("./roundsman.toml".into());
        assert_eq!(machine.error(), "./roundsman.toml:1: unclosed table, expected `]`");
    }

    #[test]
    fn without_a_home_a_store_must_be_named() {
        let mut machine = Machine::new(&[]);
        machine.input.environment = Environment::default();
        let message = "store.url: there is no home directory to keep a file in: \
                       write sqlite:PATH, redis://, rediss:// or redis+unix://";
        assert_eq!(machine.error(), message);
        let machine = machine.flag("--store", "store.url", "sqlite:a.db");
        machine.load();
    }

    #[test]
    fn a_table_by_flag_is_laid_over() {
        let mut machine = Machine::new(&[]);
        let value = OverrideValue::Table(vec![("a.b".into(), OverrideValue::Table(Vec::new()))]);
        machine.input.overrides.push(Override { flag: "--x".into(), path: vec!["queues".into()], value });
        assert!(machine.load().settings.queues.contains_key("a.b"));
        assert_eq!(machine.origin("queues.\"a.b\".timeout"), "default");
    }

    #[test]
    fn what_is_shown_reads_back_the_same() {
        let text = "[store]\nurl = \"sqlite:/a b.db\"\nlease = \"1m 30s\"\ndurability = \"fsync\"\n\
            [pools.a]\nqueues = { \"x.y\" = 2, b = 1 }\nmax_memory = 0\nmax_jobs = 7\n\
            handler = { type = \"exec\", command = [\"/c\", \"a \\\"b\\\"\"], env = { A = \"1\" } }\n\
            [pools.b]\nqueues = [\"b\"]\ncommand = [\"w\"]\n\
            [queues.\"x.y\"]\nrate_limit = \"5/m\"\nmax_payload = \"1000B\"\nkeep_done = 0\n\
            backoff = { type = \"list\", delays = [\"1s\", \"1m\"] }\n\
            [transports.http]\nallow = [\"127.0.0.0/8\"]\n[http]\nlisten = \"\"";
        for text in ["", text] {
            let first = loaded(text);
            let shown = first.effective.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            let mut second = settings(&shown);
            second.later.clone_from(&first.settings.later);
            assert_eq!(second, first.settings, "{shown}");
        }
    }

    proptest! {
        #[test]
        fn no_file_panics(text in "\\PC{0,60}", key in "(store|pools|queues|http|amqp|notify|schedules|transports)(\\.[a-z]{1,3}){0,2}", value in "(\\{ ?\\}|\\[\\]|\\[\\{\\}\\]|0|-1|\"\\PC{0,9}\"|true|1.5|1979-05-27)") {
            for text in [text, format!("{key} = {value}")] {
                let _ = load_text(&text);
            }
        }
    }

    /// The example that the product's description gives.
    #[test]
    fn the_documented_example_is_right() {
        let example = "[store]\nurl = \"sqlite:roundsman.db\"\nnamespace = \"roundsman\"\nlease = \"15s\"\n\
            durability = \"memory\"\n[pools.default]\nqueues = [\"default\"]\nhandler = { type = \"stdout\" }\n\
            min_workers = 0\nmax_workers = 4\nmax_workers_total = 0\nslots = 1\ntarget_wait = \"1s\"\n\
            grace = \"30s\"\nmax_memory = \"512MiB\"\nmax_jobs = 0\n[queues.default]\ntimeout = \"5m\"\n\
            max_attempts = 25\nbackoff = { type = \"polynomial\" }\nmax_crashes = 3\nmax_snooze = \"24h\"\n\
            max_waiting = 10000000\nrate_limit = \"\"\nmax_running = 0\nmax_running_per_key = 0\n\
            keep_done = \"1h\"\nkeep_done_max = 10000\nkeep_dead = \"30d\"\nkeep_dead_max = 100000\n\
            remember_ids = \"1h\"\nmax_payload = \"256KiB\"\n[http]\nlisten = \"127.0.0.1:7070\"\n\
            [amqp]\nurl = \"\"\n[[schedules]]\nname = \"nightly\"\ncron = \"0 3 * * *\"\n\
            timezone = \"UTC\"\nqueue = \"default\"\npayload = {}";
        assert_eq!(settings(example).queue("default"), &QueueSettings::DEFAULT);
    }

    #[test]
    fn every_key_is_shown_and_no_secret() {
        let text = "[store]\nurl = \"redis://:hunter2@a\"\n[amqp]\nurl = \"amqp://u:hunter2@a\"\n\
            [pools.default]\nhandler = { type = \"http\", url = \"https://u:hunter2@a?key=hunter2\", secret = \"hunter2\" }\n\
            [pools.e]\nqueues = [\"e\"]\nhandler = { type = \"exec\", command = [\"c\"], env = { API_KEY = \"hunter2\", A = \"b\" } }\n\
            [[notify]]\nurl = \"https://a/hunter2\"\nsecret = \"hunter2\"\n\
            [[schedules]]\nname = \"n\"\ncron = \"@daily\"";
        let loaded = loaded(text);
        let shown = format!("{loaded:?} {}", loaded.to_json());
        assert!(!shown.contains("hunter2"), "{shown}");
        let lines: Vec<String> = loaded.effective.iter().map(ToString::to_string).collect();
        for line in [
            "store.url = \"redis://:***@a\"",
            "store.lease = \"15s\"",
            "pools.default.queues = [\"default\"]",
            "pools.default.max_memory = \"512MiB\"",
            "pools.default.handler.type = \"http\"",
            "pools.default.handler.secret = \"***\"",
            "pools.e.handler.env = { A = \"b\", API_KEY = \"***\" }",
            "queues.default.backoff.type = \"polynomial\"",
            "queues.default.rate_limit = \"\"",
            "queues.default.max_running = 0",
            "queues.default.max_payload = \"256KiB\"",
            "http.listen = \"127.0.0.1:7070\"",
            "notify[0].url = \"https://a/***\"",
            "schedules[0].cron = \"@daily\"",
        ] {
            assert!(lines.iter().any(|shown| shown == line), "{line} is not in\n{}", lines.join("\n"));
        }
        let mut keys: Vec<&str> = loaded.effective.iter().map(|row| row.key.as_str()).collect();
        keys.sort_unstable();
        let all = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), all, "no key twice");
    }
}
