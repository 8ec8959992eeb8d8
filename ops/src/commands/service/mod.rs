//! `service print|install|uninstall|status`: Roundsman under systemd or launchd.
//!
//! `install` writes the file and has the manager read it; it starts nothing unless told `--now`, since a fleet that
//! starts takes jobs. What it did not write it does not touch without `--force`.

mod describe;
mod report;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nix::unistd::User;
use roundsman_shared::settings::StoreUrl;
use serde_json::json;

use self::describe::{Described, Here, Shape, Which, closed_to, describe, no_home};
use super::DONE;
use crate::cli::Globals;
use crate::connect::load_input;
use crate::errors::{Failure, chain};
use crate::print::Screen;
use crate::service::control::{Control, ControlError};
use crate::service::place::{self, Found};
use crate::service::stamp::Origin;
use crate::service::{Description, Manager, Scope};

#[derive(Debug, Subcommand)]
pub enum ServiceVerb {
    /// Print the unit or property list that `install` would write.
    Print {
        /// For this service manager, instead of this machine's.
        #[arg(long, value_name = "MANAGER")]
        manager: Option<Manager>,
        #[command(flatten)]
        shape: Box<Shape>,
    },
    /// Install it; it is started only with --now.
    Install {
        #[command(flatten)]
        shape: Box<Shape>,
        #[command(flatten)]
        root: Root,
        /// Also start it, now and at every boot or login; one that runs is restarted.
        #[arg(long, conflicts_with = "root")]
        now: bool,
        /// Replace a file that is not of this program, or was changed by hand.
        #[arg(long)]
        force: bool,
    },
    /// Stop it and remove it; jobs and settings stay.
    Uninstall {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        root: Root,
        /// Also remove a file that is not of this program, or was changed by hand.
        #[arg(long)]
        force: bool,
        /// Stop a running fleet without a question.
        #[arg(long)]
        yes: bool,
    },
    /// Show what is installed, whether it is what would be written today, and what the service manager says.
    Status {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        root: Root,
    },
}

#[derive(Debug, Args)]
pub struct Root {
    /// In the image of a machine below DIR, whose service manager is not spoken to; / for this machine's files alone.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// What all of these verbs start from.
struct Scene {
    here: Here,
    screen: Screen,
    /// Whether there is a service manager to speak to.
    live: bool,
}

impl Scene {
    fn new(globals: &Globals, root: Option<PathBuf>) -> Result<Self, Failure> {
        let input = load_input(globals)?;
        let screen = Screen::new(globals, &input.environment);
        let live = root.is_none();
        let root = root.map_or_else(|| PathBuf::from("/"), |root| input.current_dir.join(root));
        if !root.is_dir() {
            return Err(Failure::usage(format!("--root: {} is no directory", root.display())));
        }
        Ok(Self { here: Here { input, root }, screen, live })
    }

