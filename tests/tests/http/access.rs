//! Who may call: tokens, names and pages of other sites.

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::rig::{NOBODY, Rig, Store, on_both};

on_both!(
    tokens_open_what_they_are_for,
    names_and_pages_of_others_are_refused,
    an_open_address_demands_tokens
);

const READ: &str = "reader-reader-reader-reader-reader";
const OPERATE: &str = "operator-operator-operator-operator";
const LIMITED: &str = "limited-limited-limited-limited-lim";
const SLOW: &str = "slow-slow-slow-slow-slow-slow-slow-s";

fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn token(name: &str, access: &str, token: &str, more: &str) -> String {
    let hash = hash(token);
    format!("[[http.tokens]]\nname = \"{name}\"\naccess = \"{access}\"\nhash = \"sha256:{hash}\"\n{more}")
}

fn tokens_open_what_they_are_for(store: Store) {
    let tokens = [
        token("reader", "read", READ, ""),
        token("operator", "operate", OPERATE, ""),
        token("limited", "operate", LIMITED, "queues = [\"mine\"]\n"),
        token("slow", "read", SLOW, "rate_limit = \"2/m\"\n"),
    ];
    let rig = Rig::new(store, &format!("{}{NOBODY}", tokens.concat()));
    let _up = rig.up();
    let send = |token: &str, method: &str, path: &str, body: &str| {
        rig.client.send(method, path, &[("authorization", &format!("Bearer {token}"))], body)
    };
    let job = r#"{"payload":1}"#;
    for path in ["/livez", "/readyz", "/ping"] {
        assert_eq!(rig.client.get(path).status, 200, "{path}");
    }
    for path in ["/api/v1/queues", "/openapi.json", "/api/v1/fleet", "/none", "/timer/a"] {
        rig.client.get(path).fails(401, "token");
        send("wrong", "GET", path, "").fails(401, "token");
    }
    rig.client.post("/api/v1/queues/mine/jobs", job).fails(401, "token");
    assert!(rig.client.get("/api/v1/queues").header("www-authenticate").starts_with("Bearer"));
    send(READ, "GET", "/api/v1/queues", "").data(200);
    assert!(
        send(READ, "POST", "/api/v1/queues/mine/jobs", job).fails(403, "token").contains("needs operate")
    );
    send(OPERATE, "POST", "/api/v1/queues/other/jobs", job).data(201);
    // One that is limited to queues sees nothing of others.
    send(LIMITED, "POST", "/api/v1/queues/mine/jobs", job).data(201);
    send(LIMITED, "POST", "/api/v1/queues/other/jobs", job).fails(403, "queue");
    send(LIMITED, "POST", "/api/v1/queues/%6dine/jobs", job).fails(403, "queue");
    send(LIMITED, "POST", "/api/v1/queues/mine%2F..%2Fother/jobs", job).fails(403, "queue");
    send(LIMITED, "GET", "/api/v1/dead?queue=other", "").fails(403, "queue");
    send(LIMITED, "GET", "/api/v1/fleet", "").fails(403, "token");
    send(LIMITED, "GET", "/timer/a", "").fails(403, "queue");
    let queues = send(LIMITED, "GET", "/api/v1/queues", "").data(200);
    assert_eq!(queues["queues"].as_array().unwrap().len(), 1, "{queues}");
    assert_eq!(send(SLOW, "GET", "/api/v1/queues", "").status, 200);
    assert_eq!(send(SLOW, "GET", "/api/v1/queues", "").status, 200);
    let hurried = send(SLOW, "GET", "/api/v1/queues", "");
    assert!(hurried.fails(429, "token").contains("2/m"));
    let wait: u64 = hurried.header("retry-after").parse().unwrap();
    assert!((1..=30).contains(&wait), "{hurried:?}");
    assert_eq!(send(READ, "GET", "/api/v1/queues", "").status, 200);
}

fn names_and_pages_of_others_are_refused(store: Store) {
    let rig = Rig::new(store, &format!("hosts = [\"jobs.example.com\"]\n---\n{NOBODY}"));
    let _up = rig.up();
    for path in ["/livez", "/api/v1/queues", "/none"] {
        rig.client.send("GET", path, &[("host", "evil.example")], "").fails(421, "host");
    }
    rig.client.send("GET", "/api/v1/queues", &[("host", "jobs.example.com")], "").data(200);
    let post = |headers: &[(&str, &str)]| {
        rig.client.send("POST", "/api/v1/queues/q/jobs", headers, r#"{"payload":1}"#)
    };
    post(&[("origin", "https://evil.example")]).fails(403, "origin");
    post(&[("origin", "null")]).fails(403, "origin");
    post(&[("sec-fetch-site", "cross-site")]).fails(403, "origin");
    rig.client.send("POST", "/timer", &[("origin", "https://evil.example")], "{}").fails(403, "origin");
    let own = format!("http://127.0.0.1:{}", rig.client.port);
    post(&[("origin", &own)]).data(201);
    post(&[("sec-fetch-site", "none")]).data(201);
    assert_eq!(rig.client.get("/api/v1/queues/q").data(200)["ready"], json!(2));
}

fn an_open_address_demands_tokens(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let port = rig.client.port;
    rig.site.configure(&format!("[http]\nlisten = \"0.0.0.0:{port}\"\nbehind_proxy = true\n")).unwrap();
    let refused = rig.site.cli(&["up"]).unwrap();
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(
        refused.stderr.contains("http.listen") && refused.stderr.contains("demands tokens"),
        "{refused:?}"
    );
}
