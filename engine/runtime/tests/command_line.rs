//! What goes wrong in operation: each a clear error, and a node that lives on.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{
    SYNOD, Served, free_addresses, make_cluster, read_to_end, synod, synod_ok, temporary_directory, wait_for,
};
use synod_frame::{Channel, FORMAT_VERSION, GroupId, HELLO_BYTES, Hello, HelloRefusal, HelloReply};
use synod_protocol::{Ballot, NodeId, Slot};

const PATIENCE: Duration = Duration::from_secs(10);

/// The exit code and stderr of a `synod` that fails.
fn failure<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> (Option<i32>, String) {
    let output = synod(arguments);
    assert!(!output.status.success());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn serve(directory: &Path, node: &str, listen: &str) -> Vec<String> {
    let directory = directory.to_str().expect("a plain path");
    ["serve", "--dir", directory, "--node", node, "--listen", listen].map(str::to_owned).to_vec()
}

fn append(at: SocketAddr, lines: &str) -> String {
    let mut child = Command::new(SYNOD)
        .args(["append", "--at", &at.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("stdin is piped").write_all(lines.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("stdout is text")
}

fn peer_hello(cluster: [u8; 16], from: u32, to: u32) -> Hello {
    Hello {
        channel: Channel::Control,
        format_min: FORMAT_VERSION,
        format_max: FORMAT_VERSION,
        features: 0,
        cluster,
        lineage: 0,
        from: NodeId(from),
        to: NodeId(to),
        incarnation: [3; 16],
        boot_counter: 1,
        boot_nonce: 1,
        promise: Ballot::ZERO,
        durable: 0,
        configuration: Slot(0),
        port: 0,
        stable: Slot(0),
        group: GroupId(0),
    }
}

fn ask(address: SocketAddr, hello: &Hello) -> HelloReply {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(&hello.encode()).expect("it reads");
    let mut reply = [0; HELLO_BYTES];
    stream.read_exact(&mut reply).expect("it answers");
    HelloReply::decode(&reply).expect("a reply")
}

#[test]
fn a_node_lives_on_through_garbage_strangers_and_mistakes() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 1, 2 << 20);
    let addresses = free_addresses(2);
    let mut node = Served::start(&directories[0], 1, &addresses[..1], addresses[1]);
    let slots = wait_for("a leader", PATIENCE, || {
        let status = synod_ok(["status", "--at", &node.client.to_string()]);
        assert!(status.contains("pool_depth ") && status.contains("fenced             0"), "{status}");
        status.contains("role       leader").then(|| append(node.client, "one\ntwo\nthree\n"))
    });
    assert_eq!(slots.lines().count(), 3, "{slots:?}");

    // Garbage on both ports ends the connection, not the node, and is told once with the address it came from.
    for port in [node.listen, node.client] {
        let mut stream = TcpStream::connect(port).expect("it listens");
        let from = stream.local_addr().expect("an address");
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it reads");
        assert!(read_to_end(stream).is_empty(), "garbage gets no answer");
        let told = wait_for("a warning", PATIENCE, || {
            let stderr = node.stderr();
            stderr.contains(&from.to_string()).then(|| stderr.lines().filter(|l| l.contains(&from.to_string())).count())
        });
        assert_eq!(told, 1);
    }

    // Strangers are told why they are refused.
    let own = ask(node.listen, &peer_hello([9; 16], 1, 1));
    assert!(matches!(own.outcome, Err(HelloRefusal::Cluster { cluster }) if cluster == own.hello.cluster));
    let hello = |from, to| Hello { lineage: own.hello.lineage, ..peer_hello(own.hello.cluster, from, to) };
    assert_eq!(ask(node.listen, &hello(2, 7)).outcome, Err(HelloRefusal::Node { node: NodeId(1) }));
    assert_eq!(ask(node.listen, &hello(2, 1)).outcome, Err(HelloRefusal::UnknownNode { configuration: Slot(0) }));
    assert_eq!(ask(node.listen, &hello(1, 1)).outcome, Err(HelloRefusal::Node { node: NodeId(1) }));
    let client = Hello { channel: Channel::Client, from: NodeId(0), to: NodeId(0), ..hello(0, 0) };
    assert_eq!(ask(node.listen, &client).outcome, Err(HelloRefusal::Channel));

    // Mistakes on the command line.
    let (code, stderr) = failure(serve(&directories[0], "1", "127.0.0.1:0"));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("another process"), "{stderr}");
    let elsewhere = root.path().join("elsewhere");
    synod_ok(["init", "--dir", elsewhere.to_str().unwrap(), "--node", "2"]);
    let (_, stderr) = failure(serve(&elsewhere, "2", "127.0.0.1:0"));
    assert!(stderr.contains("bootstrap"), "{stderr}");
    let second = root.path().join("second");
    std::fs::create_dir(&second).unwrap();
    let other = make_cluster(&second, 1, 2 << 20);
    let (_, stderr) = failure(serve(&other[0], "5", "127.0.0.1:0"));
    assert!(stderr.contains("node"), "{stderr}");
    let (_, stderr) = failure(serve(&other[0], "1", &node.listen.to_string()));
    assert!(stderr.contains("another process listens there"), "{stderr}");
    let (_, stderr) = failure(serve(root.path(), "1", "127.0.0.1:0"));
    assert!(stderr.contains("init"), "{stderr}");
    let (code, stderr) = failure(serve(&other[0], "1", "0.0.0.0:0"));
    assert_eq!((code, stderr.contains("insecure")), (Some(2), true), "{stderr}");
    let third = root.path().join("third");
    std::fs::create_dir(&third).unwrap();
    let pair = make_cluster(&third, 2, 2 << 20);
    let (_, stderr) = failure(serve(&pair[0], "1", "127.0.0.1:0"));
    assert!(stderr.contains("it isn't known where 2 listen: name them with --peer"), "{stderr}");
    let file = root.path().join("node.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:0\"\nretention.age = \"7d\"\nwindow_bodies = 4\n").unwrap();
    let mut printing = serve(&other[0], "1", "127.0.0.1:5");
    printing.extend(["--config".to_owned(), file.display().to_string(), "--print-config".to_owned()]);
    let printed = synod_ok(&printing);
    for (name, value, origin) in [
        ("listen", "\"127.0.0.1:5\"", "--listen"),
        ("window_bodies", "4", "node.toml:3"),
        ("sync", "\"dsync\"", "default"),
    ] {
        let line = printed.lines().find(|line| line.starts_with(name)).expect("every setting is shown");
        assert!(line.contains(&format!("= {value} ")) && line.ends_with(origin), "{line}");
    }
    std::fs::write(&file, "windows_bodies = 4\n").unwrap();
    let (code, stderr) = failure(&printing);
    assert!(code == Some(2) && stderr.contains("did you mean \"window_bodies\"?"), "{stderr}");
    let (code, stderr) = failure(["serve", "--no-such-flag"]);
    assert_eq!((code, stderr.contains("--no-such-flag")), (Some(2), true), "{stderr}");
    let (code, stderr) = failure(["status", "--at", &free_addresses(1)[0].to_string()]);
    assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");

    // The node has served all the while, and ends in order.
    let printed = synod_ok(["read", "--at", &node.client.to_string()]);
    let commands: Vec<&str> = printed.lines().filter_map(|line| line.split_once('\t')).map(|(_, c)| c).collect();
    assert_eq!(commands, ["one", "two", "three"]);
    let limited = synod_ok(["read", "--at", &node.client.to_string(), "--limit", "1", "--from", "1"]);
    assert_eq!(limited.lines().count(), 1);
    assert_eq!(node.terminate(), Some(0));
    assert!(!node.stderr().contains("panic"), "{}", node.stderr());

    // And what was appended is there after a restart.
    let node = Served::start(&directories[0], 1, &addresses[..1], addresses[1]);
    wait_for("the commands", PATIENCE, || {
        let printed = synod_ok(["read", "--at", &node.client.to_string()]);
        printed.contains("three").then_some(())
    });
}
