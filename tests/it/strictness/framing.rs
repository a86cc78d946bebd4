//! Where a request's body ends: what RFC 9112, section 6, leaves no doubt about, and what it does.

use super::{forward, hold, post, refuse, refuse_with};

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

#[tokio::test]
async fn lengths() {
    let sent = |length: &str| post(&format!("Content-Length: {length}\r\n"), "abcd");
    let got = |length: &str| post(&format!("Content-Length: {length}\r\n"), "abcd");
    hold(vec![
        forward("a length", "6.2", sent("4"), got("4")),
        forward("a length with zeros before it", "6.2", sent("0004"), got("0004")),
        forward("a length with white space around it", "9110 5.5", sent(" \t4\t "), got("4")),
        forward(
            "a length of nothing",
            "6.2",
            post("Content-Length: 0\r\n", ""),
            post("Content-Length: 0\r\n", ""),
        ),
        refuse("a length with a plus", "6.2", sent("+4")),
        refuse("a length with a minus", "6.2", sent("-4")),
        refuse("a length in hexadecimal", "6.2", sent("0x4")),
        refuse("a length in letters", "6.2", sent("four")),
        refuse("a length with a fraction", "6.2", sent("4.0")),
        refuse("a length with an exponent", "6.2", sent("4e0")),
        refuse("a length with an underscore", "6.2", sent("0_4")),
        refuse("a length with a space within", "6.2", sent("0 4")),
        refuse("a length in quotes", "6.2", sent("\"4\"")),
        refuse("a length with a parameter", "6.2", sent("4;x")),
        refuse("an empty length", "6.2", sent("")),
        refuse("a length in other digits", "6.2", sent("\u{664}")),
        refuse("a length of 2^64", "6.3", sent("18446744073709551616")),
        refuse_with(
            431,
            "a length of 2^64 - 1, which stands for something else",
            "6.3",
            sent("18446744073709551615"),
        ),
        refuse("a length of a hundred digits", "6.3", sent(&"9".repeat(100))),
        refuse("a list of two lengths", "6.3", sent("4, 5")),
        refuse("a list of two equal lengths", "6.3", sent("4, 4")),
        refuse("a list that ends early", "6.3", sent("4,")),
        refuse("two lengths", "6.3", post("Content-Length: 4\r\nContent-Length: 5\r\n", "abcde")),
        refuse("two equal lengths", "6.3", post("Content-Length: 4\r\nContent-Length: 4\r\n", "abcd")),
        refuse(
            "two equal lengths, far apart",
            "6.3",
            post("Content-Length: 4\r\nA: b\r\ncontent-length: 04\r\n", "abcd"),
        ),
        refuse("three lengths", "6.3", post(&"Content-Length: 4\r\n".repeat(3), "abcd")),
        refuse(
            "two lengths in a GET",
            "6.3",
            "GET / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nContent-Length: 36\r\n\r\n",
        ),
        refuse("a folded length", "5.2", post("Content-Length:\r\n 4\r\n", "abcd")),
        refuse("a length behind a vertical tab", "9110 5.5", sent("\x0b4")),
        refuse("a length before a NUL", "9110 5.5", sent("4\0")),
        forward(
            "a length that Connection names stays",
            "9110 7.6.1",
            post("Connection: content-length\r\nContent-Length: 4\r\n", "abcd"),
            post("Content-Length: 4\r\n", "abcd"),
        ),
        forward(
            "a name that only looks like a length is none",
            "9110 5.1",
            "POST / HTTP/1.1\r\nHost: t\r\nContent_Length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: t\r\nContent_Length: 4\r\n\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn codings() {
    let sent = |coding: &str| post(&format!("Transfer-Encoding: {coding}\r\n"), "4\r\nabcd\r\n0\r\n\r\n");
    let got = || "POST / HTTP/1.1\r\nHost: t\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n";
    let both = |fields: &str| post(fields, "4\r\nabcd\r\n0\r\n\r\n");
    hold(vec![
        forward("chunks", "7.1", sent("chunked"), got()),
        forward("chunks in capitals", "7", sent("CHUNKED"), got()),
        forward("chunks with white space around it", "9110 5.5", sent("\t chunked \t"), got()),
        forward(
            "a coding that Connection names stays",
            "9110 7.6.1",
            post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
            got(),
        ),
        refuse("chunked twice in a list", "6.1", sent("chunked, chunked")),
        refuse("chunked in two fields", "6.1", both(&CHUNKED.repeat(2))),
        refuse(
            "chunked, and an empty field",
            "6.1",
            both("Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n"),
        ),
        refuse(
            "an empty field, and chunked",
            "6.1",
            both("Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n"),
        ),
        refuse(
            "identity, then chunked",
            "6.1",
            both("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
        ),
        refuse(
            "chunked, then identity",
            "6.1",
            both("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ),
        refuse(
            "chunked, then nonsense",
            "6.1",
            both("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"),
        ),
        refuse("gzip alone", "6.1", sent("gzip")),
        refuse("gzip, then chunked", "6.1", sent("gzip, chunked")),
        refuse("chunked, then gzip", "6.1", sent("chunked, gzip")),
        refuse("identity", "7", sent("identity")),
        refuse("identity, chunked", "7", sent("identity, chunked")),
        refuse("xchunked", "7", sent("xchunked")),
        refuse("chunkedx", "7", sent("chunkedx")),
        refuse("chunked with a parameter", "7", sent("chunked;q=1")),
        refuse("chunked with a semicolon", "7", sent("chunked;")),
        refuse("chunked in quotes", "7", sent("\"chunked\"")),
        refuse("chunked in single quotes", "7", sent("'chunked'")),
        refuse("chunked behind a comma", "9110 5.6.1", sent(", chunked")),
        refuse("chunked before a comma", "9110 5.6.1", sent("chunked,")),
        refuse("chun ked", "7", sent("chun ked")),
        refuse("a coding without a name", "7", sent("")),
        refuse("chunked behind a vertical tab", "9110 5.5", sent("\x0bchunked")),
        refuse("chunked behind a form feed", "9110 5.5", sent("\x0cchunked")),
        refuse("chunked before a NUL", "9110 5.5", sent("chunked\0")),
        refuse("chunked behind a no-break space", "9110 5.5", sent("\u{a0}chunked")),
        refuse("chunked with a dotted i-less k", "7", sent("chun\u{212a}ed")),
        refuse("a folded coding", "5.2", sent("\r\n chunked")),
        refuse("a coding with a space before the colon", "5.1", both("Transfer-Encoding : chunked\r\n")),
        refuse("a coding with a tab before the colon", "5.1", both("Transfer-Encoding\t: chunked\r\n")),
        refuse("a coding behind a space", "5.2", both("A: b\r\n Transfer-Encoding: chunked\r\n")),
        refuse("a length, then chunked", "6.1", both("Content-Length: 14\r\nTransfer-Encoding: chunked\r\n")),
        refuse("chunked, then a length", "6.1", both("Transfer-Encoding: chunked\r\nContent-Length: 14\r\n")),
        refuse(
            "chunked, then a length of nothing",
            "6.1",
            both("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
        ),
        refuse(
            "chunked, then a length that is none",
            "6.1",
            both("Transfer-Encoding: chunked\r\nContent-Length: x\r\n"),
        ),
        refuse(
            "a length, and an unknown coding",
            "6.1",
            both("Content-Length: 14\r\nTransfer-Encoding: xchunked\r\n"),
        ),
        refuse(
            "a length between two codings",
            "6.1",
            both("Transfer-Encoding: chunked\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
        ),
        refuse(
            "chunks in HTTP/1.0",
            "6.1",
            "POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        refuse(
            "chunks and a length in HTTP/1.0",
            "6.1",
            "POST / HTTP/1.0\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        forward(
            "a name that only looks like a coding is none",
            "9110 5.1",
            "GET / HTTP/1.1\r\nHost: t\r\nTransfer_Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: t\r\nTransfer_Encoding: chunked\r\n\r\n",
        ),
    ])
    .await;
}
