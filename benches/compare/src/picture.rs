//! The pictures: bar charts as SVG that read well on light and dark pages.

use crate::Outcome;
use crate::report::Report;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// What one picture shows.
struct Picture {
    file: &'static str,
    title: &'static str,
    note: &'static str,
    /// Groups of bars: the figure they come from, and what is written over them.
    groups: &'static [(&'static str, &'static str)],
    unit: &'static str,
    digits: usize,
}

const PICTURES: [Picture; 4] = [
    Picture {
        file: "cpu.svg",
        title: "CPU time per request",
        note: "HAProxy = 1; less is better. Medians of paired ratios, one worker, 64 connections.",
        groups: &[("cpu-100", "100 B"), ("cpu-10k", "10 KB"), ("cpu-1m", "1 MB")],
        unit: "",
        digits: 2,
    },
    Picture {
        file: "protocols.svg",
        title: "CPU time with HTTP/2 and TLS",
        note: "HAProxy = 1; less is better. Medians of paired ratios, one worker. HTTP/2: 4 connections with 16 streams.",
        groups: &[
            ("h2-100", "HTTP/2, 100 B"),
            ("h2-10k", "HTTP/2, 10 KB"),
            ("h2-tls-100", "HTTP/2 over TLS, 100 B"),
            ("h2-tls-10k", "HTTP/2 over TLS, 10 KB"),
            ("tls-100", "HTTPS, 100 B"),
            ("tls-10k", "HTTPS, 10 KB"),
            ("tls-1m", "HTTPS, 1 MB"),
            ("tls-new", "HTTPS, a new connection with a request"),
            ("tls-instances-100", "TLS with the instances, 100 B"),
            ("tls-instances-1m", "TLS with the instances, 1 MB"),
        ],
        unit: "",
        digits: 2,
    },
    Picture {
        file: "latency.svg",
        title: "Latency added over the direct path",
        note: "p50 at 2,000 requests per second, 100 B, 16 connections, one worker; less is better.",
        groups: &[("latency", "")],
        unit: " µs",
        digits: 0,
    },
    Picture {
        file: "memory.svg",
        title: "Memory of an idle client connection",
        note: "Resident memory from the start to 5,000 connections, for each; less is better.",
        groups: &[("memory-waiting", "made one request and waits"), ("memory-silent", "never said anything")],
        unit: " KiB",
        digits: 1,
    },
];

const WIDTH: f64 = 720.0;
const MARGIN: f64 = 24.0;
const NAMES: f64 = 136.0;
/// Room for the number after the longest bar.
const NUMBERS: f64 = 80.0;
const BAR: f64 = 18.0;
const STEP: f64 = 25.0;
const GROUP: f64 = 30.0;
const TITLE: f64 = 76.0;

/// Both schemes bring their own ground, so a page that guesses the other scheme does no harm.
const STYLE: &str = "\
svg { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
.ground { fill: #ffffff; stroke: #d0d7de; }
.title { fill: #1f2328; font-size: 18px; font-weight: 600; }
.note { fill: #59636e; font-size: 12px; }
.group { fill: #1f2328; font-size: 13px; font-weight: 600; }
.name, .number { fill: #1f2328; font-size: 13px; }
.ours { font-weight: 600; }
.bar { fill: #b1bac4; }
.bar.ours { fill: #0b6bcb; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #0d1117; stroke: #3d444d; }
  .title, .group, .name, .number { fill: #f0f6fc; }
  .note { fill: #9198a1; }
  .bar { fill: #545d68; }
  .bar.ours { fill: #4493f8; }
}
";

/// Draws every picture of which all figures were measured; returns the files.
pub fn draw(report: &Report, folder: &Path) -> Outcome<Vec<String>> {
    let mut drawn = Vec::new();
    for picture in &PICTURES {
        if let Some(svg) = svg(picture, report) {
            fs::create_dir_all(folder)?;
            fs::write(folder.join(picture.file), svg)?;
            drawn.push(folder.join(picture.file).display().to_string());
        }
    }
    Ok(drawn)
}

fn svg(picture: &Picture, report: &Report) -> Option<String> {
    let groups: Vec<_> = picture
        .groups
        .iter()
        .map(|(figure, text)| Some((*text, report.figures.get(figure)?)))
        .collect::<Option<_>>()?;
    let longest = groups
        .iter()
        .flat_map(|(_, bars)| bars.iter().map(|(_, value)| *value))
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - 2.0 * MARGIN - NAMES - NUMBERS) / longest;
    let mut body = String::new();
    let mut y = TITLE;
    for (text, bars) in &groups {
        if !text.is_empty() {
            let _ = writeln!(body, r#"<text class="group" x="{MARGIN}" y="{:.0}">{text}</text>"#, y + 14.0);
            y += GROUP - 6.0;
        }
        for (name, value) in *bars {
            let ours = if name == "Outrigger" { " ours" } else { "" };
            let (width, middle) = ((value * scale).max(1.0), y + BAR / 2.0 + 4.5);
            let number = format!("{value:.*}{}", picture.digits, picture.unit);
            let _ = writeln!(
                body,
                r#"<text class="name{ours}" x="{:.0}" y="{middle:.1}" text-anchor="end">{name}</text>"#,
                MARGIN + NAMES - 8.0
            );
            let left = MARGIN + NAMES;
            let _ = writeln!(
                body,
                r#"<rect class="bar{ours}" x="{left}" y="{y:.1}" width="{width:.1}" height="{BAR}" rx="3"/>"#
            );
            let _ = writeln!(
                body,
                r#"<text class="number{ours}" x="{:.1}" y="{middle:.1}">{number}</text>"#,
                left + width + 7.0
            );
            y += STEP;
        }
        y += 10.0;
    }
    let height = y + 6.0;
    let (title, note) = (picture.title, picture.note);
    Some(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" role="img" aria-label="{title}">
<style>
{STYLE}</style>
<rect class="ground" x="0.5" y="0.5" width="{:.1}" height="{:.1}" rx="8"/>
<text class="title" x="{MARGIN}" y="36">{title}</text>
<text class="note" x="{MARGIN}" y="57">{note}</text>
{body}</svg>
"#,
        WIDTH - 1.0,
        height - 1.0
    ))
}
