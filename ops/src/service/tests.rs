use std::collections::BTreeMap;

use plist::Value;

use super::*;

/// The service that `ops/service/` shows.
pub(super) fn description(manager: Manager) -> Description {
    let system = match manager {
        Manager::Systemd => "/var/lib/roundsman",
        Manager::Launchd => "/usr/local/var/roundsman",
    };
    Description {
        manager,
        scope: Scope::System,
        name: "roundsman".into(),
        binary: match manager {
            Manager::Systemd => "/usr/bin/roundsman".into(),
            Manager::Launchd => "/usr/local/bin/roundsman".into(),
        },
        config: None,
        store: None,
        namespace: None,
        host_id: None,
        command: Vec::new(),
        run_as: Some(USER.into()),
        directory: Some(system.into()),
        state: Some(system.into()),
        environment_file: None,
        log: (manager == Manager::Launchd).then(|| format!("{system}/roundsman.log")),
        stop_seconds: stop_seconds(Duration::from_secs(30)),
    }
}

fn of_a_user(manager: Manager) -> Description {
    Description {
        scope: Scope::User,
        run_as: None,
        state: None,
        directory: None,
        log: (manager == Manager::Launchd).then(|| "/Users/ann/Library/Logs/roundsman.log".into()),
        ..description(manager)
    }
}

/// Strings that a reader of units or of XML would take for something else.
const AWKWARD: [&str; 22] = [
    "plain",
    "",
    "two words",
    " led by a space",
    "ends in a backslash\\",
    "100%",
    "%h/%%n",
    "$HOME",
    "${HOME}$$",
    "\"quoted\"",
    "it's",
    "a;b",
    ";",
    "# no comment",
    "line\nline\r\n\ttab",
    "\\n\\x41\\101\\s",
    "<b>&amp;</b>",
    "]]>",
    "-->",
    "--flag=--",
    "{\"t\": \"é 漢 🙂\"}",
    "@-:+!|",
];

/// A value as systemd reads a word of a command line: systemd.syntax(7), "Quoting", and systemd.service(5),
/// "Command lines". Specifiers other than `%%`, and variables, are errors here.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| *c == ' ').is_some() {}
        if chars.peek().is_none() {
            return words;
        }
        let mut word = String::new();
        let mut quote = None;
        while let Some(c) = chars.next() {
            match (c, quote) {
                (' ', None) => break,
                ('"' | '\'', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                ('\\', _) => word.push(match chars.next().expect("a backslash is followed") {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    c @ ('\\' | '"') => c,
                    other => panic!("\\{other} in {line}"),
                }),
                (c @ ('%' | '$'), _) => {
                    assert!(c == '$' && words.is_empty() || chars.next() == Some(c), "a bare {c} in {line}");
                    word.push(c);
                }
                (c, _) => word.push(c),
            }
        }
        assert_eq!(quote, None, "{line}");
        words.push(word);
    }
}

/// The keys of a unit, by section. Every line must be one.
fn keys(unit: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut section = String::new();
    let mut keys = BTreeMap::<_, Vec<String>>::new();
    for line in unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(!line.ends_with('\\'), "{line} goes on");
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?} is no line of a unit"));
        keys.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
    }
    keys
}

fn value(unit: &str, section: &str, key: &str) -> Option<String> {
    let values = keys(unit).remove(&(section.to_owned(), key.to_owned()))?;
    assert_eq!(values.len(), 1, "{key}: {values:?}");
    values.into_iter().next()
}

