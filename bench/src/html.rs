//! `synod-bench report`: one page of HTML with pictures, from the files that runs and sweeps wrote.
//!
//! The page needs nothing else: its pictures are SVG inside it, and it loads nothing from anywhere.

mod charts;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::options::ReportOptions;
use crate::report::{Stages, thousands};

use charts::{Band, Bar, Line, short};

/// Most of a page's files: more lines than that nobody tells apart.
const FILES_MAX: usize = 6;

/// A file of results.
struct Source {
    name: String,
    report: Value,
}

impl Source {
    fn number(&self, pointer: &str) -> f64 {
        self.report.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0)
    }

    fn text(&self, pointer: &str) -> String {
        match self.report.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => "unknown".to_owned(),
            Some(other) => other.to_string(),
        }
    }

    fn rows(&self, pointer: &str) -> &[Value] {
        self.report.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn has_passed(&self) -> bool {
        self.report.pointer("/audit/failures").and_then(Value::as_array).is_some_and(Vec::is_empty)
    }
}

/// Writes the page; where it is.
///
/// # Errors
/// If a file isn't what a run or a sweep wrote.
pub(crate) fn run(options: &ReportOptions) -> Result<String> {
    let (mut runs, mut sweeps) = (Vec::new(), Vec::new());
    ensure!(options.files.len() <= FILES_MAX, "a report shows {FILES_MAX} files at most");
    for path in &options.files {
        let source = read(path)?;
        if source.report.pointer("/load/commits_per_second").is_some() {
            runs.push(source);
        } else if source.report.pointer("/closed").is_some() {
            sweeps.push(source);
        } else {
            bail!("{} is no report of `synod-bench run` or `synod-bench sweep`", path.display());
        }
    }
    let page = page(&runs, &sweeps)?;
    std::fs::write(&options.output, page).with_context(|| format!("writing {}", options.output.display()))?;
    Ok(format!("written to {}", options.output.display()))
}

fn read(path: &PathBuf) -> Result<Source> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
    let report = serde_json::from_str(&text).with_context(|| format!("{shown} is no JSON"))?;
    let name = path.file_stem().map_or_else(|| shown.to_string(), |stem| stem.to_string_lossy().into_owned());
    Ok(Source { name, report })
}

