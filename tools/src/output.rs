//! Data on stdout, in the format that was asked for. Whoever reads it may stop at any time.
//!
//! A verb hands over typed values and doesn't look at the format: rows as they come ([`Output::row`]), rows that belong
//! into one table ([`Output::table`]), one object ([`Output::object`]), or an object that has rows ([`Output::report`]).
//!
//! | | text | json | jsonl | csv |
//! |---|---|---|---|---|
//! | rows | a line or more each | one array | an object a line | a header, then a line each |
//! | table | aligned columns | one array | an object a line | a header, then a line each |
//! | object | prose | the object | the object on a line | a header and a line |
//! | report | prose, then the table | the object, with the rows as one of its fields | the rows | the rows |
//!
//! Numbers are JSON numbers, as large as they are; identities, chains and checksums are strings of hexadecimal digits.

use std::fmt::{self, Display};
use std::io::{self, BufWriter, Write};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;
use serde_json::{Map, Value};

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON array or object
    Json,
    /// One JSON object a line
    Jsonl,
    /// A line of column names, then a line a row
    Csv,
}

/// A row of a table.
pub(crate) trait Row: Serialize {
    /// The names of the columns in text format, and how each is aligned.
    const COLUMNS: &'static [(&'static str, Align)];

    /// The row as text, a cell a column.
    fn cells(&self) -> Vec<String>;
}

/// Where the text of a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// As words do.
    Left,
    /// As numbers do.
    Right,
}

/// Nobody reads on; the program ends in peace.
#[derive(Debug)]
pub(crate) struct EndOfReading;

impl Display for EndOfReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads the output any more")
    }
}

impl std::error::Error for EndOfReading {}

/// Where data goes.
pub(crate) struct Output {
    out: BufWriter<Box<dyn Write>>,
    format: Format,
    /// The columns of the csv; known from the first row on.
    columns: Vec<String>,
    rows: Rows,
}

/// What is to be done before the next row, and at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// No row was promised.
    Not,
    /// There will be rows, or none of them: an empty array then.
    Promised,
    /// There were rows.
    Some,
}

impl Output {
    pub(crate) fn stdout(format: Format) -> Output {
        Output::to(Box::new(io::stdout()), format)
    }

    fn to(out: Box<dyn Write>, format: Format) -> Output {
        Output { out: BufWriter::new(out), format, columns: Vec::new(), rows: Rows::Not }
    }

    /// Says that rows will come, so that none at all is an empty array.
    pub(crate) fn begin_rows(&mut self) {
        if self.rows == Rows::Not {
            self.rows = Rows::Promised;
        }
    }

    /// One row, as it comes; all rows of a run have the same fields.
    ///
    /// # Errors
    /// [`EndOfReading`] if nobody reads on, or what else is wrong with stdout; so for all that write.
    pub(crate) fn row<R: Serialize + Display>(&mut self, row: &R) -> Result<()> {
        match self.format {
            Format::Text => seen(writeln!(self.out, "{row}")),
            Format::Json | Format::Jsonl | Format::Csv => self.data_row(row),
        }
    }

    /// Rows that are there at once.
    pub(crate) fn table<R: Row>(&mut self, rows: &[R]) -> Result<()> {
        if self.format == Format::Text {
            return self.text_table(rows);
        }
        self.begin_rows();
        rows.iter().try_for_each(|row| self.data_row(row))
    }

    /// One thing, and nothing else.
    pub(crate) fn object<T: Serialize + Display>(&mut self, object: &T) -> Result<()> {
        match self.format {
            Format::Text => seen(writeln!(self.out, "{object}")),
            Format::Json => self.pretty(object),
            Format::Jsonl | Format::Csv => self.data_row(object),
        }
    }

    /// One thing with rows, which are its field `name`. The formats of rows leave the thing out.
    pub(crate) fn report<T: Serialize + Display, R: Row>(&mut self, head: &T, name: &str, rows: &[R]) -> Result<()> {
        match self.format {
            Format::Text => {
                seen(writeln!(self.out, "{head}"))?;
                if rows.is_empty() { Ok(()) } else { self.text_table(rows) }
            }
            Format::Json => {
                let mut object = object_of(head)?;
                object.insert(name.to_owned(), serde_json::to_value(rows)?);
                self.pretty(&object)
            }
            Format::Jsonl | Format::Csv => self.table(rows),
        }
    }

