//! TLS 1.3 with certificates on both sides, on every listener.
//!
//! Who somebody is follows from the certificate alone, as its names say (`synod://<cluster>/node/<id>`,
//! `synod://<cluster>/role/append`, ...): a peer that says hello must be the node that its certificate names, and a client
//! may do what its roles allow. The hello is inside TLS. There are no switches: one version, the ciphers of `ring`, no
//! session tickets, so that each connection is judged by the certificates of its own day.
//!
//! Certificates are read from PEM files and may be replaced while the node runs ([`crate::Node::reload_certificates`]):
//! new connections use the new ones, those that are there stay. What can't be used leaves the old ones in place.

mod client;
mod names;
mod verify;

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use synod_protocol::NodeId;
use thiserror::Error;
use uuid::Uuid;

use verify::{Guests, Hosts};

pub use client::ClientTls;
pub(crate) use client::Wire;
pub(crate) use names::{Names, Roles};

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How far ahead an expiry is looked for.
const HORIZON: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Where certificates are; PEM, up to 1 MiB each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Those who sign the certificates of nodes and clients. Best an authority of the cluster's own.
    pub authorities: PathBuf,
    /// The own certificate, followed by those between it and an authority.
    pub certificate: PathBuf,
    /// The own certificate's private key; others than owner and group must not be allowed to read it.
    pub key: PathBuf,
}

/// Why certificates can't be used.
#[derive(Clone, Debug, Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: Arc<io::Error>,
    },
    /// Anybody may read the private key.
    #[error("{}: others may read this private key (mode {mode:o}); chmod it to 600 or 640, and consider it known", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file has no such thing in it, or something else is wrong with its text.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The own certificate doesn't lead to one of the authorities, has expired, or isn't for this use; the other side would
    /// refuse it.
    #[error("{}: {source}; it must be signed by one of {}, and be good now", path.display(), authorities.display())]
    Chain {
        /// The certificate's file.
        path: PathBuf,
        /// The authorities' file.
        authorities: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The certificate is somebody else's.
    #[error(
        "{}: it must name synod://{}/node/{} as a URI among the subject's alternative names{}",
        path.display(), Uuid::from_bytes(*cluster), node.0, told(found)
    )]
    Name {
        /// The certificate's file.
        path: PathBuf,
        /// The cluster that the node belongs to.
        cluster: [u8; 16],
        /// The node.
        node: NodeId,
        /// The nodes that it names instead, with their clusters.
        found: Vec<([u8; 16], NodeId)>,
    },
}

fn told(found: &[([u8; 16], NodeId)]) -> String {
    let names: Vec<String> =
        found.iter().map(|(cluster, node)| format!("synod://{}/node/{}", Uuid::from_bytes(*cluster), node.0)).collect();
    if names.is_empty() { ", and names no node".to_owned() } else { format!(", not {}", names.join(", ")) }
}

/// One of a node's listeners, and whom it lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Nodes of the cluster.
    Peers,
    /// Holders of any role.
    Clients,
}

/// A node's certificates, and what is made of them.
pub(crate) struct Tls {
    files: TlsFiles,
    cluster: [u8; 16],
    node: NodeId,
    current: RwLock<Arc<Keys>>,
}

struct Keys {
    peers: Arc<ServerConfig>,
    clients: Arc<ServerConfig>,
    dial: Arc<ClientConfig>,
    /// When the first certificate of the own chain expires.
    expires: UnixTime,
}

impl Tls {
    /// Reads the files of a node.
    pub(crate) fn load(files: &TlsFiles, cluster: [u8; 16], node: NodeId) -> Result<Tls, TlsError> {
        let keys = Keys::load(files, cluster, node)?;
        Ok(Tls { files: files.clone(), cluster, node, current: RwLock::new(Arc::new(keys)) })
    }

