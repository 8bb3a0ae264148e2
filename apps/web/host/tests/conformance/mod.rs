//! What HTTP/1.1 asks of a server of files, in requests: what comes of them, and what of the same to nginx with the same
//! files. The tests on this machine run the list in the simulation; a check in the lab runs it beside nginx.

/// What nginx says.
#[derive(Clone, Copy, Debug)]
pub enum Nginx {
    /// The same.
    Same,
    /// These statuses instead, and why ours are others.
    Statuses(&'static [u16], &'static str),
    /// The same statuses with other fields or bytes, and why.
    Fields(&'static str),
}

/// A request, the statuses of all answers, and nginx's.
///
/// `\n` stands for CR LF, `␊` for LF and `␍` for CR alone; the end of the head is added where it is missing. `{tag}` is the
/// entity tag of `/digits.txt`, `{long}` 5,000 letters, and at `⏸` an answer is waited for. Behind each there is [`PROBE`]: an
/// answer to that shows that the connection went on, and at which byte.
pub type Case = (&'static str, &'static [u16], Nginx);

/// What is asked at the end.
pub const PROBE: &str = "GET /probe.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// When the files were changed.
pub const MODIFIED: u64 = 1_700_000_000;

/// The files.
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("index.html", b"<p>hello".to_vec()),
        ("digits.txt", b"0123456789".repeat(100)),
        ("a b.txt", b"a and b".to_vec()),
        ("empty.txt", Vec::new()),
        ("probe.txt", b"probe".to_vec()),
        ("docs/index.html", b"<p>docs".to_vec()),
        ("style.css", b"body { color: black }\n".to_vec()),
        ("style.css.gz", b"not really compressed".to_vec()),
    ]
}

/// The bytes of a case, in parts between which an answer is waited for.
pub fn parts(text: &str, tag: &str) -> Vec<Vec<u8>> {
    let mut text = text.replace('\n', "\r\n").replace('␊', "\n").replace('␍', "\r");
    if !text.contains("\r\n\r\n") || text.starts_with("\r\n\r\n") {
        text += "\r\n\r\n";
    }
    let text = text.replace("{tag}", tag).replace("{long}", &"x".repeat(5000)) + PROBE;
    text.split('⏸').map(|part| part.as_bytes().to_vec()).collect()
}

use Nginx::{Fields, Same, Statuses};

