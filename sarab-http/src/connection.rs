//! A connection: requests and their answers, one after the other, and its end.

use core::ops::Range;
use core::time::Duration;

use embedded_io_async::{Read, Write};
use xen_hal::Clock;

use crate::wait::{before, by};
use crate::{Chunked, Content, HttpDate, Method, Nothing, PoolGuard, Refusal, Request, Response, Scanner, Stop};

/// What a client may take of time and memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Until the first request begins.
    pub first: Duration,
    /// Until another one begins.
    pub idle: Duration,
    /// For a head, once its first byte has come, and for content, once its head has.
    pub request: Duration,
    /// For the service to begin an answer, and for each piece of its content.
    pub answer: Duration,
    /// Until half of what is on its way has been taken, or 4 KiB.
    pub progress: Duration,
    /// Until what can be had again is given back, where a client takes nothing.
    pub pause: Duration,
    /// For the answer in flight, once the server is to stop.
    pub stop: Duration,
    /// For the client to take the last answer, and to close its side.
    pub linger: Duration,
    /// Bytes of content that are received, to be thrown away. Longer content is refused.
    pub content: u64,
    /// Bytes that are asked of an answer's content at once.
    pub piece: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            first: Duration::from_secs(10),
            idle: Duration::from_secs(15),
            request: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            progress: Duration::from_secs(10),
            pause: Duration::from_millis(200),
            stop: Duration::from_secs(2),
            linger: Duration::from_secs(3),
            content: 64 << 10,
            piece: 8 << 10,
        }
    }
}

/// What is sent at once to clients that take a while: who takes so much within [`Limits::progress`] goes on.
const SLOW: usize = 4 << 10;

/// A stream of bytes to a client and from it.
///
/// [`flush`](Write::flush) waits until the client has all that was written.
#[allow(async_fn_in_trait, reason = "one core: no future has to be `Send`")]
pub trait Stream: Read + Write {
    /// Waits until so many bytes can be written without waiting, or as many as half of what there is room for at all.
    /// Returns how many: at least one.
    ///
    /// # Errors
    ///
    /// Where the connection is gone.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    async fn room(&mut self, wished: usize) -> Result<usize, Self::Error>;

    /// Ends this side: what was written still arrives.
    fn close(&mut self);

    /// Ends both sides at once.
    fn abort(&mut self);
}

/// What answers.
#[allow(async_fn_in_trait, reason = "one core: no future has to be `Send`")]
pub trait Service {
    /// What its answers hold.
    type Content<'a>: Content
    where
        Self: 'a;

    /// The answer to a request.
    ///
    /// # Cancellation
    ///
    /// Is dropped where the connection ends, or where it takes longer than [`Limits::answer`].
    async fn answer(&self, request: &Request<'_>) -> Response<Self::Content<'_>>;

    /// The answer to what is refused.
    fn refuse(&self, refusal: Refusal) -> Response<Self::Content<'_>>;

    /// What time it is, for `Date` (RFC 9110, 6.6.1); nothing where that is not known.
    fn date(&self) -> Option<HttpDate> {
        None
    }

    /// Is told of each answer when it is over: where all of it was given to the stream, or no more of it will be. It may
    /// not wait.
    fn answered(&self, exchange: &Exchange<'_>) {
        let _ = exchange;
    }
}

/// A request and what was answered, for a log.
#[derive(Debug)]
#[non_exhaustive]
pub struct Exchange<'a> {
    /// The request; nothing where it was refused before it was whole.
    pub request: Option<&'a Request<'a>>,
    /// The answer's status.
    pub status: u16,
    /// Bytes of content that were sent.
    pub bytes: u64,
    /// The time since the head was whole.
    pub took: Duration,
    /// All of it was sent.
    pub is_whole: bool,
}

/// A client's connection.
pub struct Connection<'a, S, C> {
    /// The connection itself.
    pub stream: &'a mut S,
    /// Memory for a request's head: the longest that is taken.
    pub buffer: &'a mut [u8],
    /// What time it is.
    pub clock: C,
    /// Its place among others.
    pub seat: &'a PoolGuard<'a>,
    /// When to stop.
    pub stop: &'a Stop,
    /// What the client may take.
    pub limits: &'a Limits,
}

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// By the client, or after the answer to its last request.
    Closed,
    /// The client has begun no request in time.
    Idle,
    /// After a request that was refused.
    Refused(Refusal),
    /// Others needed its place more ([`Pool::make_room`](crate::Pool::make_room)).
    Evicted,
    /// The client has taken too little of its answer for too long.
    Slow,
    /// The client has reset it, or is gone.
    Reset,
    /// The content of an answer has failed.
    Failed,
    /// The server has stopped.
    Stopped,
}

