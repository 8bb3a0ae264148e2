//! From a request to its response.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::ops::Range;

use picoserve::ResponseSent;
use picoserve::io::Read;
use picoserve::request::{Path, Request};
use picoserve::response::{IntoResponse, Response, ResponseWriter, StatusCode};
use picoserve::routing::PathRouterService;
use sarab::{Disk, println};
use sarab_site::http::{Part, accepts, content_type, entity_tag, has_tag, name, part};
use sarab_site::{File, ReadError, Site};

use crate::connection::{Cut, Server};
use crate::content::{Body, From, FromDisk};

/// Forms of a file that is there compressed already, by the ends of their names.
const CODINGS: [(&str, &str); 3] = [("br", ".br"), ("zstd", ".zst"), ("gzip", ".gz")];
const HTML: &str = "text/html; charset=utf-8";

/// What the disk fails at, and how.
type Failed = (String, ReadError);

/// What answers requests.
pub struct Pages {
    pub server: Rc<Server>,
    pub cut: Rc<Cut>,
}

/// What is said of a file besides its type and length.
type Headers = heapless::Vec<(&'static str, String), 6>;

/// An answer.
struct Answer<'a> {
    status: u16,
    headers: Headers,
    /// Nothing, where the client has it.
    body: Option<(&'static str, From<'a>)>,
}

impl<'a> Answer<'a> {
    fn text(status: u16, content_type: &'static str, text: impl Into<Cow<'static, str>>) -> Answer<'a> {
        Answer { status, headers: Headers::new(), body: Some((content_type, From::Text(text.into()))) }
    }

    fn page(status: u16, title: &str, text: &str) -> Answer<'a> {
        let page = include_str!("page.html").replace("@TITLE@", title).replace("@TEXT@", text);
        Answer::text(status, HTML, page)
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer<'a> {
        self.headers.push((name, value.into())).expect("there are not so many");
        self
    }
}

/// What of a request matters here.
struct Asked<'a> {
    path: &'a str,
    range: Option<&'a str>,
    if_range: Option<&'a str>,
    if_none_match: Option<&'a str>,
    accept_encoding: &'a str,
}

impl PathRouterService for Pages {
    async fn call_path_router_service<R: Read, W: ResponseWriter<Error = R::Error>>(
        &self,
        _: &(),
        (): (),
        _: Path<'_>,
        request: Request<'_, R>,
        response_writer: W,
    ) -> Result<ResponseSent, W::Error> {
        let parts = request.parts;
        let headers = parts.headers();
        let header = |name| headers.get(name).and_then(|value| value.as_str().ok());
        let asked = Asked {
            path: parts.path().encoded(),
            range: header("range"),
            if_range: header("if-range"),
            if_none_match: header("if-none-match"),
            accept_encoding: header("accept-encoding").unwrap_or_default(),
        };
        let head = parts.method() == "HEAD";
        let answer = match parts.method() {
            "GET" | "HEAD" if asked.path == "/metrics" => {
                Answer::text(200, "text/plain; version=0.0.4", self.server.metrics.show(&self.server))
            }
            "GET" | "HEAD" => self.find(&asked).await,
            _ => {
                Answer::page(405, "Not allowed", "This server gives files, and takes none.").with("Allow", "GET, HEAD")
            }
        };
        self.server.metrics.answered(answer.status);
        let status = StatusCode::new(answer.status);
        let connection = request.body_connection.finalize().await?;
        match answer.body {
            None => {
                let response = Response::empty(status).with_headers(&answer.headers[..]);
                response.write_to(connection, response_writer).await
            }
            Some((content_type, from)) => {
                let body = Body { content_type, from, head, server: self.server.clone() };
                let response = Response::new(status, body).with_headers(&answer.headers[..]);
                response.write_to(connection, response_writer).await
            }
        }
    }
}

