use std::fs;

use synod_protocol::NodeId;
use synod_wal::SyncMode;
use synod_wal::directory::{InitOptions, init};

use super::*;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// With the directory of a node 2.
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = InitOptions { segment_bytes: 64 << 10, ..InitOptions::default() };
        init(&directory.path().join("node"), NodeId(2), &options, &mut |_| {}).expect("a fresh directory");
        Place { directory }
    }

    fn sources(&self, file: &str) -> Result<Sources, LoadError> {
        let mut sources = Sources::new();
        let path = self.directory.path().join("node.toml");
        fs::write(&path, file).expect("a writable directory");
        sources.file(&path)?;
        sources.flag(key("dir"), self.directory.path().join("node").to_str().expect("a plain path"));
        Ok(sources)
    }

    /// What is said about a file, without the path.
    fn complaint(&self, file: &str) -> String {
        let error = self.sources(file).and_then(Sources::resolve).expect_err(file).to_string();
        error.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

fn key(name: &str) -> &'static Key {
    KEYS.iter().find(|key| key.name == name).expect("a setting")
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

const LISTEN: &str = "listen = \"127.0.0.1:0\"\n";

#[test]
fn a_later_source_wins_and_each_value_knows_its_own() {
    let place = Place::new();
    let file = "listen = \"127.0.0.1:1\"\nsync = \"fdatasync\"\nwindow_bodies = 8\nretention.age = \"7d\"\n\
                [peers]\n1 = \"127.0.0.1:7101\"\n3 = \"127.0.0.1:7103\"\n";
    let mut sources = place.sources(file).expect("a good file");
    let given = [("SYNOD_SYNC", "dsync"), ("SYNOD_WINDOW_BODIES", "9"), ("SYNOD_PORT", "tcp://x"), ("PATH", "/bin")];
    assert_eq!(sources.environment(variables(&given)).expect("good variables"), ["SYNOD_PORT"]);
    sources.flag(key("window_bodies"), "10");
    let loaded = sources.resolve().expect("good settings");
    let config = &loaded.options.config;
    assert_eq!((config.node, config.sync, config.settings.window_bodies), (NodeId(2), SyncMode::Dsync, 10));
    assert_eq!(config.peers.iter().map(|(node, _)| node.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(config.retention.age, Some(std::time::Duration::from_secs(7 * 86_400)));
    assert_eq!(loaded.origin("sync"), Some(&Origin::Variable("SYNOD_SYNC".to_owned())));
    assert_eq!(loaded.origin("window_bodies"), Some(&Origin::Flag("window-bodies".to_owned())));
    assert!(matches!(loaded.origin("retention.age"), Some(Origin::File(_, 4))));
    assert_eq!(loaded.origin("window_bytes"), None);
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let place = Place::new();
    let file =
        format!("{LISTEN}retention.bytes = \"8GiB\"\nclient_listen = \"127.0.0.1:9\"\npeers.1 = \"127.0.0.1:7\"\n");
    let first = place.sources(&file).and_then(Sources::resolve).expect("good settings").print();
    assert!(first.contains("# --dir") && first.contains("segments of 65536 bytes"), "{first}");
    let second = place.sources(&first).and_then(Sources::resolve).expect("printed settings are good").print();
    let values = |text: &str| -> Vec<String> {
        let value = |line: &str| line.rsplit_once(" # ").map_or(line, |(value, _)| value).trim().to_owned();
        text.lines().map(value).collect()
    };
    assert_eq!(values(&first), values(&second));
}

#[test]
fn every_default_is_shown_and_taken_again() {
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config::new("/x", NodeId(1), nowhere);
    let mut options = Options { config, log_format: LogFormat::Json };
    for key in KEYS.iter().filter(|key| key.shape != Shape::Peers) {
        if let Some(shown) = (key.show)(&options) {
            (key.set)(&mut options, shown.trim_matches('"')).unwrap_or_else(|error| panic!("{}: {error}", key.name));
            assert_eq!((key.show)(&options), Some(shown), "{}", key.name);
        }
    }
}

#[test]
fn what_is_unknown_is_refused_with_the_nearest_that_is_known() {
    let place = Place::new();
    let said = place.complaint("window_bodys = 3\n");
    assert_eq!(said, "node.toml:1: there is no setting \"window_bodys\"; did you mean \"window_bodies\"?");
    let said = place.complaint("# a comment\n[retention]\nbites = 3\n");
    assert_eq!(said, "node.toml:3: there is no setting \"retention.bites\"; did you mean \"retention.bytes\"?");
    assert_eq!(place.complaint("xyz = 3\n"), "node.toml:1: there is no setting \"xyz\"");
    let said = place.complaint("alpha = 1024\n");
    assert!(said.contains("shared by the cluster") && said.contains("synod bootstrap --alpha"), "{said}");
    let error = Sources::new().environment(variables(&[("SYNOD_CLIENT_LISTENS", "")])).expect_err("a slip");
    assert!(error.to_string().contains("did you mean \"client_listen\""), "{error}");
}

#[test]
fn what_cannot_be_read_is_named_with_its_place() {
    let place = Place::new();
    for (file, said) in [
        ("listen = 5\n", "node.toml:1: listen: \"a number\" is no string"),
        ("listen = \"localhost:1\"\n", "node.toml:1: listen: \"localhost:1\" is not IP:PORT; names are not resolved"),
        ("insecure_plaintext = \"yes\"\n", "node.toml:1: insecure_plaintext: \"a string\" is neither true nor false"),
        ("retention.age = 7\n", "node.toml:1: retention.age: \"7\" is no time"),
        ("body_bytes_max = \"8GiB\"\n", "node.toml:1: body_bytes_max: \"8GiB\" is too large"),
        ("peers = [1]\n", "node.toml:1: peers: \"an array\" is no table"),
        ("peers.x = \"127.0.0.1:1\"\n", "peers: \"x=127.0.0.1:1\" names \"x\", which is not a node id"),
        ("a = 1\na = 2\n", "node.toml:2: duplicate key"),
        ("listen = \n", "node.toml:1: "),
    ] {
        let complaint = place.complaint(file);
        assert!(complaint.contains(said), "{complaint}");
    }
    assert!(place.complaint("").starts_with("listen is not set: --listen, SYNOD_LISTEN, or"));
    let long = "#".repeat(FILE_BYTES_MAX as usize + 1);
    assert!(place.complaint(&long).contains("more than 1048576 bytes"));
}

#[test]
fn what_does_not_fit_together_is_refused_with_all_origins() {
    let place = Place::new();
    let said = place.complaint(&format!("{LISTEN}retention.bytes = 1000\nretention.hard_bytes = 10\n"));
    assert!(said.starts_with("retention.hard_bytes must be 1000 to"), "{said}");
    assert!(
        said.ends_with("(retention.hard_bytes is from node.toml:3, retention.bytes is from node.toml:2)"),
        "{said}"
    );
    let said = place.complaint(&format!("{LISTEN}heartbeat_interval = \"1s\"\n"));
    assert!(
        said.contains("three times heartbeat_interval") && said.ends_with("(heartbeat_interval is from node.toml:2)")
    );
    let said = place.complaint("listen = \"0.0.0.0:7000\"\n");
    assert!(said.contains("insecure_plaintext") && said.ends_with("(listen is from node.toml:1)"), "{said}");
}
