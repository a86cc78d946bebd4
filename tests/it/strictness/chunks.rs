//! Chunked request bodies: what is refused before a byte went on, and what breaks off where the doubt begins.

use super::{Must, Row, forward, hold, refuse};

const HEAD: &str = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";

fn sent(body: &str) -> String {
    format!("{HEAD}{body}")
}

/// What comes of it when it can be read in one way.
fn got(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: t\r\ntransfer-encoding: chunked\r\n\r\n{body}")
}

/// Bodies that are malformed, each with its name.
fn malformed() -> Vec<(&'static str, String)> {
    let mut rows: Vec<_> = [
        ("a size with a plus", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a size with a minus", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a size with a letter beyond f", "g\r\nabc\r\n0\r\n\r\n"),
        ("a size with an underscore", "0_3\r\nabc\r\n0\r\n\r\n"),
        ("a size behind a space", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a size before a space", "3 \r\nabc\r\n0\r\n\r\n"),
        ("a size before a tab", "3\t\r\nabc\r\n0\r\n\r\n"),
        ("a size with a space within", "0 3\r\nabc\r\n0\r\n\r\n"),
        ("a size before a NUL", "3\0\r\nabc\r\n0\r\n\r\n"),
        ("a size before a comma", "3,\r\nabc\r\n0\r\n\r\n"),
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("no size but an extension", ";a\r\nabc\r\n0\r\n\r\n"),
        ("a size of 2^64", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("a size of 2^64 + 3", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a size of seventeen digits", "00000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("LF after the size", "3\nabc\r\n0\r\n\r\n"),
        ("CR alone after the size", "3\rabc\r\n0\r\n\r\n"),
        ("LF after an extension", "3;a\nabc\r\n0\r\n\r\n"),
        ("CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("LF in an extension's quotes", "3;a=\"\n\"\r\nabc\r\n0\r\n\r\n"),
        ("NUL in an extension", "3;a\0\r\nabc\r\n0\r\n\r\n"),
        ("more bytes than the size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("fewer bytes than the size", "3\r\nab\r\n0\r\n\r\n"),
        ("nothing after the bytes", "3\r\nabc0\r\n\r\n"),
        ("LF after the bytes", "3\r\nabc\n0\r\n\r\n"),
        ("CR alone after the bytes", "3\r\nabc\r0\r\n\r\n"),
        ("LF after the last size", "3\r\nabc\r\n0\n\r\n"),
        ("LF for the end", "3\r\nabc\r\n0\r\n\n"),
        ("LF after a trailer", "0\r\nA: b\n\r\n"),
        ("LF that makes two trailers of one", "0\r\nA: b\nContent-Length: 5\r\n\r\n"),
        ("CR in a trailer", "0\r\nA: b\rc\r\n\r\n"),
        ("NUL in a trailer", "0\r\nA: b\0c\r\n\r\n"),
        ("a folded trailer", "0\r\nA: b\r\n c\r\n\r\n"),
        ("a trailer behind a space", "0\r\n A: b\r\n\r\n"),
        ("a trailer without a name", "0\r\n: b\r\n\r\n"),
    ]
    .map(|(name, body)| (name, body.to_owned()))
    .into();
    rows.push(("an extension beyond the limit", format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000))));
    rows.push(("many extensions beyond the limit", format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(30)));
    rows.push(("a trailer beyond the limit", format!("0\r\nA: {}\r\n\r\n", "x".repeat(80_000))));
    rows.push(("too many trailers", format!("0\r\n{}\r\n", "A: b\r\n".repeat(300))));
    rows.push(("a trailer with a space before the colon", "0\r\nA : b\r\n\r\n".to_owned()));
    rows.push(("a trailer without a colon", "0\r\nA\r\n\r\n".to_owned()));
    rows
}

#[tokio::test]
async fn malformed_chunks_never_make_a_whole_request() {
    let row = |(name, body): (&'static str, String)| Row {
        must: Must::BreakOff,
        ..refuse(name, "7.1", sent(&body))
    };
    hold(malformed().into_iter().map(row).collect()).await;
}

#[tokio::test]
async fn malformed_chunks_after_good_ones_never_make_a_whole_request() {
    let row = |(name, body): (&'static str, String)| Row {
        must: Must::BreakOff,
        ..refuse(name, "7.1", sent(&format!("5\r\nhello\r\n{body}")))
    };
    hold(malformed().into_iter().map(row).collect()).await;
}

#[tokio::test]
async fn chunks_that_can_be_read_in_one_way_go_on_in_their_plainest_form() {
    hold(vec![
        forward("two chunks", "7.1", sent("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), got("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")),
        forward("a size in capitals", "7.1", sent("A\r\n0123456789\r\n0\r\n\r\n"), got("a\r\n0123456789\r\n0\r\n\r\n")),
        forward("zeros before a size", "7.1", sent("0003\r\nabc\r\n000\r\n\r\n"), got("3\r\nabc\r\n0\r\n\r\n")),
        forward("an extension", "7.1.1", sent("3;a=b\r\nabc\r\n0;c\r\n\r\n"), got("3\r\nabc\r\n0\r\n\r\n")),
        forward("white space before an extension", "7.1.1", sent("3 ; a = \"b;\"\r\nabc\r\n0\r\n\r\n"), got("3\r\nabc\r\n0\r\n\r\n")),
        forward("line ends among the bytes", "7.1", sent("5\r\n\r\n0\r\n\r\n0\r\n\r\n"), got("5\r\n\r\n0\r\n\r\n0\r\n\r\n")),
        forward("a trailer", "7.1.2", sent("0\r\nX-Sum: 1\r\n\r\n"), got("0\r\nx-sum: 1\r\n\r\n")),
        forward("an empty trailer", "7.1.2", sent("0\r\nX-Sum:\r\n\r\n"), got("0\r\nx-sum: \r\n\r\n")),
        forward(
            "trailers that frame, route or vouch are no trailers",
            "9110 6.5.1",
            sent(
                "0\r\nContent-Length: 5\r\nHost: other\r\nTransfer-Encoding: gzip\r\nTE: x\r\nConnection: close\r\nUpgrade: h2c\r\n\
                 Authorization: a\r\nCookie: b\r\nX-Forwarded-For: 1.2.3.4\r\nTrailer: x\r\nX-Sum: 1\r\n\r\n",
            ),
            got("0\r\nx-sum: 1\r\n\r\n"),
        ),
        forward(
            "a request behind chunks is another request",
            "7.1",
            sent("0\r\n\r\nGET /2 HTTP/1.1\r\nHost: t\r\nX-Camel: 1\r\n\r\n"),
            got("0\r\n\r\nGET /2 HTTP/1.1\r\nHost: t\r\nX-Camel: 1\r\n\r\n"),
        ),
        forward(
            "a request behind a length is another request",
            "6.2",
            "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: t\r\nX-Camel: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: t\r\nX-Camel: 1\r\n\r\n",
        ),
    ])
    .await;
}
