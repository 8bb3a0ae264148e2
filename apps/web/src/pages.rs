//! From a request to its answer.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;
use core::ops::Range;
use core::time::Duration;

use sarab_http::{Method, Refusal, Request, Response, Service, Text};
use sarab_site::http::{Part, accepts, content_type, entity_tag, folder_address, has_tag, name, part};
use sarab_site::{BlockDevice, File, ReadError, Site};

use crate::content::{Body, FromDisk};
use crate::counters::Counters;
use crate::current::{Current, Found};
use crate::ratelimit::Ratelimit;
use crate::turns::{Turn, Turns};

/// Forms of a file that is there compressed already, by the ends of their names.
const CODINGS: [(&str, &str); 3] = [("br", ".br"), ("zstd", ".zst"), ("gzip", ".gz")];
/// When a client may try again that was told that others come first, in seconds.
const RETRY_AFTER: &str = "10";
const HTML: &str = "text/html; charset=utf-8";

/// What the disk fails at, and how.
type Failed = (String, ReadError);

type Answer<'a, D> = Response<Body<'a, D>>;

/// What the pages need of the machine.
pub trait Host {
    /// The time since its start.
    fn now(&self) -> Duration;

    /// A line for the console.
    fn print(&self, line: fmt::Arguments<'_>);

    /// What `/metrics` says.
    fn metrics(&self, counters: &Counters) -> String;
}

/// What answers requests.
pub struct Pages<D: BlockDevice> {
    /// What is served.
    pub site: Rc<Current<D>>,
    /// As many answers read from the disk at once as there is memory for.
    pub transfers: Turns,
    pub counters: Counters,
    pub messages: Ratelimit,
    pub host: Box<dyn Host>,
}

impl<D: BlockDevice> Service for Pages<D> {
    type Content<'a>
        = Body<'a, D>
    where
        D: 'a;

    async fn answer(&self, request: &Request<'_>) -> Answer<'_, D> {
        let answer = match request.method {
            Method::Get | Method::Head if request.path == "/metrics" => {
                self.text(200, "text/plain; version=0.0.4", self.host.metrics(&self.counters))
            }
            Method::Get | Method::Head => self.find(request).await,
            Method::Other(_) => {
                self.page(405, "Not allowed", "This server gives files, and takes none.").with("Allow", "GET, HEAD")
            }
            _ => self.page(501, "Not implemented", "This server does not know the method."),
        };
        self.counters.answered(answer.status);
        answer
    }

    fn refuse(&self, refusal: Refusal) -> Answer<'_, D> {
        self.counters.answered(refusal.status());
        let page = self.page(refusal.status(), "Refused", &format!("This request is not answered: {refusal}."));
        if refusal == Refusal::Busy { page.with("Retry-After", RETRY_AFTER) } else { page }
    }
}

impl<D: BlockDevice> Pages<D> {
    fn text(&self, status: u16, content_type: &'static str, text: impl Into<Cow<'static, str>>) -> Answer<'_, D> {
        Response::new(status, Body::Text(Text::new(content_type, text), &self.counters))
    }

