//! From a request to its answer.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::ops::Range;
use core::time::Duration;

use sarab_http::{Condition, HttpDate, Method, Ranges, Refusal, Request, Response, Service, Text, Validators};
use sarab_site::http::{accepts, content_type, entity_tag, folder_address, name};
use sarab_site::{BlockDevice, File, ReadError, Site};

use crate::content::{Body, FromDisk};
use crate::counters::Counters;
use crate::current::{Current, Found};
use crate::hosts;
use crate::parts::Parts;
use crate::ratelimit::Ratelimit;
use crate::turns::{Turn, Turns};

/// Forms of a file that is there compressed already, by the ends of their names.
const CODINGS: [(&str, &str); 3] = [("br", ".br"), ("zstd", ".zst"), ("gzip", ".gz")];
/// When a client may try again that was told that others come first, in seconds.
const RETRY_AFTER: &str = "10";
/// What is answered with something else than 405 and 501.
const METHODS: &str = "GET, HEAD, OPTIONS";
const HTML: &str = "text/html; charset=utf-8";

/// What the disk fails at, and how.
type Failed = (String, ReadError);

type Answer<'a, D> = Response<Body<'a, D>>;

/// What is at a name.
enum Hit<D: BlockDevice> {
    /// A file with its path, and how it is compressed.
    File(String, File<D>, &'static str),
    /// A folder with a page of its own.
    Folder,
}

/// A name in a folder of the site, or in the site itself.
fn within(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.into() } else { format!("{folder}/{name}") }
}

async fn open<D: BlockDevice>(site: &Site<D>, path: &str) -> Result<Option<File<D>>, Failed> {
    site.open(path).await.map_err(|error| (path.into(), error))
}

/// What the pages need of the machine.
pub trait Host {
    /// The time since its start.
    fn now(&self) -> Duration;

    /// The time of the day, since 1970-01-01 00:00 UTC.
    fn wall(&self) -> Duration;

    /// A line for the console.
    fn print(&self, line: fmt::Arguments<'_>);

    /// What `/metrics` says.
    fn metrics(&self, counters: &Counters) -> String;
}

/// What answers requests.
pub struct Pages<D: BlockDevice> {
    /// What is served.
    pub site: Rc<Current<D>>,
    /// Where hosts have folders of their own: that of all others.
    pub hosts: Option<&'static str>,
    /// As many answers read from the disk at once as there is memory for.
    pub transfers: Turns,
    pub counters: Counters,
    pub messages: Ratelimit,
    /// Boundaries between parts that were used.
    pub boundaries: Cell<u64>,
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
            Method::Other("OPTIONS") => Response::new(204, None).with("Allow", METHODS),
            Method::Other(_) => {
                self.page(405, "Not allowed", "This server gives files, and takes none.").with("Allow", METHODS)
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

    fn date(&self) -> Option<HttpDate> {
        Some(self.now())
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

    /// The answer to a client that asks for more than it may.
    pub fn too_many(&self) -> Answer<'_, D> {
        self.counters.answered(429);
        self.page(429, "Too many requests", "More was asked for from your address than is given.")
            .with("Retry-After", "1")
    }

    /// What time it is.
    pub fn now(&self) -> HttpDate {
        let seconds = i64::try_from(self.host.wall().as_secs()).unwrap_or(i64::MAX);
        HttpDate::from_unix(seconds).unwrap_or(HttpDate::LAST)
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

    /// What is at a name, in the host's folder where there are folders of hosts.
    async fn find_in<'a>(
        &'a self,
        site: &Site<D>,
        request: &Request<'_>,
        name: String,
        turn: Turn<'a>,
    ) -> Result<Answer<'a, D>, Failed> {
        let mut folder = self.hosts.unwrap_or_default();
        let own = self.hosts.and_then(|_| hosts::folder(request.host));
        let mut hit = match &own {
            Some(own) => self.look(site, request, own, &name).await?,
            None => None,
        };
        if let Some(own) = &own
            && (hit.is_some() || open(site, &within(own, "index.html")).await?.is_some())
        {
            // Who has a page of the beginning has a site.
            folder = own;
        } else {
            hit = self.look(site, request, folder, &name).await?;
        }
        match hit {
            Some(Hit::File(path, file, coding)) => self.give(request, &path, &name, file, coding, turn).await,
            Some(Hit::Folder) => {
                // Links in it are relative to the folder.
                let place = folder_address(&name, request.query);
                Ok(self.page(301, "Moved", "This is a folder.").with("Location", place))
            }
            None => {
                let path = within(folder, "404.html");
                match open(site, &path).await? {
                    Some(file) => {
                        let whole = 0..file.size();
                        self.file(404, &path, "404.html", file, whole, turn).await
                    }
                    None => Ok(self.page(404, "Not found", "There is no such page here.")),
                }
            }
        }
    }

