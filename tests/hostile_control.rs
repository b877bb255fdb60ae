//! Clients of the control socket that break the rules: they get errors, and everybody else gets answers.

mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;
use support::frames::Random;
use support::scene::Scene;

/// Says something and hears what comes back until the daemon closes; what was said may be too long to be heard out.
fn say(scene: &Scene, request: &[u8]) -> String {
    let mut client = UnixStream::connect(scene.daemon.control()).expect("the control socket");
    client
        .set_read_timeout(Some(Duration::from_secs(8)))
        .expect("a timeout");
    let _ = client.write_all(request);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        answer.extend(&buffer[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends a request with a body; the status and the answer's body.
fn request(scene: &Scene, method: &str, target: &str, body: &[u8]) -> (u16, Value) {
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = say(scene, &[head.as_bytes(), body].concat());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A request that is refused with a status and one line.
fn refused(scene: &Scene, status: u16, method: &str, target: &str, body: &[u8]) {
    let (got, answer) = request(scene, method, target, body);
    let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
    assert_eq!(got, status, "{method} {target} {shown}: {answer}");
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(
        !error.is_empty() && !error.contains('\n') && error.len() < 1000,
        "{method} {target} {shown}: {error:?}"
    );
    still_answers(scene);
}

/// Others are answered, and traffic flows.
fn still_answers(scene: &Scene) {
    let stats = scene.daemon.cli(&["stats"]);
    assert_eq!(stats["ports"].as_array().map(Vec::len), Some(4), "{stats}");
    scene.flows();
}

#[test]
fn requests_that_are_wrong() {
    let scene = Scene::start();
    let deep = format!("{{\"name\": {}", "[".repeat(100_000));
    let wide = format!("{{\"name\": \"v\", \"trunk\": [{}1]}}", "1,".repeat(200_000));
    let rule = "{\"name\": \"r\", \"pattern\": \"x\", \"action\": \"drop\"},".repeat(50_000);
    let many_rules = format!(
        "{{\"name\": \"v\", \"tap\": \"t\", \"filter\": \"inspect\", \"rule\": [{}]}}",
        rule.trim_end_matches(',')
    );
    let long_name = format!("{{\"name\": \"{}\", \"tap\": \"t\"}}", "n".repeat(100_000));
    for (status, body) in [
        (400, b"".as_slice()),
        (400, b"null"),
        (400, b"\xff\xfe\x00"),
        (400, b"{\"name\": \"v\", \"name\": \"w\"}"),
        (400, deep.as_bytes()),
        (422, b"{\"name\": \"../../x\", \"tap\": \"t\"}"),
        (
            422,
            b"{\"name\": \"v\", \"vhost-user\": \"/tmp/x\", \"queues\": 1000000}",
        ),
        (422, wide.as_bytes()),
        (422, long_name.as_bytes()),
        (422, many_rules.as_bytes()),
    ] {
        refused(&scene, status, "POST", "/v1/ports", body);
    }
    refused(&scene, 404, "GET", "/v1/ports/%2e%2e%2fetc", b"");
    refused(&scene, 404, "GET", "/../../etc/passwd", b"");
    refused(&scene, 413, "POST", "/v1/ports", &vec![b' '; 5 << 20]);
    scene.finish();
}

#[test]
fn clients_that_do_not_speak_http() {
    let mut scene = Scene::start();
    let mut random = Random::new(3);
    for len in [1, 20, 1000, 100_000] {
        say_and_leave(&scene, &random.octets(len));
    }
    for text in [
        "\r\n\r\n\r\n",
        "GET /v1/stats HTTP/9.9\r\n\r\n",
        "GET /v1/stats\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "POST /v1/ports HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    ] {
        let answer = say(&scene, text.as_bytes());
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(answer.is_empty() || status.starts_with('4'), "{text:?}: {answer}");
    }
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(1 << 16)).repeat(80);
    // A head without end, and a body without end.
    let head = format!("GET /v1/stats HTTP/1.1\r\nX: {}", "x".repeat(1 << 20));
    assert!(say(&scene, head.as_bytes()).starts_with("HTTP/1.1 431"));
    let chunks = [
        b"POST /v1/ports HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(),
        chunk.as_bytes(),
    ];
    assert!(say(&scene, &chunks.concat()).starts_with("HTTP/1.1 413"));
    scene.alive();
    still_answers(&scene);
    scene.finish();
}

fn say_and_leave(scene: &Scene, octets: &[u8]) {
    let mut client = UnixStream::connect(scene.daemon.control()).expect("the control socket");
    let _ = client.write_all(octets);
}

#[test]
fn clients_that_never_finish() {
    let mut scene = Scene::start();
    let starts = [
        "",
        "G",
        "GET /v1/stats HTTP/1.1\r\nHost:",
        "POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n{",
        "POST /v1/ports HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ];
    let open = |start: &str| {
        let mut client = UnixStream::connect(scene.daemon.control()).expect("the control socket");
        client.write_all(start.as_bytes()).expect("a part of a request");
        client
    };
    let clients: Vec<_> = (0..100)
        .map(|number| open(starts[number % starts.len()]))
        .collect();
    still_answers(&scene);
    // And clients that ask and do not listen.
    let mut deaf: Vec<_> = (0..10).map(|_| open("")).collect();
    for client in &mut deaf {
        client.set_nonblocking(true).expect("a socket can do that");
        let _ = client.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(5000).as_bytes());
    }
    still_answers(&scene);
    scene.alive();
    drop((clients, deaf));
    still_answers(&scene);
    scene.finish();
}

#[test]
fn a_crowd_of_clients_makes_room() {
    let scene = Scene::start();
    let open = |start: &str| {
        let mut client = UnixStream::connect(scene.daemon.control()).expect("the control socket");
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        client.write_all(start.as_bytes()).expect("a request's start");
        client
    };
    let mut capture = open("GET /v1/ports/bystander/capture HTTP/1.1\r\nHost: x\r\n\r\n");
    capture.read_exact(&mut [0; 64]).expect("the capture has begun");
    let body = "POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n{";
    let mut crowd: Vec<_> = (0..300).map(|_| open(body)).collect();
    still_answers(&scene);
    // The first one was sent away before its time was over, which it would have been told.
    let mut answer = Vec::new();
    let _ = crowd[0].read_to_end(&mut answer);
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    // The capture, which came before it, was not.
    for _ in 0..1000 {
        capture.read_exact(&mut [0; 1024]).expect("the capture goes on");
    }
    drop((crowd, capture));
    still_answers(&scene);
    scene.finish();
}
