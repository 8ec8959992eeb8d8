//! What `print` writes, as systemd's own checker and Python's reader of property lists see it.

use std::fs;
use std::path::Path;

use roundsman_tests::spawn;
use roundsman_tests::tree::Site;
use serde_json::Value;

/// Without a `./roundsman.toml`, of which there would be a warning where a service runs elsewhere.
fn site() -> Site {
    let site = Site::new("").unwrap();
    fs::remove_file(site.work().join("roundsman.toml")).unwrap();
    site
}

fn print(site: &Site, arguments: &[&str]) -> String {
    let done = site.cli(&[&["service", "print"], arguments].concat()).unwrap();
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    done.stdout
}

/// A folder whose name units and property lists could misread, with the program in it. systemd allows no quotes there.
fn awkward(site: &Site) -> String {
    let folder = site.work().join("50% off; $HOME & <more>");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(site.binary(), folder.join("roundsman")).unwrap();
    folder.to_str().unwrap().to_owned()
}

const AWKWARD: [&str; 5] = ["sh", "-c", "echo \"$1\" '100%' \\n; exit 75", "--", "ä<&>\n\t;"];

#[test]
fn systemd_finds_nothing_wrong_with_a_unit() {
    let site = site();
    let folder = awkward(&site);
    fs::write(format!("{folder}/Ann's \"jobs\".toml"), "[pools.default]\ngrace = \"90s\"\n").unwrap();
    let (program, config) = (format!("{folder}/roundsman"), format!("{folder}/Ann's \"jobs\".toml"));
    let binary = site.binary().to_str().unwrap();
    let strange = ["--binary", &program, "--config", &config, "--working-directory", &folder];
    for (scope, name, flags) in [
        ("--system", "plain", &["--binary", binary][..]),
        ("--system", "rooted", &["--binary", binary, "--run-as", "root"]),
        ("--user", "mine", &["--binary", binary, "--user"]),
        ("--system", "odd", &strange),
        ("--user", "odd-mine", &[&strange[..], &["--user"]].concat()),
    ] {
        let flags = [flags, &["--name", name, "--"], &AWKWARD].concat();
        let text = print(&site, &flags);
        verify(&site, scope, &format!("{name}.service"), &text);
        if name.starts_with("odd") {
            assert!(text.contains("\nTimeoutStopSec=110s\n"), "{text}");
        }
    }
    // The checker bites.
    let text = print(&site, &["--binary", "/no/such/program"]);
    assert!(complaint(&site, "--system", "absent.service", &text).contains("/no/such/program"));
    let text = print(&site, &["--binary", binary]).replace("KillMode=mixed", "KillMode=gently");
    assert!(complaint(&site, "--system", "gentle.service", &text).contains("Failed to parse kill mode"));
}

#[test]
fn the_stricter_drop_in_is_right_too() {
    let site = site();
    let text = print(&site, &["--binary", site.binary().to_str().unwrap()]);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/service/strict.conf");
    let folder = site.work().join("strict.service.d");
    fs::create_dir(&folder).unwrap();
    fs::copy(kept, folder.join("strict.conf")).unwrap();
    verify(&site, "--system", "strict.service", &text);
    let strict = fs::read_to_string(folder.join("strict.conf")).unwrap();
    fs::write(folder.join("strict.conf"), strict.replace("PrivateTmp=yes", "PrivateTmp=perhaps")).unwrap();
    assert!(complaint(&site, "--system", "strict.service", &text).contains("Failed to parse"));
}

fn verify(site: &Site, scope: &str, name: &str, text: &str) {
    assert_eq!(complaint(site, scope, name, text), "", "{text}");
}

