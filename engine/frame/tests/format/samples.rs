//! One small sample of everything that the format can say; the golden files hold their bytes.

use std::time::Duration;

use synod_frame::client::{
    self, ClientRefusal, ClientReply, ClientRequest, ClientRole, Gap, MemberChange, MembersReport, Newcomer,
    NodeReport, NodeRole, StatusReport, StoredBody,
};
use synod_frame::{
    Batch, Channel, ConfigurationBody, GroupId, Hello, HelloRefusal, HelloReply, Member, Origin, RecordBuffer,
    Submission, encode_commands, encode_configuration, encode_message, encode_noop, encode_session,
    encode_snapshot_message, encode_ticket, encode_trim, encode_trim_with_state, stamp,
};
use synod_protocol::delivery::{
    Answer, DeliveryLimits, DeliveryState, Refusal, SessionCommand, SessionId, Submitted, Terms, TicketCommand,
    TicketId,
};
use synod_protocol::snapshot::{Hold, NoSnapshot, SnapshotId, SnapshotMessage};
use synod_protocol::{
    AcceptedBody, Ballot, BodyHandle, BodyId, BodyKind, Chain, Doubt, Mark, Message, NodeId, RejectReason, Slot,
    TransferError,
};

use crate::recode::{Reader, body_bytes};

/// Bytes, how they are read, and the name of their golden file.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) reader: Reader,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn all() -> Vec<Sample> {
    let mut samples = Vec::new();
    samples.extend(bodies().into_iter().map(|(name, body)| sample("body", name, Reader::Body, body.bytes)));
    samples.extend(messages().into_iter().map(|(name, message)| {
        let attached = message.body().map(|handle| body_named(handle.id)).unwrap_or_default();
        let (envelope, payload) = encode_message(GroupId(3), NodeId(1), NodeId(2), Slot(40), &message);
        sample("message", name, Reader::Message, [&envelope[..], &payload, &attached].concat())
    }));
    samples.extend(snapshot_messages().into_iter().map(|(name, message)| {
        let (envelope, payload) = encode_snapshot_message(GroupId(3), NodeId(1), NodeId(2), &message);
        sample("message", name, Reader::Message, [&envelope[..], &payload].concat())
    }));
    samples.push(sample("hello", "node", Reader::Hello, hello().encode().to_vec()));
    let listening = Hello { configuration: Slot(1108), port: 7001, stable: Slot(1100), ..hello() };
    samples.push(sample("hello", "listening", Reader::Hello, listening.encode().to_vec()));
    let grouped = Hello { group: GroupId(3), ..listening };
    samples.push(sample("hello", "grouped", Reader::Hello, grouped.encode().to_vec()));
    samples.push(sample("hello", "client", Reader::Hello, client_hello().encode().to_vec()));
    samples.extend(hello_replies().into_iter().map(|(name, outcome)| {
        let reply = HelloReply { hello: Hello { from: NodeId(2), to: NodeId(1), ..hello() }, outcome };
        sample("hello-reply", name, Reader::HelloReply, reply.encode().to_vec())
    }));
    samples.extend(requests().into_iter().map(|(name, request)| {
        let (envelope, payload) = client::encode_request(&request);
        sample("client-request", name, Reader::Request, [&envelope[..], &payload].concat())
    }));
    samples.extend(replies().into_iter().map(|(name, reply)| {
        let attached = reply.body().map(|handle| body_named(handle.id)).unwrap_or_default();
        let (envelope, payload) = client::encode_reply(&reply);
        sample("client-reply", name, Reader::Reply, [&envelope[..], &payload, &attached].concat())
    }));
    samples
}

fn sample(family: &str, name: &str, reader: Reader, bytes: Vec<u8>) -> Sample {
    Sample { name: format!("{family}-{name}"), reader, bytes }
}

