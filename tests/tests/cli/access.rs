//! A store that is there and does not let us in, or not let us write: what is said is what to do about it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::spawn;
use roundsman_tests::tree::{Site, built};

use crate::rig::{Rig, assert_failed};

/// Each verb fails in one line, with the same code.
fn refused(site: &Site, code: i32, phrases: &[&str]) {
    for verb in [&["enqueue", "q", "1"][..], &["status"]] {
        let done = site.cli(verb).unwrap();
        assert_failed(verb, &done, code, phrases);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    }
    let done = site.cli(&["doctor"]).unwrap();
    assert_eq!(done.code, Some(code), "{done:?}");
    for phrase in phrases {
        assert!(done.stdout.contains(phrase), "no {phrase:?} in {}", done.stdout);
    }
    assert!(!done.stdout.contains("start it"), "{}", done.stdout);
}

#[test]
fn a_redis_that_refuses_the_user_is_a_matter_of_configuration() {
    let server = RedisServer::start(RedisOptions::default()).unwrap();
    let user = |words: &[&str]| assert_eq!(server.cli(&[&["ACL", "SETUSER"], words].concat()), "OK");
    user(&["noscripts", "on", ">x", "~*", "&*", "+@all", "-script"]);
    user(&["nokeys", "on", ">x", "~other:*", "&*", "+@all"]);
    user(&["enough", "on", ">x", "+@all", "-@admin", "~roundsman*", "~{roundsman}*", "&roundsman:*"]);
    assert_eq!(server.cli(&["CONFIG", "SET", "requirepass", "x"]), "OK");
    let site = |user: &str| {
        let url = server.url().replace("redis://", &format!("redis://{user}"));
        Site::new(&format!("[store]\nurl = \"{url}\"\n")).unwrap()
    };
    refused(&site(""), 78, &["NOAUTH", "redis://USER:PASSWORD@HOST"]);
    refused(&site("enough:wrong@"), 78, &["WRONGPASS", "correct them in the URL"]);
    refused(&site("noscripts:x@"), 78, &["NOPERM", "'script|load'", "ACL SETUSER"]);
    refused(&site("nokeys:x@"), 78, &["NOPERM", "keys", "ACL SETUSER"]);
    // What is advised is enough.
    let allowed = site("enough:x@");
    for verb in [&["enqueue", "q", "1"][..], &["queue", "pause", "q"], &["status"], &["doctor"]] {
        let done = allowed.cli(verb).unwrap();
        assert_eq!(done.code, Some(0), "{verb:?}: {done:?}");
    }
}

#[test]
fn a_replica_can_be_read_and_takes_no_jobs() {
    let rig = Rig::new();
    let primary = RedisServer::start(RedisOptions::default()).unwrap();
    assert_eq!(rig.server.cli(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]), "OK");
    rig.fails(&["enqueue", "q", "1"], 69, &["a read-only replica", "name the primary, or promote this one"]);
    rig.fails(&["queue", "pause", "default"], 69, &["a read-only replica"]);
    rig.ok(&["status"]);
    let done = rig.run(&["doctor"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains("it takes no jobs") && done.stdout.contains("promote"), "{}", done.stdout);
}

/// The binary, bound by file modes as any user is.
fn bound_by_modes(folder: &Path) -> Site {
    let binary = built("roundsman").unwrap();
    if !rustix::process::geteuid().is_root() {
        return Site::with_binary(binary, "").unwrap();
    }
    let setpriv = spawn::find("setpriv").expect("util-linux is there");
    let script = folder.join("bound");
    let text = format!(
        "#!/bin/sh\nexec {} --bounding-set=-all --inh-caps=-all {} \"$@\"\n",
        setpriv.display(),
        binary.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    Site::with_binary(script, "").unwrap()
}

#[test]
fn a_file_that_may_not_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let site = bound_by_modes(folder.path());
    site.configure("[store]\nurl = \"sqlite:jobs/jobs.db\"\n").unwrap();
    let (jobs, file) = (site.work().join("jobs"), site.work().join("jobs/jobs.db"));
    assert_eq!(site.cli(&["enqueue", "q", "1"]).unwrap().code, Some(0));
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for (path, bad, good, phrase) in [
        (&file, 0o400, 0o600, "may not read and write"),
        (&file, 0o000, 0o600, "may not read and write"),
        (&jobs, 0o500, 0o700, "may not make files in"),
        (&jobs, 0o000, 0o700, "may not reach or make"),
    ] {
        mode(path, bad);
        refused(&site, 78, &[phrase, &path.display().to_string(), "chown"]);
        mode(path, good);
    }
    fs::write(site.work().join("jobs/jobs.db-wal"), "").unwrap();
    mode(&site.work().join("jobs/jobs.db-wal"), 0o400);
    refused(&site, 78, &["may not read and write", "jobs.db-wal"]);
}
