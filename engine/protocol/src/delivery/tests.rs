use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SMALL: DeliveryLimits = DeliveryLimits { sessions_max: 3, results_max: 4, session_idle_us: 1_000 };

/// A body of the log, as far as delivery is concerned.
#[derive(Clone, Debug)]
enum Body {
    Commands(Vec<Submitted>),
    Session(SessionCommand),
    Ticket(TicketCommand),
    Other(u32),
}

fn deliver(state: &mut DeliveryState, time_us: u64, body: &Body) -> Vec<Answer> {
    let (first, mut answers) = (state.next(), Vec::new());
    match body {
        Body::Commands(submissions) => {
            state.deliver_commands(first, time_us, submissions.iter().copied(), &mut answers);
        }
        Body::Session(command) => answers.push(state.deliver_session(first, time_us, *command)),
        Body::Ticket(command) => answers.push(state.deliver_ticket(first, time_us, *command)),
        Body::Other(count) => state.deliver_other(first, *count, time_us),
    }
    answers
}

fn empty() -> DeliveryState {
    DeliveryState::empty(SMALL, Slot::FIRST)
}

fn open(state: &mut DeliveryState, time_us: u64) -> SessionId {
    let first = state.next();
    assert_eq!(state.deliver_session(first, time_us, SessionCommand::Open), Answer::Delivered { first });
    SessionId(first)
}

fn issue(state: &mut DeliveryState, time_us: u64, lasts_us: u64) -> TicketId {
    let first = state.next();
    assert_eq!(state.deliver_ticket(first, time_us, TicketCommand::Issue { lasts_us }), Answer::Delivered { first });
    TicketId(first)
}

fn append(state: &mut DeliveryState, time_us: u64, terms: Terms) -> Answer {
    deliver(state, time_us, &Body::Commands(vec![Submitted { terms, count: 1 }]))[0]
}

fn once(session: SessionId, sequence: u64) -> Terms {
    Terms { session: Some((session, sequence)), ..Terms::NONE }
}

fn under(ticket: TicketId) -> Terms {
    Terms { ticket: Some(ticket), ..Terms::NONE }
}

#[test]
fn a_retry_gets_its_first_position_back() {
    let mut state = empty();
    let session = open(&mut state, 10);
    let first = state.next();
    assert_eq!(append(&mut state, 11, once(session, 1)), Answer::Delivered { first });
    assert_eq!(append(&mut state, 12, once(session, 1)), Answer::Duplicate { first });
    let both = [Submitted { terms: once(session, 2), count: 3 }; 2];
    let first = state.next();
    assert_eq!(
        deliver(&mut state, 12, &Body::Commands(both.into())),
        [Answer::Delivered { first }, Answer::Duplicate { first }],
        "within one body, too"
    );
    assert_eq!(state.next(), first.plus(6), "a duplicate fills its slots");
}

#[test]
fn numbers_that_overtake_each_other_are_all_delivered_once() {
    let mut state = empty();
    let session = open(&mut state, 0);
    for sequence in [3, 1, 4, 2] {
        assert!(append(&mut state, 0, once(session, sequence)).is_delivered());
    }
    for sequence in 1..=4 {
        assert!(matches!(append(&mut state, 0, once(session, sequence)), Answer::Duplicate { .. }));
    }
}

#[test]
fn numbers_beyond_what_is_kept_are_refused() {
    let mut state = empty();
    let session = open(&mut state, 0);
    let refused = |refusal| Answer::Refused(refusal);
    assert_eq!(append(&mut state, 0, once(session, 0)), refused(Refusal::SequenceTooOld { oldest: 1 }));
    assert_eq!(append(&mut state, 0, once(session, 5)), refused(Refusal::SequenceAhead { highest: 0 }));
    assert!(append(&mut state, 0, once(session, 4)).is_delivered());
    assert!(append(&mut state, 0, once(session, 6)).is_delivered());
    assert_eq!(append(&mut state, 0, once(session, 2)), refused(Refusal::SequenceTooOld { oldest: 3 }));
    assert!(append(&mut state, 0, once(session, 3)).is_delivered(), "it was left out so far");
    assert_eq!(append(&mut state, 0, once(session, u64::MAX)), refused(Refusal::SequenceAhead { highest: 6 }));
}

