//! The fixture, shown on a stand-in: a shell script with the binary's verbs and a tree of its own. The binary
//! itself has its own tests; here the question is whether the fixture sees and cleans what it should.

use std::os::unix::fs::PermissionsExt;

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// `up` forks a "master" that forks two "workers"; a worker ignores TERM. `status` prints the pids that `up` wrote.
const STAND_IN: &str = r#"#!/bin/sh
case "$1" in
up)
    [ "$2" = fail ] && { echo "no such luck" >&2; exit 78; }
    echo "serving"
    sh -c '
        sh -c "trap \"\" TERM; echo \$\$ >worker1; while :; do sleep 1; done" &
        sh -c "trap \"\" TERM; echo \$\$ >worker2; while :; do sleep 1; done" &
        echo $$ >master
        wait' &
    echo $$ >supervisor
    [ "$2" = deaf ] && trap "" TERM || trap "exit 0" TERM
    while :; do wait; sleep 0.1; done
    ;;
status)
    [ -s worker1 ] && [ -s worker2 ] && [ -s master ] && [ -s supervisor ] || { echo "down" >&2; exit 69; }
    cat <<END
{"store":{},"hosts":[{"host":"h","supervisor":{"pid":$(cat supervisor)},"master":{"pid":$(cat master),"since":1},
"pools":[{"pool":"default","desired":2,"why":"","workers":[
{"worker":"default/1","pid":$(cat worker1),"state":"idle","jobs":[],"rss":1},
{"worker":"default/2","pid":$(cat worker2),"state":"idle","jobs":[],"rss":1}]}]}],"queues":[]}
END
    ;;
echo) shift; cat; echo "$@"; echo "to stderr" >&2; exit 4 ;;
env) env ;;
esac
"#;

fn stand_in() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("roundsman");
    fs::write(&script, STAND_IN).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (folder, script)
}

fn arguments(words: &[&str]) -> UpOptions {
    UpOptions { arguments: words.iter().map(ToString::to_string).collect(), ..UpOptions::default() }
}

#[test]
fn runs_verbs_with_input_and_code() {
    let (_folder, binary) = stand_in();
    let site = Site::with_binary(binary, "").unwrap();
    let done = site.cli_with_input(&["echo", "a", "b"], "in\n").unwrap();
    assert_eq!(done, Output { code: Some(4), stdout: "in\na b\n".into(), stderr: "to stderr\n".into() });
    assert_eq!(site.cli_json(&["echo", "[1]"]).unwrap_err().to_string().lines().count(), 4);
}

#[test]
fn the_environment_is_clean() {
    let (_folder, binary) = stand_in();
    let site = Site::with_binary(binary, "").unwrap();
    let text = site.cli(&["env"]).unwrap().stdout;
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.split_once('=')).map(|it| it.0).collect();
    assert!(names.contains("HOME") && names.contains("PATH"), "{text}");
    assert!(!names.iter().any(|name| name.starts_with("CARGO") || name.ends_with("_URL")), "{text}");
    let root = site.folder.path().to_str().unwrap();
    assert!(text.contains(&format!("HOME={root}/home")), "{text}");
}

#[test]
fn knows_the_tree_and_leaves_nothing_behind() {
    for mode in ["calm", "deaf"] {
        let (_folder, binary) = stand_in();
        let site = Site::with_binary(binary, "").unwrap();
        let up = site.up(&UpOptions { workers: 2, ..arguments(&[mode]) }).unwrap();
        let master = up.master().unwrap().unwrap();
        let workers = up.workers().unwrap();
        assert_eq!(workers.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["default/1", "default/2"]);
        assert_eq!(up.stdout(), "serving\n");
        assert!(up.alive().len() >= 4);

        // Its parent dead, a worker belongs to another process now; it must still be found.
        master.signal(Signal::KILL).unwrap();
        let everyone = up.alive();
        assert!(workers.iter().all(|(_, worker)| everyone.contains(worker)));
        drop(up);
        for process in everyone {
            assert!(!process.is_alive(), "{mode}: {process}");
        }
    }
}

#[test]
fn an_orderly_stop_is_seen() {
    let (_folder, binary) = stand_in();
    let site = Site::with_binary(binary, "").unwrap();
    let up = site.up(&UpOptions { workers: 2, ..arguments(&["calm"]) }).unwrap();
    up.signal(Signal::TERM).unwrap();
    assert_eq!(up.wait_exit(SOON).unwrap().code(), Some(0));
}

#[test]
fn a_fleet_that_leaves_says_why() {
    let (_folder, binary) = stand_in();
    let site = Site::with_binary(binary, "").unwrap();
    let error = site.up(&UpOptions { workers: 1, ..arguments(&["fail"]) }).unwrap_err().to_string();
    assert!(error.contains("exit status: 78") && error.contains("no such luck"), "{error}");
}

#[test]
fn too_few_workers_are_named() {
    let (_folder, binary) = stand_in();
    let site = Site::with_binary(binary, "").unwrap();
    let up = site.launch(&arguments(&["calm"])).unwrap();
    let error = up.wait_for_workers(3, Duration::from_millis(1_500)).unwrap_err().to_string();
    assert!(error.contains("default/2") && error.contains("serving"), "{error}");
}

#[test]
fn a_missing_program_says_how_to_build_it() {
    let error = built("no-such-program").unwrap_err().to_string();
    assert!(error.contains("cargo build --workspace --bins --examples"), "{error}");
}
