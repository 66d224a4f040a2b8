//! Who may hold the other end: chains are verified by webpki, names by [`Names`].
//!
//! A certificate that is sound but names the wrong thing is refused inside the handshake, with the alert *access denied*,
//! so that the other side learns of it at once. Addresses don't take part: a node is who its certificate says, wherever
//! it runs.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::names::{Names, nodes_of};

/// Whom a listener lets in.
#[derive(Debug)]
pub(super) struct Guests {
    pub(super) chains: Arc<dyn ClientCertVerifier>,
    pub(super) cluster: [u8; 16],
    pub(super) wanted: fn(&Names) -> bool,
}

impl ClientCertVerifier for Guests {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chains.verify_client_cert(certificate, intermediates, now)?;
        if (self.wanted)(&Names::of(certificate, self.cluster)) { Ok(verified) } else { Err(not_named()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Whom one may connect to: a node, of this cluster if that is known.
#[derive(Debug)]
pub(super) struct Hosts {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    cluster: Option<[u8; 16]>,
}

impl Hosts {
    pub(super) fn new(roots: Arc<RootCertStore>, provider: &CryptoProvider, cluster: Option<[u8; 16]>) -> Hosts {
        Hosts { roots, algorithms: provider.signature_verification_algorithms, cluster }
    }

    /// Whether the chain leads to an authority at the given time.
    pub(super) fn verify_chain(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let [certificate, intermediates @ ..] = chain else { return Err(Error::NoCertificatesPresented) };
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for Hosts {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
        let is_meant = |cluster: [u8; 16]| self.cluster.is_none_or(|wanted| wanted == cluster);
        if nodes_of(certificate).into_iter().any(|(cluster, _)| is_meant(cluster)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(not_named())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificate is sound, but says nothing that would let its holder in here.
fn not_named() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}
