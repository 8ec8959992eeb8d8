//! The dashboard: a page, styles and modules that the binary carries and hands out as they are. There is no build step,
//! nothing is fetched from elsewhere, and the page may load and call nothing but the server that it came from.
//!
//! ```text
//! /                  page/index.html
//! /dashboard/FILE    what it names, and what that imports
//! ```
//!
//! It needs no token: it holds no data. What it shows it gets from the API, as everybody else does.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};

/// What the browser must not do for this page, whatever a job's data holds.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// A file that is handed out.
#[derive(Debug, Clone, Copy)]
struct Asset {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// A file of the folder `page`.
macro_rules! asset {
    ($name:literal, $kind:expr) => {
        Asset {
            path: concat!("/dashboard/", $name),
            kind: $kind,
            text: include_str!(concat!("page/", $name)),
        }
    };
}

const ASSETS: &[Asset] = &[
    Asset { path: "/", kind: HTML, text: include_str!("page/index.html") },
    asset!("icon.svg", PICTURE),
    asset!("base.css", STYLE),
    asset!("parts.css", STYLE),
    asset!("alarms.js", SCRIPT),
    asset!("api.js", SCRIPT),
    asset!("chart.js", SCRIPT),
    asset!("dead.js", SCRIPT),
    asset!("dialogs.js", SCRIPT),
    asset!("dom.js", SCRIPT),
    asset!("fleet.js", SCRIPT),
    asset!("format.js", SCRIPT),
    asset!("job.js", SCRIPT),
    asset!("jobs.js", SCRIPT),
    asset!("jobtable.js", SCRIPT),
    asset!("keys.js", SCRIPT),
    asset!("live.js", SCRIPT),
    asset!("main.js", SCRIPT),
    asset!("overview.js", SCRIPT),
    asset!("parts.js", SCRIPT),
    asset!("queue.js", SCRIPT),
    asset!("queues.js", SCRIPT),
    asset!("series.js", SCRIPT),
    asset!("theme.js", SCRIPT),
];

/// The routes of the dashboard.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let tag = tag(asset.text);
        router.route(asset.path, get(async move |headers: HeaderMap| answer(asset, &tag, &headers)))
    })
}

/// Changes when the text does: a browser asks each time, and is mostly told that it has the newest.
fn tag(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    let hex: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

fn answer(asset: &Asset, tag: &str, asked: &HeaderMap) -> Response {
    let headers = [
        (header::CONTENT_TYPE, asset.kind),
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let known = asked.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, asset.text).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower_service::Service as _;

    use super::*;

    /// What a browser has to load.
    const MOST: usize = 150 * 1024;

    async fn fetch(path: &str, known: Option<&str>) -> Response {
        let mut request = Request::builder().uri(path);
        if let Some(known) = known {
            request = request.header(header::IF_NONE_MATCH, known);
        }
        router::<()>().call(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn each_file_is_handed_out_under_its_policy() {
        for asset in ASSETS {
            let response = fetch(asset.path, None).await;
            assert_eq!(response.status(), StatusCode::OK, "{}", asset.path);
            assert_eq!(response.headers()[header::CONTENT_TYPE], asset.kind);
            assert_eq!(response.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
            let body = to_bytes(response.into_body(), MOST).await.unwrap();
            assert_eq!(body, asset.text.as_bytes(), "{}", asset.path);
        }
        assert_eq!(fetch("/dashboard/none.js", None).await.status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn what_the_browser_has_is_not_sent_again() {
        let first = fetch("/", None).await;
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
            let again = fetch("/", Some(&known)).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert!(to_bytes(again.into_body(), 1).await.unwrap().is_empty());
        }
        assert_eq!(fetch("/", Some("\"other\"")).await.status(), StatusCode::OK);
    }

    #[test]
    fn all_files_and_no_others_are_named() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dashboard/page");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "index.html")
            .map(|name| format!("/dashboard/{name}"))
            .collect();
        let named = |(_, rest): (usize, &str)| rest.split(['"', '\'']).next().unwrap().to_owned();
        let mut wanted = BTreeSet::new();
        for asset in ASSETS {
            let text = asset.text;
            wanted.extend(
                text.match_indices("from './")
                    .map(|(at, start)| format!("/dashboard/{}", named((at, &text[at + start.len()..])))),
            );
            for start in ["src=\"", "href=\"", "src: '"] {
                let all = text.match_indices(start).map(|(at, _)| named((at, &text[at + start.len()..])));
                wanted
                    .extend(all.filter(|path| path.starts_with("dashboard/")).map(|path| format!("/{path}")));
            }
        }
        let served: BTreeSet<String> =
            ASSETS.iter().map(|asset| asset.path.to_owned()).filter(|path| path != "/").collect();
        assert_eq!(served, there);
        assert_eq!(served, wanted, "each is wanted by another, and each that is wanted is there");
        let size: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(size < MOST, "{size} bytes");
    }

    /// The policy would stop them, and the page would not work.
    #[test]
    fn nothing_makes_markup_or_code_of_text() {
        for asset in ASSETS {
            for wrong in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "javascript:",
                "<style",
                "style=\"",
                "onclick=\"",
                "onload=\"",
                "http://",
                "https://",
            ] {
                let rest = asset.text.replace("http://www.w3.org/2000/svg", "");
                assert!(!rest.contains(wrong), "{}: {wrong}", asset.path);
            }
        }
    }
}