    fn page(&self, status: u16, title: &str, text: &str) -> Answer<'_, D> {
        let page = include_str!("page.html").replace("@TITLE@", title).replace("@TEXT@", text);
        self.text(status, HTML, page)
    }

    /// Prints a line, unless there were too many.
    pub fn report(&self, line: fmt::Arguments<'_>) {
        match self.messages.admit(self.host.now()) {
            None => return,
            Some(0) => {}
            Some(missed) => self.host.print(format_args!("web: {missed} messages suppressed")),
        }
        self.host.print(line);
    }

    /// Waits for leave to use memory for an answer from the disk.
    pub async fn turn(&self) -> Turn<'_> {
        self.transfers.wait(|| self.host.now()).await
    }

    async fn find(&self, request: &Request<'_>) -> Answer<'_, D> {
        let site = match self.site.get() {
            Found::Site(site) => site,
            Found::Nothing(why) => return self.page(200, "Sarab", &format!("There is no site to serve yet: {why}.")),
            Found::Lost => return self.failed(),
        };
        let Some(name) = name(request.path) else {
            return self.page(400, "Bad request", "This address is no name that there could be.");
        };
        // The look-up takes memory as well.
        let turn = self.turn().await;
        let found = self.find_in(&site, request, name, turn).await;
        found.unwrap_or_else(|(name, error)| {
            self.report(format_args!("web: {:?}: {error}", format!("/{name}")));
            self.failed()
        })
    }

    fn failed(&self) -> Answer<'_, D> {
        self.page(500, "The disk fails", "This page cannot be read; the server's console tells why.")
    }

    async fn find_in<'a>(
        &'a self,
        site: &Site<D>,
        request: &Request<'_>,
        name: String,
        turn: Turn<'a>,
    ) -> Result<Answer<'a, D>, Failed> {
        for (coding, end) in CODINGS {
            // A folder's names are mostly without these, so clients that take them cost one more look.
            if request.fields.all("accept-encoding").any(|header| accepts(header, coding)) {
                let compressed = format!("{name}{end}");
                let file = site.open(&compressed).await.map_err(|error| (compressed, error))?;
                if let Some(file) = file {
                    let answer = self.give(request, &name, file, coding, turn).await?;
                    return Ok(answer.with("Content-Encoding", coding).with("Vary", "Accept-Encoding"));
                }
            }
        }
        if let Some(file) = site.open(&name).await.map_err(|error| (name.clone(), error))? {
            return self.give(request, &name, file, "", turn).await;
        }
        let index = format!("{name}/index.html");
        if site.open(&index).await.map_err(|error| (index, error))?.is_some() {
            // Links in it are relative to the folder.
            let place = folder_address(&name, request.query);
            return Ok(self.page(301, "Moved", "This is a folder.").with("Location", place));
        }
        if let Some(file) = site.open("404.html").await.map_err(|error| ("404.html".into(), error))? {
            let whole = 0..file.size();
            return self.file(404, "404.html", file, whole, turn).await;
        }
        Ok(self.page(404, "Not found", "There is no such page here."))
    }

    /// A file, as far as it is asked for.
    async fn give<'a>(
        &'a self,
        request: &Request<'_>,
        name: &str,
        file: File<D>,
        coding: &str,
        turn: Turn<'a>,
    ) -> Result<Answer<'a, D>, Failed> {
        let size = file.size();
        let suffix = if coding.is_empty() { String::new() } else { format!("-{coding}") };
        let tag = entity_tag(size, file.modified(), &suffix);
        if request.fields.all("if-none-match").any(|tags| has_tag(tags, &tag)) {
            return Ok(Response::new(304, None).with("ETag", tag));
        }
        // Only GET has parts (RFC 9110, 14.2), and of a file that was changed since, a part is of no use.
        let current = request.fields.all("if-range").all(|own| own.trim() == tag);
        let range = request.fields.one("range").filter(|_| request.method == Method::Get && current);
        let answer = match range.map_or(Part::Whole, |range| part(range, size)) {
            Part::Whole => self.file(200, name, file, 0..size, turn).await?,
            Part::Bytes(bytes) => {
                let told = format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1);
                self.file(206, name, file, bytes, turn).await?.with("Content-Range", told)
            }
            Part::Beyond => {
                let page = self.page(416, "No such part", "The file is shorter than that.");
                return Ok(page.with("Content-Range", format!("bytes */{size}")));
            }
        };
        Ok(answer.with("ETag", tag).with("Accept-Ranges", "bytes"))
    }

    /// An answer from the disk, of which the begin has been read: a disk that fails is better told in its place.
    async fn file<'a>(
        &'a self,
        status: u16,
        name: &str,
        mut file: File<D>,
        part: Range<u64>,
        turn: Turn<'a>,
    ) -> Result<Answer<'a, D>, Failed> {
        if !part.is_empty() {
            file.read(part.start, &mut [0]).await.map_err(|error| (name.into(), error))?;
        }
        let content = FromDisk::new(self, file, part, name, content_type(name), turn);
        Ok(Response::new(status, Body::Disk(Box::new(content))))
    }
}