impl Pages {
    async fn find(&self, asked: &Asked<'_>) -> Answer<'_> {
        let site = match &self.server.site {
            Ok(site) => site,
            Err(why) => return Answer::page(200, "Sarab", &format!("There is no site to serve yet: {why}.")),
        };
        let Some(name) = name(asked.path) else {
            return Answer::page(400, "Bad request", "This address is no name that there could be.");
        };
        let found = self.find_in(site, asked, name).await;
        found.unwrap_or_else(|(name, error)| {
            println!("web: /{name}: {error}");
            Answer::page(500, "The disk fails", "This page cannot be read; the server's console tells why.")
        })
    }

    async fn find_in<'a>(
        &'a self,
        site: &'a Site<Disk>,
        asked: &Asked<'_>,
        name: String,
    ) -> Result<Answer<'a>, Failed> {
        for (coding, end) in CODINGS {
            // A folder's names are mostly without these, so clients that take them cost one more look.
            if accepts(asked.accept_encoding, coding) {
                let compressed = format!("{name}{end}");
                let file = site.open(&compressed).await.map_err(|error| (compressed, error))?;
                if let Some(file) = file {
                    let answer = self.give(asked, &name, file, coding).await?;
                    return Ok(answer.with("Content-Encoding", coding).with("Vary", "Accept-Encoding"));
                }
            }
        }
        if let Some(file) = site.open(&name).await.map_err(|error| (name.clone(), error))? {
            return self.give(asked, &name, file, "").await;
        }
        let index = format!("{name}/index.html");
        if site.open(&index).await.map_err(|error| (index, error))?.is_some() {
            // Links in it are relative to the folder.
            let place = format!("{}/", asked.path);
            return Ok(Answer::page(301, "Moved", "This is a folder.").with("Location", place));
        }
        if let Some(file) = site.open("404.html").await.map_err(|error| ("404.html".into(), error))? {
            let whole = 0..file.size();
            return self.answer(404, "404.html", file, whole).await;
        }
        Ok(Answer::page(404, "Not found", "There is no such page here."))
    }

    /// A file, as far as it is asked for.
    async fn give<'a>(
        &'a self,
        asked: &Asked<'_>,
        name: &str,
        file: File<'a, Disk>,
        coding: &str,
    ) -> Result<Answer<'a>, Failed> {
        let size = file.size();
        let suffix = if coding.is_empty() { String::new() } else { format!("-{coding}") };
        let tag = entity_tag(size, file.modified(), &suffix);
        if asked.if_none_match.is_some_and(|tags| has_tag(tags, &tag)) {
            return Ok(Answer { status: 304, headers: Headers::new(), body: None }.with("ETag", tag));
        }
        // Of a file that was changed since, a part is of no use.
        let range = asked.range.filter(|_| asked.if_range.is_none_or(|own| own.trim() == tag));
        let answer = match range.map_or(Part::Whole, |range| part(range, size)) {
            Part::Whole => self.answer(200, name, file, 0..size).await?,
            Part::Bytes(bytes) => {
                let told = format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1);
                self.answer(206, name, file, bytes).await?.with("Content-Range", told)
            }
            Part::Beyond => {
                let page = Answer::page(416, "No such part", "The file is shorter than that.");
                return Ok(page.with("Content-Range", format!("bytes */{size}")));
            }
        };
        Ok(answer.with("ETag", tag).with("Accept-Ranges", "bytes"))
    }

    /// An answer from the disk, of which the begin has been read: a disk that fails is better told in its place.
    async fn answer<'a>(
        &'a self,
        status: u16,
        name: &str,
        mut file: File<'a, Disk>,
        part: Range<u64>,
    ) -> Result<Answer<'a>, Failed> {
        let turn = self.server.transfers.acquire().await;
        if !part.is_empty() {
            file.read(part.start, &mut [0]).await.map_err(|error| (name.into(), error))?;
        }
        let from = From::Disk(Box::new(FromDisk { file, part, name: name.into(), cut: self.cut.clone(), turn }));
        Ok(Answer { status, headers: Headers::new(), body: Some((content_type(name), from)) })
    }
}
