use std::io::{Read as _, Write as _};

use synod_protocol::NodeId;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// The port of a node that isn't up.
fn port() -> (Admin, Arc<View>) {
    let config = Config::new("/", NodeId(7), "127.0.0.1:0".parse().unwrap());
    let view = Arc::new(View::new(&config, 1, None));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    (Admin::start(listener, Arc::clone(&view)).expect("a thread"), view)
}

fn connect(admin: &Admin) -> TcpStream {
    let stream = TcpStream::connect(admin.address()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// What comes until the end; a reset is an end as well.
fn read(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).expect("answers are text")
}

fn ask(admin: &Admin, request: &str) -> String {
    let mut stream = connect(admin);
    stream.write_all(request.as_bytes()).expect("it reads");
    read(&mut stream)
}

fn get(admin: &Admin, path: &str) -> String {
    ask(admin, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

#[test]
fn a_node_that_is_not_up_is_healthy_and_not_ready() {
    let (admin, view) = port();
    assert!(get(&admin, "/health").starts_with("HTTP/1.1 200 OK\r\n"));
    let ready = get(&admin, "/ready");
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("\r\n\r\nthe log is being read back\n"), "{ready}");
    let metrics = get(&admin, "/metrics?x");
    assert!(metrics.contains("synod_disk_free_bytes{node=\"7\"} ") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(get(&admin, "/limits").contains("connections to the admin port"));
    assert!(get(&admin, "/").starts_with("HTTP/1.1 404 "));
    let head = ask(&admin, "HEAD /health HTTP/1.1\r\n\r\n");
    assert!(head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    view.is_leaving();
    assert!(get(&admin, "/ready").ends_with("shutting down\n"));
}

#[test]
fn malformed_oversized_and_truncated_requests_are_refused() {
    let (admin, view) = port();
    assert!(ask(&admin, "POST /health HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(ask(&admin, "\0\0\0\0").starts_with("HTTP/1.1 400 "));
    let long = format!("GET /health HTTP/1.1\r\nA: {}", "a".repeat(http::HEAD_BYTES_MAX));
    let refused = ask(&admin, &long[..http::HEAD_BYTES_MAX]);
    assert!(refused.starts_with("HTTP/1.1 431 "), "{refused}");
    let mut truncated = connect(&admin);
    truncated.write_all(b"GET /hea").expect("it reads");
    truncated.shutdown(std::net::Shutdown::Write).expect("a socket");
    assert_eq!(read(&mut truncated), "");
    // Counted after the connection is closed.
    let deadline = std::time::Instant::now() + PATIENCE;
    while view.port.refused.value() < 4 && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!((view.port.accepted.value(), view.port.refused.value()), (4, 4));
}

#[test]
fn silent_and_slow_connections_keep_nobody_out_and_end() {
    let (admin, view) = port();
    let mut silent: Vec<TcpStream> = (0..3 * CONNECTIONS_MAX).map(|_| connect(&admin)).collect();
    for _ in 0..10 {
        assert!(get(&admin, "/health").starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert!(view.port.open.value() <= CONNECTIONS_MAX as u64);
    assert!(view.port.crowded_out.value() >= 2 * CONNECTIONS_MAX as u64);
    assert_eq!(read(&mut silent[0]), "", "the oldest was closed");
    // A byte a while is no better than silence.
    let mut slow = connect(&admin);
    slow.set_read_timeout(Some(Duration::from_millis(250))).expect("a socket");
    let begun = std::time::Instant::now();
    loop {
        assert!(begun.elapsed() < EXCHANGE_DEADLINE + PATIENCE, "a slow connection doesn't end");
        if slow.write_all(b"G").is_err() {
            break;
        }
        match slow.read(&mut [0; 64]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
}
