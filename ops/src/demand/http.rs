//! A number in a JSON document.

use roundsman_worker::document;
use serde_json::Value;

use super::Reading;

/// Bytes of a document.
const MOST: usize = 1024 * 1024;

pub(super) async fn read(url: &str, path: &str) -> Reading {
    let body = document::get(url, MOST).await?;
    let json: Value =
        serde_json::from_slice(&body).map_err(|error| format!("the answer is no JSON: {error}"))?;
    number(&json, path)
}

/// A name, or a place in a list, a step.
fn number(json: &Value, path: &str) -> Reading {
    let step = |json: &Value, name: &str| -> Option<Value> {
        match json {
            Value::Object(fields) => fields.get(name).cloned(),
            Value::Array(items) => items.get(name.parse::<usize>().ok()?).cloned(),
            _ => None,
        }
    };
    let found = path.split('.').try_fold(json.clone(), |json, name| step(&json, name));
    let found = found.ok_or_else(|| format!("the answer has no {path}"))?;
    let whole = match &found {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(rounded)),
        // Some write counts as text.
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    whole.ok_or_else(|| format!("{path} of the answer is no number of jobs"))
}

/// Some write counts with a point.
fn rounded(number: f64) -> Option<u64> {
    (0.0..1e15).contains(&number).then_some(number.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_number_is_found_by_its_path() {
        let json = json!({"queues": [{"len": 3}, {"len": "17"}], "all": 2.5, "bad": -1, "yes": true});
        assert_eq!(number(&json, "queues.0.len"), Ok(3));
        assert_eq!(number(&json, "queues.1.len"), Ok(17));
        assert_eq!(number(&json, "all"), Ok(3));
        for path in ["bad", "yes", "queues", "queues.2.len", "queues.x.len", "", "all.0"] {
            assert!(number(&json, path).is_err(), "{path}");
        }
    }
}
