//! The users that `ops/redis.acl` describes can do what they are for, and nothing else.

use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::tree::Site;

use crate::rig::{Rig, log};

const ACL: &str = include_str!("../../../ops/redis.acl");

#[test]
fn the_least_rights_are_enough() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.acl");
    let users = ACL.replace("CHANGE-ME-FLEET", "f").replace("CHANGE-ME-PRODUCER", "p");
    std::fs::write(&file, format!("user default on nopass ~* &* +@all\n{users}")).unwrap();
    let settings = vec![("aclfile".to_owned(), file.display().to_string())];
    let server = RedisServer::start(RedisOptions { settings, ..RedisOptions::default() }).unwrap();
    let url = server.url().replace("redis://", "redis://roundsman:f@");
    let site = Site::new("").unwrap();
    let rig = Rig { server: Some(server), site };
    let fixture = rig.fixture_pool("default");
    let settings = format!("[store]\nurl = \"{url}\"\n{fixture}min_workers = 1\n");
    rig.site.configure(&settings).unwrap();
    let up = rig.up(1);
    let producer = |arguments: &[&str]| {
        rig.redis()
            .cli(&[&["--user", "roundsman-producer", "--pass", "p", "--no-auth-warning"], arguments].concat())
    };
    let inbox = "roundsman:{default}:inbox";
    assert_eq!(producer(&["LPUSH", inbox, r#"{"id":"pushed","kind":"echo","payload":1}"#]), "1");
    for forbidden in [
        &["LRANGE", inbox, "0", "9"][..],
        &["LPUSH", "roundsman:{default}:done", "x"],
        &["HGETALL", "roundsman:{default}:jobs"],
        &["FLUSHALL"],
    ] {
        assert!(producer(forbidden).contains("NOPERM"), "{forbidden:?}");
    }
    rig.wait_state(&up, "pushed", "done");
    rig.enqueue("abort", "abort", "1");
    rig.enqueue("failing", "dead", "1");
    rig.enqueue("first", "follow", r#"{"queue":"default","payload":1}"#);
    rig.wait_state(&up, "first", "done");
    for verb in [
        &["enqueue", "default", "1", "--id", "later", "--kind", "echo", "--in", "1h", "--key", "k"][..],
        &["enqueue", "default", "1", "--id", "later", "--kind", "echo", "--in", "1h", "--key", "k"],
        &["job", "reschedule", "later", "--in", "2h"],
        &["job", "list"],
        &["job", "list", "--queue", "default", "--state", "scheduled"],
        &["job", "explain", "later"],
        &["job", "cancel", "later"],
        &["job", "retry", "later"],
        &["job", "wait", "later"],
        &["job", "delete", "later"],
        &["queue", "pause", "default"],
        &["queue", "resume", "default"],
        &["queue", "set", "default", "max_attempts", "3"],
        &["queue", "list"],
        &["dead", "list", "--by", "error"],
        &["dead", "retry", "--yes"],
        &["dead", "purge", "--yes"],
        &["queue", "purge", "default", "--state", "done", "--yes"],
        &["status"],
        &["doctor"],
    ] {
        let done = rig.run(verb);
        assert_eq!(done.code, Some(0), "{verb:?}: {done:?}\n{}", log(&up));
    }
    rig.wait_job(&up, "abort", crate::rig::LATE, |job| job["crashes"].as_u64() >= Some(1));
    let said = up.stderr();
    assert!(!said.contains("NOPERM") && !said.to_lowercase().contains("permission"), "{said}");
    let fleet = |arguments: &[&str]| {
        rig.redis().cli(&[&["--user", "roundsman", "--pass", "f", "--no-auth-warning"], arguments].concat())
    };
    for forbidden in [
        &["GET", "other"][..],
        &["HGETALL", "other:{q}:jobs"],
        &["FLUSHALL"],
        &["KEYS", "*"],
        &["CONFIG", "SET", "maxmemory", "1"],
    ] {
        assert!(fleet(forbidden).contains("NOPERM"), "{forbidden:?}");
    }
}
