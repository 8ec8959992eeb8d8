//! A headless Chromium with one page, driven over its debugging pipe: JSON between zero bytes, on two descriptors.
//!
//! ```text
//! Browser ──▶ fd 3  {"id","method","params","sessionId"}
//!         ◀── fd 4  answers by id, and events; a thread reads them
//! ```
//!
//! The pipe needs no driver program, no WebSocket and no crate, and the browser leaves when it closes, however the test
//! ends. What was rejected: fantoccini and thirtyfour want a chromedriver and two dozen crates, chromiumoxide compiles
//! all of the protocol, playwright wants Node.
//!
//! Methods panic when the browser does not do as told: a test can do nothing else about it either.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::spawn;
use crate::wait::wait_for;

/// For one answer of the browser; its first one comes after its start.
const ANSWER: Duration = Duration::from_secs(60);
/// For something to be seen on the page.
pub const SEEN: Duration = Duration::from_secs(20);
/// Messages that are read ahead.
const AHEAD: usize = 1024;
/// What the browser is called, in the order of trial.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// See the module's text.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    link: RefCell<Link>,
    /// Its profile.
    _folder: TempDir,
}

#[derive(Debug)]
struct Link {
    input: Option<ChildStdin>,
    output: Receiver<Value>,
    session: Option<String>,
    calls: u64,
    complaints: Vec<String>,
}

impl Browser {
    /// A browser with an empty page of this size, in pixels.
    ///
    /// # Panics
    /// When no Chromium is installed, or it does not start.
    #[must_use]
    pub fn start(width: u32, height: u32) -> Self {
        let program = NAMES.iter().find_map(|name| spawn::find(name));
        let program = program.expect("no chromium is installed; ops/test installs it");
        let folder = tempfile::Builder::new().prefix("roundsman-browser-").tempdir().expect("a folder");
        // The descriptors 3 and 4 are what the browser wants; a shell can hand them on, and becomes the browser.
        let mut command = spawn::bound_command("sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1"])
            .arg(program)
            .args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"])
            .args(["--no-first-run", "--disable-dev-shm-usage", "--disable-extensions", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update", "--no-proxy-server"])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = spawn::start(command).expect("chromium starts");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = read(output.expect("a pipe"));
        let link = Link { input, output, session: None, calls: 0, complaints: Vec::new() };
        let browser = Self { child, link: RefCell::new(link), _folder: folder };
        browser.attach();
        browser.resize(width, height);
        browser
    }

    fn attach(&self) {
        let target = self.call("Target.createTarget", &json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.call("Target.attachToTarget", &target);
        self.link.borrow_mut().session = attached["sessionId"].as_str().map(ToOwned::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), &json!({}));
        }
    }

    /// Calls a method of the protocol; answers its result.
    ///
    /// # Panics
    /// When the browser refuses, or does not answer.
    #[track_caller]
    pub fn call(&self, method: &str, parameters: &Value) -> Value {
        self.link.borrow_mut().call(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    pub fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// What the system is said to prefer: `light` or `dark`.
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Loads an address anew.
    pub fn open(&self, url: &str) {
        // An address that differs by its fragment alone would only move the page.
        self.call("Page.navigate", &json!({"url": "about:blank"}));
        self.call("Page.navigate", &json!({"url": url}));
    }

    /// What an expression of JavaScript comes to, as JSON.
    ///
    /// # Panics
    /// When it throws.
    #[track_caller]
    pub fn eval(&self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", &parameters);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression comes to something that is not false, zero, empty or null; answers it.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait(&self, expression: &str) -> Value {
        let found = wait_for(expression, SEEN, || match self.eval(expression) {
            Value::Null | Value::Bool(false) => Err(self.eval("document.body?.innerText ?? ''").to_string()),
            Value::Number(number) if number.as_f64() == Some(0.0) => Err("0".to_owned()),
            Value::String(text) if text.is_empty() => Err("an empty text".to_owned()),
            found => Ok(found),
        });
        found.unwrap_or_else(|late| panic!("{late}\ncomplaints: {:?}", self.complaints()))
    }

    /// Waits until the page shows a text.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn see(&self, text: &str) {
        self.wait(&format!("document.body.innerText.includes({})", json!(text)));
    }

    /// Points at the first element of a selector, whose text or label is this one unless it is empty, and clicks it as
    /// a mouse does.
    ///
    /// # Panics
    /// When it does not come to be seen, or something lies over it.
    #[track_caller]
    pub fn click(&self, selector: &str, text: &str) {
        let (x, y) = self.locate(selector, text);
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            self.mouse(kind, x, y);
        }
    }

    /// Moves the mouse over an element, found as by [`Self::click`].
    ///
    /// # Panics
    /// As [`Self::click`].
    #[track_caller]
    pub fn point(&self, selector: &str, text: &str) {
        let (x, y) = self.locate(selector, text);
        self.mouse("mouseMoved", x, y);
    }