impl Ended {
    /// In a word, for a log or a counter.
    pub const fn name(self) -> &'static str {
        match self {
            Ended::Closed => "closed",
            Ended::Idle => "idle",
            Ended::Refused(_) => "refused",
            Ended::Evicted => "evicted",
            Ended::Slow => "slow",
            Ended::Reset => "reset",
            Ended::Failed => "failed",
            Ended::Stopped => "stopped",
        }
    }
}

/// Why there are no more requests.
enum End {
    /// It is over: what was written is still to arrive.
    Close(Ended),
    /// It is to be cut.
    Abort(Ended),
    /// After this is said.
    Refused(Refusal),
}

impl<S: Stream, C: Clock> Connection<'_, S, C> {
    /// Answers its requests until the client has enough or too much, and ends it. Returns how.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the stream is as it is then.
    pub async fn serve(self, service: &impl Service) -> Ended {
        let Connection { stream, buffer, clock, seat, stop, limits } = self;
        let mut client = Client { stream, clock: &clock, seat, stop, limits };
        let mut end = client.requests(buffer, service).await;
        if let End::Refused(refusal) = end {
            let form = Form { content: true, keep_alive: false, is_1_0: false };
            let sent = client.send(service, service.refuse(refusal), form, None).await;
            let ended = Ended::Refused(refusal);
            end = if let Err(End::Abort(_)) = sent { End::Abort(ended) } else { End::Close(ended) };
        }
        let ended = match end {
            End::Abort(ended) => {
                client.stream.abort();
                ended
            }
            End::Close(ended) => {
                client.linger().await;
                ended
            }
            End::Refused(refusal) => Ended::Refused(refusal),
        };
        // Also that it is cut has to leave.
        let _ = by(client.clock, client.clock.now() + Duration::from_secs(1), client.stream.flush()).await;
        ended
    }
}

/// What is to come of a request's content.
enum Rest {
    Bytes(u64),
    Chunked(Chunked),
}

impl Rest {
    /// Bytes that are to come at least.
    fn least(&self) -> u64 {
        match self {
            Rest::Bytes(left) => *left,
            Rest::Chunked(content) => content.least(),
        }
    }

    /// Some have come. Returns how many of them are of the content.
    fn follow(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match self {
            Rest::Bytes(left) => {
                let len = (*left).min(bytes.len() as u64);
                *left -= len;
                Ok(len as usize)
            }
            Rest::Chunked(content) => content.follow(bytes),
        }
    }
}

/// Tells the service of an answer once it is over, also where it is dropped in the middle.
struct Record<'a, V: Service, C: Clock> {
    service: &'a V,
    clock: &'a C,
    to: Option<(&'a Request<'a>, Duration)>,
    status: u16,
    bytes: u64,
    is_whole: bool,
}

impl<V: Service, C: Clock> Drop for Record<'_, V, C> {
    fn drop(&mut self) {
        let took = self.to.map_or(Duration::ZERO, |(_, begun)| self.clock.now().saturating_sub(begun));
        let (request, status, bytes) = (self.to.map(|(request, _)| request), self.status, self.bytes);
        self.service.answered(&Exchange { request, status, bytes, took, is_whole: self.is_whole });
    }
}

struct Client<'a, S, C> {
    stream: &'a mut S,
    clock: &'a C,
    seat: &'a PoolGuard<'a>,
    stop: &'a Stop,
    limits: &'a Limits,
}

/// How an answer is given.
struct Form {
    /// With its content.
    content: bool,
    keep_alive: bool,
    is_1_0: bool,
}

