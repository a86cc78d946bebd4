//! Lines of a head: how they end, what they may hold, how names and values are told apart.

use super::{Row, forward, get, hold, refuse, refuse_with};

#[tokio::test]
async fn line_ends() {
    let next = "GET /2 HTTP/1.1\r\nHost: t\r\n";
    // What comes behind a body is a head like others.
    let behind = |head: &str, body: &str| {
        format!("POST /1 HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\n{body}{next}A: b\nC: d\r\n\r\n")
    };
    let first = |head: &str, body: &str| format!("POST /1 HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\n{body}");
    let mut rows = vec![
        refuse("LF after the request line", "2.2", "GET / HTTP/1.1\nHost: t\r\n\r\n"),
        refuse("LF after a field", "2.2", "GET / HTTP/1.1\r\nHost: t\nA: b\r\n\r\n"),
        refuse("LF after the last field", "2.2", "GET / HTTP/1.1\r\nHost: t\r\nA: b\n\r\n"),
        refuse("LF for the empty line", "2.2", "GET / HTTP/1.1\r\nHost: t\r\nA: b\r\n\n"),
        refuse("LF everywhere", "2.2", "GET / HTTP/1.1\nHost: t\n\n"),
        refuse("LF after an empty value", "2.2", get("A:\nB: c\r\n")),
        refuse("LF that makes a field of a value", "2.2", get("A: b\nTransfer-Encoding: chunked\r\n")),
        refuse("LF after one of two fields of a name", "2.2", get("A: 1\r\nB: 2\r\nA: 3\nC: 4\r\n")),
        refuse("CR alone after the request line", "2.2", "GET / HTTP/1.1\rHost: t\r\n\r\n"),
        refuse("CR alone after a field", "2.2", get("A: b\rC: d\r\n")),
        refuse("CR in a value", "2.2", get("A: b\rc\r\n")),
        refuse("CR at the end of a value", "2.2", get("A: b\r\r\n")),
        refuse("CR in a name", "2.2", get("A\rB: c\r\n")),
        refuse("CR before a colon", "2.2", get("A\r: c\r\n")),
        refuse("CR after a colon", "2.2", get("A:\rb\r\n")),
        refuse("CR alone for the empty line", "2.2", "GET / HTTP/1.1\r\nHost: t\r\n\rX: y\r\n\r\n"),
        refuse("CR before the request", "2.2", "\rGET / HTTP/1.1\r\nHost: t\r\n\r\n"),
        refuse("LF in the target", "2.2", "GET /a\nb HTTP/1.1\r\nHost: t\r\n\r\n"),
        refuse("a line end for a space in the request line", "3", "GET /\r\n HTTP/1.1\r\nHost: t\r\n\r\n"),
        forward(
            "an empty line before the request",
            "2.2",
            format!("\r\n{}", get("A: b\r\n")),
            get("A: b\r\n"),
        ),
        forward(
            "empty lines before the request",
            "2.2",
            format!("\r\n\r\n\r\n{}", get("Aa: b\r\n")),
            get("Aa: b\r\n"),
        ),
    ];
    for (name, head, body) in [
        ("LF in a head behind a body with a length", "Content-Length: 3", "abc"),
        ("LF in a head behind chunks", "transfer-encoding: chunked", "3\r\nabc\r\n0\r\n\r\n"),
        (
            "LF in a head behind chunks and trailers",
            "transfer-encoding: chunked",
            "3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
        ),
    ] {
        rows.push(Row { bytes: behind(head, body).into(), ..behind_a_good_one(name, first(head, body)) });
    }
    hold(rows).await;
}

/// The first is answered, and then nothing more.
fn behind_a_good_one(name: &'static str, first: String) -> Row {
    forward(name, "2.2", "", first)
}