    /// Where the service's file is, for its manager and from here.
    fn places(&self, manager: Manager, scope: Scope, name: &str) -> Result<(PathBuf, PathBuf), Failure> {
        let path = place::path(manager, scope, name, &self.here.input.environment).ok_or_else(no_home)?;
        let found = self.here.find(&path);
        Ok((path, found))
    }
}

pub async fn run(globals: &Globals, verb: ServiceVerb) -> Result<u8, Failure> {
    match verb {
        ServiceVerb::Print { manager, shape } => {
            let scene = Scene::new(globals, None)?;
            print(&scene, globals, &shape, manager.unwrap_or(Manager::here()))
        }
        ServiceVerb::Install { shape, root, now, force } => {
            let scene = Scene::new(globals, root.root)?;
            install(&scene, globals, &shape, now, force).await
        }
        ServiceVerb::Uninstall { which, root, force, yes } => {
            uninstall(&Scene::new(globals, root.root)?, &which, force, yes).await
        }
        ServiceVerb::Status { which, root } => report::status(&Scene::new(globals, root.root)?, &which).await,
    }
}

fn print(scene: &Scene, globals: &Globals, shape: &Shape, manager: Manager) -> Result<u8, Failure> {
    let Described { description, warnings, .. } = describe(globals, shape, manager, &scene.here)?;
    let (path, _) = scene.places(manager, description.scope, &description.name)?;
    warnings.iter().for_each(|warning| scene.screen.warn(warning));
    let text = description.render();
    if scene.screen.json {
        scene
            .screen
            .document(&json!({"manager": manager, "scope": description.scope, "path": path, "text": text}))?;
    } else {
        scene.screen.line(text.trim_end_matches('\n'))?;
    }
    DONE
}

async fn install(
    scene: &Scene,
    globals: &Globals,
    shape: &Shape,
    now: bool,
    force: bool,
) -> Result<u8, Failure> {
    let Described { description, loaded, warnings } = describe(globals, shape, Manager::here(), &scene.here)?;
    let (path, found_at) = scene.places(description.manager, description.scope, &description.name)?;
    let found = look(description.manager, &found_at)?;
    if !force {
        refuse_strangers(&found, &found_at, "replace")?;
    }
    if !scene.here.find(&description.binary).is_file() {
        return Err(Failure::failed(format!("there is no program {}", description.binary))
            .advise("name the one to run: --binary PATH"));
    }
    let control = Control::new(description.manager, description.scope, &description.name);
    if scene.live {
        need_rights(description.scope, "install")?;
        control.probe().await.map_err(|error| not_running(&error, description.scope))?;
        need_user(&description)?;
    }
    warnings.iter().for_each(|warning| scene.screen.warn(warning));
    warn_of_closed_ways(scene, &description);

    let text = description.render();
    let changed = !matches!(&found, Found::File { text: old, .. } if *old == text);
    if changed {
        make_folders(scene, &description)?;
        place::write(&found_at, &text).map_err(|error| cannot("write", &found_at, &error))?;
    }
    let shown = path.to_string_lossy();
    let mut ran = Vec::new();
    if scene.live {
        ran.extend(control.reread().await?);
        if now {
            ran.extend(control.start(&shown).await.map_err(|error| not_started(&error, &description))?);
        }
    }
    let mut next = Vec::new();
    if scene.live {
        let running = control.said().await.is_ok_and(|said| said.active);
        next = report::next(&control, &description, &shown, now, running);
        if let StoreUrl::Sqlite { path } = &loaded.settings.store.url
            && let Some(user) = description.run_as.as_deref()
        {
            let command = format!("sudo -u {user} roundsman status --store sqlite:{}", path.display());
            next.push((command, "asks its store"));
        }
    }
    report::installed(scene, &found_at, changed, &ran, &next)
}

async fn uninstall(scene: &Scene, which: &Which, force: bool, yes: bool) -> Result<u8, Failure> {
    let (manager, scope) = (Manager::here(), which.scope());
    let (_, found_at) = scene.places(manager, scope, &which.name)?;
    let found = look(manager, &found_at)?;
    if found == Found::Nothing {
        return Err(Failure::not_found(format!("{} is not there", found_at.display()))
            .advise(report::elsewhere(which)));
    }
    if !force {
        refuse_strangers(&found, &found_at, "remove")?;
    }
    let control = Control::new(manager, scope, &which.name);
    let mut ran = Vec::new();
    let mut runs = false;
    if scene.live {
        need_rights(scope, "uninstall")?;
        match control.probe().await {
            Ok(()) => runs = true,
            Err(error) => scene.screen.warn(&format!("{}; only the file is removed", chain(&error))),
        }
    }
    if runs {
        if control.said().await?.active {
            scene
                .screen
                .confirm("stop the running fleet, whose jobs may finish, and remove its service", yes)
                .await?;
        }
        ran.extend(control.stop().await?);
    }
    std::fs::remove_file(&found_at).map_err(|error| cannot("remove", &found_at, &error))?;
    if runs {
        ran.extend(control.reread().await?);
    }
    report::removed(scene, &found_at, &ran)
}

fn look(manager: Manager, path: &Path) -> Result<Found, Failure> {
    place::look(manager, path).map_err(|error| cannot("read", path, &error))
}

/// Refuses to touch what we did not write.
fn refuse_strangers(found: &Found, path: &Path, what: &str) -> Result<(), Failure> {
    let path = path.display();
    let why = match found {
        Found::Nothing | Found::File { origin: Origin::Ours(_), .. } => return Ok(()),
        Found::File { origin: Origin::Edited, .. } => {
            format!("{path} was changed by hand since it was installed")
        }
        Found::File { origin: Origin::Foreign, .. } => format!("{path} was not written by this program"),
        Found::Other => {
            format!("{path} is no file of text, but a link or something else (a masked unit is a link)")
        }
    };
    Err(Failure::refused(why).advise(format!("--force will {what} it; --name NAME leaves it alone")))
}

fn need_rights(scope: Scope, verb: &str) -> Result<(), Failure> {
    match (scope, rustix::process::geteuid().is_root()) {
        (Scope::System, false) => Err(Failure::failed(format!(
            "only root may {verb} a service of the machine"
        ))
        .advise(format!(
            "for the machine: sudo roundsman service {verb}\nfor you alone:   roundsman service {verb} --user"
        ))),
        (Scope::User, _) | (Scope::System, true) => Ok(()),
    }
}

/// systemd and launchd would fail at every start.
fn need_user(description: &Description) -> Result<(), Failure> {
    let Some(name) = &description.run_as else { return Ok(()) };
    if User::from_name(name).is_ok_and(|user| user.is_some()) {
        return Ok(());
    }
    let make = match description.manager {
        Manager::Systemd => format!(
            "make one that owns nothing else: useradd --system --home-dir /var/lib/{name} --shell /usr/sbin/nologin {name}"
        ),
        Manager::Launchd => "make one in System Settings, or with `sysadminctl -addUser`".to_owned(),
    };
    Err(Failure::failed(format!("there is no user {name} to run it as"))
        .advise(format!("{make}\nor name another one: --run-as USER")))
}

fn warn_of_closed_ways(scene: &Scene, description: &Description) {
    let user =
        description.run_as.as_ref().filter(|_| scene.live).and_then(|name| User::from_name(name).ok()?);
    let Some(user) = user else { return };
    let paths = [Some(&description.binary), description.config.as_ref(), description.directory.as_ref()];
    for path in paths.into_iter().flatten() {
        if let Some(closed) = closed_to(&user, Path::new(path)) {
            scene.screen.warn(&format!(
                "{} may not get to {path}, since {} is closed to that user; put it elsewhere, /usr/local/bin for a \
                 program",
                user.name,
                closed.display()
            ));
        }
    }
}

/// launchd makes no folders; systemd does.
fn make_folders(scene: &Scene, description: &Description) -> Result<(), Failure> {
    let Some(state) = description.state.as_ref().filter(|_| description.manager == Manager::Launchd) else {
        return Ok(());
    };
    let folder = scene.here.find(state);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| cannot("make", &folder, &error))?;
    let user =
        description.run_as.as_ref().filter(|_| scene.live).and_then(|name| User::from_name(name).ok()?);
    if let Some(user) = user {
        std::os::unix::fs::chown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(|error| cannot("give away", &folder, &error))?;
    }
    Ok(())
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}

