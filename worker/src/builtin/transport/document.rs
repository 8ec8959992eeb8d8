//! `GET` of one document, for parts of Roundsman that read what other systems say of themselves. No redirect is followed.

use base64::Engine as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header;
use hyper_util::rt::TokioIo;
use roundsman_shared::reach::Reach;
use url::Url;

use super::circuit::Destination;
use super::connect::{Connector, Trouble, chain};

/// Bytes of an answer's head.
const MAX_HEAD: usize = 64 * 1024;
const AGENT: &str = concat!("roundsman/", env!("CARGO_PKG_VERSION"));

/// The document at an `http://` or `https://` URL, wherever it is; name and password in the URL are sent along.
///
/// # Errors
/// Why there is none, in words, without the URL's secrets: also an answer that is no success, or longer than `most`.
pub async fn get(url: &str, most: usize) -> Result<Vec<u8>, String> {
    let url = Url::parse(url).map_err(|error| format!("the URL: {error}"))?;
    let to = Destination::of(&url);
    let opened = Connector::default().open(&to, &Reach::anywhere(), url.scheme() == "https").await;
    let stream = opened.map_err(|trouble| match trouble {
        Trouble::Refused(text)
        | Trouble::Broken(text)
        | Trouble::Unwanted(text)
        | Trouble::Hopeless(text) => text,
    })?;
    let said = |error: hyper::Error| format!("{to}: {}", chain(&error));
    let made = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = made.map_err(said)?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request(&url)?).await.map_err(said)?;
        if !response.status().is_success() {
            return Err(format!("{to} answers {}", response.status()));
        }
        let mut body = response.into_body();
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(said)?.into_data() {
                if read.len() + data.len() > most {
                    return Err(format!("{to}: the answer is longer than {most} bytes"));
                }
                read.extend_from_slice(&data);
            }
        }
        Ok(read)
    };
    let answer = answer.await;
    driver.abort();
    answer
}

fn request(url: &Url) -> Result<hyper::Request<Empty<Bytes>>, String> {
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let mut request = hyper::Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, AGENT)
        .header(header::ACCEPT, "application/json");
    if !url.username().is_empty() {
        let credentials = format!("{}:{}", url.username(), url.password().unwrap_or_default());
        let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
        request = request.header(header::AUTHORIZATION, format!("Basic {encoded}"));
    }
    request.body(Empty::new()).map_err(|error| format!("the URL: {error}"))
}
