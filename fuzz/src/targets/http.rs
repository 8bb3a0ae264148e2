//! What a client sends to a web server, in pieces of any length, also as another reader understands it.

pub(super) const SHORT: u32 = 30000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let requests: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nHEAD /x?y HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nIf-Match: \"x\", W/\"y\"\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1,500-,-5\r\nIf-Range: Sunday, 06-Nov-94 08:49:37 GMT\r\n\r\n",
    ];
    requests.map(|request| [&[3, 1, 200, 7, 9, 255, 2, 40], request].concat()).to_vec()
}

pub(super) fn run(data: &[u8]) {
    sarab_http::fuzzing::http(data);
}
