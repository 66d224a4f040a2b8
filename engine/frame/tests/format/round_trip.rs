//! Whatever can be said comes back as it was said.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use synod_frame::client::{
    self, ClientEnvelope, ClientRefusal, ClientReply, ClientRequest, ClientRole, Gap, NodeReport, NodeRole,
    StatusReport,
};
use synod_frame::{
    Batch, Channel, Envelope, EnvelopeError, GroupId, Hello, HelloRefusal, HelloReply, MessageError, decode_message,
    encode_message,
};
use synod_protocol::delivery::{Answer, Refusal, SessionCommand, SessionId, Terms, TicketCommand, TicketId};
use synod_protocol::limits::{BODY_BYTES_MAX, BODY_SLOTS_MAX, DOUBTS_MAX, PROMISE_PART_MAX};
use synod_protocol::{
    AcceptedBody, Ballot, BodyHandle, BodyId, BodyKind, Chain, Doubt, Mark, Message, NodeId, RejectReason, Slot,
    TransferError,
};

fn node() -> impl Strategy<Value = NodeId> {
    (1..=u32::MAX).prop_map(NodeId)
}

fn slot() -> impl Strategy<Value = Slot> {
    prop_oneof![1..1000u64, 1..=u64::MAX / 2].prop_map(Slot)
}

fn ballot() -> impl Strategy<Value = Ballot> {
    any::<(u64, u32, u64)>().prop_map(|(round, node, boot)| Ballot { round, node: NodeId(node), boot })
}

fn mark() -> impl Strategy<Value = Mark> {
    (slot(), any::<u128>()).prop_map(|(slot, chain)| Mark { slot, chain: Chain(chain) })
}

fn id() -> impl Strategy<Value = BodyId> {
    any::<u128>().prop_map(BodyId)
}

fn body() -> impl Strategy<Value = BodyHandle> {
    let kind = prop_oneof![
        (Just(BodyKind::Commands), 1..=BODY_SLOTS_MAX),
        (Just(BodyKind::NoOp), 1..=BODY_SLOTS_MAX),
        (slot().prop_map(|after| BodyKind::Configuration { after }), Just(1)),
        (slot().prop_map(|upto| BodyKind::Trim { upto }), Just(1)),
    ];
    (kind, slot(), 192..=BODY_BYTES_MAX, id()).prop_map(|((kind, count), first, bytes, id)| BodyHandle {
        first,
        count,
        bytes,
        kind,
        id,
    })
}

fn accepted() -> impl Strategy<Value = Vec<AcceptedBody>> {
    let entry = (ballot(), body()).prop_map(|(ballot, body)| AcceptedBody { ballot, body });
    vec(entry, 0..20).prop_map(|mut entries| {
        entries.sort_by_key(|entry| entry.body.first);
        entries
    })
}

fn microseconds() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_micros)
}

fn reason() -> impl Strategy<Value = RejectReason> {
    prop_oneof![
        ballot().prop_map(|promised| RejectReason::HigherBallot { promised }),
        mark().prop_map(|mark| RejectReason::AlreadyChosen { mark }),
        slot().prop_map(|limit| RejectReason::BeyondAlpha { limit }),
        node().prop_map(|leader| RejectReason::LeaderAlive { leader }),
        slot().prop_map(|first| RejectReason::BallotConflict { first }),
        Just(RejectReason::DiskFull),
        (slot(), slot()).prop_map(|(slot, chosen_at)| RejectReason::WrongConfiguration { slot, chosen_at }),
        Just(RejectReason::UnknownIdentity),
        Just(RejectReason::NotLeader),
        Just(RejectReason::Doubtful),
        microseconds().prop_map(|retry_after| RejectReason::Overloaded { retry_after }),
    ]
}

fn doubts() -> impl Strategy<Value = Vec<Doubt>> {
    let doubt = (slot(), 1..1u64 << 40, ballot()).prop_map(|(first, count, bound)| Doubt {
        first,
        end: Slot(first.0.saturating_add(count)),
        bound,
    });
    prop::collection::vec(doubt.prop_filter("not empty", |doubt| doubt.first < doubt.end), 0..4)
}

