//! The audit over logs made by hand: sound ones pass, and every rule fires on a set of logs that breaks it.

mod support;

use support::bounded::recover;
use support::*;
use synod_frame::{ConfigurationBody, Member, Origin, RECORD_HEADER_BYTES, RecordBuffer, encode_configuration};
use synod_protocol::{Ballot, Mark, NodeId, Slot};
use synod_wal::audit::{Acknowledged, AuditError, AuditLog, Report, Rule, audit};
use synod_wal::{FileId, LogIdentity, Lsn, MemoryStore, RecordKind, RecoverOptions, StoredConfiguration, SyncMode};

/// Three members, quorums of two, the second life of nothing.
struct Log {
    machine: Machine,
    node: u32,
    mark: Mark,
    promised: Ballot,
}

fn identity_of(node: u32, boot_counter: u64) -> LogIdentity {
    LogIdentity { node: NodeId(node), incarnation: [node as u8; 16], ..identity(boot_counter) }
}

fn genesis() -> StoredConfiguration {
    let member = |node: u32| Member { node: NodeId(node), incarnation: [node as u8; 16] };
    let configuration = ConfigurationBody {
        cluster: [1; 16],
        lineage: 0,
        members: (1..=3).map(member).collect(),
        prepare_quorum: 2,
        accept_quorum: 2,
        alpha: 64,
        ..ConfigurationBody::default()
    };
    let mut record = RecordBuffer::zeroed(BLOCK as usize);
    let origin = Origin { group: GROUP, first: Slot(0), ballot: Ballot::ZERO, leader_time_us: 0 };
    let body = encode_configuration(record.as_mut(), &origin, &configuration).unwrap();
    let bytes = record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec();
    StoredConfiguration { slot: Slot(0), body: bytes }
}

impl Log {
    fn new(node: u32) -> Log {
        let mut machine = Machine::start_as(identity_of(node, 1), Disk::fresh(4), SyncMode::Dsync, fresh_log(4));
        machine.wal.set_configuration(genesis());
        machine.settle();
        Log { machine, node, mark: Mark::START, promised: Ballot::ZERO }
    }

    fn append(&mut self, kind: RecordKind, at: Ballot, promised: Ballot, body: Option<&Body>) {
        self.machine.append_now(&meta(kind, at, promised, self.mark), body);
        self.promised = self.promised.max(promised);
    }

    fn accept(&mut self, round: u64, body: &Body) -> &mut Log {
        self.append(RecordKind::Accepted, ballot(round), ballot(round), Some(body));
        self
    }

    fn promise(&mut self, round: u64) -> &mut Log {
        self.append(RecordKind::Promise, ballot(round), ballot(round), None);
        self
    }

    fn copy(&mut self, body: &Body) -> &mut Log {
        self.append(RecordKind::Copied, Ballot::ZERO, self.promised, Some(body));
        self
    }

    /// Notes that the bodies are chosen, one after the other.
    fn learn(&mut self, bodies: &[&Body]) -> &mut Log {
        for body in bodies {
            self.mark = self.mark.after(&body.handle);
        }
        self.note_mark()
    }

    fn note_mark(&mut self) -> &mut Log {
        self.append(RecordKind::Mark, self.promised, self.promised, None);
        self
    }

    fn trim(&mut self, base: Mark) -> &mut Log {
        self.machine.settle();
        self.machine.trim(base, self.promised).expect("room for a trim");
        self.machine.settle();
        self
    }

    /// The next life of the same store.
    fn restart(self) -> Log {
        let expected = identity_of(self.node, 2).expected();
        let disk = self.machine.disk;
        let recovered = recover(&disk.live, &expected, SEGMENT_BYTES).unwrap();
        let mut machine = Machine::start_as(identity_of(self.node, 2), disk, SyncMode::Dsync, recovered);
        machine.settle();
        Log { machine, ..self }
    }

    fn store(&self) -> &MemoryStore {
        &self.machine.disk.live
    }
}