#[test]
fn the_session_used_longest_ago_makes_way() {
    let mut state = empty();
    let sessions: Vec<SessionId> = (0..3).map(|_| open(&mut state, 0)).collect();
    assert!(append(&mut state, 0, once(sessions[0], 1)).is_delivered());
    let fourth = open(&mut state, 0);
    assert_eq!(append(&mut state, 0, once(sessions[1], 1)), Answer::Refused(Refusal::SessionEvicted));
    for session in [sessions[0], sessions[2], fourth] {
        assert!(append(&mut state, 0, once(session, 2)).is_delivered());
    }
    assert_eq!(state.sessions(), 3);
}

#[test]
fn a_session_that_is_idle_too_long_is_evicted_by_the_time_of_the_log() {
    let mut state = empty();
    let (idle, busy) = (open(&mut state, 5_000), open(&mut state, 5_000));
    assert!(append(&mut state, 5_900, once(busy, 1)).is_delivered());
    assert!(append(&mut state, 4_000, once(busy, 2)).is_delivered(), "time doesn't go back");
    assert_eq!(state.time_us(), 5_900);
    deliver(&mut state, 6_000, &Body::Other(7));
    assert_eq!(state.sessions(), 2, "idle for as long as it may be");
    assert_eq!(append(&mut state, 6_001, once(idle, 1)), Answer::Refused(Refusal::SessionEvicted));
    assert!(append(&mut state, 6_001, once(busy, 3)).is_delivered());
}

#[test]
fn closed_and_unknown_sessions_are_told_apart() {
    let mut state = empty();
    let session = open(&mut state, 0);
    let close = Body::Session(SessionCommand::Close(session));
    assert!(deliver(&mut state, 0, &close)[0].is_delivered());
    assert!(state.is_empty());
    assert_eq!(deliver(&mut state, 0, &close), [Answer::Refused(Refusal::SessionEvicted)]);
    assert_eq!(append(&mut state, 0, once(session, 1)), Answer::Refused(Refusal::SessionEvicted));
    let future = SessionId(state.next());
    assert_eq!(append(&mut state, 0, once(future, 1)), Answer::Refused(Refusal::SessionUnknown));
}

#[test]
fn only_the_newest_ticket_counts() {
    let mut state = empty();
    let old = issue(&mut state, 0, 1_000_000);
    assert!(append(&mut state, 0, under(old)).is_delivered());
    let newest = issue(&mut state, 0, 1_000_000);
    assert_eq!(append(&mut state, 0, under(old)), Answer::Refused(Refusal::TicketSuperseded { newest }));
    assert!(append(&mut state, 0, under(newest)).is_delivered());
    assert!(append(&mut state, 0, Terms::NONE).is_delivered());
    let revoke = |ticket| Body::Ticket(TicketCommand::Revoke(ticket));
    assert_eq!(deliver(&mut state, 0, &revoke(old)), [Answer::Refused(Refusal::TicketSuperseded { newest })]);
    assert!(deliver(&mut state, 0, &revoke(newest))[0].is_delivered());
    for ticket in [old, newest] {
        assert_eq!(append(&mut state, 0, under(ticket)), Answer::Refused(Refusal::TicketExpired));
    }
    let future = TicketId(state.next());
    assert_eq!(append(&mut state, 0, under(future)), Answer::Refused(Refusal::TicketUnknown));
}

