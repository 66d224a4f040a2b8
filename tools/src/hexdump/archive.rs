//! The archives, vector by vector. A vector is two numbers: how far its first element lies from it, and how many there
//! are. Whatever they are, only bytes of the archive are shown.

use std::ops::Range;

use synod_frame::{BodyHeader, FieldForm};
use synod_protocol::Slot;

use super::Record;

/// Root of an archive of commands: submissions, stride, ends, blob.
const COMMANDS_ROOT_BYTES: usize = 28;

/// Session, sequence, ticket, first, count.
const SUBMISSION_FIELDS: [(&str, usize); 5] =
    [("session", 8), ("sequence", 8), ("ticket", 8), ("first", 4), ("count", 4)];

/// A row of the submissions.
const SUBMISSION_BYTES: usize = 32;

/// Root of an archive of a configuration.
const CONFIGURATION_ROOT_BYTES: usize = 48;

/// What stands in front of the addresses, and a row of them.
const ADDRESS_HEAD_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 24;

/// A row of the members.
const MEMBER_BYTES: usize = 20;

/// Shows what every archive of commands has, and of the commands the one at `slot`; without a slot, none.
pub(super) fn show_commands(record: &mut Record<'_>, header: &BodyHeader, archive: Range<usize>, slot: Option<Slot>) {
    let Some(root) = archive.end.checked_sub(COMMANDS_ROOT_BYTES).filter(|root| *root >= archive.start) else {
        return record.hex_lines("archive", archive, "");
    };
    let submissions = vector(record, &archive, root, SUBMISSION_BYTES);
    let stride = u32_at(record, root + 8) as usize;
    let ends = vector(record, &archive, root + 12, 4);
    let blob = vector(record, &archive, root + 20, 1);
    for (row, at) in submissions.clone().step_by(SUBMISSION_BYTES).enumerate() {
        show_fields(record, "submission", at, &SUBMISSION_FIELDS, row);
    }
    let place = slot.map(|slot| slot.since(header.first) as usize).filter(|place| *place < header.count as usize);
    if !ends.is_empty() {
        let field = format!("ends of {} commands", ends.len() / 4);
        record.line("ends", ends.clone(), field, String::new());
        if let Some(at) = place.map(|place| ends.start + 4 * place).filter(|at| *at + 4 <= ends.end) {
            record.field("ends", at..at + 4, format!("end of slot {}", shown(slot)), FieldForm::Number);
        }
    }
    if ends.end <= blob.start && submissions.end <= blob.start {
        record.zeros("archive", ends.end.max(submissions.end)..blob.start);
    }
    let behind = blob.end..root;
    let command = place.and_then(|place| command(record, place, stride, &ends, &blob));
    match command {
        Some(command) => {
            record.line("blob", blob.start..command.start, "commands before".to_owned(), String::new());
            let field = format!("slot {}", shown(slot));
            record.hex_lines("command", command.clone(), &field);
            record.line("blob", command.end..blob.end, "commands behind".to_owned(), String::new());
        }
        None => record.line("blob", blob, format!("{} commands", header.count), String::new()),
    }
    if behind.start <= behind.end {
        record.zeros("archive", behind);
    }
    let fields = [
        ("submissions: distance", 4),
        ("submissions: number", 4),
        ("stride", 4),
        ("ends: distance", 4),
        ("ends: number", 4),
        ("blob: distance", 4),
        ("blob: number", 4),
    ];
    show_root(record, root, &fields);
}

/// Shows members and root.
pub(super) fn show_configuration(record: &mut Record<'_>, archive: Range<usize>) {
    let Some(root) = archive.end.checked_sub(CONFIGURATION_ROOT_BYTES).filter(|root| *root >= archive.start) else {
        return record.hex_lines("archive", archive, "");
    };
    let members = vector(record, &archive, root + 36, MEMBER_BYTES);
    if members.start > archive.start {
        show_addresses(record, archive.start..members.start);
    }
    for (row, at) in members.step_by(MEMBER_BYTES).enumerate() {
        record.field("member", at..at + 4, format!("{row}: node"), FieldForm::Number);
        record.line("member", at + 4..at + MEMBER_BYTES, format!("{row}: incarnation"), String::new());
    }
    record.line("root", root..root + 16, "cluster".to_owned(), String::new());
    let fields = [
        ("lineage", 8),
        ("prepare quorum", 4),
        ("accept quorum", 4),
        ("alpha", 4),
        ("members: distance", 4),
        ("members: number", 4),
        ("learners", 2),
        ("leaving", 2),
    ];
    show_root(record, root + 16, &fields);
}