/// What to do where no service manager runs.
fn not_running(error: &ControlError, scope: Scope) -> Failure {
    let why = chain(error);
    let container = "in a container, make `roundsman up` its main process: it drains on TERM and takes in orphans; allow \
                     it the longest grace and 20 s (docker stop --time 50)";
    let image = "to write the file for a machine that will have one: --root DIR, or --root / for this one";
    let session = "a user's systemd runs while that user is logged in (not by su or sudo), or after: loginctl \
                   enable-linger USER";
    let advice = match (Manager::here(), scope) {
        (Manager::Systemd, Scope::User) => format!("{session}\n{container}\n{image}"),
        (Manager::Systemd, Scope::System) => format!("{container}\n{image}"),
        (Manager::Launchd, _) => image.to_owned(),
    };
    Failure::failed(format!("{} does not answer: {why}", Manager::here().as_str()))
        .advise(format!("nothing was written\n{advice}"))
}

fn not_started(error: &ControlError, description: &Description) -> Failure {
    let user = if description.scope == Scope::User { " --user" } else { "" };
    let look = match description.manager {
        Manager::Systemd => format!("journalctl{user} --unit {} --lines 50 says why", description.name),
        Manager::Launchd => format!("{} says why", description.log.as_deref().unwrap_or("the log")),
    };
    Failure::failed(format!("it is installed, but did not start: {}", chain(error))).advise(look)
}