#[test]
fn a_ticket_expires_by_the_time_of_the_log() {
    let mut state = empty();
    let ticket = issue(&mut state, 100, 50);
    assert!(append(&mut state, 150, under(ticket)).is_delivered());
    assert_eq!(append(&mut state, 151, under(ticket)), Answer::Refused(Refusal::TicketExpired));
    assert_eq!(append(&mut state, 120, under(ticket)), Answer::Refused(Refusal::TicketExpired), "for good");
    assert!(state.is_empty());
    assert_eq!(state, DeliveryState::empty(SMALL, state.next()));
}

#[test]
fn an_unexpected_slot_is_told() {
    let mut state = empty();
    let at = |expected| Terms { expected_slot: Some(expected), ..Terms::NONE };
    let next = state.next();
    assert!(append(&mut state, 0, at(next)).is_delivered());
    let actual = state.next();
    for expected in [next, actual.plus(9)] {
        let actual = state.next();
        assert_eq!(append(&mut state, 0, at(expected)), Answer::Refused(Refusal::UnexpectedSlot { actual }));
    }
}

#[test]
fn what_was_refused_once_is_never_delivered() {
    let mut state = empty();
    let session = open(&mut state, 0);
    let actual = state.next();
    // The copy would come to stand at the expected slot.
    let terms = Terms { expected_slot: Some(actual.plus(1)), ..once(session, 1) };
    let refused = Answer::Refused(Refusal::UnexpectedSlot { actual });
    assert_eq!(append(&mut state, 0, terms), refused);
    assert_eq!(append(&mut state, 0, terms), refused);
}

#[test]
#[should_panic(expected = "in slot order")]
fn a_gap_is_a_bug() {
    empty().deliver_other(Slot(2), 1, 0);
}

#[test]
fn the_fullest_state_has_as_many_bytes_as_are_promised() {
    let mut state = DeliveryState::empty(DeliveryLimits::CLUSTER, Slot::FIRST);
    let limits = *state.limits();
    for _ in 0..=limits.sessions_max {
        let session = open(&mut state, 1);
        for sequence in 1..=u64::from(limits.results_max) + 1 {
            append(&mut state, 1, once(session, sequence));
        }
    }
    let bytes = state.encode();
    assert_eq!(bytes.len() as u64, limits.state_bytes_max());
    assert_eq!(DeliveryState::decode(&bytes, limits), Ok(state));
}

#[test]
fn other_limits_are_other_states() {
    let bytes = empty().encode();
    let error = DeliveryState::decode(&bytes, DeliveryLimits::CLUSTER);
    assert_eq!(error, Err(StateError::Limits { found: SMALL }));
}

/// Names that are sometimes right: sessions and tickets lie at low slots in the logs that are made here.
fn name() -> impl Strategy<Value = Slot> {
    (1..24u64).prop_map(Slot)
}

fn terms() -> impl Strategy<Value = Terms> {
    let session = prop::option::weighted(0.8, (name().prop_map(SessionId), 0..9u64));
    let ticket = prop::option::weighted(0.2, name().prop_map(TicketId));
    let expected_slot = prop::option::weighted(0.1, name());
    (session, ticket, expected_slot).prop_map(|(session, ticket, expected_slot)| Terms {
        session,
        ticket,
        expected_slot,
    })
}

fn body() -> impl Strategy<Value = Body> {
    let submitted = (terms(), 1..3u32).prop_map(|(terms, count)| Submitted { terms, count });
    prop_oneof![
        6 => prop::collection::vec(submitted, 1..4).prop_map(Body::Commands),
        3 => Just(Body::Session(SessionCommand::Open)),
        1 => name().prop_map(|slot| Body::Session(SessionCommand::Close(SessionId(slot)))),
        1 => (0..2_000u64).prop_map(|lasts_us| Body::Ticket(TicketCommand::Issue { lasts_us })),
        1 => name().prop_map(|slot| Body::Ticket(TicketCommand::Revoke(TicketId(slot)))),
        1 => (1..4u32).prop_map(Body::Other),
    ]
}

