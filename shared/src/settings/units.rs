use std::time::Duration;
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or("needs a unit")?;
    let n: u64 = text[..split].parse().map_err(|_| "not a duration".to_owned())?;
    Ok(match text[split..].trim() { "ms" => Duration::from_millis(n), "s" => Duration::from_secs(n), "m" => Duration::from_secs(60*n), "h" => Duration::from_secs(3600*n), "d" => Duration::from_secs(86400*n), other => return Err(format!("unknown unit {other}")) })
}
pub fn parse_time_ms(text: &str) -> Result<i64, String> { text.parse().map_err(|_| "not a time".to_owned()) }
