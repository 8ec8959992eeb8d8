//! Where a service's file lies, what lies there, and writing it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use roundsman_shared::settings::Environment;

use super::stamp::{self, Origin};
use super::{Manager, Scope, label};

/// The path of a service's file; `None` for a user without a home.
pub fn path(manager: Manager, scope: Scope, name: &str, environment: &Environment) -> Option<PathBuf> {
    let home = || environment.directory("HOME");
    let config = || environment.directory("XDG_CONFIG_HOME").or_else(|| Some(home()?.join(".config")));
    let label = label(manager, name);
    Some(match (manager, scope) {
        (Manager::Systemd, Scope::System) => Path::new("/etc/systemd/system").join(label),
        (Manager::Systemd, Scope::User) => config()?.join("systemd/user").join(label),
        (Manager::Launchd, Scope::System) => Path::new("/Library/LaunchDaemons").join(label + ".plist"),
        (Manager::Launchd, Scope::User) => home()?.join("Library/LaunchAgents").join(label + ".plist"),
    })
}

/// The same path below the root of an image.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Nothing,
    File {
        text: String,
        origin: Origin,
    },
    /// A link (`systemctl mask` makes one to /dev/null), a folder, or not text.
    Other,
}

/// # Errors
/// When it is there and cannot be read.
pub fn look(manager: Manager, path: &Path) -> io::Result<Found> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Ok(Found::Other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    }
    match String::from_utf8(fs::read(path)?) {
        Ok(text) => Ok(Found::File { origin: stamp::origin(manager, &text), text }),
        Err(_) => Ok(Found::Other),
    }
}

/// Writes the file as a whole or not at all, to be read by everybody, as service managers want theirs.
///
/// # Errors
/// As the system has them.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let mut file = tempfile::Builder::new().prefix(".roundsman-").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::tests::description;
    use super::*;

    #[test]
    fn each_manager_and_scope_has_its_place() {
        let home = Environment::from_iter([("HOME", "/home/a")]);
        let xdg = Environment::from_iter([("HOME", "/home/a"), ("XDG_CONFIG_HOME", "/c")]);
        let at = |manager, scope, environment: &Environment| path(manager, scope, "mail", environment);
        for (manager, scope, environment, expected) in [
            (Manager::Systemd, Scope::System, &home, "/etc/systemd/system/mail.service"),
            (Manager::Systemd, Scope::User, &home, "/home/a/.config/systemd/user/mail.service"),
            (Manager::Systemd, Scope::User, &xdg, "/c/systemd/user/mail.service"),
            (Manager::Launchd, Scope::System, &home, "/Library/LaunchDaemons/dev.roundsman.mail.plist"),
            (Manager::Launchd, Scope::User, &home, "/home/a/Library/LaunchAgents/dev.roundsman.mail.plist"),
        ] {
            assert_eq!(at(manager, scope, environment), Some(expected.into()));
        }
        assert_eq!(at(Manager::Systemd, Scope::User, &Environment::default()), None);
        assert_eq!(below(Path::new("/image"), Path::new("/etc/a")), Path::new("/image/etc/a"));
        assert_eq!(below(Path::new("/"), Path::new("/etc/a")), Path::new("/etc/a"));
    }

    #[test]
    fn a_file_is_written_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/roundsman.service");
        assert_eq!(look(Manager::Systemd, &path).unwrap(), Found::Nothing);
        let given = description(Manager::Systemd);
        for _ in 0..2 {
            write(&path, &given.render()).unwrap();
        }
        let Found::File { text, origin } = look(Manager::Systemd, &path).unwrap() else { panic!("no file") };
        assert_eq!((text, origin), (given.render(), Origin::Ours(Box::new(given))));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        // What cannot be replaced leaves what was there, and nothing beside it.
        let folder = dir.path().join("a/taken");
        fs::create_dir_all(folder.join("x")).unwrap();
        write(&folder, "x").unwrap_err();
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 2);
    }

    #[test]
    fn links_and_binaries_are_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("masked");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert_eq!(look(Manager::Systemd, &path).unwrap(), Found::Other);
        let path = dir.path().join("binary");
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(look(Manager::Systemd, &path).unwrap(), Found::Other);
    }
}
