//! Metrics as text, in the OpenMetrics format or in the older one of Prometheus: what this host's master has counted and
//! sees, and the queues as the store has them. The cost of a scrape grows with queues, kinds and pools, never with jobs.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use roundsman_shared::figures::{BOUNDS, Figure, Metric, Spread, Value};
use roundsman_shared::outlook::Outlook;
use roundsman_shared::store::QueueView;

/// How a scrape is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    /// What Prometheus read before, and `promtool check metrics` still does.
    Classic,
}

impl Format {
    /// The one that an `Accept` header asks for; the older one, which everything reads, for whoever asks for none.
    pub fn of(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Classic }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What one scrape shows.
#[derive(Debug)]
pub struct Scrape {
    pub version: &'static str,
    pub figures: Vec<Figure>,
    pub outlook: Outlook,
    /// `None` where the store does not answer.
    pub queues: Option<Vec<QueueView>>,
}

impl Scrape {
    pub fn text(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Classic => classic(&text),
        })
    }
}

/// The same in the older format, where a family has the full name of its samples, and knows neither units nor infos.
fn classic(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = "";
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", _, words] => help = words,
            ["#", "TYPE", name, kind] => {
                let (suffix, kind) = match *kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    kind => ("", kind),
                };
                out.extend(["# HELP ", name, suffix, " ", help, "\n# TYPE ", name, suffix, " ", kind, "\n"]);
            }
            ["#", "UNIT", ..] => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// The values of a family, each with its labels.
type Rows<'a, V> = Vec<(Vec<(&'a str, &'a str)>, V)>;

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut info =
            encoder.encode_descriptor("roundsman_build", "The version that runs", None, MetricType::Info)?;
        info.encode_info(&[("version", self.version)])?;
        let up = u64::from(self.queues.is_some());
        let help = "Whether the store answered this scrape";
        gauges(&mut encoder, "roundsman_store_up", help, None, &vec![(Vec::new(), up)])?;
        for metric in Metric::ALL {
            self.counted(&mut encoder, metric)?;
        }
        self.workers(&mut encoder)?;
        self.queues(&mut encoder)
    }
}

impl Scrape {
    fn counted(&self, encoder: &mut DescriptorEncoder<'_>, metric: Metric) -> fmt::Result {
        let (kind, unit) = if metric.is_spread() {
            (MetricType::Histogram, Some(&Unit::Seconds))
        } else {
            (MetricType::Counter, None)
        };
        let mut family = encoder.encode_descriptor(metric.name(), metric.help(), unit, kind)?;
        for figure in self.figures.iter().filter(|figure| figure.metric == metric) {
            let labels: Vec<(&str, &str)> =
                metric.labels().iter().copied().zip(figure.labels.iter().map(String::as_str)).collect();
            let mut row = family.encode_family(&labels)?;
            match &figure.value {
                Value::Count(count) => counter(&mut row, *count)?,
                Value::Spread(spread) => histogram(&mut row, spread)?,
            }
        }
        Ok(())
    }