    /// Reads them again; if they can't be used, the old ones stay.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let keys = Keys::load(&self.files, self.cluster, self.node)?;
        tracing::info!(expires_in = ?left(keys.expires), "certificates are read again");
        *self.current.write().expect("no code that holds this lock panics") = Arc::new(keys);
        Ok(())
    }

    /// The cluster whose names count.
    pub(crate) fn cluster(&self) -> [u8; 16] {
        self.cluster
    }

    /// How a listener behaves from now on.
    pub(crate) fn accepting(&self, door: Door) -> Arc<ServerConfig> {
        let keys = self.keys();
        Arc::clone(match door {
            Door::Peers => &keys.peers,
            Door::Clients => &keys.clients,
        })
    }

    /// How to connect to a peer from now on.
    pub(crate) fn dialling(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.keys().dial)
    }

    /// When the first certificate of the own chain expires, in seconds since 1970.
    pub(crate) fn expires(&self) -> u64 {
        self.keys().expires.as_secs()
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.current.read().expect("no code that holds this lock panics"))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Keys {
    fn load(files: &TlsFiles, cluster: [u8; 16], node: NodeId) -> Result<Keys, TlsError> {
        let own = Own::load(files)?;
        let provider = provider();
        let hosts = Hosts::new(Arc::clone(&own.roots), &provider, Some(cluster));
        let expires = own.check(files, &hosts)?;
        let found = names::nodes_of(&own.chain[0]);
        if !found.contains(&(cluster, node)) {
            return Err(TlsError::Name { path: files.certificate.clone(), cluster, node, found });
        }
        let chains = WebPkiClientVerifier::builder_with_provider(Arc::clone(&own.roots), Arc::clone(&provider))
            .build()
            .map_err(|error| content(&files.authorities, error))?;
        let accepting = |wanted: fn(&Names) -> bool| -> Result<_, TlsError> {
            let guests = Guests { chains: Arc::clone(&chains), cluster, wanted };
            let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&TLS13])
                .expect("ring has TLS 1.3")
                .with_client_cert_verifier(Arc::new(guests))
                .with_single_cert(own.chain.clone(), own.key.clone_key())
                .map_err(|error| content(&files.key, error))?;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok(Arc::new(config))
        };
        let (peers, clients) = (accepting(Names::is_node)?, accepting(Names::is_client)?);
        Ok(Keys { peers, clients, dial: Arc::new(own.dialling(files, &provider, hosts)?), expires })
    }
}

/// What the files hold.
struct Own {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Own {
    fn load(files: &TlsFiles) -> Result<Own, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.authorities)? {
            roots.add(authority).map_err(|error| content(&files.authorities, error))?;
        }
        let chain = certificates(&files.certificate)?;
        let text = read(&files.key, true)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| content(&files.key, error))?;
        Ok(Own { roots: Arc::new(roots), chain, key })
    }

    /// Whether others will take the own chain, and until when.
    fn check(&self, files: &TlsFiles, hosts: &Hosts) -> Result<UnixTime, TlsError> {
        let now = UnixTime::now();
        let is_good_at = |time: UnixTime| hosts.verify_chain(&self.chain, time);
        is_good_at(now).map_err(|source| TlsError::Chain {
            path: files.certificate.clone(),
            authorities: files.authorities.clone(),
            source,
        })?;
        // The last second at which it is good: that of the whole chain, not only of its first certificate.
        let (mut good, mut bad) = (now.as_secs(), now.as_secs() + HORIZON.as_secs());
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            match is_good_at(at(middle)) {
                Ok(()) => good = middle,
                Err(_) => bad = middle,
            }
        }
        Ok(at(good))
    }

    fn dialling(
        &self,
        files: &TlsFiles,
        provider: &Arc<CryptoProvider>,
        hosts: Hosts,
    ) -> Result<ClientConfig, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(hosts))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| content(&files.key, error))?;
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn left(expires: UnixTime) -> Duration {
    Duration::from_secs(expires.as_secs().saturating_sub(UnixTime::now().as_secs()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path, false)?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| content(path, error))?;
    if certificates.is_empty() {
        return Err(content(path, "there is no certificate in it"));
    }
    Ok(certificates)
}

fn read(path: &Path, is_secret: bool) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source: Arc::new(source) };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if is_secret && mode & 0o007 != 0 {
        return Err(TlsError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(content(path, format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn content(path: &Path, problem: impl fmt::Display) -> TlsError {
    TlsError::Content { path: path.to_owned(), problem: problem.to_string() }
}