    /// What there is under a name in a folder, in the form that the client takes.
    async fn look(
        &self,
        site: &Site<D>,
        request: &Request<'_>,
        folder: &str,
        name: &str,
    ) -> Result<Option<Hit<D>>, Failed> {
        let path = within(folder, name);
        for (coding, end) in CODINGS {
            // A folder's names are mostly without these, so clients that take them cost one more look.
            if request.fields.all("accept-encoding").any(|header| accepts(header, coding)) {
                let compressed = format!("{path}{end}");
                if let Some(file) = open(site, &compressed).await? {
                    return Ok(Some(Hit::File(path, file, coding)));
                }
            }
        }
        if let Some(file) = open(site, &path).await? {
            return Ok(Some(Hit::File(path, file, "")));
        }
        let index = open(site, &format!("{path}/index.html")).await?;
        Ok(index.map(|_| Hit::Folder))
    }

    /// A file, as far as it is asked for, and if its conditions are met (RFC 9110, 13.2.2).
    async fn give<'a>(
        &'a self,
        request: &Request<'_>,
        path: &str,
        name: &str,
        file: File<D>,
        coding: &'static str,
        turn: Turn<'a>,
    ) -> Result<Answer<'a, D>, Failed> {
        let size = file.size();
        let suffix = if coding.is_empty() { String::new() } else { format!("-{coding}") };
        let tag = entity_tag(size, file.modified(), &suffix);
        let now = self.now();
        // Nothing is from the future (8.8.2.1).
        let modified = HttpDate::from_unix(file.modified()).map(|modified| modified.min(now));
        let state = Validators { tag: &tag, modified, now };
        let answer = match state.evaluate(request.fields) {
            Condition::Failed => return Ok(self.page(412, "Changed", "The file is not what you believe it to be.")),
            Condition::NotModified => Response::new(304, None),
            Condition::Met => {
                // Only GET has parts (14.2), and of a file that was changed since, a part is of no use.
                let range = request.fields.one("range").filter(|_| request.method == Method::Get);
                let range = range.filter(|_| state.range_applies(request.fields));
                let answer = match range.map_or(Ranges::Whole, |range| Ranges::parse(range, size)) {
                    Ranges::One(bytes) => {
                        let told = format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1);
                        self.file(206, path, name, file, bytes, turn).await?.with("Content-Range", told)
                    }
                    // More than the file alone is of no use to anybody.
                    Ranges::Many(parts) if parts.iter().map(|part| part.end - part.start).sum::<u64>() < size => {
                        self.parts(path, name, file, parts, turn).await?
                    }
                    Ranges::Whole | Ranges::Many(_) => self.file(200, path, name, file, 0..size, turn).await?,
                    Ranges::Beyond => {
                        let page = self.page(416, "No such part", "The file is shorter than that.");
                        return Ok(page.with("Content-Range", format!("bytes */{size}")));
                    }
                };
                let answer = answer.with("Accept-Ranges", "bytes");
                if coding.is_empty() { answer } else { answer.with("Content-Encoding", coding) }
            }
        };
        let answer = answer.with("ETag", tag);
        let answer = if coding.is_empty() { answer } else { answer.with("Vary", "Accept-Encoding") };
        Ok(match modified {
            Some(modified) => answer.with("Last-Modified", modified.to_string()),
            None => answer,
        })
    }

    /// Several parts of a file.
    async fn parts<'a>(
        &'a self,
        path: &str,
        name: &str,
        mut file: File<D>,
        parts: Vec<Range<u64>>,
        turn: Turn<'a>,
    ) -> Result<Answer<'a, D>, Failed> {
        let size = file.size();
        file.read(parts[0].start, &mut [0]).await.map_err(|error| (path.into(), error))?;
        let content = FromDisk::new(self, file, 0..0, path, content_type(name), turn);
        // Nothing is known of the file's bytes; that it has this number, of 64 bits, cannot be arranged beforehand.
        let number = self.boundaries.replace(self.boundaries.get() + 1);
        let boundary = (self.host.now().as_nanos() as u64 ^ number << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Ok(Response::new(206, Body::Parts(Box::new(Parts::new(content, parts, size, boundary)))))
    }

    /// An answer from the disk, of which the begin has been read: a disk that fails is better told in its place.
    async fn file<'a>(
        &'a self,
        status: u16,
        path: &str,
        name: &str,
        mut file: File<D>,
        part: Range<u64>,
        turn: Turn<'a>,
    ) -> Result<Answer<'a, D>, Failed> {
        if !part.is_empty() {
            file.read(part.start, &mut [0]).await.map_err(|error| (path.into(), error))?;
        }
        let content = FromDisk::new(self, file, part, path, content_type(name), turn);
        Ok(Response::new(status, Body::Disk(Box::new(content))))
    }
}
