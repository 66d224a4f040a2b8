//! What a certificate says about its holder: URIs among its subject's alternative names.
//!
//! ```text
//! synod://<cluster uuid>/node/<id>         a node of the cluster; as a client it may append and read
//! synod://<cluster uuid>/role/append       a client that may append, with sessions and tickets
//! synod://<cluster uuid>/role/read         a client that may read, set barriers and see a node's figures
//! synod://<cluster uuid>/role/admin        a client that may do everything, trims and transfers included
//! ```
//!
//! A certificate may have several. Whatever else it says (its common name, addresses) counts for nothing here.

use rustls::pki_types::CertificateDer;
use synod_frame::client::ClientRole as Role;
use synod_protocol::NodeId;
use uuid::Uuid;
use webpki::EndEntityCert;

/// The roles that a client has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roles {
    append: bool,
    read: bool,
    admin: bool,
}

impl Roles {
    /// Of those who came without TLS: whoever reaches the port may do everything.
    pub(crate) const ALL: Roles = Roles { append: true, read: true, admin: true };

    /// Whether the holder may act in `role`.
    pub(crate) fn allow(self, role: Role) -> bool {
        self.admin
            || match role {
                Role::Append => self.append,
                Role::Read => self.read,
                Role::Admin => false,
            }
    }

    fn add(&mut self, role: Role) {
        match role {
            Role::Append => self.append = true,
            Role::Read => self.read = true,
            Role::Admin => self.admin = true,
        }
    }

    fn is_empty(self) -> bool {
        self == Roles::default()
    }
}

/// One name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Node(NodeId),
    Role(Role),
}

/// What a certificate says about one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) roles: Roles,
}

impl Names {
    /// What a certificate, which was verified before, says about a cluster.
    pub(crate) fn of(certificate: &CertificateDer<'_>, cluster: [u8; 16]) -> Names {
        let mut names = Names::default();
        for (of, name) in all(certificate) {
            match name {
                _ if of != cluster => {}
                Name::Node(node) => {
                    names.nodes.push(node);
                    // It passes on what its own clients sent (`Config::forward_writes`).
                    names.roles.add(Role::Append);
                    names.roles.add(Role::Read);
                }
                Name::Role(role) => names.roles.add(role),
            }
        }
        names
    }

    /// Whether it names any node of the cluster.
    pub(crate) fn is_node(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Whether it grants anything to a client.
    pub(crate) fn is_client(&self) -> bool {
        !self.roles.is_empty()
    }
}

/// The clusters and nodes that a certificate names.
pub(crate) fn nodes_of(certificate: &CertificateDer<'_>) -> Vec<([u8; 16], NodeId)> {
    let node = |(cluster, name)| match name {
        Name::Node(node) => Some((cluster, node)),
        Name::Role(_) => None,
    };
    all(certificate).into_iter().filter_map(node).collect()
}

fn all(certificate: &CertificateDer<'_>) -> Vec<([u8; 16], Name)> {
    match EndEntityCert::try_from(certificate) {
        Ok(certificate) => certificate.valid_uri_names().filter_map(parse).collect(),
        Err(_) => Vec::new(),
    }
}

fn parse(uri: &str) -> Option<([u8; 16], Name)> {
    let mut parts = uri.strip_prefix("synod://")?.split('/');
    let cluster = Uuid::try_parse(parts.next()?).ok()?.into_bytes();
    let name = match (parts.next()?, parts.next()?) {
        ("node", id) => Name::Node(NodeId(id.parse().ok().filter(|id| *id > 0)?)),
        ("role", "append") => Name::Role(Role::Append),
        ("role", "read") => Name::Role(Role::Read),
        ("role", "admin") => Name::Role(Role::Admin),
        _ => return None,
    };
    parts.next().is_none().then_some((cluster, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_only_as_they_are_written_down() {
        let cluster = Uuid::from_u128(7);
        let parsed = |rest: &str| parse(&format!("synod://{cluster}/{rest}"));
        assert_eq!(parsed("node/3"), Some((cluster.into_bytes(), Name::Node(NodeId(3)))));
        assert_eq!(parsed("role/admin"), Some((cluster.into_bytes(), Name::Role(Role::Admin))));
        for bad in ["", "node", "node/", "node/0", "node/-1", "node/x", "node/3/", "role/root", "role/Admin", "x/3"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
        assert_eq!(parse(&format!("https://{cluster}/node/3")), None);
        assert_eq!(parse("synod://7/node/3"), None);
    }

    #[test]
    fn an_admin_may_do_everything_and_others_what_they_were_granted() {
        let mut roles = Roles::default();
        assert!(![Role::Append, Role::Read, Role::Admin].into_iter().any(|role| roles.allow(role)));
        roles.add(Role::Read);
        assert!(roles.allow(Role::Read) && !roles.allow(Role::Append) && !roles.allow(Role::Admin));
        roles.add(Role::Admin);
        assert!([Role::Append, Role::Read, Role::Admin].into_iter().all(|role| roles.allow(role)));
    }
}
