//! What a faulty or hostile writer may say under right checksums, and the error that answers it: one row each.

use crate::damage::seal;
use crate::samples;

/// Where to write what into a sample; a negative offset counts from its end.
type Patch<'a> = (i32, &'a [u8]);

/// Changes a sample, makes its checksums right again, and compares how the error begins that its reader gives.
fn check(name: &str, patches: &[Patch<'_>], expected: &str) {
    let sample = samples::all().into_iter().find(|sample| sample.name == name);
    let sample = sample.unwrap_or_else(|| panic!("no sample {name}"));
    let mut bytes = sample.bytes;
    for (offset, patch) in patches {
        let start = if *offset < 0 { bytes.len() - offset.unsigned_abs() as usize } else { *offset as usize };
        bytes[start..start + patch.len()].copy_from_slice(patch);
    }
    seal(sample.reader, &mut bytes);
    let found = match sample.reader.recode(&bytes) {
        Ok(_) => String::from("nothing"),
        Err(error) => format!("{error:?}"),
    };
    assert!(found.starts_with(expected), "{name} with {patches:?}: {found} instead of {expected}");
}

fn check_all(rows: &[(&str, &[Patch<'_>], &str)]) {
    for (name, patches, expected) in rows {
        check(name, patches, expected);
    }
}

const ONE: &[u8] = &[1, 0, 0, 0];
const MILLIONS: &[u8] = &[0, 0, 0x20, 0];

#[test]
fn body_headers() {
    check_all(&[
        ("body-noop", &[(0, b"SYNX")], "Magic"),
        ("body-noop", &[(4, &[0])], "Version { found: 0 }"),
        ("body-noop", &[(4, &[3])], "Version { found: 3 }"),
        ("body-noop", &[(6, &[0])], "Kind { found: 0 }"),
        ("body-noop", &[(6, &[7])], "Kind { found: 7 }"),
        ("body-noop", &[(7, &[0])], "Encoding { found: 0 }"),
        ("body-noop", &[(7, &[2])], "Encoding { found: 2 }"),
        ("body-noop", &[(12, &[0, 1])], "Lengths { header_bytes: 256"),
        ("body-noop", &[(16, &[193])], "Lengths { header_bytes: 192, archive_bytes: 0, body_bytes: 193 }"),
        ("body-noop", &[(20, &[1])], "Lengths { header_bytes: 192, archive_bytes: 1, body_bytes: 192 }"),
        ("body-noop", &[(20, &[0xff; 4])], "TooLarge { archive_bytes: 4294967295 }"),
        ("body-noop", &[(20, &[0, 0, 16, 0])], "TooLarge { archive_bytes: 1048576 }"),
        ("body-noop", &[(28, &[0; 4])], "Slots { kind: 2, first: Slot(108), count: 0 }"),
        ("body-noop", &[(28, &[1, 0, 16, 0])], "Slots { kind: 2, first: Slot(108), count: 1048577 }"),
        ("body-noop", &[(32, &[0; 8])], "Slots { kind: 2, first: Slot(0)"),
        ("body-noop", &[(32, &[0xff; 8])], "Slots { kind: 2"),
        ("body-trim", &[(28, &[2])], "Slots { kind: 4"),
        ("body-genesis", &[(28, &[2])], "Slots { kind: 3"),
        ("body-noop", &[(60, &[1])], "Reserved { offset: 60 }"),
        ("body-noop", &[(72, &[1])], "Argument { kind: 2, argument: 1 }"),
        ("body-trim", &[(72, &[0; 8])], "Argument { kind: 4, argument: 0 }"),
        ("body-noop", &[(80, &[1])], "Features { found: 1 }"),
        ("body-noop", &[(88, &[1])], "Reserved { offset: 88 }"),
        ("body-stamped", &[(4, &[1])], "Reserved { offset: 88 }"),
        ("body-stamped", &[(96, &[1])], "Reserved { offset: 96 }"),
        ("body-noop", &[(127, &[1])], "Reserved { offset: 127 }"),
        ("body-noop", &[(132, &[1])], "Reserved { offset: 132 }"),
        ("body-noop", &[(191, &[1])], "Reserved { offset: 191 }"),
        ("body-noop", &[(6, &[1])], "Archive { kind: 1, archive_bytes: 0 }"),
        ("body-configuration", &[(6, &[2])], "Archive { kind: 2"),
    ]);
}

#[test]
fn commands_archives() {
    // Two rows of 32 bytes from 192 on: session, sequence, ticket, first (24), count (28). The root lies in the last
    // 28 bytes: submissions, stride (8), ends (12), blob (20), each vector as offset and length.
    let stride = "body-commands-stride";
    let ends = "body-commands-ends";
    let condition = "body-commands-condition";
    check_all(&[
        (stride, &[(28, &[2])], "Columns { count: 2, stride: 8, ends: 0, blob_bytes: 24 }"),
        (stride, &[(-20, &[7])], "Columns { count: 3, stride: 7"),
        (stride, &[(-20, &[0])], "Columns { count: 3, stride: 0"),
        (stride, &[(-20, &[0xff; 4])], "Columns { count: 3, stride: 4294967295"),
        (stride, &[(-4, &[0xff; 4])], "Archive"),
        (stride, &[(-8, &[0, 0, 0, 0x80])], "Archive"),
        (stride, &[(-24, MILLIONS)], "Archive"),
        (stride, &[(192 + 24, ONE)], "Submission { index: 0 }"),
        (stride, &[(192 + 28, &[0; 4])], "Submission { index: 0 }"),
        (stride, &[(192 + 28, &[0xff; 4])], "Submission { index: 0 }"),
        (stride, &[(224 + 24, ONE)], "Submission { index: 1 }"),
        (stride, &[(224 + 28, &[2])], "Submission { index: 1 }"),
        (stride, &[(224 + 28, &[0xff; 4])], "Submission { index: 1 }"),
        (stride, &[(-24, ONE)], "Submission { index: 1 }"),
        // The condition of the second submission stands in a row of its own from 224 on.
        (condition, &[(224, &[0; 8])], "Submission { index: 1 }"),
        (condition, &[(224 + 8, ONE)], "Submission { index: 1 }"),
        (condition, &[(224 + 16, ONE)], "Submission { index: 1 }"),
        (condition, &[(224 + 24, ONE)], "Submission { index: 1 }"),
        (condition, &[(224 + 28, ONE)], "Submission { index: 2 }"),
        (condition, &[(256 + 28, &[0; 4])], "Submission { index: 2 }"),
        // Without the rows behind it.
        (condition, &[(-24, &[2])], "Submission { index: 2 }"),
        // Five ends from 256 on: 8, 16, 19, 19, 24.
        (ends, &[(256, &[17])], "Command { index: 1 }"),
        (ends, &[(256, &[0xff; 4])], "Command { index: 0 }"),
        (ends, &[(272, &[23])], "Columns { count: 5, stride: 0, ends: 5, blob_bytes: 24 }"),
        (ends, &[(-20, &[8])], "Columns { count: 5, stride: 8"),
        (ends, &[(28, &[4])], "Columns { count: 4"),
    ]);
}

#[test]
fn session_and_ticket_archives() {
    // Both from 192 on. Of a session: its name, the command (8). Of a ticket: its name, how long it lasts (8), the
    // command (16).
    check_all(&[
        ("body-session-open", &[(192, ONE)], "Archive"),
        ("body-session-open", &[(192 + 8, &[3])], "Command { found: 3 }"),
        ("body-session-open", &[(192 + 12, ONE)], "Archive"),
        ("body-session-close", &[(192, &[0; 8])], "Archive"),
        ("body-session-open", &[(6, &[2])], "Archive { kind: 2"),
        ("body-session-open", &[(6, &[6])], "Archive"),
        ("body-session-open", &[(28, &[2])], "Slots { kind: 5"),
        ("body-session-open", &[(72, ONE)], "Argument { kind: 5"),
        ("body-ticket-issue", &[(192, ONE)], "Archive"),
        ("body-ticket-issue", &[(192 + 16, &[9])], "Command { found: 9 }"),
        ("body-ticket-issue", &[(192 + 20, ONE)], "Archive"),
        ("body-ticket-revoke", &[(192 + 8, ONE)], "Archive"),
        ("body-ticket-revoke", &[(192, &[0; 8])], "Archive"),
    ]);
}

#[test]
fn configuration_archives() {
    // The root lies in the last 48 bytes: cluster, lineage, prepare (24), accept (28), alpha (32), members (36).
    check_all(&[
        ("body-configuration", &[(-24, &[0])], "Rule(Quorums { prepare: 0"),
        ("body-configuration", &[(-16, &[0; 4])], "Rule(Alpha(0))"),
        ("body-configuration", &[(-8, &[0])], "Rule(MemberCount(0))"),
        ("body-configuration", &[(-8, &[0xff; 4])], "Archive"),
        ("body-configuration", &[(192, &[9])], "Rule(MemberOrder)"),
        // The format stands in front; whatever follows may be laid out otherwise.
        ("body-raised", &[(196, &[3])], "Format { needed: 3 }"),
        ("body-raised", &[(196, &[3]), (-24, &[0])], "Format { needed: 3 }"),
        ("body-raised", &[(196, &[1])], "Archive"),
        ("body-raised", &[(196, &[0])], "Archive"),
        ("body-raised", &[(198, &[1])], "Archive"),
    ]);
}

#[test]
fn messages() {
    check_all(&[
        ("message-prepare", &[(4, &[2])], "Version { found: 2 }"),
        ("message-prepare", &[(6, &[0])], "Kind { found: 0 }"),
        ("message-prepare", &[(6, &[26])], "Kind { found: 26 }"),
        ("message-prepare", &[(8, &[1])], "PayloadBytes { kind: Prepare, payload_bytes: 1, minimum: 0, maximum: 0 }"),
        ("message-prepare", &[(12, &[1])], "UnusedField { kind: Prepare }"),
        ("message-prepare", &[(20, &[0; 4])], "Nobody"),
        ("message-prepare", &[(24, &[0; 4])], "Nobody"),
        ("message-prepare", &[(80, &[0; 8])], "Field { kind: Prepare }"),
        ("message-prepare", &[(122, &[1])], "Reserved"),
        ("message-base", &[(56, &[0; 8])], "Field { kind: Base }"),
        (
            "message-base",
            &[(8, &[1, 8])],
            "PayloadBytes { kind: Base, payload_bytes: 2049, minimum: 0, maximum: 2048 }",
        ),
        ("message-base-bare", &[(120, &[1])], "UnusedField { kind: Base }"),
        ("message-heartbeat", &[(56, &[0; 8])], "Field { kind: Heartbeat }"),
        ("message-fetch", &[(108, &[1])], "Field { kind: Fetch }"),
        ("message-pre-vote", &[(64, &[1])], "UnusedField { kind: PreVote }"),
        ("message-chosen", &[(121, &[2])], "UnusedField { kind: Chosen }"),
        ("message-chosen", &[(8, &[0xff; 4])], "PayloadBytes { kind: Chosen, payload_bytes: 4294967295"),
        ("message-chosen", &[(8, &[191, 0, 0, 0])], "PayloadBytes { kind: Chosen, payload_bytes: 191, minimum: 192"),
        ("message-accept", &[(12, &[1])], "UnusedField { kind: Accept }"),
        ("message-accept", &[(80, &[1])], "BodyMismatch { kind: Accept, first: Slot(1)"),
        ("message-accept", &[(88, &[0; 16])], "BodyMismatch { kind: Accept, first: Slot(100)"),
        ("message-reject-disk-full", &[(120, &[0])], "Reason { found: 0 }"),
        ("message-reject-disk-full", &[(120, &[12])], "Reason { found: 12 }"),
        ("message-reject-higher-ballot", &[(108, &[1])], "Field { kind: Reject }"),
        // Four rows of 64 bytes from 128 on: first (16), argument (24), count (52), bytes (56), kind (60).
        ("message-promise", &[(112, &[2])], "Field { kind: Promise }"),
        ("message-promise", &[(112, &[0; 8])], "Field { kind: Promise }"),
        ("message-promise", &[(128 + 16, &[0; 8])], "Accepted { index: 0 }"),
        ("message-promise", &[(128 + 24, ONE)], "Accepted { index: 0 }"),
        ("message-promise", &[(192 + 16, &[1])], "Accepted { index: 1 }"),
        ("message-promise", &[(192 + 52, &[0; 4])], "Accepted { index: 1 }"),
        ("message-promise", &[(256 + 56, &[191, 0, 0, 0])], "Accepted { index: 2 }"),
        ("message-promise", &[(256 + 56, &[0xff; 4])], "Accepted { index: 2 }"),
        ("message-promise", &[(320 + 60, &[5])], "Accepted { index: 3 }"),
        ("message-promise", &[(320 + 61, &[1])], "Accepted { index: 3 }"),
        ("message-promise", &[(-4, &[3])], "PayloadArchive { kind: Promise }"),
        ("message-promise", &[(-4, &[0xff; 4])], "PayloadArchive { kind: Promise }"),
    ]);
}

#[test]
fn snapshot_messages() {
    check_all(&[
        ("message-snapshot-ask", &[(80, &[0; 8])], "Field { kind: SnapshotAsk }"),
        ("message-snapshot-ask", &[(64, ONE)], "UnusedField { kind: SnapshotAsk }"),
        ("message-snapshot-ask", &[(96, ONE)], "UnusedField { kind: SnapshotAsk }"),
        ("message-snapshot-ask-wanted", &[(88, ONE)], "UnusedField { kind: SnapshotAsk }"),
        ("message-snapshot-ask", &[(48, ONE)], "UnusedField { kind: SnapshotAsk }"),
        ("message-prepare", &[(6, &[20])], "UnusedField { kind: SnapshotAsk }"),
        ("message-snapshot-offer", &[(56, &[0; 8])], "Field { kind: SnapshotOffer }"),
        ("message-snapshot-offer", &[(88, ONE)], "UnusedField { kind: SnapshotOffer }"),
        ("message-snapshot-refuse-gone", &[(120, &[0])], "Reason { found: 0 }"),
        ("message-snapshot-refuse-gone", &[(120, &[7])], "Reason { found: 7 }"),
        ("message-snapshot-refuse-gone", &[(104, ONE)], "UnusedField { kind: SnapshotRefuse }"),
        ("message-snapshot-fetch", &[(112, &[0; 4])], "Field { kind: SnapshotFetch }"),
        ("message-snapshot-fetch", &[(112, &[1, 0, 4, 0])], "Field { kind: SnapshotFetch }"),
        ("message-snapshot-fetch", &[(88, &[0xff; 8])], "Field { kind: SnapshotFetch }"),
        ("message-snapshot-fetch", &[(96, &[0; 8])], "Field { kind: SnapshotFetch }"),
        (
            "message-snapshot-chunk",
            &[(8, &[1, 0, 4, 0])],
            "PayloadBytes { kind: SnapshotChunk, payload_bytes: 262145, minimum: 128, maximum: 262144 }",
        ),
        (
            "message-snapshot-chunk",
            &[(8, &[127, 0, 0, 0])],
            "PayloadBytes { kind: SnapshotChunk, payload_bytes: 127, minimum: 128, maximum: 262144 }",
        ),
        ("message-snapshot-need", &[(80, &[0; 8])], "Field { kind: SnapshotNeed }"),
        ("message-snapshot-need", &[(88, ONE)], "UnusedField { kind: SnapshotNeed }"),
        ("message-snapshot-chunk", &[(112, &[201])], "Field { kind: SnapshotChunk }"),
        ("message-snapshot-chunk", &[(112, &[199])], "PayloadArchive { kind: SnapshotChunk }"),
        ("message-snapshot-chunk", &[(112, &[0])], "Field { kind: SnapshotChunk }"),
        ("message-snapshot-chunk-short", &[(-1, &[1])], "PayloadArchive { kind: SnapshotChunk }"),
        ("message-snapshot-chunk-short", &[(112, &[2])], "PayloadArchive { kind: SnapshotChunk }"),
    ]);
}

#[test]
fn a_promise_of_nothing_has_no_payload() {
    let empty = samples::all().into_iter().find(|sample| sample.name == "message-promise-empty").unwrap();
    let mut bytes = empty.bytes;
    bytes[8] = 8;
    bytes.extend([0; 8]);
    seal(empty.reader, &mut bytes);
    let found = empty.reader.recode(&bytes).unwrap_err();
    assert_eq!(format!("{found:?}"), "PayloadArchive { kind: Promise }");
}

#[test]
fn hellos() {
    check_all(&[
        ("hello-node", &[(4, &[2])], "Version { found: 2 }"),
        ("hello-node", &[(6, &[3])], "Kind { expected: 1, found: 3 }"),
        ("hello-node", &[(7, &[0])], "Channel { found: 0 }"),
        ("hello-node", &[(7, &[4])], "Channel { found: 4 }"),
        ("hello-node", &[(12, &[0, 0])], "Format { minimum: 0, maximum: 2 }"),
        ("hello-node", &[(12, &[3, 0])], "Format { minimum: 3, maximum: 2 }"),
        ("hello-node", &[(48, &[0; 4])], "Nobody"),
        ("hello-node", &[(108, &[1])], "Reserved { offset: 108 }"),
        ("hello-node", &[(110, &[1])], "Reserved { offset: 110 }"),
        ("hello-node", &[(120, &[1])], "Reserved { offset: 120 }"),
        ("hello-node", &[(146, &[1])], "Port"),
        ("hello-node", &[(255, &[1])], "Reserved { offset: 255 }"),
        ("hello-reply-accepted", &[(108, &[0])], "Format { minimum: 0"),
        ("hello-reply-accepted", &[(108, &[3])], "Format { minimum: 3"),
        ("hello-reply-accepted", &[(135, &[1])], "Reserved { offset: 135 }"),
        ("hello-reply-accepted", &[(164, &[1])], "Reserved { offset: 164 }"),
        ("hello-reply-shutdown", &[(108, &[1])], "Reserved { offset: 108 }"),
        ("hello-reply-shutdown", &[(110, &[15])], "Refusal { found: 15 }"),
        ("hello-reply-shutdown", &[(120, &[1])], "Refusal { found: 12 }"),
        ("hello-reply-group", &[(124, &[1])], "Refusal { found: 14 }"),
        ("hello-reply-node", &[(124, &[1])], "Refusal { found: 5 }"),
        ("hello-reply-lineage", &[(128, &[1])], "Refusal { found: 4 }"),
    ]);
}

#[test]
fn client_messages() {
    check_all(&[
        ("client-request-status", &[(4, &[2])], "Version { found: 2 }"),
        ("client-request-status", &[(6, &[12])], "Kind { found: 12 }"),
        ("client-request-status", &[(6, &[17])], "Direction { kind: Appended }"),
        ("client-reply-appended", &[(6, &[2])], "Direction { kind: Status }"),
        ("client-request-status", &[(80, &[1])], "Reserved { offset: 80 }"),
        ("client-request-status", &[(56, &[1])], "UnusedField { kind: Status }"),
        ("client-request-append-on-terms", &[(56, &[0; 8])], "UnusedField { kind: Append }"),
        ("client-request-ticket-revoke", &[(40, &[1])], "UnusedField { kind: Ticket }"),
        ("client-request-status", &[(52, &[1])], "UnusedField { kind: Status }"),
        ("client-request-status", &[(8, &[1])], "PayloadBytes { kind: Status, payload_bytes: 1"),
        ("client-request-read", &[(32, &[0; 8])], "Field { kind: Read }"),
        ("client-request-read", &[(44, &[1])], "Field { kind: Read }"),
        // The root of an append: stride, count (4), ends (8), blob (16).
        ("client-request-append-stride", &[(8, &[0xff; 4])], "PayloadBytes { kind: Append, payload_bytes: 4294967295"),
        ("client-request-append-stride", &[(-24, &[4])], "Batch(Count { bytes: 6, stride: 4, count: 2 })"),
        ("client-request-append-stride", &[(-24, &[0xff; 4])], "Batch(Count"),
        ("client-request-append-stride", &[(-20, MILLIONS)], "TooMany { count: 2097152 }"),
        ("client-request-append-empty-commands", &[(-20, MILLIONS)], "TooMany { count: 2097152 }"),
        ("client-request-append-ends", &[(-24, &[1])], "Batch(Count { bytes: 8, stride: 1, count: 3 })"),
        ("client-request-append-ends", &[(-20, &[2])], "Batch(Count { bytes: 8, stride: 0, count: 2 })"),
        ("client-request-append-ends", &[(128, &[4])], "Batch(Ends { bytes: 8, index: 1, end: 3 })"),
        ("client-request-append-ends", &[(136, &[7])], "Batch(Ends { bytes: 8, index: 2, end: 7 })"),
        ("client-request-append-ends", &[(-4, &[0xff; 4])], "PayloadArchive { kind: Append }"),
        ("client-reply-no-leader", &[(20, &[0])], "Reason { found: 0 }"),
        ("client-reply-no-leader", &[(20, &[19])], "Reason { found: 19 }"),
        ("client-reply-not-delivered", &[(48, &[9])], "Field { kind: Refused }"),
        ("client-reply-not-transferred", &[(48, &[8])], "Field { kind: Refused }"),
        // Two rows of 24 bytes: first, value (8), count (16), reason (20).
        ("client-reply-gaps", &[(128, &[0; 8])], "Field { kind: Gaps }"),
        ("client-reply-gaps", &[(128 + 16, &[0; 4])], "Field { kind: Gaps }"),
        ("client-reply-gaps", &[(128 + 16, &[0xff; 4])], "Field { kind: Gaps }"),
        ("client-reply-gaps", &[(128 + 20, &[9])], "Field { kind: Gaps }"),
        ("client-reply-gaps", &[(128 + 24, &[101])], "Field { kind: Gaps }"),
        ("client-reply-gaps", &[(-4, &[0; 4])], "Field { kind: Gaps }"),
        ("client-reply-gaps", &[(-4, &[0xff; 4])], "PayloadArchive { kind: Gaps }"),
        ("client-reply-not-leader", &[(20, &[2]), (52, &[0; 4])], "UnusedField { kind: Refused }"),
        ("client-reply-not-leader", &[(128, &[0xff])], "Field { kind: Refused }"),
        ("client-reply-not-leader", &[(-4, &[0; 4])], "Field { kind: Refused }"),
        // Rows of 40 bytes: node, incarnation (4), address (20), port (36), family (38); in the root, what is added (-16).
        ("client-request-change-replace", &[(128, &[0; 4])], "Field { kind: Change }"),
        ("client-request-change-replace", &[(128 + 36, &[0; 2])], "Field { kind: Change }"),
        ("client-request-change-replace", &[(128 + 38, &[5])], "Field { kind: Change }"),
        ("client-request-change-replace", &[(128 + 24, &[1])], "Field { kind: Change }"),
        ("client-request-change-replace", &[(-12, &[200])], "PayloadArchive { kind: Change }"),
        ("client-request-change-cancel", &[(48, &[5])], "Field { kind: Change }"),
        ("client-request-change-cancel", &[(48, &[6])], "Field { kind: Change }"),
        ("client-request-change-cancel", &[(40, &[1])], "UnusedField { kind: Change }"),
        ("client-request-change-raise-format", &[(40, &[1])], "Field { kind: Change }"),
        ("client-request-change-raise-format", &[(40, &[2, 0, 1])], "Field { kind: Change }"),
        ("client-request-change-replace", &[(48, &[4])], "UnusedField { kind: Change }"),
        ("client-reply-members", &[(-8, &[2])], "Field { kind: MembersReport }"),
        ("client-reply-members", &[(-20, &[0; 4])], "Field { kind: MembersReport }"),
        ("client-reply-members", &[(-20, &[200])], "PayloadArchive { kind: MembersReport }"),
        ("client-reply-body", &[(48, &[9])], "Body { first: Slot(100) }"),
        ("client-reply-body", &[(32, &[9])], "Body { first: Slot(9) }"),
        // The root of a report lies in the last 72 bytes: role (56), leader (60), nodes (64).
        ("client-reply-status", &[(-16, &[5])], "Field { kind: StatusReport }"),
        ("client-reply-status", &[(-16, &[0])], "Field { kind: StatusReport }"),
        ("client-reply-status", &[(-4, &[0xff; 4])], "PayloadArchive { kind: StatusReport }"),
        ("client-reply-status", &[(128, &[0xff])], "Field { kind: StatusReport }"),
    ]);
}