    fn mouse(&self, kind: &str, x: f64, y: f64) {
        let button = if kind == "mouseMoved" { "none" } else { "left" };
        let event = json!({"type": kind, "x": x, "y": y, "button": button, "clickCount": 1});
        self.call("Input.dispatchMouseEvent", &event);
    }

    /// The middle of the element, once it is there and nothing lies over it.
    #[track_caller]
    fn locate(&self, selector: &str, text: &str) -> (f64, f64) {
        let place = self.wait(&format!(
            "(() => {{
                const [selector, text] = [{}, {}];
                const is = (it) => !text || it.innerText?.trim() === text || it.getAttribute('aria-label') === text;
                const found = [...document.querySelectorAll(selector)].find((it) => is(it) && !it.disabled);
                if (!found) return null;
                found.scrollIntoView({{block: 'center', behavior: 'instant'}});
                const box = found.getBoundingClientRect();
                const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                const top = document.elementFromPoint(x, y);
                return found.contains(top) || top?.contains(found) ? [x, y] : null;
            }})()",
            json!(selector),
            json!(text)
        ));
        (place[0].as_f64().unwrap_or_default(), place[1].as_f64().unwrap_or_default())
    }

    /// Presses keys one after the other, by their names in JavaScript (`a`, `/`, `Enter`, `Escape`, `Tab`).
    pub fn press(&self, keys: &[&str]) {
        for &key in keys {
            let text = match key {
                "Enter" => "\r",
                _ if key.len() > 1 => "",
                _ => key,
            };
            let code = match key {
                "Enter" => 13,
                "Escape" => 27,
                "Tab" => 9,
                _ => 0,
            };
            let kind = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
            let down = json!({"type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", &down);
            let up = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", &up);
        }
    }

    /// Writes into what has the focus.
    pub fn write(&self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
    }

    /// What the console has heard since the last time: errors of scripts, of the network, and of the page's policy.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        // The answer comes after all that was said before.
        self.eval("0");
        std::mem::take(&mut self.link.borrow_mut().complaints)
    }

    /// A picture of the page, in the folder for temporary files; answers where.
    fn picture(&self) -> Result<PathBuf, String> {
        let call = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.link.borrow_mut().call("Page.captureScreenshot", &call)?;
        let bytes = STANDARD.decode(picture["data"].as_str().unwrap_or_default());
        let bytes = bytes.map_err(|error| error.to_string())?;
        let name = std::thread::current().name().unwrap_or("test").replace("::", "-");
        let folder = std::env::temp_dir().join("roundsman-dashboard");
        let file = folder.join(format!("{name}.png"));
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&file, bytes))
            .map_err(|error| error.to_string())?;
        Ok(file)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report(&self.picture());
        }
        // It leaves when its pipe closes.
        self.link.borrow_mut().input = None;
        let left = wait_for("chromium to leave", Duration::from_secs(5), || {
            self.child.try_wait().ok().flatten().ok_or_else(String::new)
        });
        if left.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[expect(clippy::print_stderr, reason = "what a failed test leaves to look at")]
fn report(picture: &Result<PathBuf, String>) {
    match picture {
        Ok(file) => eprintln!("the page looked like this: {}", file.display()),
        Err(error) => eprintln!("no picture of the page could be taken: {error}"),
    }
}

impl Link {
    fn call(&mut self, method: &str, parameters: &Value) -> Result<Value, String> {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let input = self.input.as_mut().ok_or("the pipe is closed")?;
        input.write_all(&bytes).and_then(|()| input.flush()).map_err(|error| error.to_string())?;
        loop {
            let heard = self.output.recv_timeout(ANSWER).map_err(|error| error.to_string())?;
            if heard["id"] == id {
                return match heard.get("error") {
                    None => Ok(heard["result"].clone()),
                    Some(error) => Err(error.to_string()),
                };
            }
            self.complaints.extend(complaint(&heard));
        }
    }
}

/// What an event complains of, if it does.
fn complaint(event: &Value) -> Option<String> {
    let parameters = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if parameters["type"] == "error" => Some(parameters["args"].to_string()),
        "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
            Some(format!("{} {}", parameters["entry"]["text"], parameters["entry"]["url"]))
        }
        _ => None,
    }
}

/// Reads messages until the pipe closes.
fn read(output: ChildStdout) -> Receiver<Value> {
    let (messages, inbox) = sync_channel(AHEAD);
    std::thread::spawn(move || {
        for message in BufReader::new(output).split(0) {
            let Some(message) = message.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) else {
                return;
            };
            if messages.send(message).is_err() {
                return;
            }
        }
    });
    inbox
}
