//! The lines of an export: a log as text that outlives its format.
//!
//! The first line says where the content came from, the last one what it amounts to; between them stands a line for each
//! command, and one for each body that holds none. They keep what is needed to make the very same bodies again: so the
//! chain that an import computes over them must be the one in the last line.

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use synod_protocol::{Ballot, NodeId};

/// Version of the lines.
pub(crate) const VERSION: u32 = 1;

/// Longest line that is read: a command of a mebibyte, every byte escaped.
pub(crate) const LINE_BYTES_MAX: u64 = 8 << 20;

/// One line.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Line {
    /// The first line.
    Export(Head),
    /// A command.
    Command {
        slot: u64,
        #[serde(flatten)]
        place: Place,
        /// First slot of its body.
        body: u64,
        /// Which submission of its body brought it, from zero.
        submission: u32,
        session: u64,
        sequence: u64,
        ticket: u64,
        /// The slot that the submission expected; zero for any.
        #[serde(default, skip_serializing_if = "is_zero")]
        expected_slot: u64,
        #[serde(flatten)]
        content: Content,
    },
    /// A session is opened, or closed if one is named.
    Session {
        slot: u64,
        #[serde(flatten)]
        place: Place,
        closes: Option<u64>,
    },
    /// A ticket is issued, or revoked if one is named.
    Ticket {
        slot: u64,
        #[serde(flatten)]
        place: Place,
        lasts_us: Option<u64>,
        revokes: Option<u64>,
    },
    /// Slots that hold nothing.
    NoOp {
        slot: u64,
        count: u32,
        #[serde(flatten)]
        place: Place,
    },
    /// The agreement that everything below `upto` may be dropped.
    Trim {
        slot: u64,
        upto: u64,
        #[serde(flatten)]
        place: Place,
        /// The delivery state at that point in base64, unless it is empty.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delivery_state: Option<String>,
    },
    /// A change of members, as the bytes of its body.
    Configuration {
        slot: u64,
        #[serde(flatten)]
        place: Place,
        #[serde(flatten)]
        content: Content,
    },
    /// Slots that should be there and can't be read.
    Missing { slot: u64, count: u64 },
    /// The last line.
    End(Tail),
}

/// Where the content came from.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Head {
    pub(crate) version: u32,
    pub(crate) cluster: Option<String>,
    pub(crate) lineage: u64,
    pub(crate) node: u32,
    pub(crate) group: u32,
    /// First slot.
    pub(crate) first: u64,
    /// The chain over everything below it, if the log still knows.
    pub(crate) chain: Option<String>,
}

/// What the content amounts to.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Tail {
    /// First slot behind the content.
    pub(crate) end: u64,
    /// The chain up to there; none if it isn't known or something is missing.
    pub(crate) chain: Option<String>,
    /// Lines before this one.
    pub(crate) lines: u64,
    /// CRC-32 of all lines before this one, line ends included.
    pub(crate) crc32: String,
}

/// What is said of every body.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    pub(crate) state: State,
    /// The ballot of the node that made the body.
    pub(crate) ballot_round: u64,
    pub(crate) ballot_node: u32,
    pub(crate) ballot_boot: String,
    pub(crate) log_time_us: u64,
}

/// How sure it is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// The log proves that it is chosen.
    Chosen,
    /// It is accepted here; whether it was chosen, other replicas know.
    Accepted,
}

/// Bytes: as text if that was asked for and they are text, or else in base64.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Content {
    Text(String),
    Base64(String),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references over")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Content {
    pub(crate) fn new(bytes: &[u8], utf8: bool) -> Content {
        match std::str::from_utf8(bytes) {
            Ok(text) if utf8 => Content::Text(text.to_owned()),
            _ => Content::Base64(STANDARD.encode(bytes)),
        }
    }

    /// # Errors
    /// If it is no base64.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        match self {
            Content::Text(text) => Ok(text.clone().into_bytes()),
            Content::Base64(text) => STANDARD.decode(text).context("the bytes aren't base64"),
        }
    }
}

impl Place {
    pub(crate) fn new(state: State, header: &synod_frame::BodyHeader) -> Place {
        let ballot = header.origin;
        Place {
            state,
            ballot_round: ballot.round,
            ballot_node: ballot.node.0,
            ballot_boot: format!("{:x}", ballot.boot),
            log_time_us: header.leader_time_us,
        }
    }

    /// # Errors
    /// If the number of the process start isn't one.
    pub(crate) fn ballot(&self) -> Result<Ballot> {
        let Ok(boot) = u64::from_str_radix(&self.ballot_boot, 16) else {
            bail!("{:?} is no process start of a ballot", self.ballot_boot);
        };
        Ok(Ballot { round: self.ballot_round, node: NodeId(self.ballot_node), boot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_flat_and_come_back() {
        let place = Place {
            state: State::Chosen,
            ballot_round: 3,
            ballot_node: 1,
            ballot_boot: "ff".to_owned(),
            log_time_us: 9,
        };
        let line = Line::Command {
            slot: 7,
            place,
            body: 5,
            submission: 0,
            session: 1,
            sequence: 2,
            ticket: 0,
            expected_slot: 0,
            content: Content::new(b"x\n", true),
        };
        let text = serde_json::to_string(&line).expect("json");
        assert_eq!(
            text,
            r#"{"kind":"command","slot":7,"state":"chosen","ballot_round":3,"ballot_node":1,"ballot_boot":"ff","log_time_us":9,"body":5,"submission":0,"session":1,"sequence":2,"ticket":0,"text":"x\n"}"#
        );
        assert_eq!(serde_json::from_str::<Line>(&text).expect("a line"), line);
        assert!(serde_json::from_str::<Line>(r#"{"kind":"nonsense"}"#).is_err());
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        for bytes in [&b"\xff\x00"[..], b"text", b""] {
            for utf8 in [false, true] {
                assert_eq!(Content::new(bytes, utf8).bytes().expect("bytes"), bytes);
            }
        }
        assert!(matches!(Content::new(b"\xff", true), Content::Base64(_)));
        assert!(Content::Base64("!".to_owned()).bytes().is_err());
    }
}
