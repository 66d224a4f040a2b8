//! `export` and `import`: content leaves as lines of JSON and comes back as the very same bodies.

mod stores;

use std::fs;
use std::path::Path;

use serde_json::Value;
use stores::{
    Filler, Stores, ballot, commands, commands_of, identity, noop, recovered, refused, run, small, trim, variety,
};
use synod_frame::{Batch, Origin, Submission, encode_session, encode_ticket, encode_trim_with_state};
use synod_protocol::delivery::{
    DeliveryLimits, DeliveryState, SessionCommand, SessionId, Terms, TicketCommand, TicketId,
};
use synod_protocol::{Mark, Slot};
use synod_wal::RecordKind;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn export(path: &Path, more: &[&str]) -> String {
    let path = path.to_str().expect("a plain path");
    run(0, ["export", path].iter().chain(more))
}

fn import(code: i32, file: &Path, members: &[std::path::PathBuf], more: &[&str]) -> String {
    let mut arguments = vec!["import".to_owned(), file.display().to_string()];
    for member in members {
        arguments.extend(["--member-dir".to_owned(), member.display().to_string()]);
    }
    arguments.extend(more.iter().map(|text| (*text).to_owned()));
    if code == 0 { run(code, arguments) } else { refused(code, arguments) }
}

/// A log of 66 bodies of every kind, then one that is only accepted.
fn filled() -> (Stores, Mark) {
    let stores = Stores::cluster(1);
    let mut filler = stores.filler(0);
    variety(&mut filler, 2, 59);
    let body = trim(filler.mark.slot, Slot(4));
    filler.choose(2, &body);
    choose_sessions(&mut filler);
    filler.settle();
    filler.append(RecordKind::Accepted, ballot(2), ballot(2), Some(&noop(filler.mark.slot, 3, 9)));
    let mark = filler.finish(2);
    (stores, mark)
}

/// A session, a ticket, a submission with terms, and a trim that carries what is remembered of them.
fn choose_sessions(filler: &mut Filler) {
    let session = filler.mark.slot;
    filler.choose(2, &small(session, |record, origin| encode_session(record, origin, SessionCommand::Open)));
    let ticket = filler.mark.slot;
    let issue = TicketCommand::Issue { lasts_us: 30 };
    filler.choose(2, &small(ticket, |record, origin| encode_ticket(record, origin, issue)));
    let terms = Terms {
        session: Some((SessionId(session), 1)),
        ticket: Some(TicketId(ticket)),
        expected_slot: Some(filler.mark.slot),
    };
    let batch: Batch = ["on terms"].into_iter().collect();
    filler.choose(2, &commands_of(filler.mark.slot, 2, &[Submission::under(&terms, &batch)]));
    let mut state = DeliveryState::empty(DeliveryLimits::CLUSTER, session);
    state.deliver_session(session, 5, SessionCommand::Open);
    let state = state.encode();
    let carry =
        |record: &mut [u8], origin: &Origin| encode_trim_with_state(record, origin, Slot(session.0 + 1), &state);
    filler.choose(2, &small(filler.mark.slot, carry));
    let revoke = TicketCommand::Revoke(TicketId(ticket));
    filler.choose(2, &small(filler.mark.slot, |record, origin| encode_ticket(record, origin, revoke)));
    let close = SessionCommand::Close(SessionId(session));
    filler.choose(2, &small(filler.mark.slot, |record, origin| encode_session(record, origin, close)));
}