fn dictionary(text: &str) -> plist::Dictionary {
    let parsed = Value::from_reader_xml(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    parsed.into_dictionary().unwrap()
}

#[test]
fn a_command_line_is_read_as_it_was_meant() {
    for manager in [Manager::Systemd, Manager::Launchd] {
        let mut description = description(manager);
        description.binary = "/opt/50% off; $HOME & <x>/roundsman".into();
        description.config = Some("/etc/my jobs/100%.toml".into());
        description.host_id = Some("mill-1".into());
        description.command = AWKWARD.map(str::to_owned).to_vec();
        description.check().unwrap();
        let mut meant = vec![description.binary.as_str(), "up", "--config", "/etc/my jobs/100%.toml"];
        meant.extend(["--host-id", "mill-1", "--"]);
        meant.extend(AWKWARD);
        let text = description.render();
        let read = match manager {
            Manager::Systemd => words(&value(&text, "Service", "ExecStart").unwrap()),
            Manager::Launchd => {
                let words = dictionary(&text).remove("ProgramArguments").unwrap().into_array().unwrap();
                words.into_iter().map(|word| word.into_string().unwrap()).collect()
            }
        };
        assert_eq!(read, meant, "{text}");
    }
}

#[test]
fn paths_are_read_as_they_were_meant() {
    let path = "/srv/50% off & more/it's \"x\" ; #1";
    let mut unit = description(Manager::Systemd);
    unit.directory = Some(path.to_owned());
    unit.environment_file = Some(path.to_owned());
    unit.check().unwrap();
    let unit = unit.render();
    for key in ["WorkingDirectory", "EnvironmentFile"] {
        assert_eq!(value(&unit, "Service", key).unwrap().replace("%%", "%"), path);
    }
    let mut list = description(Manager::Launchd);
    list.directory = Some(path.to_owned());
    list.state = Some(path.to_owned());
    list.log = Some(path.to_owned());
    list.check().unwrap();
    let list = dictionary(&list.render());
    for key in ["WorkingDirectory", "StandardOutPath", "StandardErrorPath"] {
        assert_eq!(list[key].as_string(), Some(path));
    }
    assert_eq!(
        list["EnvironmentVariables"].as_dictionary().unwrap()["STATE_DIRECTORY"].as_string(),
        Some(path)
    );
}

#[test]
fn what_a_file_cannot_say_is_refused() {
    type Change = fn(&mut Description);
    let wrong: [(Change, &str); 14] = [
        (|it| it.name = String::new(), "--name"),
        (|it| it.name = "../x".into(), "--name"),
        (|it| it.name = "a b".into(), "--name"),
        (|it| it.name = "a@b".into(), "--name"),
        (|it| it.name = "-a".into(), "--name"),
        (|it| it.name = "x".repeat(65), "--name"),
        (|it| it.binary = "/opt/it's/roundsman".into(), "--binary"),
        (|it| it.run_as = Some("a\nb".into()), "--run-as"),
        (|it| it.directory = Some("relative".into()), "--working-directory"),
        (|it| it.directory = Some("/a\nExecStart=/bin/sh".into()), "--working-directory"),
        (|it| it.directory = Some("/ends in a backslash\\".into()), "--working-directory"),
        (|it| it.environment_file = Some("/etc/*.env".into()), "--environment-file"),
        (|it| it.environment_file = Some("/etc/x ".into()), "--environment-file"),
        (|it| it.command = vec!["a\u{0}b".into()], "\"a\\0b\""),
    ];
    for manager in [Manager::Systemd, Manager::Launchd] {
        for (change, named) in wrong {
            let mut description = description(manager);
            description.check().unwrap();
            change(&mut description);
            let error = description.check().unwrap_err();
            assert!(error.starts_with(named), "{named}: {error}");
        }
    }
}

#[test]
fn a_unit_says_what_a_fleet_needs() {
    let unit = description(Manager::Systemd).render();
    for (section, key, wanted) in [
        ("Service", "Type", "notify"),
        ("Service", "NotifyAccess", "main"),
        ("Service", "WatchdogSec", "30s"),
        ("Service", "ExecStart", "/usr/bin/roundsman up"),
        ("Service", "User", "roundsman"),
        ("Service", "StateDirectory", "roundsman"),
        ("Service", "WorkingDirectory", "/var/lib/roundsman"),
        ("Service", "EnvironmentFile", "-%E/roundsman/roundsman.env"),
        ("Service", "KillMode", "mixed"),
        ("Service", "TimeoutStopSec", "50s"),
        ("Service", "OOMPolicy", "continue"),
        ("Service", "OOMScoreAdjust", "-200"),
        ("Service", "Restart", "on-failure"),
        ("Service", "RestartPreventExitStatus", "2 78"),
        ("Service", "LimitNOFILE", "65536"),
        ("Service", "NoNewPrivileges", "yes"),
        ("Install", "WantedBy", "multi-user.target"),
    ] {
        assert_eq!(value(&unit, section, key).as_deref(), Some(wanted), "{key}");
    }

    let unit = of_a_user(Manager::Systemd).render();
    for (section, key) in [
        ("Unit", "After"),
        ("Service", "User"),
        ("Service", "StateDirectory"),
        ("Service", "OOMScoreAdjust"),
        ("Service", "NoNewPrivileges"),
        ("Service", "ProtectSystem"),
    ] {
        assert_eq!(value(&unit, section, key), None, "a user's manager has no use for {key}");
    }
    assert_eq!(value(&unit, "Install", "WantedBy").as_deref(), Some("default.target"));
    assert_eq!(value(&unit, "Service", "WorkingDirectory").as_deref(), Some("%h"));

    let root = Description { run_as: Some("root".into()), ..description(Manager::Systemd) }.render();
    assert_eq!(value(&root, "Service", "CapabilityBoundingSet"), None);
}

#[test]
fn a_property_list_says_what_a_fleet_needs() {
    let list = dictionary(&description(Manager::Launchd).render());
    assert_eq!(list["Label"].as_string(), Some("dev.roundsman.roundsman"));
    assert_eq!(list["UserName"].as_string(), Some("roundsman"));
    assert_eq!(list["RunAtLoad"].as_boolean(), Some(true));
    assert_eq!(list["KeepAlive"].as_dictionary().unwrap()["SuccessfulExit"].as_boolean(), Some(false));
    assert_eq!(list["ProcessType"].as_string(), Some("Interactive"));
    for (key, wanted) in [("ExitTimeOut", 50), ("ThrottleInterval", 10), ("Umask", 0o077)] {
        assert_eq!(list[key].as_signed_integer(), Some(wanted), "{key}");
    }
    for key in ["SoftResourceLimits", "HardResourceLimits"] {
        assert_eq!(list[key].as_dictionary().unwrap()["NumberOfFiles"].as_signed_integer(), Some(65_536));
    }
    let list = dictionary(&of_a_user(Manager::Launchd).render());
    assert!(!list.contains_key("UserName"));
    assert!(!list["EnvironmentVariables"].as_dictionary().unwrap().contains_key("STATE_DIRECTORY"));
}

#[test]
fn a_stop_may_take_the_grace_and_what_the_supervisor_asks_for_beyond() {
    for (millis, seconds) in [(0, 20), (30_000, 50), (1_500, 22)] {
        assert_eq!(stop_seconds(Duration::from_millis(millis)), seconds);
    }
}

/// `roundsman service print` makes them anew: `ops/docs/service.md` says how.
#[test]
fn the_files_of_the_package_are_what_would_be_written() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("service");
    for (name, description) in [
        ("roundsman.service", description(Manager::Systemd)),
        ("roundsman.user.service", of_a_user(Manager::Systemd)),
        ("dev.roundsman.roundsman.plist", description(Manager::Launchd)),
    ] {
        let path = folder.join(name);
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(kept, description.render(), "{} is not what would be written", path.display());
    }
}