/// What `systemd-analyze verify` says of this unit; it speaks of others, too.
fn complaint(site: &Site, scope: &str, name: &str, text: &str) -> String {
    let path = site.work().join(name);
    fs::write(&path, text).unwrap();
    let mut command = spawn::bound_command("systemd-analyze");
    command.args([scope, "--man=no", "--recursive-errors=no", "verify"]).arg(&path);
    command.env("XDG_RUNTIME_DIR", site.work()).env("LC_ALL", "C");
    let done = spawn::output(command).unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    let stem = name.trim_end_matches(".service");
    let ours: Vec<&str> = said.lines().filter(|line| line.contains(stem)).collect();
    assert!(done.status.success() || !ours.is_empty(), "{said}");
    ours.join("\n")
}

#[test]
fn python_reads_a_property_list_as_it_was_meant() {
    const READ: &str = "import json, plistlib, sys; print(json.dumps(plistlib.load(sys.stdin.buffer)))";
    let site = site();
    let folder = awkward(&site);
    let program = format!("{folder}/roundsman");
    let flags = ["--manager", "launchd", "--binary", &program, "--working-directory", &folder];
    let text = print(&site, &[&flags[..], &["--name", "mail", "--"], &AWKWARD].concat());
    let path = site.work().join("list.plist");
    fs::write(&path, &text).unwrap();
    let mut command = spawn::bound_command("sh");
    command.args(["-c", "exec python3 -c \"$1\" <\"$2\"", "sh", READ]).arg(&path);
    let done = spawn::output(command).unwrap();
    let list: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{text}", String::from_utf8_lossy(&done.stderr)));
    let mut words = vec![program.as_str(), "up", "--"];
    words.extend(AWKWARD);
    assert_eq!(list["ProgramArguments"], serde_json::json!(words));
    assert_eq!(list["WorkingDirectory"], folder);
    assert_eq!((&list["Label"], &list["ExitTimeOut"]), (&"dev.roundsman.mail".into(), &50.into()));
}

#[test]
fn what_is_wrong_is_refused_with_its_code() {
    let site = Site::new("[store]\nurl = \"redis://:hunter2@127.0.0.1:1\"\n").unwrap();
    fs::write(site.work().join("wrong.toml"), "[store]\nleese = \"5s\"\n").unwrap();
    for (flags, code, phrases) in [
        (&["--user", "--run-as", "x"][..], 2, &["--run-as"][..]),
        (&["--name", "../x"], 2, &["--name", "no right name"]),
        (&["--store", "redis://:hunter2@h"], 2, &["holds a password", "ROUNDSMAN_STORE__URL"]),
        (&["--environment-file", "*.env"], 2, &["--environment-file"]),
        (&["--manager", "launchd", "--environment-file", "x"], 2, &["launchd reads none"]),
        (&["--config", "wrong.toml"], 78, &["wrong.toml:2", "lease"]),
        (&["--config", "absent.toml"], 78, &["absent.toml"]),
        (&["--environment-file", "absent.env"], 78, &["absent.env"]),
        (&["--root", "/"], 2, &["--root"]),
    ] {
        let done = site.cli(&[&["service", "print"], flags].concat()).unwrap();
        assert_eq!((done.code, done.stdout.as_str()), (Some(code), ""), "{flags:?}: {done:?}");
        for phrase in phrases {
            assert!(done.stderr.contains(phrase), "no {phrase:?} in {done:?}");
        }
        assert!(!done.stderr.contains("hunter2"), "{done:?}");
    }
    // The settings of where it runs count, with the variables that systemd will read, and no secret of theirs is shown.
    fs::write(site.work().join("secrets.env"), "# x\nROUNDSMAN_POOLS__DEFAULT__GRACE=\"70s\"\n").unwrap();
    let text = print(&site, &["--working-directory", ".", "--environment-file", "secrets.env"]);
    assert!(text.contains("\nTimeoutStopSec=90s\n") && !text.contains("hunter2"), "{text}");
    let done = site.cli(&["service", "print"]).unwrap();
    assert!(done.stderr.contains("warning: ./roundsman.toml is not read"), "{done:?}");
}