#[test]
fn an_export_names_every_command_and_sums_up() {
    let (stores, mark) = filled();
    let rows = lines(&export(&stores.paths[0], &["--utf8"]));
    let (head, tail) = (&rows[0], &rows[rows.len() - 1]);
    assert_eq!((&head["kind"], &head["first"], &head["group"]), (&"export".into(), &1.into(), &1.into()));
    assert_eq!((&tail["kind"], &tail["end"]), (&"end".into(), &mark.slot.0.into()));
    assert_eq!(tail["chain"], format!("{:032x}", mark.chain.0));
    assert_eq!(tail["lines"], rows.len() - 1);
    let mut next = 1;
    for row in &rows[1..rows.len() - 1] {
        assert_eq!(row["slot"], next, "{row}");
        assert_eq!(row["state"], "chosen");
        next += row["count"].as_u64().unwrap_or(1);
    }
    assert_eq!(next, mark.slot.0);
    let first = &rows[2];
    assert_eq!((&first["text"], &first["body"], &first["submission"]), (&"one".into(), &6.into(), &0.into()));
    let third = &rows[4];
    assert_eq!((&third["base64"], &third["submission"]), (&"//4A".into(), &1.into()));
    assert!(rows.iter().any(|row| row["kind"] == "trim" && row["upto"] == 4 && row.get("delivery_state").is_none()));
    let slot = |kind: &str| rows.iter().find(|row| row["kind"] == kind).expect("there is one")["slot"].clone();
    let (session, ticket) = (slot("session"), slot("ticket"));
    let on_terms = rows.iter().find(|row| row["text"] == "on terms").expect("it was chosen");
    assert_eq!((&on_terms["session"], &on_terms["ticket"]), (&session, &ticket));
    assert_eq!(on_terms["expected_slot"], on_terms["slot"]);
    assert!(rows.iter().any(|row| row["kind"] == "session" && row["closes"] == session));
    assert!(rows.iter().any(|row| row["kind"] == "ticket" && row["revokes"] == ticket));
    assert!(rows.iter().any(|row| row["kind"] == "trim" && row["delivery_state"].is_string()));

    let with_accepted = lines(&export(&stores.paths[0], &["--accepted"]));
    assert_eq!(with_accepted.len(), rows.len() + 1);
    assert_eq!(with_accepted[rows.len() - 1]["state"], "accepted");
    let part = lines(&export(&stores.paths[0], &["--from", "7", "--to", "10"]));
    assert_eq!(part[1]["slot"], 6, "whole bodies: {part:?}");
    assert_eq!(part[part.len() - 2]["slot"], 10, "{part:?}");
}

#[test]
fn a_new_cluster_begins_with_the_very_same_bodies() {
    for (packed, utf8) in [(false, false), (true, true)] {
        let (stores, mark) = filled();
        if packed {
            run(0, ["compact", stores.paths[0].to_str().expect("a plain path")]);
        }
        let text = export(&stores.paths[0], if utf8 { &["--utf8"] } else { &[] });
        let file = stores.paths[0].with_extension("jsonl");
        fs::write(&file, &text).expect("writes");
        let new = Stores::unused(3);
        let dry = import(0, &file, &new.paths, &["--dry-run"]);
        assert!(dry.contains(&format!("slots 1..{}", mark.slot)), "{dry}");
        assert!(identity(&new.paths[0]).cluster.is_none());
        let report: Value = serde_json::from_str(&import(0, &file, &new.paths, &["--format", "json"])).expect("json");
        assert_eq!((&report["bodies"], &report["slot_end"]), (&66.into(), &mark.slot.0.into()));
        let cluster = identity(&new.paths[0]).cluster.expect("a member");
        for path in &new.paths {
            assert_eq!(identity(path).cluster, Some(cluster));
            let log = recovered(path);
            assert_eq!((log.mark, log.index.base()), (mark, Mark::START));
            assert!(log.log_time_us >= 1000 + mark.slot.0 - 1);
            run(0, ["verify", path.to_str().expect("a plain path")]);
            let again = export(path, if utf8 { &["--utf8"] } else { &[] });
            let (then, now) = (lines(&text), lines(&again));
            assert_eq!(then[1..then.len() - 1], now[1..now.len() - 1]);
            // Nobody imports into what is in use.
            let refusal = import(3, &file, &new.paths, &[]);
            assert!(refusal.contains("belongs to a cluster already"), "{refusal}");
        }
        // The log goes on.
        let mut filler = new.filler(0);
        filler.choose(3, &commands(filler.mark.slot, 1, &[&[b"next"]]));
        filler.finish(3);
    }
}