fn log() -> impl Strategy<Value = Vec<(u64, Body)>> {
    prop::collection::vec((0..4_000u64, body()), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_prefix_kept_as_bytes_and_the_rest_make_the_whole(log in log(), cut in 0..60usize) {
        let cut = cut.min(log.len());
        let mut whole = empty();
        let answers: Vec<_> = log.iter().map(|(time_us, body)| deliver(&mut whole, *time_us, body)).collect();
        let mut prefix = empty();
        log[..cut].iter().for_each(|(time_us, body)| drop(deliver(&mut prefix, *time_us, body)));
        let kept = prefix.encode();
        prop_assert!(kept.len() as u64 <= SMALL.state_bytes_max());
        let mut rest = DeliveryState::decode(&kept, SMALL).expect("it was encoded");
        prop_assert_eq!(&rest, &prefix);
        prop_assert_eq!(rest.encode(), kept);
        for ((time_us, body), answers) in log[cut..].iter().zip(&answers[cut..]) {
            prop_assert_eq!(&deliver(&mut rest, *time_us, body), answers);
        }
        prop_assert_eq!(rest, whole);
    }

    #[test]
    fn nothing_is_delivered_twice_and_nothing_under_an_old_ticket(log in log()) {
        let mut state = empty();
        let mut delivered: BTreeMap<(SessionId, u64), Slot> = BTreeMap::new();
        let mut newest = None;
        for (time_us, body) in &log {
            let mut at = state.next();
            let answers = deliver(&mut state, *time_us, body);
            prop_assert!(state.sessions() <= SMALL.sessions_max as usize);
            if let Body::Ticket(TicketCommand::Issue { .. }) = body {
                newest = Some(TicketId(at));
            }
            let Body::Commands(submissions) = body else { continue };
            for (submission, answer) in submissions.iter().zip(answers) {
                let before = submission.terms.session.and_then(|name| delivered.get(&name).copied());
                match answer {
                    Answer::Delivered { first } => {
                        prop_assert_eq!(first, at);
                        prop_assert_eq!(before, None, "delivered twice");
                        prop_assert!(submission.terms.ticket.is_none_or(|ticket| Some(ticket) == newest));
                        prop_assert!(submission.terms.expected_slot.is_none_or(|expected| expected == at));
                        if let Some(name) = submission.terms.session {
                            delivered.insert(name, first);
                        }
                    }
                    Answer::Duplicate { first } => prop_assert_eq!(before, Some(first)),
                    Answer::Refused(_) => {}
                }
                at = at.plus(u64::from(submission.count));
            }
        }
    }

    #[test]
    fn damaged_bytes_are_an_error(log in log(), place in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let mut state = empty();
        log.iter().for_each(|(time_us, body)| drop(deliver(&mut state, *time_us, body)));
        let mut bytes = state.encode();
        let place = place.index(bytes.len());
        prop_assert!(DeliveryState::decode(&bytes[..place], SMALL).is_err());
        bytes[place] ^= flip;
        prop_assert!(DeliveryState::decode(&bytes, SMALL).is_err());
    }

    #[test]
    fn forged_bytes_are_a_state_or_an_error(
        log in log(),
        forged in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut state = empty();
        log.iter().for_each(|(time_us, body)| drop(deliver(&mut state, *time_us, body)));
        let mut bytes = state.encode();
        for (place, byte) in forged {
            bytes[place.index(state.encode().len())] = byte;
        }
        let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[16..]);
        bytes[8..16].copy_from_slice(&checksum.to_le_bytes());
        // What passes is as good as any: it is encoded again as it was read, and goes on without a panic.
        if let Ok(mut state) = DeliveryState::decode(&bytes, SMALL) {
            prop_assert_eq!(state.encode(), bytes);
            for sequence in 0..9 {
                let ids: Vec<SessionId> = state.sessions.keys().copied().collect();
                ids.into_iter().for_each(|id| _ = append(&mut state, 9_000, once(id, sequence)));
                open(&mut state, 9_000);
            }
        }
    }
}
