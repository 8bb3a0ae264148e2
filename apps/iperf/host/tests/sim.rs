//! The whole server on this machine, in a simulated Xen, with a client that speaks as iperf3's does (iperf_api.h). Each run has a
//! seed; where one fails, its seed is printed.

use std::time::Duration;

use embedded_io_async::{Read, Write};
use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::network::stack::udp::{PacketMetadata, UdpSocket};
use sarab::network::stack::{IpAddress, IpEndpoint};
use sarab::testing::{End, Faults, Guest, Running, check};
use serde_json::Value;

const SERVER: IpEndpoint = IpEndpoint::new(IpAddress::v4(10, 0, 0, 2), 5201);
const COOKIE: [u8; 37] = *b"the cookie of a test in a simulation\0";

/// The states of a test, as both ends tell them.
const TEST_START: u8 = 1;
const TEST_RUNNING: u8 = 2;
const TEST_END: u8 = 4;
const PARAM_EXCHANGE: u8 = 9;
const CREATE_STREAMS: u8 = 10;
const EXCHANGE_RESULTS: u8 = 13;
const DISPLAY_RESULTS: u8 = 14;
const IPERF_DONE: u8 = 16;

/// Memory of a socket.
#[derive(Clone)]
struct Buffers {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Buffers {
    fn new() -> Buffers {
        Buffers { incoming: vec![0; 16 << 10], outgoing: vec![0; 16 << 10] }
    }

    async fn connect(&mut self, peer: Stack) -> TcpSocket<'_> {
        let mut socket = TcpSocket::new(peer, &mut self.incoming, &mut self.outgoing);
        socket.connect(SERVER).await.unwrap();
        socket.write_all(&COOKIE).await.unwrap();
        socket
    }
}

/// The client's control connection.
struct Control<'a>(TcpSocket<'a>);

impl Control<'_> {
    /// Begins a test, up to where its streams are to be made.
    async fn begin<'a>(buffers: &'a mut Buffers, peer: Stack, parameters: &str) -> Control<'a> {
        let mut control = Control(buffers.connect(peer).await);
        control.expect(PARAM_EXCHANGE).await;
        control.write_text(parameters).await;
        control.expect(CREATE_STREAMS).await;
        control
    }

    /// The streams are there.
    async fn running(&mut self) {
        self.expect(TEST_START).await;
        self.expect(TEST_RUNNING).await;
    }

    /// Ends the test, and returns what the server says of its streams.
    async fn end(mut self) -> Value {
        self.0.write_all(&[TEST_END]).await.unwrap();
        self.expect(EXCHANGE_RESULTS).await;
        self.write_text("{\"streams\":[]}").await;
        let mut length = [0; 4];
        self.0.read_exact(&mut length).await.unwrap();
        let mut text = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut text).await.unwrap();
        self.expect(DISPLAY_RESULTS).await;
        self.0.write_all(&[IPERF_DONE]).await.unwrap();
        self.0.flush().await.unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    async fn expect(&mut self, state: u8) {
        let mut found = [0];
        self.0.read_exact(&mut found).await.unwrap();
        assert_eq!(found[0], state);
    }

    async fn write_text(&mut self, text: &str) {
        self.0.write_all(&(text.len() as u32).to_be_bytes()).await.unwrap();
        self.0.write_all(text.as_bytes()).await.unwrap();
    }
}

