//! From what was said on the command line, and this machine's settings, to a service's description.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use nix::unistd::User;
use roundsman_shared::settings::{Environment, LoadInput, Loaded, Override, Settings, StoreUrl};

use crate::cli::Globals;
use crate::errors::Failure;
use crate::service::{self, Description, Manager, Scope, place};

/// Which service.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The service of this user, started at login, instead of the machine's.
    #[arg(long)]
    pub user: bool,
    /// What the service is called; several on one machine need several names.
    #[arg(long, value_name = "NAME", default_value = "roundsman")]
    pub name: String,
}

impl Which {
    pub const fn scope(&self) -> Scope {
        if self.user { Scope::User } else { Scope::System }
    }
}

/// What it is. The flags --config, --store and --namespace are the service's own here.
#[derive(Debug, Clone, Args)]
pub struct Shape {
    #[command(flatten)]
    pub which: Which,
    /// The program; this one unless another is named.
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Whom the machine's service, and so every job, runs as.
    #[arg(long, value_name = "USER", conflicts_with = "user")]
    pub run_as: Option<String>,
    /// Where it runs, looks for ./roundsman.toml and runs its jobs; else its state directory, or the user's home.
    #[arg(long, value_name = "DIR")]
    pub working_directory: Option<PathBuf>,
    /// Variables for systemd to read at each start, for secrets; else NAME.env beside roundsman.toml, if it is there.
    #[arg(long, value_name = "FILE")]
    pub environment_file: Option<PathBuf>,
    /// As of `up`.
    #[arg(long, value_name = "NAME")]
    pub host_id: Option<String>,
    /// As of `up`: the handler of the default pool. It is there for everybody to read.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Where a service is to be: on this machine, or in an image that is being built below `root`.
#[derive(Debug)]
pub struct Here {
    pub input: LoadInput,
    /// `/` for this machine.
    pub root: PathBuf,
}

impl Here {
    /// A path of the service, as it is to be found from here.
    pub fn find(&self, path: impl AsRef<Path>) -> PathBuf {
        place::below(&self.root, path.as_ref())
    }
}

/// A description, and the settings as that service will have them.
#[derive(Debug)]
pub struct Described {
    pub description: Description,
    pub loaded: Loaded,
    /// What is likely a slip.
    pub warnings: Vec<String>,
}

/// Makes a description, and reads the settings that count for it.
pub fn describe(
    globals: &Globals,
    shape: &Shape,
    manager: Manager,
    here: &Here,
) -> Result<Described, Failure> {
    let scope = shape.which.scope();
    let name = &shape.which.name;
    let current_dir = &here.input.current_dir;
    let home = || here.input.environment.directory("HOME").ok_or_else(no_home);
    let absolute = |path: &Path| text(&clean(&current_dir.join(path)));
    let state = match (manager, scope) {
        (Manager::Systemd, Scope::System) => Some(format!("/var/lib/{name}")),
        (Manager::Launchd, Scope::System) => Some(format!("/usr/local/var/{name}")),
        (_, Scope::User) => None,
    };
    let directory = match (&shape.working_directory, &state) {
        (Some(given), _) => Some(absolute(given)?),
        (None, Some(state)) => Some(state.clone()),
        // systemd knows by itself where that is.
        (None, None) if manager == Manager::Systemd => None,
        (None, None) => Some(text(&home()?)?),
    };
    let log = match (manager, &state) {
        (Manager::Systemd, _) => None,
        (Manager::Launchd, Some(state)) => Some(format!("{state}/{name}.log")),
        (Manager::Launchd, None) => Some(text(&home()?.join("Library/Logs").join(format!("{name}.log")))?),
    };
    if manager == Manager::Launchd && shape.environment_file.is_some() {
        return Err(Failure::usage("--environment-file: launchd reads none").advise(
            "write secrets into files of their own, and name them in the settings: url_file, secret_file",
        ));
    }
    let mut description = Description {
        manager,
        scope,
        name: name.clone(),
        binary: match &shape.binary {
            Some(path) => absolute(path)?,
            None => text(&std::env::current_exe()?)?,
        },
        config: globals.config.as_deref().map(absolute).transpose()?,
        store: globals.store.as_deref().map(|url| store(url, current_dir)).transpose()?,
        namespace: globals.namespace.clone(),
        host_id: shape.host_id.clone(),
        command: command(&shape.command, current_dir)?,
        run_as: match scope {
            Scope::System => Some(shape.run_as.clone().unwrap_or_else(|| service::USER.to_owned())),
            Scope::User => None,
        },
        directory,
        state,
        environment_file: shape.environment_file.as_deref().map(absolute).transpose()?,
        log,
        stop_seconds: 0,
    };
    description.check().map_err(Failure::usage)?;
    let loaded = load(&description, here)?;
    description.stop_seconds = stop_seconds(&loaded);
    let mut warnings = loaded.warnings.clone();
    let runs_in = match &description.directory {
        Some(directory) => PathBuf::from(directory),
        None => home()?,
    };
    let elsewhere = globals.config.is_none() && runs_in != *current_dir;
    if elsewhere && current_dir.join("roundsman.toml").exists() {
        warnings.push(format!(
            "./roundsman.toml is not read by a service that runs in {}; say --working-directory . or --config \
             roundsman.toml if it is meant",
            runs_in.display()
        ));
    }
    Ok(Described { description, loaded, warnings })
}

/// The description anew, with what today's settings say.
pub fn refresh(description: &Description, here: &Here) -> Result<Description, Failure> {
    let loaded = load(description, here)?;
    Ok(Description { stop_seconds: stop_seconds(&loaded), ..description.clone() })
}

fn stop_seconds(loaded: &Loaded) -> u64 {
    let longest = loaded.settings.pools.values().map(|pool| pool.grace).max();
    service::stop_seconds(longest.unwrap_or_default())
}

/// The settings as the service will have them: with its environment and directory, not with ours.
fn load(description: &Description, here: &Here) -> Result<Loaded, Failure> {
    let mut variables = Vec::new();
    if let Some(state) = &description.state {
        variables.push(("STATE_DIRECTORY".to_owned(), state.clone()));
    }
    match &description.run_as {
        // One that is not there yet has no settings either.
        Some(user) => variables.extend(
            User::from_name(user)
                .ok()
                .flatten()
                .and_then(|user| Some(("HOME".to_owned(), user.dir.to_str()?.to_owned()))),
        ),
        None => variables.extend(["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"].iter().filter_map(|name| {
            let path = here.find(here.input.environment.directory(name)?);
            Some(((*name).to_owned(), path.to_str()?.to_owned()))
        })),
    }
    let system_file = here.find(&here.input.system_file);
    let user_file = variables.iter().cloned().collect::<Environment>().user_config_file();
    let beside = if description.run_as.is_some() { Some(system_file.clone()) } else { user_file };
    variables.extend(environment_file(description, beside.as_deref(), here)?);
    let overrides = [
        ("--store", "store.url", &description.store),
        ("--namespace", "store.namespace", &description.namespace),
    ];
    let mut input = LoadInput {
        environment: Environment::from_iter(variables),
        system_file,
        current_dir: match &description.directory {
            Some(directory) => here.find(directory),
            None => here.find(here.input.environment.directory("HOME").ok_or_else(no_home)?),
        },
        config: description.config.as_ref().map(|path| here.find(path)),
        alone: false,
        files: None,
        overrides: overrides
            .into_iter()
            .filter_map(|(flag, key, value)| Some(Override::text(flag, key, value.as_ref()?)))
            .collect(),
        ..here.input.clone()
    };
    if !description.command.is_empty() {
        input.overrides.push(Override::handler_command(description.command.clone()));
    }
    let loaded = Settings::load(&input)?;
    if description.store.is_some()
        && let StoreUrl::Redis { url } = &loaded.settings.store.url
        && url.to_string() != url.expose()
    {
        return Err(Failure::usage(
            "--store: the URL holds a password, and a service's file can be read by everybody",
        )
        .advise(match description.manager {
            Manager::Systemd => "write ROUNDSMAN_STORE__URL=… into its environment file (mode 0600) instead",
            Manager::Launchd => "name a file that holds it (mode 0600) in the settings: url_file in [store]",
        }));
    }
    Ok(loaded)
}

/// The variables of a systemd service's own file, as far as it is there and we may read it: a `NAME=value` a line, quotes
/// around the whole value taken off. The usual one lies beside the settings.
fn environment_file(
    description: &Description,
    beside: Option<&Path>,
    here: &Here,
) -> Result<Vec<(String, String)>, Failure> {
    let usual = beside.map(|settings| settings.with_file_name(format!("{}.env", description.name)));
    let given = description.environment_file.as_ref().map(|path| here.find(path));
    let Some(path) = given.or(usual).filter(|_| description.manager == Manager::Systemd) else {
        return Ok(Vec::new());
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // Only root may read the secrets of a service that root installs.
        Err(_) if description.environment_file.is_none() => return Ok(Vec::new()),
        Err(error) => {
            return Err(Failure::configuration(format!("--environment-file: {}: {error}", path.display())));
        }
    };
    let pair = |line: &str| {
        let (name, value) = line.trim().split_once('=').filter(|(name, _)| !name.starts_with(['#', ';']))?;
        let bare = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        Some((name.trim().to_owned(), bare.unwrap_or(value).to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// A store's URL, a file's made absolute.
fn store(url: &str, current_dir: &Path) -> Result<String, Failure> {
    match url.strip_prefix("sqlite:") {
        Some(path) if !path.is_empty() && !path.starts_with("//") => {
            Ok(format!("sqlite:{}", text(&clean(&current_dir.join(path)))?))
        }
        _ => Ok(url.to_owned()),
    }
}

/// A command, its program made absolute if it is named by a path.
fn command(words: &[String], current_dir: &Path) -> Result<Vec<String>, Failure> {
    let mut words = words.to_vec();
    if let Some(program) = words.first_mut().filter(|program| program.contains('/')) {
        *program = text(&clean(&current_dir.join(&**program)))?;
    }
    Ok(words)
}

/// Without `.` in it; `..` stays, since what it means is known only where links are.
fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn text(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::usage(format!("{}: the path is not UTF-8, as a service's file must be", path.display()))
    })
}

pub fn no_home() -> Failure {
    Failure::failed("HOME is not set, so this user has no services").advise("set HOME, or leave --user out")
}

/// Folders and files on the way to `path` that this user may not pass or read, the first of them.
pub fn closed_to(user: &User, path: &Path) -> Option<PathBuf> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    way.into_iter().find(|part| part.exists() && !is_open(user, part)).map(Path::to_path_buf)
}

/// Whether the user may read a file or pass a folder. Groups that he is in besides his own are left out.
fn is_open(user: &User, path: &Path) -> bool {
    let Ok(meta) = fs::metadata(path) else { return false };
    let wanted = if meta.is_dir() { 0o1 } else { 0o4 };
    let shift = if meta.uid() == user.uid.as_raw() {
        6
    } else if meta.gid() == user.gid.as_raw() {
        3
    } else {
        0
    };
    user.uid.is_root() || (meta.mode() >> shift) & wanted != 0
}