pub(crate) struct Body {
    pub(crate) handle: BodyHandle,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn ballot() -> Ballot {
    Ballot { round: 0x0102_0304_0506_0708, node: NodeId(1), boot: 0x1112_1314_1516_1718 }
}

pub(crate) fn mark() -> Mark {
    Mark { slot: Slot(0x2122_2324_2526), chain: Chain(0x3132_3334_3536_3738_393a_3b3c_3d3e_3f40) }
}

pub(crate) fn origin(first: u64) -> Origin {
    Origin { group: GroupId(3), first: Slot(first), ballot: ballot(), leader_time_us: 1_790_000_000_000_000 }
}

pub(crate) fn configuration() -> ConfigurationBody {
    ConfigurationBody {
        cluster: *b"cluster-uuid-16b",
        lineage: 1,
        members: (1..=3).map(|node| Member { node: NodeId(node), incarnation: [node as u8; 16] }).collect(),
        prepare_quorum: 2,
        accept_quorum: 2,
        alpha: 65_536,
        ..ConfigurationBody::default()
    }
}

pub(crate) fn learners() -> ConfigurationBody {
    ConfigurationBody {
        after: Slot(77),
        learners: (4..=5).map(|node| Member { node: NodeId(node), incarnation: [node as u8; 16] }).collect(),
        leaving: vec![NodeId(1), NodeId(3)],
        ..configuration()
    }
}

/// [`learners`], with addresses of some.
pub(crate) fn addressed() -> ConfigurationBody {
    let address = |text: &str| text.parse().unwrap();
    ConfigurationBody {
        addresses: vec![
            (NodeId(1), address("10.1.2.3:7001")),
            (NodeId(4), address("[2001:db8::4]:7004")),
            (NodeId(5), address("127.0.0.1:65535")),
        ],
        ..learners()
    }
}

/// [`addressed`], from which on bodies have format 2.
pub(crate) fn raised() -> ConfigurationBody {
    ConfigurationBody { format: 2, ..addressed() }
}

/// Two sessions, one of which was used, and a ticket.
fn state() -> DeliveryState {
    let mut state = DeliveryState::empty(DeliveryLimits::CLUSTER, Slot(1110));
    state.deliver_session(Slot(1110), 7_000_000, SessionCommand::Open);
    state.deliver_session(Slot(1111), 8_000_000, SessionCommand::Open);
    state.deliver_ticket(Slot(1112), 8_000_000, TicketCommand::Issue { lasts_us: 30_000_000 });
    let terms = |sequence, expected| Terms {
        session: Some((SessionId(Slot(1110)), sequence)),
        ticket: Some(TicketId(Slot(1112))),
        expected_slot: Some(Slot(expected)),
    };
    let submitted =
        [(1, 1113), (3, 99)].map(|(sequence, expected)| Submitted { terms: terms(sequence, expected), count: 2 });
    state.deliver_commands(Slot(1113), 9_000_000, submitted, &mut Vec::new());
    state
}

pub(crate) fn bodies() -> Vec<(&'static str, Body)> {
    let fixed: Batch = [b"first   ", b"second  "].into_iter().collect();
    let third: Batch = [b"third   "].into_iter().collect();
    let mixed: Batch = [&b"one"[..], b"", b"three"].into_iter().collect();
    let submission = |sequence, batch| Submission { session: 7, sequence, ticket: 9, expected_slot: 0, batch };
    let body = |encode: &dyn Fn(&mut [u8]) -> BodyHandle| {
        let mut record = RecordBuffer::zeroed(8192);
        let handle = encode(record.as_mut());
        Body { handle, bytes: body_bytes(record.as_ref()).to_vec() }
    };
    vec![
        (
            "commands-stride",
            body(&|record| {
                encode_commands(record, &origin(100), &[submission(1, &fixed), submission(2, &third)]).unwrap()
            }),
        ),
        (
            "commands-ends",
            body(&|record| {
                encode_commands(record, &origin(103), &[submission(3, &fixed), submission(4, &mixed)]).unwrap()
            }),
        ),
        ("noop", body(&|record| encode_noop(record, &origin(108), 1000).unwrap())),
        ("genesis", body(&|record| encode_configuration(record, &origin(0), &configuration()).unwrap())),
        ("configuration", body(&|record| encode_configuration(record, &origin(1108), &configuration()).unwrap())),
        ("addressed", body(&|record| encode_configuration(record, &origin(1108), &addressed()).unwrap())),
        ("raised", body(&|record| encode_configuration(record, &origin(1108), &raised()).unwrap())),
        (
            "stamped",
            body(&|record| {
                encode_noop(record, &origin(108), 1000).unwrap();
                stamp(record, Slot(40)).unwrap()
            }),
        ),
        (
            "stamped-configuration",
            body(&|record| {
                encode_configuration(record, &origin(1108), &raised()).unwrap();
                stamp(record, Slot(77)).unwrap()
            }),
        ),
        ("learners", body(&|record| encode_configuration(record, &origin(1108), &learners()).unwrap())),
        ("trim", body(&|record| encode_trim(record, &origin(1109), Slot(50)).unwrap())),
        (
            "commands-condition",
            body(&|record| {
                let expected = |batch| Submission { expected_slot: 1112, ..submission(5, batch) };
                let plain = Submission::plain(&fixed);
                encode_commands(record, &origin(1110), &[plain, expected(&third), submission(6, &fixed)]).unwrap()
            }),
        ),
        ("session-open", body(&|record| encode_session(record, &origin(1115), SessionCommand::Open).unwrap())),
        (
            "session-close",
            body(&|record| {
                encode_session(record, &origin(1116), SessionCommand::Close(SessionId(Slot(1115)))).unwrap()
            }),
        ),
        (
            "ticket-issue",
            body(&|record| {
                encode_ticket(record, &origin(1117), TicketCommand::Issue { lasts_us: 30_000_000 }).unwrap()
            }),
        ),
        (
            "ticket-revoke",
            body(&|record| encode_ticket(record, &origin(1118), TicketCommand::Revoke(TicketId(Slot(1117)))).unwrap()),
        ),
        (
            "trim-state",
            body(&|record| encode_trim_with_state(record, &origin(1119), Slot(1117), &state().encode()).unwrap()),
        ),
    ]
}

fn body_named(id: BodyId) -> Vec<u8> {
    let found = bodies().into_iter().find(|(_, body)| body.handle.id == id);
    found.expect("samples name bodies among the samples").1.bytes
}

pub(crate) fn snapshot_messages() -> Vec<(&'static str, SnapshotMessage)> {
    let snapshot = SnapshotId { position: Slot(1110), bytes: 0x4142_4344_4546, checksum: mark().chain.0 };
    let refuse = |reason| SnapshotMessage::Refuse { at_least: Slot(1100), reason };
    let data = |bytes: u8| (0..bytes).map(|byte| byte ^ 0x5a).collect();
    vec![
        ("snapshot-ask", SnapshotMessage::Ask { at_least: Slot(1100), wanted: None }),
        ("snapshot-ask-wanted", SnapshotMessage::Ask { at_least: Slot(1100), wanted: Some(snapshot) }),
        ("snapshot-offer", SnapshotMessage::Offer { snapshot }),
        ("snapshot-refuse-making", refuse(NoSnapshot::Making)),
        ("snapshot-refuse-busy", refuse(NoSnapshot::Busy { retry_after: Duration::from_millis(1500) })),
        ("snapshot-refuse-behind", refuse(NoSnapshot::Behind { position: Slot(1099) })),
        ("snapshot-refuse-no-machine", refuse(NoSnapshot::NoMachine)),
        ("snapshot-refuse-failed", refuse(NoSnapshot::Failed)),
        ("snapshot-refuse-gone", refuse(NoSnapshot::Gone)),
        ("snapshot-fetch", SnapshotMessage::Fetch { snapshot, offset: 262_144, bytes: 262_144 }),
        ("snapshot-need", SnapshotMessage::Need { hold: Hold { from: Slot(1111), progress: 0x5152 } }),
        ("snapshot-chunk", SnapshotMessage::Chunk { snapshot, offset: 262_144, data: data(200) }),
        ("snapshot-chunk-short", SnapshotMessage::Chunk { snapshot, offset: 262_144, data: data(3) }),
    ]
}

pub(crate) fn messages() -> Vec<(&'static str, Message)> {
    let (ballot, mark) = (ballot(), mark());
    let bodies: Vec<BodyHandle> = bodies().iter().map(|(_, body)| body.handle).collect();
    let (first, id) = (Slot(100), bodies[0].id);
    let higher = Ballot { round: 0x41, node: NodeId(2), boot: 0x51 };
    let accepted = |kind, slot, count| AcceptedBody {
        ballot: higher,
        body: BodyHandle {
            first: Slot(slot),
            count,
            bytes: 4000,
            kind,
            id: BodyId(0x6162_6364_6566_6768_696a_6b6c_6d6e_6f70),
        },
    };
    let reject = |reason| Message::Reject { ballot, reason };
    vec![
        ("pre-vote", Message::PreVote { ballot, from: Slot(0) }),
        ("pre-vote-from", Message::PreVote { ballot, from: first }),
        ("pre-vote-granted", Message::PreVoteGranted { ballot }),
        ("prepare", Message::Prepare { ballot, from: first }),
        (
            "promise-empty",
            Message::Promise {
                ballot,
                from: Slot(0),
                mark,
                part: 0,
                parts: 1,
                accepted: Vec::new(),
                doubts: Vec::new(),
            },
        ),
        (
            "promise-from",
            Message::Promise { ballot, from: first, mark, part: 0, parts: 1, accepted: Vec::new(), doubts: Vec::new() },
        ),
        (
            "promise",
            Message::Promise {
                ballot,
                from: Slot(0),
                mark,
                part: 1,
                parts: 2,
                accepted: vec![
                    accepted(BodyKind::Commands, 100, 3),
                    accepted(BodyKind::NoOp, 103, 1 << 20),
                    accepted(BodyKind::Configuration { after: Slot(0) }, 2_000_000, 1),
                    accepted(BodyKind::Trim { upto: Slot(90) }, 2_000_001, 1),
                ],
                doubts: vec![
                    Doubt { first: Slot(100), end: Slot(103), bound: ballot },
                    Doubt { first: Slot(2_000_002), end: Doubt::OPEN, bound: higher },
                ],
            },
        ),
        ("accept", Message::Accept { ballot, body: bodies[0], mark }),
        ("accepted", Message::Accepted { ballot, first, id }),
        ("reject-higher-ballot", reject(RejectReason::HigherBallot { promised: higher })),
        ("reject-already-chosen", reject(RejectReason::AlreadyChosen { mark })),
        ("reject-beyond-alpha", reject(RejectReason::BeyondAlpha { limit: Slot(70_000) })),
        ("reject-leader-alive", reject(RejectReason::LeaderAlive { leader: NodeId(3) })),
        ("reject-ballot-conflict", reject(RejectReason::BallotConflict { first })),
        ("reject-disk-full", reject(RejectReason::DiskFull)),
        ("reject-wrong-configuration", reject(RejectReason::WrongConfiguration { slot: first, chosen_at: Slot(0) })),
        ("reject-removed", reject(RejectReason::WrongConfiguration { slot: first, chosen_at: Slot(7) })),
        ("reject-unknown-identity", reject(RejectReason::UnknownIdentity)),
        ("reject-overloaded", reject(RejectReason::Overloaded { retry_after: Duration::from_millis(20) })),
        ("reject-not-leader", reject(RejectReason::NotLeader)),
        ("reject-doubtful", reject(RejectReason::Doubtful)),
        ("heartbeat", Message::Heartbeat { ballot, mark, beat: 77, recovered: Slot(71_000) }),
        ("heartbeat-reply", Message::HeartbeatReply { ballot, mark, stable: Slot(99), beat: 77, full: false }),
        ("heartbeat-reply-full", Message::HeartbeatReply { ballot, mark, stable: Slot(99), beat: 77, full: true }),
        ("fetch", Message::Fetch { from: first, bytes: 8 << 20 }),
        ("chosen", Message::Chosen { body: bodies[1], mark, last: false }),
        ("chosen-last", Message::Chosen { body: bodies[3], mark, last: true }),
        ("fetch-body", Message::FetchBody { first, id }),
        ("supply", Message::Supply { body: bodies[2] }),
        ("unavailable", Message::Unavailable { first, available: Slot(200) }),
        ("base", base(mark, Some((Slot(150), id)), Slot(9), vec![0x5a; 700])),
        ("base-bare", base(mark, None, Slot(0), Vec::new())),
        ("resigned", Message::Resigned { ballot }),
        ("hand-over", Message::HandOver { ballot, beat: 77 }),
        ("ask-read-point", Message::AskReadPoint { ballot, boot: 0x7172_7374_7576_7778, number: 8 }),
        ("read-point", Message::ReadPoint { boot: 0x7172_7374_7576_7778, number: 8, slot: Slot(150) }),
    ]
}

fn base(base: Mark, trim: Option<(Slot, BodyId)>, chosen_at: Slot, configuration: Vec<u8>) -> Message {
    Message::Base { base, trim, chosen_at, configuration }
}

pub(crate) fn hello() -> Hello {
    Hello {
        channel: Channel::Bulk,
        format_min: 1,
        format_max: 2,
        features: 0x8000_0000_0000_0001,
        cluster: *b"cluster-uuid-16b",
        lineage: 2,
        from: NodeId(1),
        to: NodeId(2),
        incarnation: *b"incarnation-uuid",
        boot_counter: 17,
        boot_nonce: 0x7172_7374_7576_7778,
        promise: ballot(),
        durable: 0x0123_4567_89ab,
        configuration: Slot(0),
        port: 0,
        stable: Slot(0),
        group: GroupId(0),
    }
}

pub(crate) fn client_hello() -> Hello {
    Hello {
        channel: Channel::Client,
        format_min: 1,
        format_max: 1,
        features: 0,
        cluster: [0; 16],
        lineage: 0,
        from: NodeId(0),
        to: NodeId(0),
        incarnation: [0; 16],
        boot_counter: 0,
        boot_nonce: 0,
        promise: Ballot::ZERO,
        durable: 0,
        configuration: Slot(0),
        port: 0,
        stable: Slot(0),
        group: GroupId(0),
    }
}

pub(crate) fn hello_replies() -> Vec<(&'static str, Result<u16, HelloRefusal>)> {
    vec![
        ("accepted", Ok(1)),
        ("format", Err(HelloRefusal::Format { minimum: 1, maximum: 2 })),
        ("features", Err(HelloRefusal::Features { missing: 0b100 })),
        ("cluster", Err(HelloRefusal::Cluster { cluster: *b"cluster-uuid-16b" })),
        ("lineage", Err(HelloRefusal::Lineage { lineage: 2 })),
        ("node", Err(HelloRefusal::Node { node: NodeId(2) })),
        ("unknown-node", Err(HelloRefusal::UnknownNode { configuration: Slot(0) })),
        ("incarnation", Err(HelloRefusal::Incarnation { expected: *b"incarnation-uuid" })),
        ("rolled-back", Err(HelloRefusal::RolledBack { boot_counter: 18, stable: Slot(19) })),
        ("twin", Err(HelloRefusal::Twin { boot_counter: 18 })),
        ("channel", Err(HelloRefusal::Channel)),
        ("too-many-connections", Err(HelloRefusal::TooManyConnections)),
        ("not-bootstrapped", Err(HelloRefusal::NotBootstrapped)),
        ("shutdown", Err(HelloRefusal::Shutdown)),
        ("group", Err(HelloRefusal::Group { group: GroupId(4) })),
    ]
}

pub(crate) fn requests() -> Vec<(&'static str, ClientRequest)> {
    let (request, group) = (0x8182_8384_8586_8788, GroupId(3));
    let on_terms = |commands: &[&[u8]], terms, within| {
        let batch = commands.iter().collect();
        ClientRequest::Append { request, group, batch, terms, within }
    };
    let append = |commands: &[&[u8]]| on_terms(commands, Terms::NONE, Duration::ZERO);
    let terms = Terms {
        session: Some((SessionId(Slot(1110)), 3)),
        ticket: Some(TicketId(Slot(1112))),
        expected_slot: Some(Slot(2000)),
    };
    let session = |command| ClientRequest::Session { request, group, command };
    let ticket = |command| ClientRequest::Ticket { request, group, command };
    let change = |change| ClientRequest::Change { request, group, change };
    let newcomer = |node, address: &str| Newcomer {
        member: Member { node: NodeId(node), incarnation: [node as u8; 16] },
        address: address.parse().unwrap(),
    };
    let newcomers = vec![newcomer(4, "10.0.0.4:7004"), newcomer(5, "[::1]:7005")];
    vec![
        ("append-stride", append(&[b"one", b"two"])),
        ("append-ends", append(&[b"one", b"", b"three"])),
        ("append-empty-commands", append(&[b"", b""])),
        ("append-nothing", append(&[])),
        ("status", ClientRequest::Status { request, group }),
        ("figures", ClientRequest::Figures { request, group }),
        ("read", ClientRequest::Read { request, group, from: Slot(100), bytes_max: 1 << 20, wait_ms: 0 }),
        ("read-waiting", ClientRequest::Read { request, group, from: Slot(100), bytes_max: 1 << 20, wait_ms: 500 }),
        ("append-on-terms", on_terms(&[b"once"], terms, Duration::from_secs(2))),
        ("session-open", session(SessionCommand::Open)),
        ("session-close", session(SessionCommand::Close(SessionId(Slot(1110))))),
        ("ticket-issue", ticket(TicketCommand::Issue { lasts_us: 30_000_000 })),
        ("ticket-revoke", ticket(TicketCommand::Revoke(TicketId(Slot(1112))))),
        ("barrier", ClientRequest::Barrier { request, group }),
        ("trim", ClientRequest::Trim { request, group, upto: Slot(90) }),
        ("transfer", ClientRequest::Transfer { request, group, target: NodeId(2) }),
        ("members", ClientRequest::Members { request, group }),
        ("change-replace", change(MemberChange::Replace { add: newcomers, remove: vec![NodeId(3)] })),
        ("change-remove", change(MemberChange::Replace { add: Vec::new(), remove: vec![NodeId(1), NodeId(2)] })),
        ("change-promote", change(MemberChange::Promote { force: false })),
        ("change-promote-forced", change(MemberChange::Promote { force: true })),
        ("change-cancel", change(MemberChange::Cancel)),
        ("change-raise-format", change(MemberChange::RaiseFormat { to: 2 })),
    ]
}

pub(crate) fn replies() -> Vec<(&'static str, ClientReply)> {
    let request = 0x8182_8384_8586_8788;
    let refused = |reason| ClientReply::Refused { request, reason };
    let not_leader =
        |leader, address: &str| refused(ClientRefusal::NotLeader { leader, address: String::from(address) });
    let report = |node, address: &str, connected| NodeReport {
        node: NodeId(node),
        address: String::from(address),
        connected,
        prefix: Slot(u64::from(node) * 100),
    };
    let status = StatusReport {
        node: NodeId(2),
        role: NodeRole::Leader,
        leader: Some(NodeId(2)),
        ballot: ballot(),
        mark: mark(),
        available: Slot(50),
        nodes: vec![report(1, "10.0.0.1:7001", true), report(2, "", true), report(3, "[::1]:7003", false)],
    };
    let alone = StatusReport { role: NodeRole::Halted, leader: None, nodes: Vec::new(), ..status.clone() };
    let stored = |slot, body: &[u8]| StoredBody { slot: Slot(slot), body: body.to_vec() };
    let members = MembersReport {
        configurations: vec![stored(0, b"a body"), stored(1108, b"another body")],
        is_pending: true,
        is_removed: false,
        retiring: vec![NodeId(1)],
    };
    let gap = |first, count, answer| Gap { first: Slot(first), count, answer };
    let gaps = vec![
        gap(100, 2, Answer::Duplicate { first: Slot(90) }),
        gap(102, 1, Answer::Refused(Refusal::TicketSuperseded { newest: TicketId(Slot(95)) })),
    ];
    vec![
        ("appended", ClientReply::Appended { request, first: Slot(100), count: 3 }),
        ("not-leader", not_leader(Some(NodeId(3)), "10.0.0.3:7003")),
        ("not-leader-unknown", not_leader(None, "")),
        ("no-leader", refused(ClientRefusal::NoLeader)),
        ("overloaded", refused(ClientRefusal::Overloaded { retry_after: Duration::from_millis(20) })),
        ("too-large", refused(ClientRefusal::TooLarge)),
        ("disk-full", refused(ClientRefusal::DiskFull)),
        ("unknown-outcome", refused(ClientRefusal::UnknownOutcome)),
        ("shutdown", refused(ClientRefusal::Shutdown)),
        ("trimmed", refused(ClientRefusal::Trimmed { available: Slot(50) })),
        ("unknown-group", refused(ClientRefusal::UnknownGroup)),
        ("unreadable", refused(ClientRefusal::Unreadable { slot: Slot(77) })),
        ("done", ClientReply::Done { request, slot: Slot(1110) }),
        ("gaps", ClientReply::Gaps { request, gaps }),
        ("deadline-passed", refused(ClientRefusal::DeadlinePassed)),
        ("not-delivered", refused(ClientRefusal::NotDelivered(Refusal::SequenceTooOld { oldest: 9 }))),
        ("nothing-to-trim", refused(ClientRefusal::NothingToTrim { held: Slot(80), trimmed: Slot(70) })),
        ("no-delivery-state", refused(ClientRefusal::NoDeliveryState { point: Some(Slot(85)) })),
        (
            "not-transferred",
            refused(ClientRefusal::NotTransferred(TransferError::Lagging { target: NodeId(3), slots: 1000 })),
        ),
        ("rolled-back", refused(ClientRefusal::RolledBack { target: NodeId(3) })),
        ("forbidden", refused(ClientRefusal::Forbidden { role: ClientRole::Admin })),
        ("not-changed", refused(ClientRefusal::NotChanged { reason: "4 is a member already".to_owned() })),
        ("members", ClientReply::Members { request, members }),
        ("status", ClientReply::Status { request, status }),
        ("status-alone", ClientReply::Status { request, status: alone }),
        ("body", ClientReply::Body { request, body: bodies()[0].1.handle }),
        ("read-end", ClientReply::ReadEnd { request, next: Slot(103) }),
        ("figures", ClientReply::Figures { request, text: "pool_depth 4\nfull 0\n".to_owned() }),
    ]
}