fn message() -> impl Strategy<Value = Message> {
    let promise = (ballot(), slot(), mark(), 0..100u32, 1..100u32, accepted(), doubts()).prop_map(
        |(ballot, from, mark, part, more, accepted, doubts)| Message::Promise {
            ballot,
            from,
            mark,
            part,
            parts: part + more,
            accepted,
            doubts,
        },
    );
    prop_oneof![
        (ballot(), slot()).prop_map(|(ballot, from)| Message::PreVote { ballot, from }),
        ballot().prop_map(|ballot| Message::PreVoteGranted { ballot }),
        (ballot(), slot()).prop_map(|(ballot, from)| Message::Prepare { ballot, from }),
        promise,
        (ballot(), body(), mark()).prop_map(|(ballot, body, mark)| Message::Accept { ballot, body, mark }),
        (ballot(), slot(), id()).prop_map(|(ballot, first, id)| Message::Accepted { ballot, first, id }),
        (ballot(), reason()).prop_map(|(ballot, reason)| Message::Reject { ballot, reason }),
        (ballot(), mark(), any::<u64>(), any::<u64>()).prop_map(|(ballot, mark, beat, recovered)| {
            Message::Heartbeat { ballot, mark, beat, recovered: Slot(recovered) }
        }),
        (ballot(), mark(), any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(ballot, mark, stable, beat, full)| {
            Message::HeartbeatReply { ballot, mark, stable: Slot(stable), beat, full }
        }),
        (slot(), any::<u32>()).prop_map(|(from, bytes)| Message::Fetch { from, bytes }),
        (body(), mark(), any::<bool>()).prop_map(|(body, mark, last)| Message::Chosen { body, mark, last }),
        (slot(), id()).prop_map(|(first, id)| Message::FetchBody { first, id }),
        body().prop_map(|body| Message::Supply { body }),
        (slot(), slot()).prop_map(|(first, available)| Message::Unavailable { first, available }),
        (mark(), proptest::option::of((slot(), id())), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..=2048))
            .prop_map(|(base, trim, chosen_at, configuration)| Message::Base {
                base,
                trim,
                chosen_at: Slot(chosen_at),
                configuration
            }),
        ballot().prop_map(|ballot| Message::Resigned { ballot }),
        (ballot(), any::<u64>()).prop_map(|(ballot, beat)| Message::HandOver { ballot, beat }),
        (ballot(), any::<u64>(), any::<u64>()).prop_map(|(ballot, boot, number)| Message::AskReadPoint {
            ballot,
            boot,
            number
        }),
        (any::<u64>(), any::<u64>(), slot()).prop_map(|(boot, number, slot)| Message::ReadPoint { boot, number, slot }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn messages_come_back(message in message(), group: u32, from in node(), to in node(), configuration: u64) {
        let (bytes, payload) = encode_message(GroupId(group), from, to, Slot(configuration), &message);
        let envelope = Envelope::decode(&bytes).unwrap();
        prop_assert_eq!((envelope.group, envelope.from, envelope.to), (GroupId(group), from, to));
        prop_assert_eq!(envelope.configuration, Slot(configuration));
        let attached = message.body().map_or(payload.len(), |body| body.bytes as usize);
        prop_assert_eq!(envelope.payload_bytes as usize, attached);
        prop_assert_eq!(envelope.encode(), bytes);
        prop_assert_eq!(decode_message(&envelope, &payload, message.body()), Ok(message.clone()));

        // A payload may lie anywhere in memory.
        let shifted = [&[0], &payload[..]].concat();
        prop_assert_eq!(decode_message(&envelope, &shifted[1..], message.body()), Ok(message.clone()));

        if let Some(body) = message.body() {
            let kind = envelope.kind;
            prop_assert_eq!(decode_message(&envelope, &[], None), Err(MessageError::BodyMissing { kind }));
            let other = BodyHandle { id: BodyId(!body.id.0), ..*body };
            let mismatch = MessageError::BodyMismatch { kind, first: body.first, named: body.id, found: other.id };
            prop_assert_eq!(decode_message(&envelope, &[], Some(&other)), Err(mismatch));
        }
    }
}

#[test]
fn a_full_promise_fits_and_no_more() {
    let entry = |slot| AcceptedBody {
        ballot: Ballot::ZERO,
        body: BodyHandle { first: Slot(slot), count: 1, bytes: 192, kind: BodyKind::NoOp, id: BodyId(1) },
    };
    let accepted: Vec<_> = (1..=PROMISE_PART_MAX as u64).map(entry).collect();
    let doubt = |slot| Doubt { first: Slot(slot), end: Doubt::OPEN, bound: Ballot::ZERO };
    let doubts: Vec<_> = (1..=DOUBTS_MAX as u64).map(doubt).collect();
    let message = Message::Promise {
        ballot: Ballot::ZERO,
        from: Slot(1),
        mark: Mark::START,
        part: 0,
        parts: 1,
        accepted,
        doubts,
    };
    let (bytes, payload) = encode_message(GroupId(0), NodeId(1), NodeId(2), Slot(0), &message);
    let envelope = Envelope::decode(&bytes).unwrap();
    let (_, maximum) = Envelope::payload_limit(envelope.kind);
    assert_eq!(payload.len(), maximum as usize);
    assert_eq!(decode_message(&envelope, &payload, None), Ok(message));
    let above = Envelope { payload_bytes: maximum + 1, ..envelope }.encode();
    assert!(matches!(Envelope::decode(&above), Err(EnvelopeError::PayloadBytes { .. })));
}

#[test]
fn promises_in_disorder_are_refused() {
    let entry = |slot, count| AcceptedBody {
        ballot: Ballot::ZERO,
        body: BodyHandle { first: Slot(slot), count, bytes: 192, kind: BodyKind::NoOp, id: BodyId(1) },
    };
    for (accepted, index) in [(vec![entry(2, 1), entry(1, 1)], 1), (vec![entry(1, 0)], 0), (vec![entry(0, 1)], 0)] {
        let doubts = Vec::new();
        let message = Message::Promise {
            ballot: Ballot::ZERO,
            from: Slot(1),
            mark: Mark::START,
            part: 0,
            parts: 1,
            accepted,
            doubts,
        };
        let (bytes, payload) = encode_message(GroupId(0), NodeId(1), NodeId(2), Slot(0), &message);
        let envelope = Envelope::decode(&bytes).unwrap();
        assert_eq!(decode_message(&envelope, &payload, None), Err(MessageError::Accepted { index }));
    }
}

fn hello() -> impl Strategy<Value = Hello> {
    let channel = prop_oneof![Just(Channel::Control), Just(Channel::Bulk), Just(Channel::Client)];
    let uuids = any::<([u8; 16], [u8; 16])>();
    (channel, (1..=10u16, 0..10u16), any::<[u64; 5]>(), uuids, node(), any::<u32>(), ballot()).prop_map(
        |(channel, (format_min, more), numbers, (cluster, incarnation), from, to, promise)| Hello {
            channel,
            format_min,
            format_max: format_min + more,
            features: numbers[0],
            cluster,
            lineage: numbers[1],
            from,
            to: NodeId(to),
            incarnation,
            boot_counter: numbers[2],
            boot_nonce: numbers[3],
            promise,
            durable: numbers[4],
            configuration: Slot(numbers[3]),
            port: numbers[2] as u16,
            stable: Slot(numbers[1]),
            group: GroupId(to),
        },
    )
}

fn refusal() -> impl Strategy<Value = HelloRefusal> {
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(minimum, maximum)| HelloRefusal::Format { minimum, maximum }),
        any::<u64>().prop_map(|missing| HelloRefusal::Features { missing }),
        any::<[u8; 16]>().prop_map(|cluster| HelloRefusal::Cluster { cluster }),
        any::<u64>().prop_map(|lineage| HelloRefusal::Lineage { lineage }),
        node().prop_map(|node| HelloRefusal::Node { node }),
        any::<u64>().prop_map(|slot| HelloRefusal::UnknownNode { configuration: Slot(slot) }),
        any::<[u8; 16]>().prop_map(|expected| HelloRefusal::Incarnation { expected }),
        any::<(u64, u64)>()
            .prop_map(|(boot_counter, slot)| HelloRefusal::RolledBack { boot_counter, stable: Slot(slot) }),
        any::<u64>().prop_map(|boot_counter| HelloRefusal::Twin { boot_counter }),
        Just(HelloRefusal::Channel),
        Just(HelloRefusal::TooManyConnections),
        Just(HelloRefusal::NotBootstrapped),
        Just(HelloRefusal::Shutdown),
        any::<u32>().prop_map(|group| HelloRefusal::Group { group: GroupId(group) }),
    ]
}

