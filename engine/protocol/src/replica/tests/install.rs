//! Installing what another log begins with: the mark moves, and nothing else is forgotten or claimed too early.

use super::cluster::{ballot, body, n, nothing, s};
use crate::Instant;
use crate::body::{BodyHandle, Chain, Mark};
use crate::config::{Configuration, Configurations, Settings};
use crate::effect::{Append, Effect, LogEntry};
use crate::limits;
use crate::message::{AcceptedBody, Doubt, Message};
use crate::replica::{Recovered, Replica, Role};
use crate::slot::Slot;

const NOW: Instant = Instant(0);

fn genesis(alpha: u32) -> Configuration {
    Configuration::genesis(vec![n(1), n(2), n(3)], alpha).expect("valid")
}

fn base(slot: u64) -> Mark {
    Mark { slot: s(slot), chain: Chain(7) }
}

/// Node 2, with these accepts of ballot 3 and a higher promise.
fn acceptor(accepted: &[BodyHandle]) -> Replica {
    let accepted = accepted.iter().map(|body| AcceptedBody { ballot: ballot(3, 1), body: *body }).collect();
    let doubts = vec![Doubt { first: s(6), end: s(12), bound: ballot(3, 1) }];
    let recovered = Recovered { promised: ballot(5, 3), accepted, doubts, ..nothing() };
    Replica::new(n(2), 1, 1, Settings::default(), Configurations::new(genesis(100)), recovered, NOW)
}

fn drain(replica: &mut Replica) -> (Vec<Append>, Vec<Message>) {
    let (mut appends, mut sent) = (Vec::new(), Vec::new());
    while let Some(effect) = replica.poll_effect() {
        match effect {
            Effect::Append(append) => appends.push(append),
            Effect::Send { message, .. } => sent.push(message),
            _ => {}
        }
    }
    (appends, sent)
}

#[test]
fn promise_accepts_and_doubts_above_the_base_stay() {
    let (below, across, above) = (body(1, 4, 1), body(8, 4, 2), body(12, 2, 3));
    let mut replica = acceptor(&[below, across, above]);
    assert!(replica.install(NOW, n(1), base(10), None));
    assert_eq!(replica.mark(), base(10));
    assert_eq!(replica.trimmed(), s(10));
    assert_eq!(replica.promised(), ballot(5, 3));
    assert_eq!(replica.accepted().map(|report| report.body).collect::<Vec<_>>(), [above], "what lies across is dead");
    assert_eq!(replica.status().doubts.len(), 1, "it reaches beyond the base");
    let (appends, _) = drain(&mut replica);
    assert_eq!(appends.len(), 1);
    let append = appends[0];
    assert_eq!((append.entry, append.mark), (LogEntry::Installed { from: n(1) }, base(10)));
    assert_eq!(append.promised, ballot(5, 3));

    // A promise tells the new mark, and is held until the base is durable.
    let leader = ballot(9, 1);
    replica.handle_message(NOW, n(1), Message::Prepare { ballot: leader, from: s(1) });
    let (appends, sent) = drain(&mut replica);
    assert_eq!(sent, []);
    replica.handle_durable(NOW, appends.last().expect("the promise").id);
    let (_, sent) = drain(&mut replica);
    let [Message::Promise { mark, accepted, .. }] = &sent[..] else { panic!("one promise, not {sent:?}") };
    assert_eq!((*mark, accepted.len()), (base(10), 1));
}

#[test]
fn a_base_counts_as_held_only_when_it_is_durable() {
    let mut replica = acceptor(&[]);
    let leader = ballot(9, 1);
    let heartbeat = |mark, beat| Message::Heartbeat { ballot: leader, mark, beat, recovered: Slot(0) };
    assert!(replica.install(NOW, n(1), base(10), None));
    let (appends, _) = drain(&mut replica);
    let stable = |replica: &mut Replica, beat| {
        replica.handle_message(NOW, n(1), heartbeat(base(10), beat));
        let (_, sent) = drain(replica);
        match sent[..] {
            [Message::HeartbeatReply { stable, .. }] => stable,
            _ => panic!("one answer, not {sent:?}"),
        }
    };
    assert_eq!(stable(&mut replica, 1), Slot::FIRST);
    replica.handle_durable(NOW, appends[0].id);
    assert_eq!(stable(&mut replica, 2), s(10));
}

#[test]
fn nothing_goes_back_and_nothing_wild_is_taken() {
    let mut replica = acceptor(&[]);
    assert!(replica.install(NOW, n(1), base(10), None));
    assert!(!replica.install(NOW, n(3), base(10), None), "it has that");
    assert!(!replica.install(NOW, n(3), base(9), None));
    assert!(!replica.install(NOW, n(3), base(limits::SLOT_MAX + 1), None));
    let broken = Configuration { members: Vec::new(), ..genesis(100) };
    assert!(!replica.install(NOW, n(3), base(20), Some(broken)));
    assert_eq!(replica.mark(), base(10));
    drain(&mut replica);
    // Bodies below are answered as ever.
    let late = Message::Accept { ballot: ballot(9, 1), body: body(4, 2, 4), mark: Mark::START };
    replica.handle_message(NOW, n(1), late);
    let (_, sent) = drain(&mut replica);
    assert!(matches!(sent[..], [Message::Reject { .. }]), "{sent:?}");
}

#[test]
fn the_configuration_that_comes_with_a_base_rules() {
    let mut replica = acceptor(&[]);
    let later = Configuration { chosen_at: s(5), members: vec![n(2), n(4), n(5)], ..genesis(2) };
    assert!(replica.install(NOW, n(4), base(10), Some(later.clone())));
    assert_eq!(replica.status().configuration, later);
    assert_eq!(replica.configurations().iter().count(), 1, "those before it have retired");
    // One that is older, or the same, changes nothing.
    assert!(replica.install(NOW, n(4), base(20), Some(later.clone())));
    assert!(replica.install(NOW, n(4), base(30), Some(genesis(2))));
    assert_eq!(replica.status().configuration, later);
}

#[test]
fn a_leader_that_installs_leads_no_more() {
    let alone = Configuration::genesis(vec![n(2)], 100).expect("valid");
    let configurations = Configurations::new(alone);
    let mut replica = Replica::new(n(2), 1, 1, Settings::default(), configurations, nothing(), NOW);
    let mut now = NOW;
    for _ in 0..100 {
        now = replica.poll_deadline().max(now);
        replica.handle_timeout(now);
        for append in drain(&mut replica).0 {
            replica.handle_durable(now, append.id);
        }
        if replica.status().role == Role::Leader {
            break;
        }
    }
    assert_eq!(replica.status().role, Role::Leader);
    assert!(replica.install(now, n(1), base(50), None));
    assert_eq!(replica.status().role, Role::Follower);
}
