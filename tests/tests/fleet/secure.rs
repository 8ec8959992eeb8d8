//! Webhooks and brokers over TLS: the other side proves who it is, or nothing is said to it.

use std::path::Path;
use std::process::{Child, Stdio};

use lapin::BasicProperties;
use roundsman_tests::amqp_client::Client;
use roundsman_tests::ports::free_port;
use roundsman_tests::rabbit_server::RabbitServer;
use roundsman_tests::spawn;
use roundsman_tests::tree::UpOptions;
use roundsman_tests::wait::wait_for;

use crate::rig::{Rig, SOON, Store, log};

/// A server that answers each request by its body, and writes its port to a file.
const SERVER: &str = r#"
import http.server, ssl, sys

class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("leaf.pem", "leaf.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
open("port.new", "w").write(str(server.server_port))
import os
os.rename("port.new", "port")
server.serve_forever()
"#;

struct Server(Child, u16);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let mut command = spawn::command("openssl");
    command.args(arguments.split(' ')).current_dir(folder);
    let done = spawn::output(command).unwrap();
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority, and a certificate by which it vouches for `localhost`.
fn certify(folder: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
    openssl(folder, &format!("req {key} -keyout leaf.key -out leaf.csr -subj /CN=leaf"));
    std::fs::write(folder.join("names"), "subjectAltName = DNS:localhost\n").unwrap();
    openssl(
        folder,
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out leaf.pem",
    );
}

fn server(folder: &Path) -> Server {
    certify(folder);
    let mut command = spawn::bound_command("python3");
    command.args(["-c", SERVER]).current_dir(folder).stdin(Stdio::null()).stderr(Stdio::null());
    let child = spawn::start(command).unwrap();
    let port = wait_for("the server's port", SOON, || {
        std::fs::read_to_string(folder.join("port")).map_err(|error| error.to_string())
    });
    Server(child, port.unwrap().parse().unwrap())
}

#[test]
fn only_who_proves_to_be_the_host_is_sent_anything() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let pool = |name: &str, host: &str| {
        format!(
            "[pools.{name}]\nqueues = [\"{name}\"]\n\
             handler = {{ type = \"http\", url = \"https://{host}:{}/\" }}\n",
            server.1
        )
    };
    let allow = "[transports.http]\nallow = [\"127.0.0.1\"]\n";
    let rig = Rig::new(
        Store::Sqlite,
        &format!("{}{}{allow}", pool("right", "localhost"), pool("wrong", "127.0.0.1")),
    );
    let trusted = |file: String| UpOptions {
        environment: vec![("SSL_CERT_FILE".to_owned(), file)],
        ..UpOptions::default()
    };
    let up = rig.site.up(&trusted(folder.path().join("ca.pem").display().to_string())).unwrap();
    for (queue, id) in [("right", "a"), ("right", "b"), ("wrong", "c")] {
        rig.ok(&["enqueue", queue, "{\"a\":1}", "--id", id, "--max-attempts", "1"]);
    }
    for id in ["a", "b"] {
        assert_eq!(rig.wait_state(&up, id, "done")["result"]["a"], 1);
    }
    let job = rig.wait_state(&up, "c", "dead");
    assert!(job["error"].as_str().unwrap().contains("not valid for name"), "{job}\n{}", log(&up));
    drop(up);
    // Vouched for by nobody that this host trusts.
    openssl(folder.path(), "req -x509 -newkey rsa:2048 -nodes -keyout x.key -out x.pem -days 2 -subj /CN=x");
    let up = rig.site.up(&trusted(folder.path().join("x.pem").display().to_string())).unwrap();
    rig.ok(&["enqueue", "right", "1", "--id", "d", "--max-attempts", "1"]);
    let job = rig.wait_state(&up, "d", "dead");
    assert!(job["error"].as_str().unwrap().contains("UnknownIssuer"), "{job}");
}

/// `amqps://`: taken in from, and answered to, over TLS.
#[test]
fn a_broker_proves_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let port = free_port().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let server = RabbitServer::start_with(&format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
        file("ca.pem"),
        file("leaf.pem"),
        file("leaf.key")
    ))
    .unwrap();
    let client = Client::connect(&server.url()).unwrap();
    for queue in ["jobs", "answers"] {
        client.declare(queue, &[]).unwrap();
    }
    let url = format!("amqps://guest:guest@localhost:{port}/%2f");
    let rig = Rig::new(Store::Sqlite, &format!("{}{}", crate::amqp::ECHO, crate::amqp::taking(&url)));
    let trusted = |name: &str| UpOptions {
        environment: vec![("SSL_CERT_FILE".to_owned(), file(name))],
        ..UpOptions::default()
    };
    let up = rig.site.up(&trusted("ca.pem")).unwrap();
    client.publish("jobs", b"1", BasicProperties::default().with_reply_to("answers".into())).unwrap();
    let answer = wait_for("the answer", SOON, || match client.take("answers") {
        Ok(Some(message)) => Ok(message.delivery.data),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(answer.unwrap_or_else(|late| panic!("{late}\n{}", log(&up))), b"1");
    drop(up);
    openssl(folder.path(), "req -x509 -newkey rsa:2048 -nodes -keyout x.key -out x.pem -days 2 -subj /CN=x");
    let up = rig.site.up(&trusted("x.pem")).unwrap();
    wait_for(
        "the refusal",
        SOON,
        || {
            if up.stderr().contains("UnknownIssuer") { Ok(()) } else { Err(log(&up)) }
        },
    )
    .unwrap();
}