fn batch() -> impl Strategy<Value = Batch> {
    let fixed = (0usize..20, 0usize..20)
        .prop_map(|(length, count)| std::iter::repeat_n(vec![length as u8; length], count).collect::<Batch>());
    prop_oneof![fixed, vec(vec(any::<u8>(), 0..20), 0..20).prop_map(|commands| commands.iter().collect::<Batch>())]
}

fn request() -> impl Strategy<Value = ClientRequest> {
    let group = || any::<u32>().prop_map(GroupId);
    prop_oneof![
        (any::<u64>(), group(), batch(), terms(), microseconds()).prop_map(|(request, group, batch, terms, within)| {
            ClientRequest::Append { request, group, batch, terms, within }
        }),
        (any::<u64>(), group(), proptest::option::of(slot())).prop_map(|(request, group, closed)| {
            let command = closed.map_or(SessionCommand::Open, |slot| SessionCommand::Close(SessionId(slot)));
            ClientRequest::Session { request, group, command }
        }),
        (any::<u64>(), group(), ticket_command()).prop_map(|(request, group, command)| ClientRequest::Ticket {
            request,
            group,
            command
        }),
        (any::<u64>(), group()).prop_map(|(request, group)| ClientRequest::Barrier { request, group }),
        (any::<u64>(), group(), slot()).prop_map(|(request, group, upto)| ClientRequest::Trim { request, group, upto }),
        (any::<u64>(), group(), node()).prop_map(|(request, group, target)| ClientRequest::Transfer {
            request,
            group,
            target
        }),
        (any::<u64>(), group()).prop_map(|(request, group)| ClientRequest::Status { request, group }),
        (any::<u64>(), group()).prop_map(|(request, group)| ClientRequest::Figures { request, group }),
        (any::<u64>(), group(), slot(), any::<(u32, u32)>()).prop_map(
            |(request, group, from, (bytes_max, wait_ms))| {
                ClientRequest::Read { request, group, from, bytes_max, wait_ms }
            }
        ),
    ]
}