    fn workers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (mut workers, mut desired): (Rows<'_, u64>, Rows<'_, u64>) = (Vec::new(), Vec::new());
        for (pool, outlook) in &self.outlook.pools {
            for (state, count) in &outlook.workers {
                workers.push((vec![("pool", pool), ("state", state)], u64::from(*count)));
            }
            desired.push((vec![("pool", pool)], u64::from(outlook.desired)));
        }
        gauges(encoder, "roundsman_workers", "Worker processes of this host", None, &workers)?;
        let help = "Worker processes that this host wants";
        gauges(encoder, "roundsman_workers_desired", help, None, &desired)
    }

    /// The same on every host, since each reads the one store.
    fn queues(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(queues) = &self.queues else { return Ok(()) };
        let (mut jobs, mut oldest, mut enqueued) = (Vec::new(), Vec::new(), Vec::new());
        let (mut paused, mut inbox) = (Vec::new(), Vec::new());
        for view in queues {
            let queue = ("queue", view.queue.as_str());
            for (state, count) in [
                ("scheduled", view.scheduled),
                ("ready", view.ready),
                ("running", view.running),
                ("done", view.done),
                ("dead", view.dead),
                ("cancelled", view.cancelled),
                ("expired", view.expired),
            ] {
                jobs.push((vec![queue, ("state", state)], count));
            }
            #[expect(clippy::cast_precision_loss, reason = "an age")]
            oldest.push((vec![queue], view.oldest_due_ms.unwrap_or(0) as f64 / 1000.0));
            enqueued.push((vec![queue], view.enqueued_total));
            paused.push((vec![queue], u64::from(view.paused)));
            inbox.push((vec![queue], view.inbox));
        }
        let help = "Jobs by state, the ended ones as far as they are kept; the same on every host";
        gauges(encoder, "roundsman_queue_jobs", help, None, &jobs)?;
        let help = "How long the job that has been due longest has been so; the same on every host";
        gauges(encoder, "roundsman_queue_oldest_due", help, Some(&Unit::Seconds), &oldest)?;
        gauges(
            encoder,
            "roundsman_queue_paused",
            "Whether it is paused; the same on every host",
            None,
            &paused,
        )?;
        let help = "Entries of the Redis inbox that were not taken in yet; the same on every host";
        gauges(encoder, "roundsman_queue_inbox", help, None, &inbox)?;
        let help = "Jobs enqueued since the queue exists; the same on every host";
        let name = "roundsman_jobs_enqueued";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, count) in &enqueued {
            counter(&mut family.encode_family(labels)?, *count)?;
        }
        Ok(())
    }
}