#[test]
fn a_trimmed_log_keeps_its_slots() {
    let stores = Stores::cluster(1);
    let mut filler = stores.filler(0);
    variety(&mut filler, 2, 30);
    let base = filler.mark;
    variety(&mut filler, 2, 30);
    filler.trim(base, 2);
    let mark = filler.finish(2);
    let file = stores.paths[0].with_extension("jsonl");
    fs::write(&file, export(&stores.paths[0], &[])).expect("writes");
    let new = Stores::unused(1);
    import(0, &file, &new.paths, &[]);
    let log = recovered(&new.paths[0]);
    assert_eq!((log.index.base(), log.mark), (base, mark));
}

#[test]
fn bad_files_leave_the_stores_as_they_were() {
    let (stores, _) = filled();
    let text = export(&stores.paths[0], &[]);
    let file = stores.paths[0].with_extension("jsonl");
    let new = Stores::unused(1);
    let all: Vec<&str> = text.lines().collect();
    let join = |lines: &[&str]| lines.join("\n") + "\n";
    let without = |gone: usize| [&all[..gone], &all[gone + 1..]].concat();
    let within_a_line = text[..text.len() / 2].rfind('\n').expect("lines") + 20;
    let cases = [
        (String::new(), "line 1 isn't the first"),
        ("{}\n".to_owned(), "line 1 isn't one of an export"),
        (join(&all[..all.len() - 1]), "the end is missing"),
        (text[..within_a_line].to_owned(), "isn't one of an export"),
        (join(&without(3)), "comes next"),
        (join(&without(0)), "line 1 isn't the first"),
        (text.replace("\"log_time_us\":1006,", "\"log_time_us\":1007,"), "they were changed"),
        (text.replace("\"kind\":\"no-op\"", "\"kind\":\"missing\""), "are missing"),
        (format!("{text}{}\n", all[1]), "behind the end"),
        (text.replace("\"ballot_boot\":\"5\"", "\"ballot_boot\":\"x\""), "process start"),
        (text.replace("\"base64\":\"b25l\"", "\"base64\":\"!\""), "base64"),
        (text.replace("\"version\":1", "\"version\":2"), "has version 2"),
    ];
    for (content, expected) in &cases {
        assert!(*content != text, "{expected}");
        fs::write(&file, content).expect("writes");
        let refusal = import(3, &file, &new.paths, &[]);
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
    assert!(refused(3, ["import", "/dev/zero", "--member-dir", "x"]).contains("is no file"));
    // What was changed on purpose is taken when that is said.
    fs::write(&file, text.replace("\"base64\":\"b25l\"", "\"text\":\"uno\"")).expect("writes");
    assert!(import(3, &file, &new.paths, &[]).contains("changed"));
    import(0, &file, &new.paths, &["--edited"]);
    assert!(export(&new.paths[0], &["--utf8"]).contains("\"text\":\"uno\""));
}

/// What is damaged is named, and the rest is there.
#[test]
fn a_damaged_log_is_exported_with_what_can_be_read() {
    let (stores, mark) = filled();
    let log = recovered(&stores.paths[0]);
    let entry = log.index.iter_from(Slot(0)).nth(20).expect("a body");
    let file = stores.paths[0].join("log-0000").join(entry.location.file.file_name());
    let mut bytes = fs::read(&file).expect("a segment");
    bytes[entry.location.offset as usize + 500] ^= 1;
    fs::write(&file, bytes).expect("writes");
    let path = stores.paths[0].to_str().expect("a plain path");
    let text = run(1, ["export", path]);
    let rows = lines(&text);
    let missing: Vec<&Value> = rows.iter().filter(|row| row["kind"] == "missing").collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!((&missing[0]["slot"], &missing[0]["count"]), (&entry.body.first.0.into(), &entry.body.count.into()));
    assert_eq!(rows[rows.len() - 1]["end"], mark.slot.0);
    assert_eq!(rows[rows.len() - 1]["chain"], Value::Null);
}
