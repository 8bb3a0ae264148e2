//! What goes over a wire, as a capture that Wireshark and tcpdump read.

use core::cell::RefCell;
use core::task::Context;
use core::time::Duration;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken};

/// The classic format with times in nanoseconds (draft-ietf-opsawg-pcap, section 4), least significant byte first.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
/// Larger than any frame.
const SNAPLEN: u32 = 0x0004_0000;
const ETHERNET: u32 = 1;

/// What a capture begins with.
pub fn file_header() -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..6].copy_from_slice(&VERSION[0].to_le_bytes());
    bytes[6..8].copy_from_slice(&VERSION[1].to_le_bytes());
    bytes[16..20].copy_from_slice(&SNAPLEN.to_le_bytes());
    bytes[20..].copy_from_slice(&ETHERNET.to_le_bytes());
    bytes
}

/// What comes before each frame of `len` bytes.
pub fn record_header(time: Duration, len: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    let words = [time.as_secs() as u32, time.subsec_nanos(), len as u32, len as u32];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// A driver that writes down every frame of another, in both directions.
///
/// It is what the stack sees: large segments whole, and checksums of what it sends not made yet.
///
/// # Examples
///
/// ```
/// use core::time::Duration;
/// use xen_netif::back::Port;
/// use xen_netif::pcap::Capture;
///
/// /// A network device whose frames are written down.
/// fn capture(port: Port, mac: [u8; 6], file: &mut Vec<u8>) -> impl embassy_net_driver::Driver {
///     Capture::new(port.device(mac, 1500), || Duration::ZERO, |bytes: &[u8]| file.extend_from_slice(bytes))
/// }
/// ```
pub struct Capture<D, N, W> {
    driver: D,
    pen: RefCell<Sink<N, W>>,
}

/// Writes frames down.
struct Sink<N, W> {
    now: N,
    write: W,
}

/// A frame on its way, which is written down.
pub struct Token<'a, T, N, W> {
    token: T,
    pen: &'a RefCell<Sink<N, W>>,
}

impl<D, N: FnMut() -> Duration, W: FnMut(&[u8])> Capture<D, N, W> {
    /// Begins a capture. `now` tells the time since 1970, and `write` takes the capture's bytes, a few at a time.
    pub fn new(driver: D, now: N, mut write: W) -> Capture<D, N, W> {
        write(&file_header());
        Capture { driver, pen: RefCell::new(Sink { now, write }) }
    }
}

impl<N: FnMut() -> Duration, W: FnMut(&[u8])> Sink<N, W> {
    fn note(&mut self, frame: &[u8]) {
        // What the driver has found bad is shown as nothing.
        if !frame.is_empty() {
            (self.write)(&record_header((self.now)(), frame.len()));
            (self.write)(frame);
        }
    }
}

impl<D: Driver, N: FnMut() -> Duration, W: FnMut(&[u8])> Driver for Capture<D, N, W> {
    type RxToken<'a>
        = Token<'a, D::RxToken<'a>, N, W>
    where
        Self: 'a;
    type TxToken<'a>
        = Token<'a, D::TxToken<'a>, N, W>
    where
        Self: 'a;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let pen = &self.pen;
        let (frame, answer) = self.driver.receive(cx)?;
        Some((Token { token: frame, pen }, Token { token: answer, pen }))
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<Self::TxToken<'_>> {
        let pen = &self.pen;
        self.driver.transmit(cx).map(|token| Token { token, pen })
    }

    fn link_state(&mut self, cx: &mut Context<'_>) -> LinkState {
        self.driver.link_state(cx)
    }

    fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    fn hardware_address(&self) -> HardwareAddress {
        self.driver.hardware_address()
    }
}

impl<T: RxToken, N: FnMut() -> Duration, W: FnMut(&[u8])> RxToken for Token<'_, T, N, W> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, read: F) -> R {
        self.token.consume(|frame| {
            self.pen.borrow_mut().note(frame);
            read(frame)
        })
    }
}

impl<T: TxToken, N: FnMut() -> Duration, W: FnMut(&[u8])> TxToken for Token<'_, T, N, W> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        self.token.consume(len, |frame| {
            let value = write(frame);
            self.pen.borrow_mut().note(frame);
            value
        })
    }
}
