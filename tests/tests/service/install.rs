//! Installing, comparing and removing, with a program in the place of `systemctl` that writes down how it was called.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use roundsman_tests::spawn;
use roundsman_tests::tree::{Output, Site};
use serde_json::{Value, json};

struct Rig {
    site: Site,
}

impl Rig {
    fn new() -> Self {
        let site = Site::new("").unwrap();
        let rig = Self { site };
        fs::create_dir(rig.site.work().join("bin")).unwrap();
        rig
    }

    /// A `systemctl` that notes its arguments, answers `show` with this state, and fails at one verb.
    fn systemd(&self, state: &str, fails: &str) {
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>calls\n\
             case \"$*\" in *'{fails}'*) echo 'Job failed. See journal.' >&2; exit 1;; esac\n\
             case \"$*\" in\n\
             *property=Version*) echo 252 ;;\n\
             *show*) printf 'LoadState=loaded\\nActiveState={state}\\nSubState=running\\nMainPID=7\\nStatusText=serving, master 8\\n' ;;\n\
             esac\n"
        );
        let path = self.site.work().join("bin/systemctl");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.site.command(&[&["service"], arguments].concat());
        command.env("PATH", format!("{}:/usr/bin:/bin", self.site.work().join("bin").display()));
        Self::output(command)
    }

    /// Where there is no `systemctl` at all.
    fn run_without_systemd(&self, arguments: &[&str]) -> Output {
        let mut command = self.site.command(&[&["service"], arguments].concat());
        command.env("PATH", self.site.work().join("bin"));
        Self::output(command)
    }

    fn output(command: std::process::Command) -> Output {
        let done = spawn::output(command).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output { code: done.status.code(), stdout: text(&done.stdout), stderr: text(&done.stderr) }
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
        done.stdout
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32, phrases: &[&str]) {
        assert_failed(&self.run(arguments), code, phrases);
    }

    fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let done = self.run(&[arguments, &["--json"]].concat());
        (done.code, serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}")))
    }

    /// How `systemctl` was called since the last look, without questions.
    fn calls(&self) -> Vec<String> {
        let path = self.site.work().join("calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().filter(|line| !line.contains("show")).map(str::to_owned).collect()
    }

    fn unit(&self) -> PathBuf {
        self.site.work().join("../config/systemd/user/roundsman.service")
    }
}

#[track_caller]
fn assert_failed(done: &Output, code: i32, phrases: &[&str]) {
    assert_eq!(done.code, Some(code), "{done:?}");
    for phrase in phrases {
        assert!(done.stderr.contains(phrase), "no {phrase:?} in {done:?}");
    }
}

#[test]
fn a_service_is_installed_compared_and_removed() {
    let rig = Rig::new();
    rig.systemd("inactive", "none");
    let said = rig.ok(&["install", "--user"]);
    assert!(
        said.starts_with("wrote /") && said.contains("systemctl --user enable --now roundsman"),
        "{said}"
    );
    assert!(said.contains("loginctl enable-linger"), "{said}");
    // Nothing is started unasked.
    assert_eq!(rig.calls(), ["--user daemon-reload"]);
    let text = fs::read_to_string(rig.unit()).unwrap();
    assert_eq!(rig.ok(&["print", "--user"]), text);
    assert_eq!(fs::metadata(rig.unit()).unwrap().permissions().mode() & 0o777, 0o644);
    assert!(rig.ok(&["install", "--user"]).starts_with("left as it was: /"));
    let (_, again) = rig.json(&["install", "--user"]);
    assert_eq!(
        (&again["changed"], &again["ran"]),
        (&json!(false), &json!(["systemctl --user daemon-reload"]))
    );

    let (code, status) = rig.json(&["status", "--user"]);
    assert_eq!((code, &status["file"], &status["changes"]), (Some(0), &json!("current"), &json!([])));
    assert_eq!(status["manager_says"]["status"], "serving, master 8");
    fs::write(
        rig.site.work().join("../config/roundsman/roundsman.toml"),
        "[http]\nlisten = \"\"\n[pools.default]\ngrace = \"45s\"\n",
    )
    .unwrap();
    let (_, status) = rig.json(&["status", "--user"]);
    assert_eq!(status["file"], "outdated");
    assert_eq!(status["changes"], json!(["-TimeoutStopSec=50s", "+TimeoutStopSec=65s"]));
    assert!(rig.ok(&["status", "--user"]).contains("differs from what would be written today"));
    assert!(rig.ok(&["install", "--user"]).starts_with("wrote"));

    rig.systemd("active", "none");
    rig.calls();
    rig.fails(&["uninstall", "--user"], 2, &["stop the running fleet", "--yes"]);
    assert!(rig.unit().exists() && rig.calls().is_empty());
    let said = rig.ok(&["uninstall", "--user", "--yes"]);
    assert!(said.contains("jobs and settings are left"), "{said}");
    let calls = ["--user disable --now roundsman", "--user reset-failed roundsman", "--user daemon-reload"];
    assert_eq!(rig.calls(), calls);
    assert!(!rig.unit().exists());
    rig.fails(&["uninstall", "--user", "--yes"], 3, &["is not there", "--name NAME"]);
    let (code, status) = rig.json(&["status", "--user"]);
    assert_eq!((code, &status["file"]), (Some(3), &json!("absent")));
}