fn terms() -> impl Strategy<Value = Terms> {
    let session = proptest::option::of((slot().prop_map(SessionId), any::<u64>()));
    let (ticket, expected_slot) = (proptest::option::of(slot().prop_map(TicketId)), proptest::option::of(slot()));
    (session, ticket, expected_slot).prop_map(|(session, ticket, expected_slot)| Terms {
        session,
        ticket,
        expected_slot,
    })
}

fn ticket_command() -> impl Strategy<Value = TicketCommand> {
    prop_oneof![
        any::<u64>().prop_map(|lasts_us| TicketCommand::Issue { lasts_us }),
        slot().prop_map(|slot| TicketCommand::Revoke(TicketId(slot))),
    ]
}

fn not_delivered() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::SessionEvicted),
        Just(Refusal::SessionUnknown),
        any::<u64>().prop_map(|oldest| Refusal::SequenceTooOld { oldest }),
        any::<u64>().prop_map(|highest| Refusal::SequenceAhead { highest }),
        slot().prop_map(|slot| Refusal::TicketSuperseded { newest: TicketId(slot) }),
        Just(Refusal::TicketExpired),
        Just(Refusal::TicketUnknown),
        slot().prop_map(|actual| Refusal::UnexpectedSlot { actual }),
    ]
}