#[tokio::test]
async fn names_and_values() {
    hold(vec![
        refuse("a space before the colon", "5.1", get("A : b\r\n")),
        refuse("a tab before the colon", "5.1", get("A\t: b\r\n")),
        refuse("a space in a name", "5.1", get("A B: c\r\n")),
        refuse("no name", "5.1", get(": b\r\n")),
        refuse("no colon", "5", get("A\r\n")),
        refuse("no colon, but a space", "5", get("A b\r\n")),
        refuse("a space before the first field", "2.2", "GET / HTTP/1.1\r\n Host: t\r\n\r\n"),
        refuse("a tab before the first field", "2.2", "GET / HTTP/1.1\r\n\tHost: t\r\n\r\n"),
        refuse("a line of white space before the fields", "2.2", "GET / HTTP/1.1\r\n \r\nHost: t\r\n\r\n"),
        refuse("a folded value", "5.2", get("A: b\r\n c\r\n")),
        refuse("a value folded with a tab", "5.2", get("A: b\r\n\tc\r\n")),
        refuse("a line of white space among the fields", "5.2", get("A: b\r\n \r\nC: d\r\n")),
        refuse("a folded Host", "5.2", "GET / HTTP/1.1\r\nHost:\r\n t\r\n\r\n"),
        refuse("NUL in a value", "9110 5.5", get("A: b\0c\r\n")),
        refuse("NUL in a name", "9110 5.6.2", get("A\0: b\r\n")),
        refuse("escape in a value", "9110 5.5", get("A: b\x1b[2J\r\n")),
        refuse("backspace in a value", "9110 5.5", get("A: b\x08\r\n")),
        refuse("delete in a value", "9110 5.5", get("A: b\x7f\r\n")),
        refuse("vertical tab in a value", "9110 5.5", get("A: b\x0bc\r\n")),
        refuse("form feed before a value", "9110 5.5", get("A:\x0cb\r\n")),
        refuse("a name in Latin letters beyond ASCII", "9110 5.6.2", get("caf\u{e9}: b\r\n")),
        refuse("a name in quotes", "9110 5.6.2", get("\"A\": b\r\n")),
        refuse("a name with a slash", "9110 5.6.2", get("A/B: c\r\n")),
        refuse("a name with brackets", "9110 5.6.2", get("A[0]: c\r\n")),
        refuse("a name with a parenthesis", "9110 5.6.2", get("A(: c\r\n")),
        refuse("a name with an at sign", "9110 5.6.2", get("A@B: c\r\n")),
        refuse("a name with a semicolon", "9110 5.6.2", get("A;: c\r\n")),
        refuse("a name with an equals sign", "9110 5.6.2", get("A=: c\r\n")),
        refuse("a name with a backslash", "9110 5.6.2", get("A\\: c\r\n")),
        forward(
            "every character that a name may have",
            "9110 5.6.2",
            get("!#$%&'*+-.^_`|~09Az: b\r\n"),
            get("!#$%&'*+-.^_`|~09Az: b\r\n"),
        ),
        forward("no white space after the colon", "5", get("A:b\r\n"), get("A: b\r\n")),
        forward("much white space around a value", "5.1", get("A: \t  b c\t \r\n"), get("A: b c\r\n")),
        forward("an empty value", "5.5", get("A:\r\n"), get("A: \r\n")),
        forward("a value of colons", "5", get("A::::\r\n"), get("A: :::\r\n")),
        forward("a tab in a value", "9110 5.5", get("A: b\tc\r\n"), get("A: b\tc\r\n")),
        forward(
            "bytes beyond ASCII in a value",
            "9110 5.5",
            get("A: caf\u{e9}\r\n"),
            get("A: caf\u{e9}\r\n"),
        ),
        forward(
            "no fields in HTTP/1.0",
            "3.2",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: web\r\n\r\n",
        ),
        refuse("no fields in HTTP/1.1", "3.2", "GET / HTTP/1.1\r\n\r\n"),
        refuse_with(
            431,
            "a value beyond the limit",
            "5.4 of 9110",
            get(&format!("A: {}\r\n", "x".repeat(70_000))),
        ),
        refuse_with(
            431,
            "a name beyond the limit",
            "5.4 of 9110",
            get(&format!("{}: x\r\n", "A".repeat(70_000))),
        ),
        refuse_with(431, "too many fields", "5.4 of 9110", get(&"A: b\r\n".repeat(200))),
        refuse_with(
            431,
            "a target beyond the limit",
            "3",
            format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "x".repeat(100_000)),
        ),
        refuse_with(
            431,
            "a method beyond the limit",
            "3",
            format!("{} / HTTP/1.1\r\nHost: t\r\n\r\n", "X".repeat(100_000)),
        ),
    ])
    .await;
}
