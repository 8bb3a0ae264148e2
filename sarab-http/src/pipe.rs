//! A connection in memory: what a server is tested on.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

use embedded_io_async::{ErrorKind, ErrorType, Read, Write};

use crate::Stream;

/// The server's end.
#[derive(Debug)]
pub struct Server(Rc<RefCell<State>>);

/// The client's end. Where it is dropped, it is as if its machine had gone.
#[derive(Debug)]
pub struct Client(Rc<RefCell<State>>);

/// How the server's side has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has not.
    Open,
    /// It sends no more.
    Closed,
    /// It was cut.
    Aborted,
}

#[derive(Debug)]
struct State {
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// Bytes that may be on their way, in each direction.
    capacity: usize,
    client_closed: bool,
    end: End,
    wakers: Vec<Waker>,
}

impl State {
    /// Whoever waits looks again.
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        if !self.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Both ends of a connection on which so many bytes may be under way in each direction.
pub fn pipe(capacity: usize) -> (Server, Client) {
    let state = Rc::new(RefCell::new(State {
        to_server: VecDeque::new(),
        to_client: VecDeque::new(),
        capacity,
        client_closed: false,
        end: End::Open,
        wakers: Vec::new(),
    }));
    (Server(state.clone()), Client(state))
}

/// The connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

impl core::fmt::Display for Aborted {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the connection was cut")
    }
}

impl core::error::Error for Aborted {}

impl embedded_io_async::Error for Aborted {
    fn kind(&self) -> ErrorKind {
        ErrorKind::ConnectionReset
    }
}

impl ErrorType for Server {
    type Error = Aborted;
}

impl Read for Server {
    async fn read(&mut self, to: &mut [u8]) -> Result<usize, Aborted> {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.end == End::Aborted {
                return Poll::Ready(Err(Aborted));
            }
            if state.to_server.is_empty() && !state.client_closed && !to.is_empty() {
                return state.wait(cx);
            }
            let len = to.len().min(state.to_server.len());
            to.iter_mut().zip(state.to_server.drain(..len)).for_each(|(to, byte)| *to = byte);
            state.wake();
            Poll::Ready(Ok(len))
        })
        .await
    }
}

impl Write for Server {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Aborted> {
        let room = self.room(1).await?.min(bytes.len());
        let mut state = self.0.borrow_mut();
        state.to_client.extend(&bytes[..room]);
        state.wake();
        Ok(room)
    }

    async fn flush(&mut self) -> Result<(), Aborted> {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            match state.end != End::Aborted && !state.to_client.is_empty() {
                true => state.wait(cx),
                false => Poll::Ready(Ok(())),
            }
        })
        .await
    }
}

impl Stream for Server {
    async fn room(&mut self, wished: usize) -> Result<usize, Aborted> {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.end != End::Open {
                return Poll::Ready(Err(Aborted));
            }
            let room = state.capacity - state.to_client.len();
            match room > 0 && room >= wished.min(state.capacity / 2) {
                true => Poll::Ready(Ok(room)),
                false => state.wait(cx),
            }
        })
        .await
    }

    fn close(&mut self) {
        let mut state = self.0.borrow_mut();
        if state.end == End::Open {
            state.end = End::Closed;
        }
        state.wake();
    }

    fn abort(&mut self) {
        let mut state = self.0.borrow_mut();
        state.end = End::Aborted;
        state.wake();
    }
}

impl Client {
    /// Sends all of it; what the server does not take is lost once it has cut the connection.
    pub async fn send(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            poll_fn(|cx| {
                let mut state = self.0.borrow_mut();
                let room = state.capacity - state.to_server.len();
                if state.end == End::Aborted {
                    rest = &[];
                } else if room == 0 {
                    return state.wait(cx);
                }
                let (now, later) = rest.split_at(room.min(rest.len()));
                state.to_server.extend(now);
                rest = later;
                state.wake();
                Poll::Ready(())
            })
            .await;
        }
    }

    /// Sends nothing more.
    pub fn close(&self) {
        let mut state = self.0.borrow_mut();
        state.client_closed = true;
        state.wake();
    }

    /// Receives up to so many bytes; none where the server has ended.
    pub async fn receive(&self, most: usize) -> Vec<u8> {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.to_client.is_empty() && state.end == End::Open {
                return state.wait(cx);
            }
            let len = most.min(state.to_client.len());
            let bytes = state.to_client.drain(..len).collect();
            state.wake();
            Poll::Ready(bytes)
        })
        .await
    }

    /// Receives all that comes until the server has ended.
    pub async fn rest(&self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let part = self.receive(usize::MAX).await;
            if part.is_empty() {
                return all;
            }
            all.extend(part);
        }
    }

    /// How the server's side is.
    pub fn end(&self) -> End {
        self.0.borrow().end
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.end = End::Aborted;
        state.wake();
    }
}