fn not_transferred() -> impl Strategy<Value = TransferError> {
    prop_oneof![
        Just(TransferError::NotLeader),
        Just(TransferError::Recovering),
        node().prop_map(TransferError::NotMember),
        node().prop_map(TransferError::LeadsAlready),
        node().prop_map(TransferError::Silent),
        (node(), any::<u64>()).prop_map(|(target, slots)| TransferError::Lagging { target, slots }),
        node().prop_map(TransferError::UnderWay),
    ]
}

/// Steps and answers, laid one behind the other.
fn gaps() -> impl Strategy<Value = Vec<Gap>> {
    let answer =
        prop_oneof![slot().prop_map(|first| Answer::Duplicate { first }), not_delivered().prop_map(Answer::Refused),];
    vec((0u64..9, 1u32..9, answer), 1..9).prop_map(|rows| {
        let mut next = Slot::FIRST;
        rows.into_iter()
            .map(|(step, count, answer)| {
                let first = next.plus(step);
                next = first.plus(u64::from(count));
                Gap { first, count, answer }
            })
            .collect()
    })
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z0-9.:é]{1,64}"]
}

fn maybe_node() -> impl Strategy<Value = Option<NodeId>> {
    proptest::option::of(node())
}

fn client_refusal() -> impl Strategy<Value = ClientRefusal> {
    prop_oneof![
        (maybe_node(), address()).prop_map(|(leader, address)| ClientRefusal::NotLeader { leader, address }),
        Just(ClientRefusal::NoLeader),
        microseconds().prop_map(|retry_after| ClientRefusal::Overloaded { retry_after }),
        Just(ClientRefusal::TooLarge),
        Just(ClientRefusal::DiskFull),
        Just(ClientRefusal::UnknownOutcome),
        Just(ClientRefusal::Shutdown),
        slot().prop_map(|available| ClientRefusal::Trimmed { available }),
        Just(ClientRefusal::UnknownGroup),
        slot().prop_map(|slot| ClientRefusal::Unreadable { slot }),
        Just(ClientRefusal::DeadlinePassed),
        not_delivered().prop_map(ClientRefusal::NotDelivered),
        (slot(), slot()).prop_map(|(held, trimmed)| ClientRefusal::NothingToTrim { held, trimmed }),
        proptest::option::of(slot()).prop_map(|point| ClientRefusal::NoDeliveryState { point }),
        not_transferred().prop_map(ClientRefusal::NotTransferred),
        node().prop_map(|target| ClientRefusal::RolledBack { target }),
        prop_oneof![Just(ClientRole::Append), Just(ClientRole::Read), Just(ClientRole::Admin)]
            .prop_map(|role| ClientRefusal::Forbidden { role }),
    ]
}

fn status() -> impl Strategy<Value = StatusReport> {
    let role =
        proptest::sample::select(vec![NodeRole::Follower, NodeRole::Candidate, NodeRole::Leader, NodeRole::Halted]);
    let report = (node(), address(), any::<bool>(), any::<u64>())
        .prop_map(|(node, address, connected, prefix)| NodeReport { node, address, connected, prefix: Slot(prefix) });
    (node(), role, maybe_node(), ballot(), mark(), slot(), vec(report, 0..client::STATUS_NODES_MAX)).prop_map(
        |(node, role, leader, ballot, mark, available, nodes)| StatusReport {
            node,
            role,
            leader,
            ballot,
            mark,
            available,
            nodes,
        },
    )
}

