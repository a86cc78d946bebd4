//! The request line and the host: what is asked for, and of whom.

use super::{forward, get, hold, refuse, refuse_with};

fn line(line: &str) -> String {
    format!("{line}\r\nHost: t\r\n\r\n")
}

#[tokio::test]
async fn request_lines() {
    hold(vec![
        refuse("two spaces after the method", "3", line("GET  / HTTP/1.1")),
        refuse("two spaces before the version", "3", line("GET /  HTTP/1.1")),
        refuse("a tab after the method", "3", line("GET\t/ HTTP/1.1")),
        refuse("a tab before the version", "3", line("GET /\tHTTP/1.1")),
        refuse("a space before the method", "3", line(" GET / HTTP/1.1")),
        refuse("a space after the version", "3", line("GET / HTTP/1.1 ")),
        refuse("a space in the target", "3.2", line("GET /a b HTTP/1.1")),
        refuse("a form feed for a space", "3", line("GET\x0c/ HTTP/1.1")),
        refuse("no version", "3", line("GET /")),
        refuse("no target", "3", line("GET HTTP/1.1")),
        refuse("no method", "3", line("/ HTTP/1.1")),
        refuse("an empty target", "3.2", line("GET  HTTP/1.1")),
        refuse("nothing but the method", "3", line("GET")),
        refuse_with(505, "HTTP/0.9", "9110 15.6.6", line("GET / HTTP/0.9")),
        refuse("HTTP/1.2", "2.3", line("GET / HTTP/1.2")),
        refuse("HTTP/1.10", "2.3", line("GET / HTTP/1.10")),
        refuse("HTTP/1.01", "2.3", line("GET / HTTP/1.01")),
        refuse("HTTP/01.1", "2.3", line("GET / HTTP/01.1")),
        refuse_with(505, "HTTP/2.0", "9110 15.6.6", line("GET / HTTP/2.0")),
        refuse_with(505, "HTTP/3.0", "9110 15.6.6", line("GET / HTTP/3.0")),
        refuse("HTTP/1", "2.3", line("GET / HTTP/1")),
        refuse("HTTP/1,1", "2.3", line("GET / HTTP/1,1")),
        refuse("http/1.1", "2.3", line("GET / http/1.1")),
        refuse("Http/1.1", "2.3", line("GET / Http/1.1")),
        refuse("HTTPS/1.1", "2.3", line("GET / HTTPS/1.1")),
        refuse("ICAP/1.0", "2.3", line("GET / ICAP/1.0")),
        refuse("a space in the version", "2.3", line("GET / HTTP/ 1.1")),
        refuse("a plus in the version", "2.3", line("GET / HTTP/+1.1")),
        refuse("a method with a colon", "3.1", line("GE:T / HTTP/1.1")),
        refuse("a method with a slash", "3.1", line("GET/ / HTTP/1.1")),
        refuse("a method in quotes", "3.1", line("\"GET\" / HTTP/1.1")),
        refuse("a method with a NUL", "3.1", line("GE\0T / HTTP/1.1")),
        refuse("a method with brackets", "3.1", line("GET{} / HTTP/1.1")),
        refuse("a method beyond ASCII", "3.1", line("G\u{cb}T / HTTP/1.1")),
        forward(
            "a method in small letters is another one",
            "9110 9.1",
            line("get / HTTP/1.1"),
            line("get / HTTP/1.1"),
        ),
        forward(
            "a method of every character that it may have",
            "9110 5.6.2",
            line("A!#$%&'*+-.^_`|~9 / HTTP/1.1"),
            line("A!#$%&'*+-.^_`|~9 / HTTP/1.1"),
        ),
        refuse_with(505, "a line of HTTP/2's preface in the middle", "9113 3.4", line("PRI / HTTP/2.0")),
        refuse("another version and a method that is none", "3.1", line("GE:T / HTTP/2.0")),
        refuse("another version and a word too many", "3", line("GET / / HTTP/2.0")),
        refuse("another version and no end of line", "2.2", line("GET / HTTP/2.0\rX: y")),
    ])
    .await;
}