#[test]
fn flags_are_remembered_by_the_file() {
    let rig = Rig::new();
    rig.systemd("inactive", "none");
    fs::write(rig.site.work().join("my jobs.toml"), "[pools.default]\ngrace = \"5s\"\n").unwrap();
    rig.ok(&["install", "--user", "--config", "my jobs.toml", "--host-id", "mill", "--", "./a b", "100%"]);
    let text = fs::read_to_string(rig.unit()).unwrap();
    let work = rig.site.work();
    let start = format!("\" --host-id mill -- \"{}/a b\" 100%%\n", work.display());
    assert!(text.contains(&start) && text.contains("TimeoutStopSec=25s"), "{text}");
    assert_eq!(rig.json(&["status", "--user"]).1["file"], "current");
    // Settings that became wrong are told, and nothing is guessed.
    fs::write(work.join("my jobs.toml"), "[pools.default]\ngraze = \"5s\"\n").unwrap();
    let status = rig.json(&["status", "--user"]).1;
    assert_eq!(status["file"], "unknown");
    assert!(status["settings_error"].as_str().unwrap().contains("my jobs.toml:2"), "{status}");
    rig.ok(&["uninstall", "--user"]);
}

#[test]
fn what_others_wrote_is_left_alone() {
    let rig = Rig::new();
    rig.systemd("inactive", "none");
    rig.ok(&["install", "--user"]);
    let text = fs::read_to_string(rig.unit()).unwrap();
    fs::write(rig.unit(), text.replace("KillMode=mixed", "KillMode=process")).unwrap();
    rig.fails(&["install", "--user"], 4, &["was changed by hand", "--force"]);
    rig.fails(&["uninstall", "--user"], 4, &["was changed by hand", "--force"]);
    assert_eq!(rig.json(&["status", "--user"]).1["file"], "edited");
    fs::write(rig.unit(), "[Service]\nExecStart=/bin/true\n").unwrap();
    rig.fails(&["install", "--user"], 4, &["was not written by this program", "--force"]);
    assert_eq!(rig.json(&["status", "--user"]).1["file"], "foreign");
    fs::remove_file(rig.unit()).unwrap();
    std::os::unix::fs::symlink("/dev/null", rig.unit()).unwrap();
    rig.fails(&["install", "--user"], 4, &["masked", "--force"]);
    rig.ok(&["install", "--user", "--force"]);
    assert_eq!(fs::read_to_string(rig.unit()).unwrap(), text);
    rig.ok(&["install", "--user", "--name", "second"]);
    assert!(rig.unit().with_file_name("second.service").exists());
}