fn reply() -> impl Strategy<Value = ClientReply> {
    prop_oneof![
        (any::<u64>(), slot(), any::<u32>()).prop_map(|(request, first, count)| ClientReply::Appended {
            request,
            first,
            count
        }),
        (any::<u64>(), slot()).prop_map(|(request, slot)| ClientReply::Done { request, slot }),
        (any::<u64>(), gaps()).prop_map(|(request, gaps)| ClientReply::Gaps { request, gaps }),
        (any::<u64>(), client_refusal()).prop_map(|(request, reason)| ClientReply::Refused { request, reason }),
        (any::<u64>(), status()).prop_map(|(request, status)| ClientReply::Status { request, status }),
        (any::<u64>(), body()).prop_map(|(request, body)| ClientReply::Body { request, body }),
        (any::<u64>(), slot()).prop_map(|(request, next)| ClientReply::ReadEnd { request, next }),
        (any::<u64>(), "\\PC{1,200}").prop_map(|(request, text)| ClientReply::Figures { request, text }),
    ]
}

proptest! {
    #[test]
    fn hellos_come_back(hello in hello(), refusal in proptest::option::of(refusal())) {
        prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        let reply = HelloReply { hello, outcome: refusal.map_or(Ok(hello.format_max), Err) };
        prop_assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn requests_come_back(request in request()) {
        let (bytes, payload) = client::encode_request(&request);
        let envelope = ClientEnvelope::decode(&bytes).unwrap();
        prop_assert_eq!((envelope.request, envelope.payload_bytes as usize), (request.request(), payload.len()));
        prop_assert_eq!(envelope.encode(), bytes);
        let shifted = [&[0], &payload[..]].concat();
        prop_assert_eq!(client::decode_request(&envelope, &shifted[1..]), Ok(request.clone()));
        prop_assert_eq!(client::decode_request(&envelope, &payload), Ok(request));
    }

    #[test]
    fn replies_come_back(reply in reply()) {
        let (bytes, payload) = client::encode_reply(&reply);
        let envelope = ClientEnvelope::decode(&bytes).unwrap();
        prop_assert_eq!(envelope.request, reply.request());
        prop_assert_eq!(envelope.encode(), bytes);
        let shifted = [&[0], &payload[..]].concat();
        prop_assert_eq!(client::decode_reply(&envelope, &shifted[1..], reply.body()), Ok(reply.clone()));
        prop_assert_eq!(client::decode_reply(&envelope, &payload, reply.body()), Ok(reply));
    }
}

#[test]
fn hints_beyond_their_bounds_are_left_out() {
    let long = "x".repeat(client::ADDRESS_BYTES_MAX + 1);
    let reason = ClientRefusal::NotLeader { leader: None, address: long };
    let (bytes, payload) = client::encode_reply(&ClientReply::Refused { request: 1, reason });
    let envelope = ClientEnvelope::decode(&bytes).unwrap();
    let short = ClientRefusal::NotLeader { leader: None, address: String::new() };
    let expected = ClientReply::Refused { request: 1, reason: short };
    assert_eq!(client::decode_reply(&envelope, &payload, None), Ok(expected));
}

#[test]
fn the_longest_replies_pass_their_own_limits() {
    let address = "x".repeat(client::ADDRESS_BYTES_MAX);
    let report = NodeReport { node: NodeId(1), address: address.clone(), connected: true, prefix: Slot(1) };
    let status = StatusReport {
        node: NodeId(1),
        role: NodeRole::Leader,
        leader: None,
        ballot: Ballot::ZERO,
        mark: Mark::START,
        available: Slot(1),
        nodes: vec![report; client::STATUS_NODES_MAX],
    };
    let reason = ClientRefusal::NotLeader { leader: None, address };
    for reply in [ClientReply::Status { request: 1, status }, ClientReply::Refused { request: 1, reason }] {
        let (bytes, payload) = client::encode_reply(&reply);
        let envelope = ClientEnvelope::decode(&bytes).unwrap();
        assert_eq!(client::decode_reply(&envelope, &payload, None), Ok(reply));
    }
}