    /// Bytes as they are, whatever the format.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        seen(self.out.write_all(bytes))
    }

    /// Gives what was written to the reader, who may wait for it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        seen(self.out.flush())
    }

    /// Ends what is open.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if self.format == Format::Json {
            match self.rows {
                Rows::Not => {}
                Rows::Promised => seen(writeln!(self.out, "[]"))?,
                Rows::Some => seen(writeln!(self.out, "\n]"))?,
            }
        }
        self.rows = Rows::Not;
        self.flush()
    }

    fn pretty(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        seen(writeln!(self.out, "{text}"))
    }

    fn data_row(&mut self, row: &impl Serialize) -> Result<()> {
        let first = self.rows != Rows::Some;
        self.rows = Rows::Some;
        match self.format {
            Format::Json => {
                let text = serde_json::to_string(row)?;
                seen(write!(self.out, "{}  {text}", if first { "[\n" } else { ",\n" }))
            }
            Format::Csv => self.csv_row(row),
            Format::Text | Format::Jsonl => {
                let text = serde_json::to_string(row)?;
                seen(writeln!(self.out, "{text}"))
            }
        }
    }

    fn csv_row(&mut self, row: &impl Serialize) -> Result<()> {
        let object = object_of(row)?;
        // A writer a row keeps nothing back, so that a reader who stopped is noticed at the row where they did.
        let mut writer = csv::Writer::from_writer(Vec::new());
        if self.columns.is_empty() {
            self.columns = object.keys().cloned().collect();
            writer.write_record(&self.columns)?;
        }
        writer.write_record(self.columns.iter().map(|column| object.get(column).map_or_else(String::new, cell)))?;
        let bytes = writer.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?;
        self.raw(&bytes)
    }

    fn text_table<R: Row>(&mut self, rows: &[R]) -> Result<()> {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(R::COLUMNS.iter().map(|(name, _)| *name));
        for row in rows {
            table.add_row(row.cells());
        }
        for (column, (_, align)) in table.column_iter_mut().zip(R::COLUMNS) {
            column.set_padding((0, 2));
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        table.lines().try_for_each(|line| seen(writeln!(self.out, "{}", line.trim_end())))
    }
}

fn object_of(value: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value)? {
        Value::Object(object) => Ok(object),
        other => Ok(Map::from_iter([("value".to_owned(), other)])),
    }
}

/// A value in a cell of a csv: what has parts of its own stays JSON.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn seen(result: io::Result<()>) -> Result<()> {
    result.map_err(|error| if error.kind() == io::ErrorKind::BrokenPipe { EndOfReading.into() } else { error.into() })
}

/// Bytes of a client as text: printable ASCII as it is, everything else escaped, so that no terminal obeys them.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect()
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A uuid in its usual form.
pub(crate) fn uuid(bytes: &[u8; 16]) -> String {
    let digits = hex(bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Serialize)]
    struct Line {
        slot: u64,
        text: Option<&'static str>,
        parts: Vec<u32>,
    }

    impl Display for Line {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "slot {}", self.slot)
        }
    }

    impl Row for Line {
        const COLUMNS: &'static [(&'static str, Align)] = &[("slot", Align::Right), ("text", Align::Left)];

        fn cells(&self) -> Vec<String> {
            vec![self.slot.to_string(), self.text.unwrap_or("-").to_owned()]
        }
    }

    fn lines() -> [Line; 2] {
        [Line { slot: 7, text: Some("a, \"b\""), parts: vec![1, 2] }, Line { slot: 123, text: None, parts: vec![] }]
    }

    fn written(format: Format, write: impl FnOnce(&mut Output) -> Result<()>) -> String {
        let shared = Shared::default();
        let mut output = Output::to(Box::new(shared.clone()), format);
        write(&mut output).and_then(|()| output.finish()).expect("memory takes everything");
        String::from_utf8(shared.0.take()).expect("text")
    }

    #[test]
    fn rows_in_every_format() {
        let rows = |output: &mut Output| {
            output.begin_rows();
            lines().iter().try_for_each(|line| output.row(line))
        };
        let (one, two) = (r#"{"slot":7,"text":"a, \"b\"","parts":[1,2]}"#, r#"{"slot":123,"text":null,"parts":[]}"#);
        assert_eq!(written(Format::Text, rows), "slot 7\nslot 123\n");
        assert_eq!(written(Format::Jsonl, rows), format!("{one}\n{two}\n"));
        assert_eq!(written(Format::Json, rows), format!("[\n  {one},\n  {two}\n]\n"));
        let csv = "slot,text,parts\n7,\"a, \"\"b\"\"\",\"[1,2]\"\n123,,[]\n";
        assert_eq!(written(Format::Csv, rows), csv);
    }

    #[test]
    fn no_rows_are_an_empty_array() {
        let none = |output: &mut Output| {
            output.begin_rows();
            Ok(())
        };
        assert_eq!(written(Format::Json, none), "[]\n");
        assert_eq!(written(Format::Jsonl, none), "");
    }

    #[test]
    fn tables_are_aligned_and_reports_hold_their_rows() {
        assert_eq!(written(Format::Text, |output| output.table(&lines())), "slot  text\n   7  a, \"b\"\n 123  -\n");
        let report = |output: &mut Output| output.report(&lines()[0], "rows", &lines()[1..]);
        let json: Value = serde_json::from_str(&written(Format::Json, report)).expect("json");
        assert_eq!((&json["slot"], &json["rows"][0]["slot"]), (&Value::from(7), &Value::from(123)));
        assert_eq!(written(Format::Jsonl, report).lines().count(), 1);
    }

    #[test]
    fn control_characters_reach_no_terminal() {
        assert_eq!(escaped(b"a\x1b[2J\n\xff"), "a\\x1b[2J\\n\\xff");
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }
}