#[test]
fn now_starts_it_and_says_when_that_fails() {
    let rig = Rig::new();
    rig.systemd("active", "none");
    let said = rig.ok(&["install", "--user", "--now"]);
    assert!(said.contains("ran systemctl --user restart roundsman"), "{said}");
    assert_eq!(rig.calls(), ["--user daemon-reload", "--user enable roundsman", "--user restart roundsman"]);
    // A running one is not what is on disk now.
    assert!(rig.ok(&["install", "--user"]).contains("restarts the running one"));
    rig.systemd("inactive", "restart");
    let phrases = ["it is installed, but did not start", "Job failed.", "journalctl --user --unit roundsman"];
    rig.fails(&["install", "--user", "--now"], 1, &phrases);
}

#[test]
fn without_a_running_systemd_it_says_what_to_do() {
    let rig = Rig::new();
    let advice = ["nothing was written", "`roundsman up`", "--root /", "enable-linger"];
    let done = rig.run_without_systemd(&["install", "--user"]);
    assert_failed(&done, 1, &["there is no systemctl here"]);
    assert_failed(&done, 1, &advice);
    rig.systemd("inactive", "Version");
    rig.fails(&["install", "--user"], 1, &["systemd does not answer", "Job failed."]);
    rig.fails(&["install", "--user"], 1, &advice);
    assert!(!rig.unit().exists());

    // The file alone, for an image or for later.
    rig.ok(&["install", "--user", "--root", "/"]);
    assert!(rig.unit().exists());
    let done = rig.run(&["status", "--user"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(
        done.stdout.contains("is as it would be written") && done.stdout.contains("does not answer"),
        "{done:?}"
    );
    let done = rig.run(&["uninstall", "--user"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("only the file is removed") && !rig.unit().exists(), "{done:?}");
}

#[test]
fn an_image_gets_its_own_file_by_its_own_settings() {
    let rig = Rig::new();
    let root = rig.site.work().join("image");
    fs::create_dir_all(root.join("etc/roundsman")).unwrap();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::write(root.join("etc/roundsman/roundsman.toml"), "[pools.default]\ngrace = \"3s\"\n").unwrap();
    let flags = ["install", "--root", "image", "--binary", "/usr/bin/roundsman"];
    rig.fails(&flags, 1, &["there is no program /usr/bin/roundsman"]);
    fs::write(root.join("usr/bin/roundsman"), "").unwrap();
    rig.ok(&flags);
    let text = fs::read_to_string(root.join("etc/systemd/system/roundsman.service")).unwrap();
    for line in [
        "ExecStart=/usr/bin/roundsman up",
        "TimeoutStopSec=23s",
        "StateDirectory=roundsman",
        "User=roundsman",
    ] {
        assert!(text.lines().any(|it| it == line), "no {line} in {text}");
    }
    let (code, status) = rig.json(&["status", "--root", "image"]);
    assert_eq!((code, &status["file"], &status["manager_says"]), (Some(0), &json!("current"), &Value::Null));
    rig.ok(&["uninstall", "--root", "image"]);
    rig.fails(&["install", "--root", "nowhere"], 2, &["is no directory"]);
    rig.fails(&["install", "--root", "image", "--now"], 2, &["--now"]);
    fs::write(root.join("etc/roundsman/roundsman.toml"), "[pools.default]\ngraze = \"3s\"\n").unwrap();
    rig.fails(&flags, 78, &["roundsman.toml:2", "grace"]);
}

/// Nothing is written in either case: the user does not exist.
#[test]
fn a_service_of_the_machine_wants_root_and_a_user() {
    let rig = Rig::new();
    rig.systemd("inactive", "none");
    let flags = ["install", "--name", "roundsman-test-only", "--run-as", "no-such-user"];
    if rustix::process::geteuid().is_root() {
        rig.fails(&flags, 1, &["there is no user no-such-user", "useradd --system", "--run-as USER"]);
    } else {
        rig.fails(&flags, 1, &["only root may install", "sudo roundsman service install", "--user"]);
    }
    assert_eq!(rig.calls(), [""; 0]);
}