#[tokio::test]
async fn targets() {
    hold(vec![
        refuse("no slash", "3.2", line("GET a HTTP/1.1")),
        refuse("no slash, but a dot", "3.2", line("GET ../a HTTP/1.1")),
        refuse("a query alone", "3.2", line("GET ?a HTTP/1.1")),
        refuse("a NUL", "3.2", line("GET /a\0b HTTP/1.1")),
        refuse("a control character", "3.2", line("GET /a\x01b HTTP/1.1")),
        refuse("a delete", "3.2", line("GET /a\x7fb HTTP/1.1")),
        refuse("a fragment", "3.2", line("GET /a#b HTTP/1.1")),
        refuse("a fragment that is a path", "3.2", line("GET /a#/../b HTTP/1.1")),
        refuse("a fragment of a query", "3.2", line("GET /a?b#c HTTP/1.1")),
        refuse("a fragment of a whole URI", "3.2.2", line("GET http://t/#b HTTP/1.1")),
        refuse("a fragment of an authority", "3.2.2", line("GET http://t#@other/ HTTP/1.1")),
        refuse("CONNECT", "3.2.3", line("CONNECT t:443 HTTP/1.1")),
        refuse("CONNECT with a path", "3.2.3", line("CONNECT / HTTP/1.1")),
        refuse("an authority", "3.2.3", line("GET t:443 HTTP/1.1")),
        refuse("an authority for OPTIONS", "3.2.3", line("OPTIONS t:443 HTTP/1.1")),
        refuse("an asterisk for GET", "3.2.4", line("GET * HTTP/1.1")),
        refuse("an asterisk for TRACE", "3.2.4", line("TRACE * HTTP/1.1")),
        refuse("two asterisks", "3.2.4", line("OPTIONS ** HTTP/1.1")),
        refuse("an asterisk and a path", "3.2.4", line("OPTIONS */a HTTP/1.1")),
        refuse("another scheme", "3.2.2", line("GET ftp://t/ HTTP/1.1")),
        refuse("a scheme without an authority", "3.2.2", line("GET http: HTTP/1.1")),
        refuse("a scheme with an empty authority", "9110 4.2.1", line("GET http:///a HTTP/1.1")),
        refuse("a user", "9110 4.2.4", line("GET http://user@t/ HTTP/1.1")),
        refuse("a user and a password", "9110 4.2.4", line("GET http://user:pass@t/ HTTP/1.1")),
        refuse("a port that is none", "3.2.2", line("GET http://t:x/ HTTP/1.1")),
        refuse("a port alone", "3.2.2", line("GET http://:80/ HTTP/1.1")),
        refuse("an open bracket", "3.2.2", line("GET http://[::1/ HTTP/1.1")),
        refuse("a whole URI without Host", "3.2", "GET http://t/ HTTP/1.1\r\n\r\n"),
        refuse("a whole URI with an invalid Host", "3.2", "GET http://t/ HTTP/1.1\r\nHost: a b\r\n\r\n"),
        forward("an asterisk", "3.2.4", line("OPTIONS * HTTP/1.1"), line("OPTIONS * HTTP/1.1")),
        forward(
            "the whole server, by its URI",
            "3.2.4",
            line("OPTIONS http://t HTTP/1.1"),
            line("OPTIONS * HTTP/1.1"),
        ),
        forward(
            "a whole URI that contradicts Host",
            "3.2.2",
            "GET http://a:81/b?c HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /b?c HTTP/1.1\r\nHost: a:81\r\n\r\n",
        ),
        forward("a whole URI without a path", "3.2.1", line("GET http://t HTTP/1.1"), line("GET / HTTP/1.1")),
        forward(
            "a whole URI without a path, with a query",
            "3.2.1",
            line("GET http://t?a=b HTTP/1.1"),
            line("GET /?a=b HTTP/1.1"),
        ),
        forward(
            "a whole URI in capitals",
            "9110 4.2.3",
            "GET HTTP://T/ HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: T\r\n\r\n",
        ),
        forward(
            "a whole URI and an empty Host",
            "3.2.2",
            "GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        forward("two slashes", "3.2.1", line("GET //other/a HTTP/1.1"), line("GET //other/a HTTP/1.1")),
        forward(
            "dots and codes stay as they are",
            "3.2.1",
            line("GET /a/../%2e%2e/%00?%0d%0a HTTP/1.1"),
            line("GET /a/../%2e%2e/%00?%0d%0a HTTP/1.1"),
        ),
        forward(
            "a scheme in a path",
            "3.2.1",
            line("GET /http://other/ HTTP/1.1"),
            line("GET /http://other/ HTTP/1.1"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn hosts() {
    let host = |value: &str| format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n");
    let mut rows = vec![
        refuse("no Host", "3.2", "GET / HTTP/1.1\r\nA: b\r\n\r\n"),
        refuse("two Hosts", "3.2", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        refuse("two equal Hosts", "3.2", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"),
        refuse("a Host and an empty one", "3.2", "GET / HTTP/1.1\r\nHost: a\r\nHost:\r\n\r\n"),
        refuse("an empty Host and another one", "3.2", "GET / HTTP/1.1\r\nHost:\r\nHost: a\r\n\r\n"),
        refuse("two Hosts in HTTP/1.0", "3.2", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
        refuse("an invalid Host in HTTP/1.0", "3.2", "GET / HTTP/1.0\r\nHost: a b\r\n\r\n"),
        forward("an empty Host", "3.2", host(""), "GET / HTTP/1.1\r\nHost: \r\n\r\n"),
        forward("Host that Connection names", "9110 7.6.1", get("Connection: host\r\n"), get("")),
        forward(
            "a name that only looks like Host",
            "9110 5.1",
            get("Ho-st: other\r\n"),
            get("Ho-st: other\r\n"),
        ),
    ];
    for value in [
        "a",
        "a:80",
        "a:",
        "127.0.0.1",
        "[::1]:8080",
        "a_b.example.",
        "xn--caf-dma.example",
        "a%20b",
        "A.B",
        "a,b",
    ] {
        rows.push(forward("a valid Host", "9110 7.2", host(value), host(value)));
    }
    for value in [
        "a b",
        "a, b",
        "a:b",
        "a:65536",
        "a:-1",
        "a:80:80",
        ":80",
        "a/b",
        "a/",
        "http://a",
        "a?b",
        "a#b",
        "u@a",
        "u:p@a",
        "@a",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:x",
        "[a]",
        "[]",
        "a%",
        "a%zz",
        "a%2",
        "a\\b",
        "a\"b",
        "<a>",
        "a^b",
        "{a}",
        "a|b",
        "caf\u{e9}",
        "a\tb",
        "a:80 b:81",
    ] {
        rows.push(refuse("an invalid Host", "3.2", host(value)));
    }
    hold(rows).await;
}

#[tokio::test]
async fn upgrades_that_are_none() {
    let h2c =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    hold(vec![
        forward("an offer of h2c", "9113 3.1", get(h2c), get("")),
        forward(
            "an offer of h2c with another one",
            "9113 3.1",
            get(&h2c.replace("h2c", "websocket, h2c")),
            get(""),
        ),
        forward(
            "an Upgrade that Connection does not name",
            "9110 7.8",
            get("Upgrade: websocket\r\n"),
            get(""),
        ),
        forward(
            "an Upgrade from HTTP/1.0",
            "9110 7.8",
            "GET / HTTP/1.0\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            get(""),
        ),
        forward(
            "a name in Connection that is no field's",
            "9110 7.6.1",
            get("Connection: \0x\r\n").replace('\0', ""),
            get(""),
        ),
        forward(
            "Connection in two fields",
            "9110 7.6.1",
            get("Connection: a\r\nA: 1\r\nB: 2\r\nconnection: b,,\r\n"),
            get(""),
        ),
        forward(
            "a Keep-Alive without Connection",
            "9110 7.6.1",
            get("Keep-Alive: 5\r\nProxy-Connection: x\r\n"),
            get(""),
        ),
    ])
    .await;
}