fn page(runs: &[Source], sweeps: &[Source]) -> Result<String> {
    let mut body = String::new();
    let mut section = |title: &str, text: &str, picture: &str| {
        let _ = writeln!(body, "<section><h2>{title}</h2><p>{text}</p>{picture}</section>");
    };
    if !runs.is_empty() {
        section("Runs", "", &summary(runs));
        for run in runs {
            let (time, bands) = (points(run), bands(run));
            let title = format!("Over time: {}", escaped(&run.name));
            let rate = Line { name: "commits".to_owned(), points: time.iter().map(|at| (at[0], at[1])).collect() };
            let line = |name: &str, field: usize| {
                let shown = |value: f64| if value > 0.0 { value / 1e3 } else { f64::NAN };
                let points = time.iter().map(|at| (at[0], shown(at[field]))).collect();
                Line { name: name.to_owned(), points }
            };
            let pictures = charts::over_time(&[rate], &bands)?
                + &charts::latency_over_time(&[line("p50", 2), line("p99", 3), line("max", 4)], &bands)?;
            section(&title, &over_time_text(run), &pictures);
        }
        let spectra: Vec<Line> = runs.iter().map(spectrum).collect();
        section(
            "Latency by percentile",
            "From when an append call was due to its acknowledgement.",
            &charts::by_percentile(&spectra)?,
        );
        if let Some(picture) = stages(runs)? {
            section(
                "Where the time of an append call goes",
                "On average, from what was found waiting in each part and how fast it went through. Sending, the leader's disk and \
                 the followers' go on at the same time: each has only what it adds.",
                &picture,
            );
        }
        section(
            "Commits per durable write",
            "All replicas together: a commit is written by each of them.",
            &charts::bars(&bars(runs, "/load/commits_per_durable_write"), &[], &short)?,
        );
        for run in runs {
            let spread = per_write(run);
            if !spread.is_empty() {
                section(
                    &format!("How many commits a durable write carried: {}", escaped(&run.name)),
                    "Shares of the writes of all replicas, counted over some milliseconds at a time.",
                    &charts::bars(&spread, &[], &|percent| format!("{percent:.0} %"))?,
                );
            }
        }
    }
    for sweep in sweeps {
        let title = format!("Throughput and latency by load: {}", escaped(&sweep.name));
        section(&title, &sweep_text(sweep), &sweep_picture(sweep)?);
        let per_write =
            Line { name: "commits per durable write".to_owned(), points: by_load(sweep, "commits_per_durable_write") };
        let title = format!("Commits per durable write by load: {}", escaped(&sweep.name));
        section(&title, "By append calls in flight: the group grows with the load.", &charts::by_load(&per_write)?);
    }
    if let Some(first) = runs.iter().chain(sweeps).next() {
        section("Machine and method", "", &machine(first));
    }
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Synod: measured</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>Synod: measured</h1>\n{body}</body>\n</html>\n"
    ))
}

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;color:#1f2937;background:#f3f4f6;margin:0 auto;max-width:1040px;padding:24px}\
section{background:#fff;border:1px solid #e5e7eb;border-radius:8px;padding:8px 24px 20px;margin:20px 0}\
h1{font-size:28px;margin:8px 0}h2{font-size:19px;margin:14px 0 4px}p{margin:4px 0 10px;color:#4b5563}\
svg{max-width:100%;height:auto;display:block}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}\
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid #e5e7eb}\
th:first-child,td:first-child{text-align:left}\
.passed{color:#047857}.failed{color:#dc2626;font-weight:600}dt{font-weight:600}dd{margin:0 0 8px;color:#4b5563}";

/// One line a run.
fn summary(runs: &[Source]) -> String {
    let mut table = String::from(
        "<table><tr><th>run</th><th>commits/s</th><th>of the bare pipeline</th><th>p50</th><th>p99</th><th>p99.9</th>\
         <th>one at a time, p50</th><th>CPU a commit</th><th>audit</th></tr>\n",
    );
    let ms = |us: f64| if us > 0.0 { format!("{:.2} ms", us / 1e3) } else { "-".to_owned() };
    for run in runs {
        let share = run.number("/pipeline/share");
        let _ = writeln!(
            table,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.2} us</td>\
             <td class=\"{}\">{}</td></tr>",
            escaped(&run.name),
            thousands(run.number("/load/commits_per_second") as u64),
            if share > 0.0 { format!("{:.0} %", share * 100.0) } else { "-".to_owned() },
            ms(run.number("/load/append_latency/p50_us")),
            ms(run.number("/load/append_latency/p99_us")),
            ms(run.number("/load/append_latency/p999_us")),
            ms(run.number("/single/latency/p50_us")),
            run.number("/load/cpu_us_per_commit"),
            if run.has_passed() { "passed" } else { "failed" },
            if run.has_passed() { "passed" } else { "FAILED" }
        );
    }
    table + "</table>"
}

/// Seconds, commits a second, p50, p99 and max in microseconds.
fn points(run: &Source) -> Vec<[f64; 5]> {
    let field = |point: &Value, name: &str| point[name].as_f64().unwrap_or(0.0);
    let point = |point: &Value| {
        ["at_seconds", "commits_per_second", "p50_us", "p99_us", "max_us"].map(|name| field(point, name))
    };
    let takes_turns = run.number("/pipeline/share") > 0.0;
    let mut points: Vec<[f64; 5]> = Vec::new();
    for one in run.rows("/timeline") {
        let mut point = point(one);
        // While the bare pipeline has its turn, there is nothing to show.
        if takes_turns && point[0] >= 0.0 && one["counts"] != true {
            point[1..].fill(f64::NAN);
        }
        points.push(point);
    }
    points
}

fn bands(run: &Source) -> Vec<Band> {
    let band = |fault: &Value| Band {
        name: fault["fault"].as_str().unwrap_or_default().to_owned(),
        from: fault["at_seconds"].as_f64().unwrap_or(0.0),
        to: fault["until_seconds"].as_f64().unwrap_or(0.0),
    };
    run.rows("/faults").iter().map(band).collect()
}

fn over_time_text(run: &Source) -> String {
    let mut text = format!(
        "{} replicas, commands of {} bytes, {} an append call, {} client(s) with {} calls in flight each",
        run.text("/settings/replicas"),
        escaped(&run.text("/settings/payload")),
        run.text("/settings/batch_commands"),
        run.text("/settings/clients"),
        run.text("/settings/in_flight_calls")
    );
    if run.number("/settings/commands_per_second") > 0.0 {
        let _ = write!(text, ", {} commands/s asked for", short(run.number("/settings/commands_per_second")));
    }
    if run.number("/pipeline/share") > 0.0 {
        text += "; the gaps are the turns of the bare pipeline";
    }
    for fault in run.rows("/faults") {
        let _ = write!(
            text,
            ". {}: {:.0} ms without an acknowledgement",
            escaped(fault["fault"].as_str().unwrap_or_default()),
            fault["outage_ms"].as_f64().unwrap_or(0.0)
        );
    }
    text + "."
}

fn spectrum(run: &Source) -> Line {
    let point = |point: &Value| {
        let (quantile, us) = (point["quantile"].as_f64()?, point["us"].as_f64()?);
        (quantile < 1.0).then(|| (1.0 / (1.0 - quantile), us / 1e3))
    };
    Line { name: run.name.clone(), points: run.rows("/spectrum").iter().filter_map(point).collect() }
}

fn stages(runs: &[Source]) -> Result<Option<String>> {
    const PARTS: [&str; 7] = ["clients", "queue", "encode", "net", "disk", "quorum", "delivery"];
    let bar = |run: &Source| {
        run.report.pointer("/stages/whole_us")?;
        let part = |name: &&str| run.number(&format!("/stages/{name}_us")) / 1e3;
        Some(Bar { name: run.name.clone(), parts: PARTS.iter().map(part).collect() })
    };
    let bars: Vec<Bar> = runs.iter().filter_map(bar).collect();
    if bars.is_empty() {
        return Ok(None);
    }
    charts::bars(&bars, &Stages::NAMES, &|ms| format!("{ms:.2} ms")).map(Some)
}

/// Shares of durable writes by how many commits they carried.
fn per_write(run: &Source) -> Vec<Bar> {
    let groups = run.rows("/load/commits_per_durable_write_spread/groups");
    let writes = |group: &Value| group["writes"].as_f64().unwrap_or(0.0);
    let all: f64 = groups.iter().map(writes).sum();
    let bar = |group: &Value| {
        let from = group["from"].as_u64().unwrap_or(0);
        Bar { name: format!("{from} to {}", (2 * from).saturating_sub(1)), parts: vec![writes(group) / all * 100.0] }
    };
    groups.iter().map(bar).collect()
}

fn bars(runs: &[Source], pointer: &str) -> Vec<Bar> {
    runs.iter().map(|run| Bar { name: run.name.clone(), parts: vec![run.number(pointer)] }).collect()
}

fn by_load(sweep: &Source, field: &str) -> Vec<(f64, f64)> {
    let point = |rung: &Value| Some((rung["in_flight_calls"].as_f64()?, rung[field].as_f64()?));
    sweep.rows("/closed").iter().filter_map(point).collect()
}

fn sweep_text(sweep: &Source) -> String {
    let peak = sweep.number("/peak") as usize;
    let best = sweep.rows("/closed").get(peak).and_then(|rung| rung["commits_per_second"].as_f64()).unwrap_or(0.0);
    let mut text = format!(
        "Commands of {} bytes, {} an append call. Peak: {} commits/s; idle: {:.2} ms",
        escaped(&sweep.text("/settings/payload")),
        sweep.text("/settings/batch_commands"),
        thousands(best as u64),
        sweep.number("/idle/latency/p50_us") / 1e3
    );
    if sweep.number("/tail_at_70_percent") > 0.0 {
        let _ = write!(text, "; at 70 % of the peak, p99 is {:.1} times that", sweep.number("/tail_at_70_percent"));
    }
    text + ". Closed loops have so many calls in flight, open ones so many a second."
}

fn sweep_picture(sweep: &Source) -> Result<String> {
    let line = |name: &str, ladder: &str, field: &str| {
        let point = |rung: &Value| {
            Some((rung["commits_per_second"].as_f64()?, rung["latency"][field].as_f64().filter(|us| *us > 0.0)? / 1e3))
        };
        Line { name: name.to_owned(), points: sweep.rows(ladder).iter().filter_map(point).collect() }
    };
    let lines = [
        line("closed loop, p50", "/closed", "p50_us"),
        line("closed loop, p99", "/closed", "p99_us"),
        line("open loop, p50", "/open", "p50_us"),
        line("open loop, p99", "/open", "p99_us"),
    ];
    let knee = lines[0].points.get(sweep.number("/knee") as usize).copied();
    charts::knee(&lines, knee)
}

fn machine(source: &Source) -> String {
    let mut list = String::from("<dl>");
    for (name, pointer) in [
        ("Command", "/environment/command"),
        ("Processor", "/environment/cpu"),
        ("Cores", "/environment/cores"),
        ("Memory, MiB", "/environment/memory_mib"),
        ("Kernel", "/environment/kernel"),
        ("File system", "/environment/file_system"),
        ("Device", "/environment/device"),
        ("Write cache", "/environment/write_cache"),
        ("Force unit access", "/environment/force_unit_access"),
        ("Load average before", "/environment/load_average"),
        ("Build", "/environment/build"),
    ] {
        let _ = write!(list, "<dt>{name}</dt><dd>{}</dd>", escaped(&source.text(pointer)));
    }
    list + "</dl><p>Replicas and clients share this machine, over loopback: it is what the engine costs, and not what a \
            network of machines would reach. Every acknowledgement came after a majority had synced; every figure comes \
            from a run whose logs were audited afterwards.</p>"
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '"' => escaped += "&quot;",
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn source(name: &str, report: Value) -> Source {
        Source { name: name.to_owned(), report }
    }

    #[test]
    fn a_page_shows_every_file_and_loads_nothing() {
        let point = |at: f64| json!({"at_seconds": at, "commits_per_second": 1e6 + at, "p50_us": 500, "p99_us": 900, "max_us": 950});
        let run = json!({
            "load": {"commits_per_second": 1e6, "commits_per_durable_write": 300.0,
                "commits_per_durable_write_spread": {"groups": [{"from": 256, "writes": 3}, {"from": 512, "writes": 1}]}, "append_latency": {"p50_us": 500, "p99_us": 900}},
            "timeline": [point(-0.1), point(0.0), point(0.1)],
            "faults": [{"fault": "kill-leader@1s", "at_seconds": 0.05, "until_seconds": 0.08, "outage_ms": 123.0}],
            "spectrum": [{"quantile": 0.0, "us": 100}, {"quantile": 0.5, "us": 500}, {"quantile": 0.999, "us": 900}],
            "stages": {"whole_us": 6.0, "clients_us": 3.0, "disk_us": 2.0, "quorum_us": 1.0},
            "audit": {"failures": []},
        });
        let rung = |rate: f64| json!({"in_flight_calls": rate / 1e5, "commits_per_second": rate, "commits_per_durable_write": 3.0, "latency": {"p50_us": 300, "p99_us": 700}});
        let sweep =
            json!({"closed": [rung(1e5), rung(2e5)], "open": [], "knee": 1, "peak": 1, "audit": {"failures": []}});
        let page = page(&[source("first <run>", run)], &[source("ladder", sweep)]).expect("a page");
        for told in
            ["first &lt;run&gt;", "kill-leader@1s: 123 ms", "1,000,000", "256 to 511", "ladder", "knee", "passed"]
        {
            assert!(page.contains(told), "{told}");
        }
        assert!(page.matches("<svg").count() == 8 && !page.contains("<run>"), "{}", page.matches("<svg").count());
        for loaded in ["<script", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(loaded), "{loaded}");
        }
    }

    #[test]
    fn files_without_points_still_give_a_page() {
        let page = page(&[source("bare", json!({"load": {"commits_per_second": 1.0}}))], &[]).expect("a page");
        assert!(page.contains("bare") && page.contains("FAILED"), "no audit is no passed audit");
    }
}