/// Shows where nodes listen: what stands in front of the members.
fn show_addresses(record: &mut Record<'_>, part: Range<usize>) {
    record.line("addresses", part.start..part.start + 4, "magic".to_owned(), String::new());
    record.field("addresses", part.start + 4..part.start + 8, "number".to_owned(), FieldForm::Number);
    let rows = part.start + ADDRESS_HEAD_BYTES..part.end;
    for (row, at) in rows.clone().step_by(ADDRESS_BYTES).take(rows.len() / ADDRESS_BYTES).enumerate() {
        for (name, from, to) in [("node", 0, 4), ("port", 4, 6), ("family", 6, 8)] {
            record.field("addresses", at + from..at + to, format!("{row}: {name}"), FieldForm::Number);
        }
        record.line("addresses", at + 8..at + ADDRESS_BYTES, format!("{row}: address"), String::new());
    }
}

/// Shows a command about sessions or tickets: what it names, which command it is, and zeros.
pub(super) fn show_command(record: &mut Record<'_>, archive: Range<usize>, names: &[(&str, usize)]) {
    let fields: Vec<(&str, usize)> = names.iter().copied().chain([("command", 4), ("reserved", 4)]).collect();
    if fields.iter().map(|(_, bytes)| bytes).sum::<usize>() != archive.len() {
        return record.hex_lines("archive", archive, "");
    }
    show_root(record, archive.start, &fields);
}

fn shown(slot: Option<Slot>) -> u64 {
    slot.map_or(0, |slot| slot.0)
}

fn show_fields(record: &mut Record<'_>, part: &'static str, mut at: usize, fields: &[(&str, usize)], row: usize) {
    for (name, bytes) in fields {
        record.field(part, at..at + bytes, format!("{row}: {name}"), FieldForm::Number);
        at += bytes;
    }
}

/// Distances go backwards: they are shown as the signed numbers that they are.
fn show_root(record: &mut Record<'_>, mut at: usize, fields: &[(&str, usize)]) {
    for (name, bytes) in fields {
        if name.ends_with("distance") {
            let distance = u32_at(record, at).cast_signed();
            record.line("root", at..at + bytes, (*name).to_owned(), distance.to_string());
        } else {
            record.field("root", at..at + bytes, (*name).to_owned(), FieldForm::Number);
        }
        at += bytes;
    }
}

/// Where the elements of the vector at `at` lie; nothing if they would reach out of the archive.
fn vector(record: &Record<'_>, archive: &Range<usize>, at: usize, element_bytes: usize) -> Range<usize> {
    let distance = i64::from(u32_at(record, at).cast_signed());
    let bytes = u32_at(record, at + 4) as usize * element_bytes;
    let start = usize::try_from(at as i64 + distance).ok();
    let range = start.and_then(|start| Some(start..start.checked_add(bytes)?));
    let inside = range.filter(|range| range.start >= archive.start && range.end <= archive.end);
    inside.filter(|range| !range.is_empty()).unwrap_or(archive.start..archive.start)
}

/// Where the command at `place` lies, if its ends make sense.
fn command(
    record: &Record<'_>,
    place: usize,
    stride: usize,
    ends: &Range<usize>,
    blob: &Range<usize>,
) -> Option<Range<usize>> {
    let end_of = |place: usize| {
        let at = ends.start + 4 * place;
        (at + 4 <= ends.end).then(|| u32_at(record, at) as usize)
    };
    let (start, end) = match stride {
        0 => (place.checked_sub(1).map_or(Some(0), end_of)?, end_of(place)?),
        stride => (place.checked_mul(stride)?, place.checked_add(1)?.checked_mul(stride)?),
    };
    (start <= end && end <= blob.len()).then(|| blob.start + start..blob.start + end)
}

fn u32_at(record: &Record<'_>, at: usize) -> u32 {
    let bytes = record.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    u32::from_le_bytes(bytes.copied().unwrap_or_default())
}