impl<S: Stream, C: Clock> Client<'_, S, C> {
    async fn requests(&mut self, buffer: &mut [u8], service: &impl Service) -> End {
        // Bytes that have come and were not used.
        let mut filled = 0;
        let mut timeout = self.limits.first;
        loop {
            let head = match self.head(buffer, &mut filled, timeout).await {
                Ok(head) => head,
                Err(end) => return end,
            };
            let end = head.end;
            match self.request(&buffer[head], &buffer[end..filled], service).await {
                Ok(content) => {
                    buffer.copy_within(end + content..filled, 0);
                    filled -= end + content;
                }
                Err(end) => return end,
            }
            timeout = self.limits.idle;
        }
    }

    /// A whole head in the buffer.
    async fn head(&mut self, buffer: &mut [u8], filled: &mut usize, timeout: Duration) -> Result<Range<usize>, End> {
        let mut since = self.clock.now();
        let mut deadline = since + if *filled > 0 { self.limits.request } else { timeout };
        let mut scanner = Scanner::new();
        loop {
            if let Some(head) = scanner.scan(&buffer[..*filled]).map_err(End::Refused)? {
                return Ok(head);
            }
            if *filled == buffer.len() {
                return Err(End::Refused(scanner.too_long()));
            }
            let begun = *filled > 0;
            match self.read(&mut buffer[*filled..], since, deadline).await {
                Ok(len) => *filled += len,
                // Who has asked for nothing is told nothing.
                Err(End::Refused(Refusal::Late)) if !begun => return Err(End::Close(Ended::Idle)),
                Err(End::Refused(_)) if !begun => return Err(End::Close(Ended::Closed)),
                Err(end) => return Err(end),
            }
            if !begun {
                since = self.clock.now();
                deadline = since + self.limits.request;
            }
        }
    }

    /// Waits for the client, who has been waited for since `since`.
    async fn read(&mut self, to: &mut [u8], since: Duration, deadline: Duration) -> Result<usize, End> {
        let read = by(self.clock, deadline, self.stream.read(to));
        let read = before(self.stop.wait(), self.seat.wait_since(since, read));
        match read.await {
            // The server stops.
            None => Err(End::Close(Ended::Stopped)),
            // Others need the place.
            Some(None) => Err(End::Abort(Ended::Evicted)),
            Some(Some(None)) => Err(End::Refused(Refusal::Late)),
            Some(Some(Some(Err(_)))) => Err(End::Abort(Ended::Reset)),
            Some(Some(Some(Ok(0)))) => Err(End::Refused(Refusal::Incomplete)),
            Some(Some(Some(Ok(len)))) => Ok(len),
        }
    }

    /// Answers a request. Returns how many of the bytes `behind` its head are its content.
    async fn request(&mut self, head: &[u8], behind: &[u8], service: &impl Service) -> Result<usize, End> {
        let request = Request::parse(head).map_err(End::Refused)?;
        if request.content > self.limits.content {
            return Err(End::Refused(Refusal::ContentTooLarge));
        }
        let mut rest = match request.is_chunked {
            true => Rest::Chunked(Chunked::new(self.limits.content)),
            false => Rest::Bytes(request.content),
        };
        let content = rest.follow(behind).map_err(End::Refused)?;
        let mut keep_alive = request.keep_alive;
        let is_safe = matches!(request.method, Method::Get | Method::Head | Method::Other("OPTIONS"));
        if request.expects_continue && (content > 0 || !is_safe) {
            // It gets its answer instead of leave to send content. Whether that comes all the same, or what has come is
            // it, is not certain, so nothing else can be read (RFC 9110, 10.1.1).
            keep_alive = false;
        } else {
            // Content that changes nothing may come, by which the connection stays.
            if request.expects_continue {
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n", None::<&mut Nothing>).await?;
            }
            self.discard(rest).await?;
        }
        let form = Form {
            content: request.method != Method::Head,
            keep_alive: keep_alive && !self.stop.is_set(),
            is_1_0: request.is_1_0,
        };
        let keep_alive = form.keep_alive;
        let (stop, clock, timeout) = (self.stop, self.clock, self.limits.stop);
        let stop = async {
            stop.wait().await;
            clock.sleep(timeout).await;
        };
        let answer = async {
            let begun = clock.now();
            let answer = by(clock, begun + self.limits.answer, service.answer(&request)).await;
            self.send(service, answer.ok_or(End::Refused(Refusal::Busy))?, form, Some((&request, begun))).await
        };
        before(stop, answer).await.unwrap_or(Err(End::Abort(Ended::Stopped)))?;
        if keep_alive { Ok(content) } else { Err(End::Close(Ended::Closed)) }
    }

    /// Receives content, which nobody is interested in, and nothing behind it.
    async fn discard(&mut self, mut rest: Rest) -> Result<(), End> {
        let since = self.clock.now();
        let mut bytes = [0; 256];
        while rest.least() > 0 {
            let most = rest.least().min(bytes.len() as u64) as usize;
            let len = self.read(&mut bytes[..most], since, since + self.limits.request).await?;
            rest.follow(&bytes[..len]).map_err(End::Refused)?;
        }
        Ok(())
    }

    /// Sends an answer to a request that was whole at that time, and tells the service of it.
    async fn send<'s, V: Service>(
        &mut self,
        service: &'s V,
        mut response: Response<V::Content<'s>>,
        form: Form,
        to: Option<(&Request<'_>, Duration)>,
    ) -> Result<(), End> {
        self.seat.begin_answer();
        let head = response.head(form.keep_alive, form.is_1_0, service.date());
        let mut content = response.content.take();
        let mut record = Record { service, clock: self.clock, to, status: response.status, bytes: 0, is_whole: false };
        self.write(head.as_bytes(), content.as_mut()).await?;
        drop(head);
        if let Some(mut content) = content.filter(|_| form.content) {
            let mut left = content.length();
            let mut room = 0;
            while left > 0 {
                let wished = left.min(self.limits.piece as u64) as usize;
                // What there was room for is used up before more is waited for.
                if room == 0 {
                    room = self.room(wished, Some(&mut content)).await?;
                }
                let most = room.min(wished);
                let bytes = by(self.clock, self.clock.now() + self.limits.answer, content.next(most)).await.flatten();
                let bytes = bytes.filter(|bytes| (1..=most).contains(&bytes.len())).ok_or(End::Abort(Ended::Failed))?;
                self.stream.write_all(bytes).await.map_err(|_| End::Abort(Ended::Reset))?;
                self.seat.sent(bytes.len());
                left -= bytes.len() as u64;
                room -= bytes.len();
                record.bytes += bytes.len() as u64;
            }
        }
        record.is_whole = true;
        Ok(())
    }

    /// Writes what stands before `content`.
    async fn write(&mut self, bytes: &[u8], mut content: Option<&mut impl Content>) -> Result<(), End> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.room(rest.len(), content.as_deref_mut()).await?.min(rest.len());
            self.stream.write_all(&rest[..room]).await.map_err(|_| End::Abort(Ended::Reset))?;
            rest = &rest[room..];
        }
        Ok(())
    }

    /// Waits until the client has taken so much that something can be written without waiting. So what is read for it
    /// takes memory while it is copied, and not while it is under way.
    async fn room(&mut self, wished: usize, content: Option<&mut impl Content>) -> Result<usize, End> {
        let since = self.clock.now();
        let pause = by(self.clock, since + self.limits.pause, self.stream.room(wished));
        let mut room = self.seat.wait_since(since, pause).await.ok_or(End::Abort(Ended::Evicted))?;
        if room.is_none() {
            content.map(Content::pause);
            let progress = by(self.clock, since + self.limits.progress, self.stream.room(wished.min(SLOW)));
            room = self.seat.wait_since(since, progress).await.ok_or(End::Abort(Ended::Evicted))?;
        }
        self.seat.waited(self.clock.now() - since);
        room.ok_or(End::Abort(Ended::Slow))?.map_err(|_| End::Abort(Ended::Reset))
    }

    /// Ends this side, and waits for the client to end its own: if it were cut while the client still sends, the client
    /// could lose the last answer (RFC 9112, 9.6).
    async fn linger(&mut self) {
        self.stream.close();
        let since = self.clock.now();
        let mut bytes = [0; 256];
        let mut left = self.limits.content;
        let rest = async {
            while let Ok(len @ 1..) = self.stream.read(&mut bytes).await {
                left = left.saturating_sub(len as u64);
                if left == 0 {
                    return false;
                }
            }
            self.stream.flush().await.is_ok()
        };
        let over = self.seat.wait_since(since, by(self.clock, since + self.limits.linger, rest));
        let (stop, clock) = (self.stop, self.clock);
        let stop = async {
            stop.wait().await;
            clock.sleep(Duration::from_millis(300)).await;
        };
        if before(stop, over).await != Some(Some(Some(true))) {
            self.stream.abort();
        }
    }
}
