//! OmniPaxos's messages as bytes: by hand where there are many, as JSON where there are few.

use anyhow::{Context, Result, ensure};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{AcceptDecide, Accepted, Decide, PaxosMessage, PaxosMsg};
use omnipaxos::util::SequenceNumber;

use super::store::Command;

/// Length of what follows, kind, and three bytes of nothing.
const HEAD_BYTES: usize = 8;
const OTHER: u8 = 0;
const ACCEPT_DECIDE: u8 = 1;
const ACCEPTED: u8 = 2;
const DECIDE: u8 = 3;

/// Appends a message to `out`.
pub(super) fn encode<const N: usize>(message: &Message<Command<N>>, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    let kind = match message {
        Message::SequencePaxos(PaxosMessage { from, to, msg }) => match msg {
            PaxosMsg::AcceptDecide(accept) => {
                addresses(out, *from, *to, &accept.n);
                sequence(out, accept.seq_num, accept.decided_idx);
                out.reserve(accept.entries.len() * N);
                accept.entries.iter().for_each(|entry| out.extend_from_slice(&entry.0));
                ACCEPT_DECIDE
            }
            PaxosMsg::Accepted(accepted) => {
                addresses(out, *from, *to, &accepted.n);
                out.extend_from_slice(&(accepted.accepted_idx as u64).to_le_bytes());
                ACCEPTED
            }
            PaxosMsg::Decide(decide) => {
                addresses(out, *from, *to, &decide.n);
                sequence(out, decide.seq_num, decide.decided_idx);
                DECIDE
            }
            _ => other(message, out)?,
        },
        Message::BLE(_) => other(message, out)?,
    };
    let length = (out.len() - start - HEAD_BYTES) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4] = kind;
    Ok(())
}

fn other<const N: usize>(message: &Message<Command<N>>, out: &mut Vec<u8>) -> Result<u8> {
    serde_json::to_writer(out, message).context("encoding a message of OmniPaxos")?;
    Ok(OTHER)
}

fn addresses(out: &mut Vec<u8>, from: u64, to: u64, ballot: &Ballot) {
    out.extend_from_slice(&from.to_le_bytes());
    out.extend_from_slice(&to.to_le_bytes());
    out.extend_from_slice(&ballot.config_id.to_le_bytes());
    out.extend_from_slice(&ballot.n.to_le_bytes());
    out.extend_from_slice(&ballot.priority.to_le_bytes());
    out.extend_from_slice(&ballot.pid.to_le_bytes());
}

fn sequence(out: &mut Vec<u8>, number: SequenceNumber, decided: usize) {
    for word in [number.session, number.counter, decided as u64] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// Takes one message off the front of `bytes`; none while it isn't whole.
pub(super) fn decode<const N: usize>(bytes: &mut &[u8]) -> Result<Option<Message<Command<N>>>> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else { return Ok(None) };
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let Some((body, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    *bytes = rest;
    let mut fields = Fields(body);
    if head[4] == OTHER {
        return serde_json::from_slice(body).map(Some).context("decoding a message of OmniPaxos");
    }
    let (from, to) = (fields.long()?, fields.long()?);
    let n = Ballot { config_id: fields.word()?, n: fields.word()?, priority: fields.word()?, pid: fields.long()? };
    let msg = match head[4] {
        ACCEPT_DECIDE => {
            let seq_num = SequenceNumber { session: fields.long()?, counter: fields.long()? };
            let decided_idx = fields.long()? as usize;
            let (entries, rest) = fields.0.as_chunks::<N>();
            ensure!(rest.is_empty(), "half a command came");
            let entries = entries.iter().map(|entry| Command(*entry)).collect();
            PaxosMsg::AcceptDecide(AcceptDecide { n, seq_num, decided_idx, entries })
        }
        ACCEPTED => PaxosMsg::Accepted(Accepted { n, accepted_idx: fields.long()? as usize }),
        _ => {
            let seq_num = SequenceNumber { session: fields.long()?, counter: fields.long()? };
            PaxosMsg::Decide(Decide { n, seq_num, decided_idx: fields.long()? as usize })
        }
    };
    Ok(Some(Message::SequencePaxos(PaxosMessage { from, to, msg })))
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn long(&mut self) -> Result<u64> {
        let (field, rest) = self.0.split_first_chunk().context("a message of OmniPaxos is cut off")?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*field))
    }

    fn word(&mut self) -> Result<u32> {
        let (field, rest) = self.0.split_first_chunk().context("a message of OmniPaxos is cut off")?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_went() {
        let n = Ballot { config_id: 1, n: 2, priority: 3, pid: 4 };
        let seq_num = SequenceNumber { session: 5, counter: 6 };
        let entries = vec![Command([7; 16]), Command([8; 16])];
        for msg in [
            PaxosMsg::AcceptDecide(AcceptDecide { n, seq_num, decided_idx: 9, entries: entries.clone() }),
            PaxosMsg::Accepted(Accepted { n, accepted_idx: 10 }),
            PaxosMsg::Decide(Decide { n, seq_num, decided_idx: 11 }),
            PaxosMsg::ProposalForward(entries),
        ] {
            let message = Message::SequencePaxos(PaxosMessage { from: 1, to: 2, msg });
            let mut bytes = Vec::new();
            encode(&message, &mut bytes).expect("encoded");
            for cut in 0..bytes.len() {
                assert!(decode::<16>(&mut &bytes[..cut]).expect("no error").is_none());
            }
            let mut rest = bytes.as_slice();
            let back = decode::<16>(&mut rest).expect("decoded").expect("a whole message");
            assert!(rest.is_empty() && format!("{back:?}") == format!("{message:?}"));
        }
    }
}
