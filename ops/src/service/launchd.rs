//! The text of a launchd property list: launchd.plist(5), as XML.

use super::{Description, FILES, Scope};

/// launchd's own is without the directories where people's programs are.
const PATH: &str = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// From one start to the next at least; the supervisor's own restarts of a master do not wait.
const THROTTLE_SECONDS: u64 = 10;

/// 0077, since property lists know no octal numbers.
const UMASK: u64 = 0o077;

enum Value<'a> {
    Text(&'a str),
    Number(u64),
    Yes,
    No,
    Words(Vec<&'a str>),
    Table(Vec<(&'static str, Self)>),
}

pub(super) fn body(description: &Description) -> String {
    let label = description.label();
    let mut program = vec![description.binary.as_str()];
    program.extend(description.arguments());
    let mut environment = vec![("PATH", Value::Text(PATH))];
    environment.extend(description.state.as_deref().map(|path| ("STATE_DIRECTORY", Value::Text(path))));
    let files = || Value::Table(vec![("NumberOfFiles", Value::Number(FILES.into()))]);

    let mut keys = vec![
        ("Label", Value::Text(&label)),
        ("ProgramArguments", Value::Words(program)),
        ("EnvironmentVariables", Value::Table(environment)),
        ("RunAtLoad", Value::Yes),
        // An orderly stop is not undone.
        ("KeepAlive", Value::Table(vec![("SuccessfulExit", Value::No)])),
        ("ThrottleInterval", Value::Number(THROTTLE_SECONDS)),
        ("ExitTimeOut", Value::Number(description.stop_seconds)),
        // Anything less and timers are late, since they are put together with those of others.
        ("ProcessType", Value::Text("Interactive")),
        ("SoftResourceLimits", files()),
        ("HardResourceLimits", files()),
        ("Umask", Value::Number(UMASK)),
    ];
    if let Some(directory) = &description.directory {
        keys.push(("WorkingDirectory", Value::Text(directory)));
    }
    if let Some(user) = description.run_as.as_deref().filter(|_| description.scope == Scope::System) {
        keys.push(("UserName", Value::Text(user)));
    }
    if let Some(log) = &description.log {
        keys.push(("StandardOutPath", Value::Text(log)));
        keys.push(("StandardErrorPath", Value::Text(log)));
    }
    let mut text = String::from(
        "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n",
    );
    write(&mut text, &Value::Table(keys), 0);
    text.push_str("</plist>\n");
    text
}

fn write(text: &mut String, value: &Value<'_>, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Text(value) => line(text, &indent, &format!("<string>{}</string>", escaped(value))),
        Value::Number(value) => line(text, &indent, &format!("<integer>{value}</integer>")),
        Value::Yes => line(text, &indent, "<true/>"),
        Value::No => line(text, &indent, "<false/>"),
        Value::Words(words) => {
            line(text, &indent, "<array>");
            for word in words {
                write(text, &Value::Text(word), depth + 1);
            }
            line(text, &indent, "</array>");
        }
        Value::Table(entries) => {
            line(text, &indent, "<dict>");
            for (key, value) in entries {
                line(text, &indent, &format!("  <key>{key}</key>"));
                write(text, value, depth + 1);
            }
            line(text, &indent, "</dict>");
        }
    }
}

fn line(text: &mut String, indent: &str, content: &str) {
    for part in [indent, content, "\n"] {
        text.push_str(part);
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            // Read as a line feed otherwise.
            '\r' => escaped.push_str("&#13;"),
            _ => escaped.push(c),
        }
    }
    escaped
}
