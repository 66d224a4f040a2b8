//! An authority for tests, and the certificates that it signs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use synod::tls::TlsFiles;

/// Who signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
    place: PathBuf,
}

impl Authority {
    /// One whose files lie in `place`.
    pub(crate) fn new(place: &Path) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // Authorities of one name would pass for each other until a signature is checked.
        params.distinguished_name.push(DnType::CommonName, uuid::Uuid::new_v4().to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::create_dir_all(place).expect("a writable place");
        let file = place.join("authority.pem");
        fs::write(&file, certificate.pem()).expect("a writable place");
        Authority { issuer: Issuer::new(params, key), file, place: place.to_owned() }
    }

    /// A certificate that is good for years, with these URIs.
    pub(crate) fn sign(&self, name: &str, uris: &[String]) -> TlsFiles {
        self.sign_until(name, uris, 2100)
    }

    /// A certificate that expires at the beginning of a year.
    pub(crate) fn sign_until(&self, name: &str, uris: &[String], year: i32) -> TlsFiles {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        let uri = |uri: &String| SanType::URI(uri.as_str().try_into().expect("ASCII"));
        params.subject_alt_names = uris.iter().map(uri).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = TlsFiles {
            authorities: self.file.clone(),
            certificate: self.place.join(format!("{name}.pem")),
            key: self.place.join(format!("{name}.key")),
        };
        fs::write(&files.certificate, certificate.pem()).expect("a writable place");
        fs::write(&files.key, key.serialize_pem()).expect("a writable place");
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("the owner's file");
        files
    }
}

/// The flags that name these files.
pub(crate) fn flags(files: &TlsFiles) -> Vec<String> {
    let flag = |name: &str, path: &Path| [format!("--tls-{name}"), path.display().to_string()];
    [flag("authorities", &files.authorities), flag("certificate", &files.certificate), flag("key", &files.key)].concat()
}
