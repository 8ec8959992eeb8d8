//! `[[schedules]]`: rules that make jobs.

use std::collections::BTreeSet;

use super::section::Section;
use super::value::check_name;

/// A cron-like rule that makes jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleSettings {
    /// Unique.
    pub name: String,
    /// Five fields, or `@hourly` and its like; already checked.
    pub cron: String,
    /// An IANA name; default `UTC`.
    pub timezone: String,
    /// Default `default`.
    pub queue: String,
    /// Of the jobs it makes.
    pub kind: Option<String>,
    /// Default null.
    pub payload: serde_json::Value,
}

impl ScheduleSettings {
    pub(super) fn read_all(root: &mut Section<'_>) -> Vec<Self> {
        let mut schedules: Vec<Self> = Vec::new();
        let mut names = BTreeSet::new();
        for mut section in root.list("schedules") {
            if let Some(schedule) = Self::read(&mut section) {
                let is_new = names.insert(schedule.name.clone());
                section.demand(is_new, "name", format!("\"{}\" is taken by another schedule", schedule.name));
                schedules.push(schedule);
            }
            section.finish();
        }
        schedules
    }

    fn read(section: &mut Section<'_>) -> Option<Self> {
        let name = section.required("name", "\"nightly\"", |name: &String| check_name(name));
        let cron = section.required("cron", "\"0 3 * * *\"", |cron: &String| check_cron(cron));
        let timezone =
            section.checked("timezone", "UTC".to_owned(), |zone| match jiff::tz::TimeZone::get(zone) {
                Ok(_) => Ok(()),
                Err(_) => {
                    Err(format!("\"{zone}\" is no time zone known here: write one like \"Europe/Paris\""))
                }
            });
        let queue = section.checked("queue", "default".to_owned(), |name| check_name(name));
        let kind = section.get("kind", String::new());
        let payload = match section.node("payload") {
            Some(node) => {
                let payload = node.value.to_json();
                section.row("payload", payload.clone(), node.origin.clone());
                payload
            }
            None => serde_json::Value::Null,
        };
        let kind = Some(kind).filter(|kind| !kind.is_empty());
        Some(Self { name: name?, cron: cron?, timezone, queue, kind, payload })
    }
}

struct Field {
    what: &'static str,
    least: u8,
    most: u8,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { what: "minute", least: 0, most: 59, names: &[] },
    Field { what: "hour", least: 0, most: 23, names: &[] },
    Field { what: "day of the month", least: 1, most: 31, names: &[] },
    Field {
        what: "month",
        least: 1,
        most: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    // 0 and 7 are both Sunday.
    Field {
        what: "day of the week",
        least: 0,
        most: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];
const WORDS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Checks the form of a rule; when it next fires is not settings' business.
fn check_cron(text: &str) -> Result<(), String> {
    if WORDS.contains(&text) {
        return Ok(());
    }
    if text.starts_with('@') {
        return Err(format!("\"{text}\" is none of {}", WORDS.join(", ")));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let found = fields.len();
        return Err(format!("has {found} fields, not 5: minute hour day month weekday, like \"0 3 * * *\""));
    }
    for (field, text) in FIELDS.iter().zip(fields) {
        if !text.split(',').all(|item| field.has(item)) {
            let Field { what, least, most, .. } = field;
            return Err(format!(
                "\"{text}\" is no {what}: write {least} to {most}, a range, a list, or * with /step"
            ));
        }
    }
    Ok(())
}

impl Field {
    fn has(&self, item: &str) -> bool {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        if step.is_some_and(|step| !matches!(step.parse::<u8>(), Ok(1..))) {
            return false;
        }
        if range == "*" {
            return true;
        }
        match range.split_once('-') {
            Some((from, to)) => {
                matches!((self.value(from), self.value(to)), (Some(from), Some(to)) if from <= to)
            }
            None => self.value(range).is_some(),
        }
    }

    fn value(&self, text: &str) -> Option<u8> {
        let lower = text.to_lowercase();
        let named = self.names.iter().position(|name| *name == lower);
        let number = match named {
            Some(index) => u8::try_from(index).ok()? + self.least,
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok()?,
            None => return None,
        };
        (self.least..=self.most).contains(&number).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};

    fn schedule(lines: &str) -> String {
        format!("[[schedules]]\nname = \"n\"\n{lines}")
    }

    #[test]
    fn schedules_are_read() {
        let text = schedule("cron = \"0 3 * * *\"\ntimezone = \"UTC\"\nkind = \"k\"\npayload = { a = [1] }");
        let expected = ScheduleSettings {
            name: "n".into(),
            cron: "0 3 * * *".into(),
            timezone: "UTC".into(),
            queue: "default".into(),
            kind: Some("k".into()),
            payload: serde_json::json!({"a": [1]}),
        };
        assert_eq!(settings(&text).schedules, [expected]);
    }

    #[test]
    fn rules_are_checked() {
        for right in ["* * * * *", "*/5 0-23/2 1,15 jan-mar MON-fri", "@daily", "0 0 31 12 7"] {
            assert_eq!(check_cron(right), Ok(()));
        }
        for (wrong, message) in [
            ("", "has 0 fields, not 5: minute hour day month weekday, like \"0 3 * * *\""),
            ("0 0 3 * * *", "has 6 fields, not 5: minute hour day month weekday, like \"0 3 * * *\""),
            ("60 * * * *", "\"60\" is no minute: write 0 to 59, a range, a list, or * with /step"),
            ("* 5-3 * * *", "\"5-3\" is no hour: write 0 to 23, a range, a list, or * with /step"),
            ("* * 0 * *", "\"0\" is no day of the month: write 1 to 31, a range, a list, or * with /step"),
            ("* * * 1, *", "\"1,\" is no month: write 1 to 12, a range, a list, or * with /step"),
            ("* * * * */0", "\"*/0\" is no day of the week: write 0 to 7, a range, a list, or * with /step"),
            (
                "@often",
                "\"@often\" is none of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly",
            ),
        ] {
            assert_eq!(check_cron(wrong), Err(message.to_owned()));
        }
    }

    #[test]
    fn bad_values_are_refused() {
        let cron = "cron = \"@daily\"";
        for (text, message) in [
            (
                "[[schedules]]\ncron = \"@daily\"".into(),
                "1: schedules[0].name: is missing: write one like \"nightly\"",
            ),
            (schedule(""), "1: schedules[0].cron: is missing: write one like \"0 3 * * *\""),
            (
                schedule(&format!("{cron}\ntimezone = \"Mars/Base\"")),
                "4: schedules[0].timezone: \"Mars/Base\" is no time zone known here: write one like \"Europe/Paris\"",
            ),
            (
                schedule(&format!("{cron}\n{}", schedule(cron))),
                "5: schedules[1].name: \"n\" is taken by another schedule",
            ),
            (
                schedule(&format!("{cron}\nqeue = \"a\"")),
                "4: schedules[0].qeue: unknown key; did you mean \"queue\"?",
            ),
        ] {
            assert_eq!(problems(&text), [format!("/etc/r/r.toml:{message}")]);
        }
    }
}