fn counter(row: &mut MetricEncoder<'_>, count: u64) -> fmt::Result {
    row.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

fn histogram(row: &mut MetricEncoder<'_>, spread: &Spread) -> fmt::Result {
    let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> =
        bounds.enumerate().map(|(at, bound)| (bound, spread.buckets.get(at).copied().unwrap_or(0))).collect();
    row.encode_histogram::<NoLabelSet>(spread.sum, spread.count(), &buckets, None)
}

fn gauges<V: prometheus_client::encoding::EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    rows: &Rows<'_, V>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in rows {
        if labels.is_empty() {
            family.encode_gauge(value)?;
        } else {
            family.encode_family(labels)?.encode_gauge(value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use roundsman_shared::figures::Figures;
    use roundsman_shared::outlook::PoolOutlook;

    use super::*;

    /// Something of every family.
    fn everything() -> String {
        let mut figures = Figures::default();
        figures.count(Metric::Jobs, &["q", "a \"kind\"\\", "done"], 3);
        let wait = figures.place(Metric::JobWait, &["q"]);
        figures.observe_at(wait, Duration::from_millis(2));
        let duration = figures.place(Metric::JobDuration, &["q", ""]);
        figures.observe_at(duration, Duration::from_secs(100_000));
        figures.count(Metric::JobsRecovered, &["q", "crashed"], 1);
        figures.count(Metric::WorkerExits, &["p", "killed"], 1);
        figures.count(Metric::ScaleDecisions, &["p", "up", "load"], 1);
        figures.count(Metric::TransportRequests, &["http", "ok"], 1);
        figures.count(Metric::StoreErrors, &["renew"], 1);
        let workers = BTreeMap::from([("idle".to_owned(), 2)]);
        let pool = PoolOutlook { desired: 3, workers, busy: 0 };
        let outlook = Outlook { pools: BTreeMap::from([("p".to_owned(), pool)]), ..Outlook::default() };
        let view = QueueView {
            queue: "q".into(),
            ready: 4,
            oldest_due_ms: Some(1_500),
            enqueued_total: 9,
            ..QueueView::default()
        };
        let figures: Vec<Figure> = figures.iter().cloned().collect();
        let scrape = Scrape { version: "1.2.3", figures, outlook, queues: Some(vec![view]) };
        scrape.text(Format::OpenMetrics).unwrap()
    }

    /// What `ops/alerts.yml` asks for is there, and whoever is woken is told what to do.
    #[test]
    fn alerts_are_about_what_is_exposed() {
        let (rules, text) = (include_str!("../alerts.yml"), everything());
        let names = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names: Vec<&str> = names.filter(|word| word.starts_with("roundsman_")).collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(
                text.lines().any(|line| line.split(['{', ' ']).next() == Some(name)),
                "{name} is not in\n{text}"
            );
        }
        for alert in rules.split("- alert: ").skip(1) {
            for part in ["expr:", "severity:", "summary:", "description:"] {
                assert!(alert.contains(part), "no {part} in {alert}");
            }
        }
    }

    #[test]
    fn the_names_are_those_that_operators_rely_on() {
        let text = everything();
        for line in [
            r#"roundsman_build_info{version="1.2.3"} 1"#,
            "roundsman_store_up 1",
            r#"roundsman_jobs_total{queue="q",kind="a \"kind\"\\",outcome="done"} 3"#,
            r#"roundsman_job_wait_seconds_bucket{le="0.001",queue="q"} 0"#,
            r#"roundsman_job_wait_seconds_bucket{le="0.0025",queue="q"} 1"#,
            r#"roundsman_job_wait_seconds_bucket{le="+Inf",queue="q"} 1"#,
            r#"roundsman_job_wait_seconds_count{queue="q"} 1"#,
            r#"roundsman_job_wait_seconds_sum{queue="q"} 0.002"#,
            r#"roundsman_job_duration_seconds_bucket{le="21600.0",queue="q",kind=""} 0"#,
            r#"roundsman_job_duration_seconds_bucket{le="+Inf",queue="q",kind=""} 1"#,
            r#"roundsman_jobs_recovered_total{queue="q",cause="crashed"} 1"#,
            r#"roundsman_worker_exits_total{pool="p",cause="killed"} 1"#,
            r#"roundsman_scale_decisions_total{pool="p",direction="up",reason="load"} 1"#,
            r#"roundsman_transport_requests_total{transport="http",outcome="ok"} 1"#,
            r#"roundsman_store_errors_total{operation="renew"} 1"#,
            r#"roundsman_workers{pool="p",state="idle"} 2"#,
            r#"roundsman_workers_desired{pool="p"} 3"#,
            r#"roundsman_queue_jobs{queue="q",state="ready"} 4"#,
            r#"roundsman_queue_jobs{queue="q",state="dead"} 0"#,
            r#"roundsman_queue_oldest_due_seconds{queue="q"} 1.5"#,
            r#"roundsman_jobs_enqueued_total{queue="q"} 9"#,
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn without_the_store_the_rest_is_shown() {
        let scrape = Scrape { version: "1", figures: vec![], outlook: Outlook::default(), queues: None };
        let text = scrape.text(Format::Classic).unwrap();
        assert!(text.contains("roundsman_store_up 0\n") && !text.contains("roundsman_queue_jobs"), "{text}");
    }

    /// In the older format, each sample follows the help and the type of its own name.
    #[test]
    fn the_older_format_names_what_it_holds() {
        let mut figures = Figures::default();
        figures.count(Metric::Jobs, &["q", "a\nb c", "done"], 3);
        let wait = figures.place(Metric::JobWait, &["q"]);
        figures.observe_at(wait, Duration::from_millis(2));
        let figures = figures.iter().cloned().collect();
        let queues = Some(vec![QueueView { queue: "q".into(), ..QueueView::default() }]);
        let text = Scrape { version: "1", figures, outlook: Outlook::default(), queues }
            .text(Format::of("text/plain;version=0.0.4, */*"))
            .unwrap();
        let (mut helped, mut kind, mut samples) = (String::new(), String::new(), 0);
        for line in text.lines().filter(|line| *line != "# EOF") {
            match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
                ["#", "HELP", name, help] => {
                    assert!(!help.is_empty(), "{line}");
                    name.clone_into(&mut helped);
                }
                ["#", "TYPE", name, of] => {
                    assert_eq!(name, helped, "{text}");
                    of.clone_into(&mut kind);
                }
                _ => {
                    let name = line.split(['{', ' ']).next().unwrap();
                    let rest = name.strip_prefix(&helped).unwrap_or_else(|| panic!("{line}\n{text}"));
                    let may = if kind == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
                    assert!(may.contains(&rest), "{line} of a {kind}");
                    samples += 1;
                }
            }
        }
        assert!(samples > 20, "{text}");
        for line in [
            "# TYPE roundsman_jobs_total counter",
            "# TYPE roundsman_build_info gauge",
            r#"roundsman_jobs_total{queue="q",kind="a\nb c",outcome="done"} 3"#,
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }
}
