//! A cluster under TLS: who gets in, who doesn't, and what they are told.

#[path = "common/certificates.rs"]
mod certificates;
mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use certificates::{Authority, flags};
use common::{Served, free_addresses, make_cluster, read_to_end, synod, temporary_directory, wait_for};
use rustix::process::{Pid, Signal};
use synod::client::{Client, ClientError, ClientRefusal, ClientRole, NodeRole};
use synod::directory::read_identity;
use synod::remote::{Remote, RemoteConfig};
use synod::tls::{ClientTls, TlsFiles};
use synod::{AppendError, Batch, ReadItem};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

/// The beginning of all names of the cluster that a directory belongs to.
fn cluster_of(directory: &Path) -> String {
    let cluster = read_identity(directory).expect("an identity").cluster.expect("bootstrapped");
    format!("synod://{}", Uuid::from_bytes(cluster))
}

fn connect(at: SocketAddr, files: &TlsFiles) -> Result<Client, ClientError> {
    let tls = ClientTls::load(files).expect("good files");
    Client::connect_with(at, PATIENCE, Some(&tls))
}

/// How a client fares that is refused in the handshake.
fn rejection(at: SocketAddr, files: &TlsFiles) -> String {
    connect(at, files).and_then(|mut client| client.status()).expect_err("it isn't let in").to_string()
}

fn start(directory: &Path, node: u32, listens: &[SocketAddr], client: SocketAddr, files: &TlsFiles) -> Served {
    let flags = flags(files);
    let further: Vec<&str> = flags.iter().map(String::as_str).chain(["--admin-listen", "127.0.0.1:0"]).collect();
    Served::start_with(directory, node, listens, client, &further)
}

fn batch() -> Batch {
    let mut batch = Batch::new();
    batch.push(b"under seal");
    batch
}

#[test]
fn a_cluster_under_tls_serves_whom_its_certificates_allow() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 3, 2 << 20);
    let addresses = free_addresses(6);
    let (listens, clients) = addresses.split_at(3);
    let authority = Authority::new(&root.path().join("ca"));
    let cluster = cluster_of(&directories[0]);
    let name = |rest: &str| vec![format!("{cluster}/{rest}")];
    let files: Vec<TlsFiles> =
        (1..=3).map(|node| authority.sign(&format!("node-{node}"), &name(&format!("node/{node}")))).collect();
    let nodes: Vec<Served> = (1..=3)
        .map(|node| {
            let place = node as usize - 1;
            start(&directories[place], node, listens, clients[place], &files[place])
        })
        .collect();
    let admin = authority.sign("admin", &name("role/admin"));
    let leads = |at: &SocketAddr| {
        let role = connect(*at, &admin).and_then(|mut client| client.status()).expect("an admin may").role;
        role == NodeRole::Leader
    };
    let leader = wait_for("a leader", PATIENCE, || clients.iter().copied().find(leads));

    // Large and small, there and back.
    let mut client = connect(leader, &admin).expect("an admin may");
    let mut large = Batch::new();
    for byte in 0..=255 {
        large.push(&vec![byte; 3000]);
    }
    client.append_batch(&batch()).expect("an admin may");
    let slots = client.append_batch(&large).expect("an admin may");
    let mut bodies = Vec::new();
    let mut next = slots.start;
    while next < slots.end {
        let answer = client.read_from(next, 1 << 20).expect("an admin may");
        next = answer.next;
        bodies.extend(answer.bodies);
    }
    let commands = common::commands(&bodies);
    assert_eq!(commands.iter().map(|(_, command)| command.len()).sum::<usize>(), 256 * 3000);

    // Roles are what they say.
    let reader = authority.sign("reader", &name("role/read"));
    let writer = authority.sign("writer", &name("role/append"));
    let mut reading = connect(leader, &reader).expect("a reader may connect");
    assert!(!reading.read_from(slots.start, 1).expect("a reader may read").bodies.is_empty());
    let refused = reading.append_batch(&batch()).expect_err("a reader may not append");
    assert!(
        matches!(refused, ClientError::Refused(ClientRefusal::Forbidden { role: ClientRole::Append })),
        "{refused}"
    );
    assert!(refused.to_string().contains("append"), "{refused}");
    let mut writing = connect(leader, &writer).expect("a writer may connect");
    writing.append_batch(&batch()).expect("a writer may append");
    assert!(writing.status().expect("anybody may ask for the leader").leader.is_some());
    let refused = writing.figures().expect_err("a writer may not look any closer");
    assert!(matches!(refused, ClientError::Refused(ClientRefusal::Forbidden { role: ClientRole::Read })), "{refused}");

    // The remote log is the same under TLS, and knows what it may not.
    let servers = clients.to_vec();
    let remote = |files: &TlsFiles| {
        let tls = Some(ClientTls::load(files).expect("good files"));
        Remote::start(RemoteConfig { tls, ..RemoteConfig::new(servers.clone()) }).expect("a thread")
    };
    let slot = remote(&admin).log().append_blocking(b"from afar").expect("an admin may");
    let read = remote(&reader).log().reader(slot).next_blocking().expect("a reader may read");
    assert!(matches!(read, ReadItem::Body(body) if body.slots().contains(&slot)));
    assert_eq!(remote(&reader).log().append_blocking(b"x"), Err(AppendError::Forbidden));

    // The wrong ones are refused in the handshake, and told so.
    let expired = authority.sign_until("expired", &name("role/admin"), 2021);
    let nobody = authority.sign("nobody", &[]);
    let of_another_cluster = authority.sign("other", &[format!("synod://{}/role/admin", Uuid::from_u128(7))]);
    let foreign = Authority::new(&root.path().join("foreign")).sign("admin", &name("role/admin"));
    let foreign = TlsFiles { authorities: admin.authorities.clone(), ..foreign };
    let load = |files: &TlsFiles| ClientTls::load(files).map(|_| ());
    for files in [&nobody, &of_another_cluster] {
        let said = rejection(leader, files);
        assert!(said.contains("AccessDenied"), "{said}");
    }
    for (files, reason) in [(&expired, "CertificateExpired"), (&foreign, "UnknownCA")] {
        load(files).expect("what a node thinks of it is found out there");
        let said = rejection(leader, files);
        assert!(said.contains(reason), "{said}");
    }
    // A client's certificate opens no peer port, whatever the hello would say.
    let said = rejection(nodes[0].listen, &admin);
    assert!(said.contains("AccessDenied"), "{said}");

    // Plaintext gets nothing, and neither does garbage.
    for port in nodes.iter().flat_map(|node| [node.listen, node.client]) {
        assert!(Client::connect(port).is_err());
        let mut stream = TcpStream::connect(port).expect("it listens");
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it reads");
        // An alert at most.
        assert!(read_to_end(stream).len() <= 7);
    }

    // All the while nobody else was harmed.
    client.append_batch(&batch()).expect("an admin may");
    let metrics = metrics(nodes[0].admin.expect("asked for"));
    assert!(metrics.contains("synod_certificate_expires_timestamp_seconds{node=\"1\"} 4102444800"), "{metrics}");
    let mut flagged = vec!["read".to_owned(), "--at".to_owned(), leader.to_string()];
    flagged.extend(certificates::flags(&reader));
    let read = synod(&flagged);
    assert!(read.status.success() && String::from_utf8_lossy(&read.stdout).contains("under seal"));
    for mut node in nodes {
        assert_eq!(node.terminate(), Some(0));
        assert!(!node.stderr().contains("panic"), "{}", node.stderr());
    }
}