/// The list.
#[rustfmt::skip]
pub const CASES: &[Case] = &[
    // Targets and paths (RFC 9112, 3.2; RFC 3986, 5.2.4 and 6.2.2).
    ("GET / HTTP/1.1\nHost: a", &[200, 200], Same),
    ("HEAD /digits.txt HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET /docs/ HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET /docs HTTP/1.1\nHost: a", &[301, 200], Same),
    ("GET /docs?x=1 HTTP/1.1\nHost: a", &[301, 200], Same),
    ("GET /none HTTP/1.1\nHost: a", &[404, 200], Same),
    ("GET /digits.txt?a=b&c=%zz HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET /%61%20b.txt HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET /empty.txt HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET //digits.txt HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET /docs/.././digits.txt HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET /docs/%2e%2E/digits.txt HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET /docs/..%2fdigits.txt HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET /docs/.. HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET /../digits.txt HTTP/1.1\nHost: a", &[400, 200], Statuses(&[400], "the head is sound, so what follows is, too")),
    ("GET /docs/../../digits.txt HTTP/1.1\nHost: a", &[400, 200], Statuses(&[400], "the head is sound")),
    ("GET /%zz HTTP/1.1\nHost: a", &[400, 200], Statuses(&[400], "the head is sound")),
    ("GET /%00 HTTP/1.1\nHost: a", &[400, 200], Statuses(&[400], "the head is sound")),
    ("GET /%ff HTTP/1.1\nHost: a", &[400, 200], Statuses(&[404, 200], "names of the site are UTF-8")),
    ("GET /digits.txt#x HTTP/1.1\nHost: a", &[400], Statuses(&[200, 200], "no target has a fragment (RFC 9112, 3.2)")),
    ("GET http://b/digits.txt HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET http://b?x HTTP/1.1\nHost: a", &[200, 200], Same),
    ("GET http://user@b/ HTTP/1.1\nHost: a", &[400], Same),
    ("GET ftp://b/digits.txt HTTP/1.1\nHost: a", &[400], Statuses(&[200, 200], "it is no server of ftp")),
    ("GET digits.txt HTTP/1.1\nHost: a", &[400], Same),
    ("GET * HTTP/1.1\nHost: a", &[400], Same),
    ("GET /{long} HTTP/1.1\nHost: a", &[414], Same),
    // Methods (RFC 9110, 9).
    ("POST /digits.txt HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello", &[405, 200], Same),
    ("PUT /digits.txt HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello", &[405, 200], Same),
    ("DELETE /digits.txt HTTP/1.1\nHost: a", &[405, 200], Same),
    ("PATCH /digits.txt HTTP/1.1\nHost: a", &[405, 200], Same),
    ("TRACE / HTTP/1.1\nHost: a", &[405, 200], Statuses(&[405], "the head is sound")),
    ("OPTIONS / HTTP/1.1\nHost: a", &[204, 200], Statuses(&[405, 200], "it says what there is (RFC 9110, 9.3.7)")),
    ("OPTIONS * HTTP/1.1\nHost: a", &[204, 200], Statuses(&[400], "it says what there is (RFC 9112, 3.2.4)")),
    ("CONNECT a:80 HTTP/1.1\nHost: a", &[405], Statuses(&[400], "the method is known (RFC 9110, 9.1)")),
    ("BREW / HTTP/1.1\nHost: a", &[501, 200], Statuses(&[405, 200], "the method is not known (RFC 9110, 9.1)")),
    ("get / HTTP/1.1\nHost: a", &[501, 200], Statuses(&[400], "names of methods may have small letters (RFC 9110, 9.1)")),
    ("G[T / HTTP/1.1\nHost: a", &[400], Same),
    // Request lines and versions (RFC 9112, 2 and 3).
    ("GET / HTTP/1.0", &[200], Same),
    ("GET / HTTP/1.0\nConnection: keep-alive", &[200, 200], Same),
    ("GET / HTTP/1.9\nHost: a", &[200, 200], Same),
    ("GET / HTTP/2.0\nHost: a", &[505], Same),
    ("GET / HTTP/0.9\nHost: a", &[505], Statuses(&[400], "the version is not supported (RFC 9110, 15.6.6)")),
    ("GET /", &[400], Statuses(&[], "HTTP/0.9 is obsolete")),
    ("GET / http/1.1\nHost: a", &[400], Same),
    ("GET / HTTP/1.1 HTTP/1.1\nHost: a", &[400], Same),
    ("GET  / HTTP/1.1\nHost: a", &[400], Statuses(&[200, 200], "one space (RFC 9112, 3)")),
    ("GET\t/ HTTP/1.1\nHost: a", &[400], Same),
    ("\nGET / HTTP/1.1\nHost: a", &[200, 200], Same),
    ("\n\nGET / HTTP/1.1\nHost: a", &[400], Statuses(&[200, 200], "one empty line is enough (RFC 9112, 2.2)")),
    // Host (RFC 9112, 3.2).
    ("GET / HTTP/1.1", &[400], Same),
    ("GET http://b/ HTTP/1.1", &[400], Same),
    ("GET / HTTP/1.1\nHost:", &[200, 200], Statuses(&[400], "it may be empty (RFC 9112, 3.2)")),
    ("GET / HTTP/1.1\nHost: a\nHost: a", &[400], Same),
    ("GET / HTTP/1.1\nHost: a/b", &[400], Same),
    ("GET / HTTP/1.1\nHost: a b", &[400], Same),
    ("GET / HTTP/1.1\nHost: a:b", &[400], Statuses(&[200, 200], "a port has digits (RFC 3986, 3.2.3)")),
    ("GET / HTTP/1.1\nHost: [::1]:80", &[200, 200], Same),
    ("GET / HTTP/1.1\nHost : a", &[400], Same),
    // Field lines (RFC 9112, 5).
    ("GET / HTTP/1.1\nHost: a\nno colon", &[400], Same),
    ("GET / HTTP/1.1\nHost: a\n: x", &[400], Same),
    ("GET / HTTP/1.1\nHost: a\nX(y): z", &[400], Statuses(&[200, 200], "no name has brackets (RFC 9110, 5.1)")),
    ("GET / HTTP/1.1\nHost: a\nX: y\n z", &[400], Same),
    ("GET / HTTP/1.1\n Host: a", &[400], Same),
    ("GET / HTTP/1.1\nHost: a\nX: y\0z", &[400], Same),
    ("GET / HTTP/1.1\nHost: a\nX: y␍Z: z", &[400], Same),
    ("GET / HTTP/1.1\nHost: a␊X: y", &[400], Statuses(&[200, 200], "lines end in CR LF (RFC 9112, 2.2 and 11.2)")),
    ("GET / HTTP/1.1\nHost: a\nX: Grüße", &[200, 200], Same),
    ("GET / HTTP/1.1\nHost: a\nX: {long}", &[431], Statuses(&[400], "the status says what is wrong (RFC 6585, 5)")),
    // Where content ends (RFC 9112, 6 and 11.2).
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello", &[200, 200], Same),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 0005\n\nhello", &[200, 200], Same),
    ("POST / HTTP/1.1\nHost: a\nContent-Length: +5\n\nhello", &[400], Same),
    ("POST / HTTP/1.1\nHost: a\nContent-Length: 5,5\n\nhello", &[400], Same),
    ("POST / HTTP/1.1\nHost: a\nContent-Length: 0x5\n\nhello", &[400], Same),
    ("POST / HTTP/1.1\nHost: a\nContent-Length: -1", &[400], Same),
    ("POST / HTTP/1.1\nHost: a\nContent-Length: 99999999999999999999", &[400], Same),
    ("POST / HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Length: 6\n\nhello", &[400], Same),
    ("POST / HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Length: 5\n\nhello", &[400], Same),
    ("POST / HTTP/1.1\nHost: a\nContent-Length: 70000\n\n", &[413], Same),
    ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n", &[405, 200], Same),
    ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: Chunked\n\n5;x=\"y\"\nhello\n0\nX: y\n\n", &[200, 200], Same),
    ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n5\nhello!\n0\n\n", &[400], Same),
    ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n0x5\nhello\n0\n\n", &[400], Same),
    ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n5␊hello\n0\n\n", &[400], Statuses(&[200, 200], "lines end in CR LF")),
    ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 4\n\n0\n\n", &[400], Same),
    ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n", &[400], Same),
    ("POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n0\n\n", &[400], Same),
    ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked\n\n0\n\n", &[501], Same),
    ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked\n\n0\n\n", &[400], Statuses(&[501], "its end is not known (RFC 9112, 6.3)")),
    // What is expected first (RFC 9110, 10.1.1).
    ("GET / HTTP/1.1\nHost: a\nExpect: 100-continue", &[200, 200], Statuses(&[100, 200, 200], "no content is waited for (RFC 9110, 10.1.1)")),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 5\nExpect: 100-continue\n\n⏸hello", &[100, 200, 200], Same),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 5\nExpect: 100-continue\n\nhello", &[200], Statuses(&[100, 200, 200], "what comes without leave is not certain to be content")),
    ("POST / HTTP/1.1\nHost: a\nContent-Length: 5\nExpect: 100-continue\n\n⏸hello", &[405], Statuses(&[405, 200], "whether content follows is not certain (RFC 9110, 10.1.1)")),
    ("GET / HTTP/1.1\nHost: a\nExpect: 200-maybe", &[417], Statuses(&[200, 200], "the expectation cannot be met")),
    // Connections (RFC 9112, 9.3).
    ("GET / HTTP/1.1\nHost: a\nConnection: close", &[200], Same),
    ("GET / HTTP/1.1\nHost: a\nConnection: x, Close", &[200], Same),
    ("GET / HTTP/1.1\nHost: a\nUpgrade: h2c\nConnection: Upgrade", &[200, 200], Same),
    ("GET / HTTP/1.1\nHost: a\n\nHEAD / HTTP/1.1\nHost: a\n\nGET /none HTTP/1.1\nHost: a\n\n", &[200, 200, 404, 200], Same),
    // Conditions (RFC 9110, 13).
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-None-Match: {tag}", &[304, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-None-Match: \"x\", W/{tag}", &[304, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-None-Match: \"x\"", &[200, 200], Same),
    ("HEAD /digits.txt HTTP/1.1\nHost: a\nIf-None-Match: *", &[304, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT", &[304, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Modified-Since: Tuesday, 14-Nov-23 22:13:20 GMT", &[304, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Modified-Since: Tue Nov 14 22:13:20 2023", &[304, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:19 GMT", &[200, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Modified-Since: Tue, 14 Nov 2023 23:00:00 GMT", &[304, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Modified-Since: yesterday", &[200, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-None-Match: \"x\"\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT", &[200, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-None-Match: {tag}\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:19 GMT", &[304, 200], Statuses(&[200, 200], "tags come first (RFC 9110, 13.2.2)")),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Match: {tag}", &[200, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Match: *", &[200, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Match: \"x\"", &[412, 200], Statuses(&[412], "the head is sound")),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Match: W/{tag}", &[412, 200], Statuses(&[412], "the head is sound")),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Unmodified-Since: Tue, 14 Nov 2023 22:13:20 GMT", &[200, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Unmodified-Since: Tue, 14 Nov 2023 22:13:19 GMT", &[412, 200], Statuses(&[412], "the head is sound")),
    ("GET /digits.txt HTTP/1.1\nHost: a\nIf-Match: {tag}\nIf-Unmodified-Since: Tue, 14 Nov 2023 22:13:19 GMT", &[200, 200], Statuses(&[412], "tags come first (RFC 9110, 13.2.2)")),
    ("GET /none HTTP/1.1\nHost: a\nIf-Match: *", &[404, 200], Same),
    // Parts (RFC 9110, 14).
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-0", &[206, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: Bytes=990-", &[206, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=-10", &[206, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=5-99999", &[206, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=1000-", &[416, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=5-2", &[200, 200], Statuses(&[416, 200], "what is invalid is ignored (RFC 9110, 14.1.1)")),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=a-b", &[200, 200], Statuses(&[416, 200], "what is invalid is ignored (RFC 9110, 14.1.1)")),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: lines=0-1", &[200, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-1,500-509", &[206, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-1,2000-", &[206, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-1,4-5", &[206, 200], Fields("what nearly touches is one part (RFC 9110, 15.3.7.2)")),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-999,0-999,0-999", &[206, 200], Statuses(&[200, 200], "what overlaps is one part")),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7,8-8,9-9,0-0,1-1,2-2,3-3,4-4,5-5,6-6", &[200, 200], Statuses(&[206, 200], "more than 16 parts are all (RFC 9110, 14.2)")),
    ("GET /empty.txt HTTP/1.1\nHost: a\nRange: bytes=0-0", &[416, 200], Statuses(&[200, 200], "it has no such byte (RFC 9110, 14.1.2)")),
    ("HEAD /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-0", &[200, 200], Statuses(&[206, 200], "only GET has parts (RFC 9110, 14.2)")),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-0\nIf-Range: {tag}", &[206, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-0\nIf-Range: \"x\"", &[200, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-0\nIf-Range: W/{tag}", &[200, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-0\nIf-Range: Tue, 14 Nov 2023 22:13:20 GMT", &[206, 200], Same),
    ("GET /digits.txt HTTP/1.1\nHost: a\nRange: bytes=0-0\nIf-Range: Tue, 14 Nov 2023 22:13:19 GMT", &[200, 200], Same),
    // Forms (RFC 9110, 12.5.3).
    ("GET /style.css HTTP/1.1\nHost: a\nAccept-Encoding: gzip", &[200, 200], Same),
    ("GET /style.css HTTP/1.1\nHost: a\nAccept-Encoding: gzip;q=0", &[200, 200], Same),
    ("GET /style.css HTTP/1.1\nHost: a", &[200, 200], Same),
];

/// What matters of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Fields that matter, by name.
    pub fields: Vec<(String, String)>,
    /// Its content, where that is a file's.
    pub content: Vec<u8>,
}

/// Fields whose values are compared; of the others, that they are there is.
const COMPARED: [&str; 6] =
    ["content-type", "content-range", "content-encoding", "content-length", "last-modified", "location"];
const NOTICED: [&str; 3] = ["date", "etag", "accept-ranges"];

/// The answers in what a server has sent. `heads` says of each whether it is one to HEAD.
pub fn answers(mut bytes: &[u8], text: &str) -> Vec<Answer> {
    let mut heads = text
        .split('\n')
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(method, rest)| rest.contains(" HTTP/").then_some(method == "HEAD"));
    let mut answers = Vec::new();
    while let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let Some(status) = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()) else { break };
        let is_head = status != 100 && heads.next().unwrap_or(false);
        let field = |name: &str| {
            head.split("\r\n").find_map(|line| {
                let (own, value) = line.split_once(':')?;
                own.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let length = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let length = if is_head || matches!(status, 100 | 204 | 304) { 0 } else { length };
        bytes = &bytes[end + 4..];
        let content = bytes[..length.min(bytes.len())].to_vec();
        bytes = &bytes[content.len()..];
        let is_file = matches!(status, 200 | 206);
        let media_type = field("content-type").unwrap_or_default();
        let is_many = media_type.starts_with("multipart/");
        let fields = COMPARED
            .into_iter()
            .filter(|name| {
                is_file || matches!(*name, "content-range" | "location") || (*name == "last-modified" && status == 304)
            })
            .filter(|name| !(is_many && *name == "content-length"))
            .filter_map(|name| Some((name.to_owned(), field(name)?)))
            .map(|(name, value)| match name.as_str() {
                "content-type" => (name, value.split(';').next().unwrap_or_default().to_owned()),
                _ => (name, value),
            })
            .chain(NOTICED.into_iter().filter(|_| is_file || status == 304).filter_map(|name| {
                // What has no parts may say nothing of them, and neither may what is not modified.
                (name != "accept-ranges" || status == 200).then_some(())?;
                field(name).map(|_| (name.to_owned(), String::new()))
            }))
            .collect();
        let content = if is_file && !is_many { content } else { Vec::new() };
        answers.push(Answer { status, fields, content });
    }
    answers
}