/// Runs a test of a server that listens, and shuts it down.
fn with_server(name: &str, seeds: u64, test: impl AsyncFn(Stack, Running) + Copy + Sync + 'static) {
    check(name, seeds, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let guest = Guest::new(xen).network().command_line("ip=10.0.0.2/24 buffer=16K");
        xen.run(async move {
            let running = guest.start(iperf::main).await;
            let peer = running.peer::<6>("10.0.0.1/24").await;
            running.wait_for("iperf: ready on port 5201\n").await;
            test(peer, running.clone()).await;
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn streams_of_tcp_to_the_server_are_counted() {
    with_server("received", 10, async |peer, running| {
        let (mut buffers, mut first, mut second) = (Buffers::new(), Buffers::new(), Buffers::new());
        let mut control = Control::begin(&mut buffers, peer, "{\"tcp\":true,\"parallel\":2}").await;
        let mut streams = [first.connect(peer).await, second.connect(peer).await];
        control.running().await;
        for (stream, size) in streams.iter_mut().zip([200_000, 50_000]) {
            stream.write_all(&vec![1; size]).await.unwrap();
            stream.flush().await.unwrap();
        }
        let results = control.end().await;
        let counts: Vec<_> = [0, 1].map(|stream| results["streams"][stream]["bytes"].as_u64().unwrap()).into();
        // The server takes them in the order in which they come.
        assert_eq!((counts.iter().sum(), counts.iter().max()), (250_000_u64, Some(&200_000)), "{results}");
        running.wait_for("iperf: TCP received, 2 streams: 250000 bytes in ").await;
    });
}

#[test]
fn the_server_sends_over_tcp() {
    with_server("sent", 10, async |peer, running| {
        let (mut buffers, mut stream) = (Buffers::new(), Buffers::new());
        let mut control = Control::begin(&mut buffers, peer, "{\"tcp\":true,\"parallel\":1,\"reverse\":true}").await;
        let mut stream = stream.connect(peer).await;
        control.running().await;
        stream.read_exact(&mut vec![0; 100_000]).await.unwrap();
        let results = control.end().await;
        assert!(results["streams"][0]["bytes"].as_u64().unwrap() >= 100_000, "{results}");
        running.wait_for("iperf: TCP sent, 1 streams: ").await;
    });
}

/// The socket of the client's stream, which the server has answered.
async fn greet(socket: &UdpSocket<'_>) {
    socket.send_to(&0x3637_3839_u32.to_ne_bytes(), SERVER).await.unwrap();
    let mut answer = [0; 4];
    let (len, _) = socket.recv_from(&mut answer).await.unwrap();
    assert_eq!((len, answer), (4, 0x3938_3736_u32.to_ne_bytes()));
}

#[test]
fn packets_of_udp_that_are_lost_are_counted() {
    with_server("UDP received", 10, async |peer, running| {
        let (mut buffers, mut memory) = (Buffers::new(), Buffers::new());
        let parameters = "{\"udp\":true,\"parallel\":1,\"len\":1000}";
        let mut control = Control::begin(&mut buffers, peer, parameters).await;
        let (mut first, mut second) = ([PacketMetadata::EMPTY; 16], [PacketMetadata::EMPTY; 16]);
        let mut socket = UdpSocket::new(peer, &mut first, &mut memory.incoming, &mut second, &mut memory.outgoing);
        socket.bind(4000).unwrap();
        greet(&socket).await;
        control.running().await;
        for number in (1..=12_u32).filter(|number| ![3, 4].contains(number)) {
            let mut packet = [0; 1000];
            packet[4..8].copy_from_slice(&(number * 1000).to_be_bytes());
            packet[8..12].copy_from_slice(&number.to_be_bytes());
            socket.send_to(&packet, SERVER).await.unwrap();
            running.sleep(Duration::from_millis(1)).await;
        }
        running.sleep(Duration::from_millis(50)).await;
        let results = control.end().await;
        let stream = &results["streams"][0];
        let found = ["bytes", "packets", "errors"].map(|key| stream[key].as_u64());
        assert_eq!(found, [Some(10_000), Some(12), Some(2)], "{results}");
        running.wait_for("iperf: UDP received, 1 streams: 10000 bytes in ").await;
    });
}

#[test]
fn the_server_sends_over_udp_as_fast_as_it_is_asked_to() {
    with_server("UDP sent", 10, async |peer, running| {
        let (mut buffers, mut memory) = (Buffers::new(), Buffers::new());
        // A packet in a millisecond.
        let parameters = "{\"udp\":true,\"parallel\":1,\"len\":1000,\"bandwidth\":8000000,\"reverse\":true}";
        let mut control = Control::begin(&mut buffers, peer, parameters).await;
        let (mut first, mut second) = ([PacketMetadata::EMPTY; 16], [PacketMetadata::EMPTY; 16]);
        let mut socket = UdpSocket::new(peer, &mut first, &mut memory.incoming, &mut second, &mut memory.outgoing);
        socket.bind(4000).unwrap();
        greet(&socket).await;
        control.running().await;
        for expected in 1..=100 {
            let mut packet = [0; 1000];
            let (len, _) = socket.recv_from(&mut packet).await.unwrap();
            let number = u32::from_be_bytes(packet[8..12].try_into().unwrap());
            assert_eq!((len, number), (1000, expected));
        }
        let results = control.end().await;
        let stream = &results["streams"][0];
        let (packets, seconds) = (stream["packets"].as_u64().unwrap(), stream["end_time"].as_f64().unwrap());
        assert!((100..130).contains(&packets) && (0.09..0.13).contains(&seconds), "{results}");
        running.wait_for("iperf: UDP sent, 1 streams: ").await;
    });
}

/// The next client is served where the last one has made no test of it.
#[test]
fn clients_that_make_no_sense_end_their_own_test_alone() {
    with_server("errors", 10, async |peer, running| {
        for (parameters, why) in
            [("{\"tcp\":true,\"parallel\":33}", "more streams than 32, or none"), ("no JSON", "a text that is no JSON")]
        {
            let mut buffers = Buffers::new();
            let mut control = Control(buffers.connect(peer).await);
            control.expect(PARAM_EXCHANGE).await;
            control.write_text(parameters).await;
            assert_eq!(control.0.read(&mut [0]).await, Ok(0), "{parameters}");
            running.wait_for(&format!("iperf: a test has ended: {why}\n")).await;
        }
        // One that says nothing holds the server for no longer than ten seconds.
        let (mut silent, mut buffers) = (Buffers::new(), Buffers::new());
        let _silent = silent.connect(peer).await;
        running.wait_for("iperf: a test has ended: the client does not go on\n").await;
        // One that goes away in the middle of its test.
        let mut control = Control::begin(&mut buffers, peer, "{\"udp\":true,\"parallel\":1}").await;
        control.0.abort();
        control.0.flush().await.unwrap();
        running.wait_for("iperf: a test has ended: the client does not go on\niperf: a test has ended: ").await;
    });
}