fn metrics(admin: SocketAddr) -> String {
    let mut stream = TcpStream::connect(admin).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    text
}

#[test]
fn a_node_speaks_only_for_itself_and_new_certificates_need_no_restart() {
    let root = temporary_directory();
    let directories = make_cluster(root.path(), 2, 2 << 20);
    let addresses = free_addresses(4);
    let (listens, clients) = addresses.split_at(2);
    let authority = Authority::new(&root.path().join("ca"));
    let cluster = cluster_of(&directories[0]);
    let name = |rest: &str| vec![format!("{cluster}/{rest}")];
    let admin = authority.sign("admin", &name("role/admin"));
    let first = authority.sign("node-1", &name("node/1"));
    // Of the authority of another cluster: the names are right, but nobody vouches for them.
    let other = Authority::new(&root.path().join("other"));
    let second = other.sign("node-2", &name("node/2"));
    let one = start(&directories[0], 1, listens, clients[0], &first);
    let two = start(&directories[1], 2, listens, clients[1], &second);
    wait_for("a complaint", PATIENCE, || one.stderr().contains("UnknownIssuer").then_some(()));
    let mut client = connect(clients[0], &admin).expect("an admin may");
    assert_eq!(client.status().expect("an admin may").leader, None, "they don't take each other for peers");

    // With certificates of one authority they are a cluster, without any restart. What a file is missing changes nothing.
    let hang_up = |node: &Served| {
        rustix::process::kill_process(Pid::from_child(&node.child), Signal::HUP).expect("it runs");
    };
    std::fs::write(&second.certificate, "no certificate").expect("a writable place");
    hang_up(&two);
    wait_for("a refusal", PATIENCE, || two.stderr().contains("the old ones stay").then_some(()));
    let good = authority.sign("node-2", &name("node/2"));
    for (from, to) in
        [(&good.certificate, &second.certificate), (&good.key, &second.key), (&good.authorities, &second.authorities)]
    {
        std::fs::copy(from, to).expect("a writable place");
    }
    hang_up(&two);
    wait_for("a leader", PATIENCE, || client.status().expect("an admin may").leader);

    // Another node's certificate is no use.
    let stolen = authority.sign("stolen", &name("node/3"));
    drop(two);
    let mut flagged: Vec<String> =
        ["serve", "--listen", "127.0.0.1:0", "--dir"].into_iter().map(str::to_owned).collect();
    flagged.push(directories[1].display().to_string());
    flagged.extend(["--peer".to_owned(), format!("1={}", listens[0])]);
    let refused = |files: &TlsFiles| {
        let output = synod(flagged.iter().cloned().chain(flags(files)));
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&stolen);
    assert!(said.contains("must name") && said.contains("node/2") && said.contains("not synod://"), "{said}");
    let said = refused(&authority.sign_until("late", &name("node/2"), 2021));
    assert!(said.contains("late.pem") && said.contains("expired"), "{said}");
    let said = refused(&TlsFiles { key: first.key.clone(), ..good.clone() });
    assert!(said.contains("node-1.key"), "{said}");
    let exposed = authority.sign("exposed", &name("node/2"));
    std::fs::set_permissions(&exposed.key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("own file");
    let said = refused(&exposed);
    assert!(said.contains("others may read") && said.contains("644"), "{said}");
}