fn read(log: &Log) -> AuditLog<'_> {
    let expected = identity_of(log.node, 1).expected();
    let name = format!("node-{}", log.node);
    AuditLog::read(name, log.store(), &expected, SEGMENT_BYTES, RecoverOptions::default()).unwrap()
}

fn audited(logs: &[&Log], acknowledged: &[Acknowledged]) -> Report {
    let logs: Vec<AuditLog<'_>> = logs.iter().map(|log| read(log)).collect();
    audit(&logs, acknowledged).unwrap()
}

fn three() -> [Log; 3] {
    [1, 2, 3].map(Log::new)
}

/// The rules that don't hold, each once.
fn broken(report: &Report) -> Vec<Rule> {
    let mut rules: Vec<Rule> = report.violations.iter().map(|violation| violation.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    assert_eq!(report.holds(), rules.is_empty());
    rules
}

/// Two of three accept two bodies, and all learn of them.
fn sound() -> ([Log; 3], [Body; 2]) {
    let bodies = [commands(1, 3, 300, 1), commands(4, 2, 9000, 2)];
    let mut logs = three();
    for body in &bodies {
        logs[0].accept(1, body);
        logs[1].accept(1, body);
    }
    for body in &bodies {
        logs[2].copy(body);
    }
    for log in &mut logs {
        log.learn(&[&bodies[0], &bodies[1]]);
    }
    (logs, bodies)
}

fn acknowledgements(body: &Body, seed: u64) -> Vec<Acknowledged> {
    // As `commands` makes them.
    let mut random = Random(seed);
    let each = (body.handle.count as usize, if body.handle.count == 3 { 100 } else { 4500 });
    let made = (0..each.0).map(|_| (0..each.1).map(|_| random.next() as u8).collect::<Vec<u8>>());
    (body.handle.first.0..).map(Slot).zip(made).map(|(slot, bytes)| Acknowledged::new(slot, &bytes)).collect()
}

#[test]
fn sound_logs_pass_and_the_report_counts_what_was_seen() {
    let (logs, bodies) = sound();
    let acknowledged = [acknowledgements(&bodies[0], 1), acknowledgements(&bodies[1], 2)].concat();
    let report = audited(&logs.each_ref(), &acknowledged);
    assert!(report.holds(), "{report:#?}");
    let coverage = report.coverage;
    assert_eq!((coverage.accepts, coverage.bodies_chosen, coverage.quorums_found), (4, 2, 2));
    assert_eq!((coverage.bodies_chosen_by_quorum, coverage.acknowledged_found), (2, 5));
    assert_eq!((coverage.marks_alone, coverage.quorums_without_log), (0, 0));
    assert_eq!(report.logs[2].accepts, 0);
    assert_eq!((report.logs[0].mark, report.logs[0].base), (Slot(6), Slot(1)));
}

#[test]
fn a_quorum_without_news_is_chosen_as_well() {
    let body = noop(1, 2, 1);
    let mut logs = three();
    logs[0].accept(1, &body);
    logs[2].accept(1, &body);
    let report = audited(&logs.each_ref(), &[]);
    assert!(report.holds());
    assert_eq!((report.coverage.bodies_chosen, report.coverage.bodies_chosen_by_quorum), (0, 1));
}

#[test]
fn a_body_that_was_chosen_nowhere_may_be_superseded() {
    let (lost, chosen) = (noop(1, 3, 1), noop(1, 2, 2));
    let mut logs = three();
    logs[0].accept(1, &lost).accept(2, &chosen);
    logs[1].promise(2).accept(2, &chosen);
    logs[2].promise(2);
    let report = audited(&logs.each_ref(), &[]);
    assert!(report.holds(), "{report:#?}");
}

#[test]
fn two_chosen_bodies_at_one_slot() {
    let (one, other) = (noop(1, 3, 1), noop(2, 1, 2));
    let mut logs = three();
    logs[0].accept(1, &one).learn(&[&one]);
    logs[1].accept(1, &one).copy(&other);
    logs[2].copy(&other);
    let report = audited(&logs.each_ref(), &[]);
    assert!(broken(&report).contains(&Rule::OneChosenBody), "{report:#?}");
    let first = report.first_divergence().unwrap();
    assert_eq!((first.rule, first.slots.clone()), (Rule::OneChosenBody, Slot(2)..Slot(3)));
    let nodes: Vec<u32> = first.witnesses.iter().map(|witness| witness.node.0).collect();
    assert_eq!(nodes, [1, 2]);
    let place = first.witnesses[1].place.unwrap();
    assert_eq!((place.file.0, place.offset, place.lsn), (1, 2 * BLOCK, Lsn(SEGMENT_BYTES + 2 * BLOCK)));
}

#[test]
fn two_quorums_that_missed_each_other() {
    // No log says that anything is chosen; the accepts alone show it.
    let (one, other) = (noop(1, 1, 1), noop(1, 1, 2));
    let mut logs = three();
    logs[0].accept(1, &one);
    logs[1].accept(1, &one).accept(2, &other);
    logs[2].accept(2, &other);
    let report = audited(&logs.each_ref(), &[]);
    assert_eq!(broken(&report), [Rule::OneChosenBody, Rule::ChosenIsAdopted], "{report:#?}");
}

#[test]
fn two_bodies_at_one_ballot() {
    let mut logs = three();
    logs[0].accept(1, &noop(1, 3, 1));
    logs[1].accept(1, &noop(3, 2, 1));
    let report = audited(&logs.each_ref(), &[]);
    assert_eq!(broken(&report), [Rule::OneBodyPerBallot], "{report:#?}");
    assert_eq!(report.violations[0].slots, Slot(3)..Slot(4));
}

#[test]
fn a_higher_ballot_that_forgets_what_was_chosen() {
    let mut logs = three();
    let chosen = noop(1, 4, 1);
    logs[0].accept(1, &chosen);
    logs[1].accept(1, &chosen);
    logs[2].promise(3).accept(3, &noop(4, 2, 2));
    let report = audited(&logs.each_ref(), &[]);
    assert_eq!(broken(&report), [Rule::ChosenIsAdopted], "{report:#?}");
    assert_eq!(report.violations[0].slots, Slot(4)..Slot(5));
    // The same body at a higher ballot is what must be.
    let mut logs = three();
    logs[0].accept(1, &chosen);
    logs[1].accept(1, &chosen);
    logs[2].accept(3, &chosen);
    assert!(audited(&logs.each_ref(), &[]).holds());
}

#[test]
fn chosen_without_a_quorum() {
    let body = noop(1, 1, 1);
    let mut logs = three();
    logs[0].accept(1, &body).learn(&[&body]);
    logs[1].accept(2, &body);
    logs[2].copy(&body);
    let report = audited(&logs.each_ref(), &[]);
    assert_eq!(broken(&report), [Rule::ChosenByQuorum], "two ballots with one vote each: {report:#?}");
    assert_eq!(report.violations[0].witnesses.len(), 3);
    // The log that isn't given may hold the vote that is missing.
    let report = audited(&[&logs[0], &logs[2]], &[]);
    assert!(report.holds());
    assert_eq!((report.coverage.quorums_without_log, report.coverage.quorums_found), (1, 0));
}

#[test]
fn votes_that_were_trimmed_or_rewritten_are_no_violation() {
    let (body, next) = (noop(1, 1, 1), noop(2, 1, 1));
    let mut logs = three();
    for log in &mut logs[..2] {
        log.accept(1, &body).accept(1, &next).learn(&[&body, &next]);
    }
    let base = Mark::START.after(&body.handle);
    logs[0].trim(base);
    logs[1].trim(base);
    logs[2].copy(&body);
    logs[2].append(RecordKind::Healed, Ballot::ZERO, Ballot::ZERO, Some(&next));
    let whole = audited(&logs.each_ref(), &[]);
    assert!(whole.holds(), "{whole:#?}");
    assert_eq!(whole.coverage.quorums_found, 2, "the records of what is trimmed are still there");

    // Compaction leaves the chosen bodies, and not who accepted them.
    let mut compacted = three();
    for log in &mut compacted {
        log.append(RecordKind::Chosen, Ballot::ZERO, Ballot::ZERO, Some(&body));
        log.learn(&[&body]);
    }
    let report = audited(&compacted.each_ref(), &[]);
    assert!(report.holds(), "{report:#?}");
    assert_eq!((report.coverage.quorums_found, report.coverage.quorums_rewritten), (0, 1));
}

#[test]
fn what_a_running_node_accepts_later_is_no_violation() {
    let (bodies, mut logs) = ([noop(1, 1, 1), noop(2, 1, 1)], three());
    for log in &mut logs {
        log.accept(1, &bodies[0]).learn(&[&bodies[0]]);
    }
    // The others' logs were read before they accepted this.
    logs[2].accept(1, &bodies[1]).learn(&[&bodies[1]]);
    assert_eq!(broken(&audited(&logs.each_ref(), &[])), [Rule::ChosenByQuorum]);
    let options = RecoverOptions { live: true, ..RecoverOptions::default() };
    let read = |log| {
        let log: &Log = log;
        let expected = identity_of(log.node, 1).expected();
        AuditLog::read(format!("node-{}", log.node), log.store(), &expected, SEGMENT_BYTES, options).unwrap()
    };
    let report = audit(&[read(&logs[0]), read(&logs[1]), read(&logs[2])], &[]).unwrap();
    assert!(report.holds(), "{report:#?}");
    assert_eq!((report.coverage.quorums_found, report.coverage.quorums_growing), (1, 1));
}

#[test]
fn acknowledged_commands_are_found_in_packs() {
    let bodies = [commands(1, 3, 300, 1), commands(4, 2, 9000, 2)];
    let mut logs = three();
    for log in &mut logs {
        log.machine.append_pack_now(ballot(1), log.mark, &bodies);
        log.promised = ballot(1);
        log.learn(&[&bodies[0], &bodies[1]]);
    }
    let acknowledged = [acknowledgements(&bodies[0], 1), acknowledgements(&bodies[1], 2)].concat();
    let report = audited(&logs.each_ref(), &acknowledged);
    assert!(report.holds(), "{report:#?}");
    assert_eq!((report.coverage.acknowledged_found, report.coverage.quorums_rewritten), (5, 2));
    let wrong = Acknowledged { crc32: 1, ..acknowledged[4] };
    assert_eq!(broken(&audited(&logs.each_ref(), &[wrong])), [Rule::AcknowledgedIsChosen]);
}

#[test]
fn an_accept_below_a_promise() {
    let mut logs = three();
    logs[1].promise(7);
    logs[1].append(RecordKind::Accepted, ballot(5), ballot(7), Some(&noop(1, 1, 5)));
    let report = audited(&logs.each_ref(), &[]);
    assert_eq!(broken(&report), [Rule::NoAcceptBelowPromise], "{report:#?}");
    let violation = report.first_divergence().unwrap();
    assert_eq!((violation.slots.clone(), violation.witnesses[0].log), (Slot(1)..Slot(2), 1));
    assert_eq!(violation.witnesses[0].place.unwrap().offset, 2 * BLOCK);
    assert!(violation.to_string().contains("n2 node-2 segment-000001.wal at 8192"), "{violation}");
}

#[test]
fn an_accept_below_a_promise_of_an_earlier_life() {
    let mut log = Log::new(1);
    log.note_mark();
    // The mark knows of a promise whose own record the crash took: from the restart on it counts.
    log.append(RecordKind::Mark, ballot(9), ballot(9), None);
    log.accept(3, &noop(1, 1, 3));
    assert!(audited(&[&log], &[]).holds(), "the promise may not have been made yet");
    let mut log = log.restart();
    log.append(RecordKind::Accepted, ballot(5), ballot(9), Some(&noop(2, 1, 5)));
    assert_eq!(broken(&audited(&[&log], &[])), [Rule::NoAcceptBelowPromise]);
}

#[test]
fn a_promise_that_goes_back() {
    for kind in [RecordKind::Promise, RecordKind::Mark] {
        let mut log = Log::new(2);
        log.promise(7);
        log.append(kind, ballot(3), ballot(3), None);
        let report = audited(&[&log], &[]);
        assert_eq!(broken(&report), [Rule::PromisesGrow], "{report:#?}");
    }
}

#[test]
fn chains_that_differ_where_no_bodies_are_left() {
    let bodies = [noop(1, 2, 1), noop(1, 2, 2)];
    let mut logs = [Log::new(1), Log::new(2)];
    for (log, body) in logs.iter_mut().zip(&bodies) {
        log.accept(1, body).learn(&[body]);
        let base = log.mark;
        log.trim(base);
    }
    let report = audited(&logs.each_ref(), &[]);
    assert!(broken(&report).contains(&Rule::EqualChains), "{report:#?}");
    let violation = report.violations.iter().find(|violation| violation.rule == Rule::EqualChains).unwrap();
    assert_eq!(violation.slots, Slot(2)..Slot(3));
}

#[test]
fn marks_that_no_bodies_reach_must_agree_as_well() {
    let mut logs = [Log::new(1), Log::new(2)];
    for (log, id) in logs.iter_mut().zip([1, 2]) {
        log.learn(&[&noop(1, 5, id)]);
    }
    let report = audited(&logs.each_ref(), &[]);
    assert_eq!(broken(&report), [Rule::EqualChains], "{report:#?}");
    let mut logs = [Log::new(1), Log::new(2)];
    logs[0].learn(&[&noop(1, 5, 1)]);
    logs[1].note_mark();
    let report = audited(&logs.each_ref(), &[]);
    assert!(report.holds());
    assert_eq!(report.coverage.marks_alone, 1);
}

#[test]
fn a_prefix_that_ends_inside_a_chosen_body() {
    let whole = noop(1, 4, 1);
    let mut logs = [Log::new(1), Log::new(2)];
    logs[0].accept(1, &whole).learn(&[&whole]);
    logs[1].accept(1, &whole).learn(&[&noop(1, 2, 1)]);
    let report = audited(&logs.each_ref(), &[]);
    assert_eq!(broken(&report), [Rule::EqualChains], "{report:#?}");
    assert!(report.violations[0].what.contains("inside"));
}

#[test]
fn acknowledged_commands_that_are_elsewhere_or_nowhere() {
    let (logs, bodies) = sound();
    let right = acknowledgements(&bodies[0], 1);
    let wrong = [
        Acknowledged { slot: Slot(2), ..right[0] },
        Acknowledged { crc32: right[0].crc32 ^ 1, ..right[0] },
        Acknowledged { bytes: right[0].bytes + 1, ..right[0] },
        Acknowledged { slot: Slot(6), ..right[0] },
    ];
    for (number, wrong) in wrong.iter().enumerate() {
        let report = audited(&logs.each_ref(), &[*wrong]);
        assert_eq!(broken(&report), [Rule::AcknowledgedIsChosen], "{number}: {report:#?}");
        assert_eq!(report.violations[0].slots.start, wrong.slot);
    }
    let twice = [right[0], Acknowledged { crc32: 0, ..right[0] }];
    assert_eq!(audited(&logs.each_ref(), &twice).violations_count, 2, "one slot, two commands, and one isn't there");
    // No commands at all stand there.
    let noops = noop(1, 2, 1);
    let mut logs = three();
    logs[0].accept(1, &noops);
    logs[1].accept(1, &noops);
    assert_eq!(broken(&audited(&logs.each_ref(), &[right[0]])), [Rule::AcknowledgedIsChosen]);
}

#[test]
fn acknowledged_commands_that_nobody_can_see_are_counted() {
    let (mut logs, bodies) = sound();
    let acknowledged = acknowledgements(&bodies[0], 1);
    let beyond = Acknowledged { slot: Slot(6), ..acknowledged[0] };
    let report = audited(&[&logs[0], &logs[2]], &[beyond]);
    assert!(report.holds());
    assert_eq!(report.coverage.acknowledged_unseen, 1);
    let base = Mark::START.after(&bodies[0].handle);
    for log in &mut logs {
        log.trim(base);
    }
    let tail = acknowledgements(&bodies[1], 2);
    let report = audited(&logs.each_ref(), &[acknowledged[0], tail[0]]);
    assert!(report.holds(), "{report:#?}");
    assert_eq!(report.coverage.acknowledged_found + report.coverage.acknowledged_trimmed, 2);
}

#[test]
fn two_configurations_at_one_slot() {
    let logs = three();
    let mut other = Log::new(2);
    let mut genesis = genesis();
    let mut record = RecordBuffer::zeroed(BLOCK as usize);
    let origin = Origin { group: GROUP, first: Slot(0), ballot: Ballot::ZERO, leader_time_us: 0 };
    let configuration = ConfigurationBody {
        cluster: [1; 16],
        lineage: 0,
        members: vec![Member { node: NodeId(2), incarnation: [2; 16] }],
        prepare_quorum: 1,
        accept_quorum: 1,
        alpha: 64,
        ..ConfigurationBody::default()
    };
    let body = encode_configuration(record.as_mut(), &origin, &configuration).unwrap();
    genesis.body = record.as_ref()[RECORD_HEADER_BYTES..][..body.bytes as usize].to_vec();
    other.machine = Machine::start_as(identity_of(2, 1), Disk::fresh(4), SyncMode::Dsync, fresh_log(4));
    other.machine.wal.set_configuration(genesis);
    other.machine.settle();
    for log in [&logs[0], &logs[2]] {
        assert!(audited(&[log], &[]).holds());
    }
    let mut first = Log::new(1);
    first.note_mark();
    other.note_mark();
    let with_headers = [first.restart(), other.restart()];
    let report = audited(&with_headers.each_ref(), &[]);
    assert_eq!(broken(&report), [Rule::OneChosenBody], "{report:#?}");
}

/// A body that is a configuration of nodes 1 to `members`, chosen at `slot`.
fn configuration(slot: u64, after: u64, members: u32) -> Body {
    let member = |node: u32| Member { node: NodeId(node), incarnation: [node as u8; 16] };
    let content = ConfigurationBody {
        after: Slot(after),
        cluster: [1; 16],
        members: (1..=members).map(member).collect(),
        prepare_quorum: members / 2 + 1,
        accept_quorum: members / 2 + 1,
        alpha: 64,
        ..ConfigurationBody::default()
    };
    let mut record = RecordBuffer::zeroed(BLOCK as usize);
    let origin = Origin { group: GROUP, first: Slot(slot), ballot: ballot(1), leader_time_us: 0 };
    let handle = encode_configuration(record.as_mut(), &origin, &content).unwrap();
    Body { handle, record }
}

#[test]
fn a_void_configuration_rules_nothing() {
    // The second one was made without knowing the first: a single member would do for all that it rules.
    let bodies = [configuration(1, 0, 3), configuration(2, 0, 1), noop(3, 63, 1), noop(66, 4, 1)];
    let all: Vec<&Body> = bodies.iter().collect();
    let mut logs = three();
    for body in &bodies {
        logs[0].accept(1, body);
        if body.handle.first < Slot(66) {
            logs[1].accept(1, body);
        } else {
            logs[1].copy(body);
        }
        logs[2].copy(body);
    }
    for log in &mut logs {
        log.learn(&all);
    }
    let report = audited(&logs.each_ref(), &[]);
    assert_eq!(broken(&report), [Rule::ChosenByQuorum], "{report:#?}");
    assert_eq!(report.violations[0].slots.start, Slot(66));
}

#[test]
fn a_new_store_says_nothing_of_what_the_lost_one_accepted() {
    let body = commands(1, 3, 300, 1);
    let [mut first, mut second, mut third] = three();
    first.accept(1, &body).learn(&[&body]);
    for log in [&mut second, &mut third] {
        log.copy(&body).learn(&[&body]);
    }
    // With the store that the configuration names, node 3 would show its accept if it had made one.
    assert_eq!(broken(&audited(&[&first, &second, &third], &[])), [Rule::ChosenByQuorum]);
    let anew = LogIdentity { incarnation: [33; 16], ..identity_of(3, 1) };
    third.machine = Machine::start_as(anew, Disk::fresh(4), SyncMode::Dsync, fresh_log(4));
    third.mark = Mark::START;
    third.machine.wal.set_configuration(genesis());
    third.machine.settle();
    third.copy(&body).learn(&[&body]);
    let options = RecoverOptions::default();
    let other = AuditLog::read("anew", third.store(), &anew.expected(), SEGMENT_BYTES, options).unwrap();
    let report = audit(&[read(&first), read(&second), other], &[]).unwrap();
    assert!(report.holds(), "{report:#?}");
    assert_eq!(report.coverage.quorums_without_log, 1);
}

#[test]
fn a_log_whose_own_records_contradict_each_other_is_evidence() {
    // The writer refuses to write such a log, so the ballot of its second record is set back by hand.
    let mut machine = Machine::fresh(SyncMode::Dsync, 4);
    for (round, body) in [(1, noop(1, 2, 1)), (2, noop(2, 1, 2))] {
        machine.append_now(&meta(RecordKind::Accepted, ballot(round), ballot(2), Mark::START), Some(&body));
    }
    let mut store = machine.disk.live.clone();
    let record = &mut store.content_mut(FileId(1)).unwrap()[2 * BLOCK as usize..][..BLOCK as usize];
    record[48] = 1;
    seal_again(record);
    let expected = identity(1).expected();
    let log = AuditLog::read("twin", &store, &expected, SEGMENT_BYTES, RecoverOptions::default()).unwrap();
    let report = audit(&[log], &[]).unwrap();
    assert_eq!(broken(&report), [Rule::OneBodyPerBallot], "{report:#?}");
    assert_eq!(report.violations[0].witnesses[0].place.unwrap().offset, 2 * BLOCK);
}

#[test]
fn logs_that_do_not_belong_together_are_refused() {
    assert_eq!(audit(&[], &[]), Err(AuditError::Nothing));
    let logs = [Log::new(1), Log::new(1)];
    let twins: Vec<_> = logs.iter().map(read).collect();
    assert!(matches!(audit(&twins, &[]), Err(AuditError::SameNode { node: NodeId(1), .. })));
    let foreign = LogIdentity { cluster: [9; 16], ..identity_of(2, 1) };
    let mut machine = Machine::start_as(foreign, Disk::fresh(4), SyncMode::Dsync, fresh_log(4));
    machine.settle();
    let other =
        AuditLog::read("other", &machine.disk.live, &foreign.expected(), SEGMENT_BYTES, RecoverOptions::default())
            .unwrap();
    assert!(matches!(audit(&[read(&logs[0]), other], &[]), Err(AuditError::OtherCluster { .. })));
}

#[test]
fn a_broken_log_of_many_violations_is_told_in_part_and_counted_in_full() {
    let mut log = Log::new(1);
    log.machine = Machine::start_as(identity_of(1, 1), Disk::fresh(40), SyncMode::Dsync, fresh_log(40));
    log.machine.wal.set_configuration(genesis());
    log.machine.settle();
    log.promise(9);
    for slot in 1..=150 {
        log.append(RecordKind::Accepted, ballot(1), ballot(9), Some(&noop(slot, 1, 1)));
    }
    let report = audited(&[&log], &[]);
    assert_eq!((report.violations.len(), report.violations_count), (100, 150));
    assert_eq!(report.first_divergence().unwrap().slots.start, Slot(1));
}
