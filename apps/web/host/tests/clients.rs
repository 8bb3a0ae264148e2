//! What the server makes of who asks: limits for each address, sites by the host that is asked for, and the access log.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use embedded_io_async::Write;
use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::network::stack::udp::{PacketMetadata, UdpSocket};
use sarab::network::stack::{IpAddress, IpEndpoint};
use sarab::testing::{Guest, check};
use web::clients::Clients;
use web::hosts;

/// The peer's and the server's addresses.
const PEER: &str = "10.0.0.1/24";
const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 2);

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// What the server says to these bytes, on a connection of their own, until it ends that.
async fn ask(peer: Stack, request: &str) -> String {
    let (mut incoming, mut outgoing) = ([0; 8192], [0; 2048]);
    let mut socket = TcpSocket::new(peer, &mut incoming, &mut outgoing);
    socket.connect(IpEndpoint::new(SERVER, 80)).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let (mut answer, mut bytes) = (Vec::new(), [0; 4096]);
    while let Ok(len @ 1..) = socket.read(&mut bytes).await {
        answer.extend_from_slice(&bytes[..len]);
    }
    socket.close();
    let _ = socket.flush().await;
    String::from_utf8(answer).unwrap()
}

#[test]
fn each_address_has_so_much() {
    let second = Duration::from_secs(1);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let clients = Clients::new(2, 10);
    let first = clients.enter(address("10.0.0.1"), second).unwrap();
    let other = clients.enter(address("::ffff:10.0.0.1"), second).unwrap();
    assert!(clients.enter(address("10.0.0.1"), second).is_none());
    assert!(clients.enter(address("10.0.0.2"), second).is_some());
    drop(first);
    assert!(clients.enter(address("10.0.0.1"), second).is_some());
    // Those of two seconds at once, and then ten in each; on whichever connection.
    let count = |at: Duration| (0..100).filter(|_| other.request(at)).count();
    assert_eq!([count(second), count(second), count(second * 2), count(second * 20)], [20, 0, 10, 20]);
    assert!(clients.enter(address("10.0.0.1"), second * 20).is_none(), "nothing of it would be answered");
    // One client may have all of its network.
    let network: Vec<_> =
        (1..4).map(|host: u64| clients.enter(Ipv6Addr::from_bits(host.into()).into(), second)).collect();
    assert!(network[0].is_some() && network[1].is_some() && network[2].is_none());
    assert!(clients.enter(address("2001:db8:0:1::1"), second).is_some());
    // Without limits nothing is refused, and nothing remembered.
    let free = Clients::new(0, 0);
    let all: Vec<_> = (0..1000).map(|_| free.enter(address("10.0.0.1"), second).unwrap()).collect();
    assert!(all.iter().all(|visit| visit.request(second)) && free.known() == 0);
}

/// However many addresses there are, only so many are remembered; and never is one forgotten that is connected.
#[test]
fn addresses_are_forgotten() {
    let clients = Clients::new(1, 1);
    let address = |number: u32| IpAddr::from(number.to_be_bytes());
    let connected = clients.enter(address(0), Duration::ZERO).unwrap();
    for number in 1..5000 {
        assert!(clients.enter(address(number), Duration::from_millis(number.into())).is_some());
        assert!(clients.known() <= 1024);
    }
    assert!(clients.enter(address(0), Duration::from_secs(6)).is_none());
    drop(connected);
    assert!(clients.enter(address(0), Duration::from_secs(6)).is_some());
}

#[test]
fn folders_of_hosts() {
    let long = format!("{}.example", "x".repeat(64));
    for (host, expected) in [
        ("a.example", Some("a.example")),
        ("A.Example.:8080", Some("a.example")),
        ("xn--bcher-kva.example:", Some("xn--bcher-kva.example")),
        ("10.0.0.2", Some("10.0.0.2")),
        ("", None),
        (".", None),
        ("..", None),
        (".hidden", None),
        ("a..b", None),
        ("a/b", None),
        ("..%2f", None),
        ("[::1]:80", None),
        ("a:b", None),
        (&long, None),
    ] {
        assert_eq!(hosts::folder(host).as_deref(), expected, "{host}");
    }
}

#[test]
fn each_host_has_its_site() {
    check("hosts", 3, |xen| {
        let site = archive(&[
            ("index.html", "not served"),
            ("default/index.html", "of others"),
            ("default/other.txt", "only there"),
            ("default/404.html", "no page of others"),
            ("a.example/index.html", "of a"),
            ("a.example/docs/index.html", "docs of a"),
            ("a.example/404.html", "no page of a"),
            ("empty.example/file.txt", "no site"),
        ]);
        let command_line = "ip=10.0.0.2/24 connections=4 hosts=default";
        let guest = Guest::new(xen).command_line(command_line).read_only_disk("xvda", site).network();
        xen.run(async move {
            let running = guest.start(web::main).await;
            let peer = running.peer::<4>(PEER).await;
            running.wait_for("web: ready on port 80\n").await;
            for (target, host, status, expected) in [
                ("/", "a.example", 200, "of a"),
                ("/", "A.EXAMPLE.:80", 200, "of a"),
                ("http://a.example/", "b.example", 200, "of a"),
                ("/", "b.example", 200, "of others"),
                ("/", "", 200, "of others"),
                ("/", "[fd00::2]:80", 200, "of others"),
                ("/other.txt", "b.example", 200, "only there"),
                ("/other.txt", "a.example", 404, "no page of a"),
                ("/none", "b.example", 404, "no page of others"),
                ("/docs", "a.example", 301, "Location: /docs/\r\n"),
                ("/../default/index.html", "a.example", 400, "no name"),
                ("/index.html", "empty.example", 200, "of others"),
                ("/file.txt", "empty.example", 200, "no site"),
                ("/metrics", "a.example", 200, "web_requests_total"),
            ] {
                let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                let answer = ask(peer, &request).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{answer}");
                assert!(answer.contains(expected), "{request}{answer}");
            }
            running.shutdown().await;
            running.ended().await;
        });
    });
}

#[test]
fn who_has_had_too_much_is_told_so() {
    check("limits", 3, |xen| {
        let command_line = "ip=10.0.0.2/24 connections=8 client-connections=2 client-rate=2";
        let guest = Guest::new(xen).command_line(command_line).read_only_disk("xvda", archive(&[("index.html", "x")]));
        let guest = guest.network();
        xen.run(async move {
            let running = guest.start(web::main).await;
            let peer = running.peer::<6>(PEER).await;
            running.wait_for("web: ready on port 80\n").await;
            let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            let last = "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let answers = ask(peer, &(get.repeat(5) + last)).await;
            let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
            assert_eq!(statuses, ["200", "200", "200", "200", "429", "429"], "{answers}");
            assert!(answers.contains("Retry-After: 1\r\n"));
            running.sleep(Duration::from_secs(3)).await;
            let mut buffers = [([0; 1024], [0; 1024]), ([0; 1024], [0; 1024])];
            let [(first_in, first_out), (second_in, second_out)] = &mut buffers;
            let mut first = TcpSocket::new(peer, first_in, first_out);
            let mut second = TcpSocket::new(peer, second_in, second_out);
            first.connect(IpEndpoint::new(SERVER, 80)).await.unwrap();
            second.connect(IpEndpoint::new(SERVER, 80)).await.unwrap();
            assert!(ask(peer, "").await.starts_with("HTTP/1.1 503 "));
            first.close();
            first.flush().await.unwrap();
            let mut answer = String::new();
            for _ in 0..20 {
                answer = ask(peer, last).await;
                if answer.starts_with("HTTP/1.1 200 ") {
                    break;
                }
                running.sleep(Duration::from_millis(100)).await;
            }
            assert!(answer.contains("web_clients_limited_total{what=\"connections\"} "), "{answer}");
            assert!(!answer.contains("web_clients_limited_total{what=\"connections\"} 0\n"), "{answer}");
            assert!(answer.contains("web_clients_limited_total{what=\"requests\"} 2\n"), "{answer}");
            running.shutdown().await;
            running.ended().await;
        });
    });
}

#[test]
fn each_answer_is_logged() {
    check("a log", 3, |xen| {
        let command_line = "ip=10.0.0.2/24 connections=4 log=udp:10.0.0.1";
        let guest =
            Guest::new(xen).command_line(command_line).read_only_disk("xvda", archive(&[("index.html", "hello")]));
        let guest = guest.network();
        xen.run(async move {
            let running = guest.start(web::main).await;
            let peer = running.peer::<6>(PEER).await;
            running.wait_for("web: ready on port 80\n").await;
            let (mut incoming, mut outgoing) = ([0; 8192], [0; 64]);
            let (mut from, mut to) = ([PacketMetadata::EMPTY; 16], [PacketMetadata::EMPTY; 1]);
            let mut server = UdpSocket::new(peer, &mut from, &mut incoming, &mut to, &mut outgoing);
            server.bind(514).unwrap();
            for (request, expected) in [
                (
                    "GET /?a HTTP/1.1\r\nHost: a\r\nReferer: http://b/\r\nUser-Agent: x \"y\"\\\u{1b}[0mü\r\n",
                    // A control character is no part of a request that is answered.
                    "\"-\" 400 ",
                ),
                (
                    "GET /?a HTTP/1.1\r\nHost: a\r\nReferer: http://b/\r\nUser-Agent: x \"y\"\\ü\r\n",
                    "\"GET /?a HTTP/1.1\" 200 5 \"http://b/\" \"x \\x22y\\x22\\x5C\\xC3\\xBC\" 0.",
                ),
                ("HEAD / HTTP/1.1\r\nHost: a\r\n", "\"HEAD / HTTP/1.1\" 200 0 \"-\" \"-\" 0."),
                ("GET /none HTTP/1.0\r\n", "\"GET /none HTTP/1.0\" 404 "),
            ] {
                ask(peer, &format!("{request}Connection: close\r\n\r\n")).await;
                let mut line = [0; 2000];
                let (len, _) = server.recv_from(&mut line).await.unwrap();
                let line = str::from_utf8(&line[..len]).unwrap();
                assert!(line.starts_with("<134>1 2026-01-01T00:0"), "{line}");
                assert!(line.contains("Z - web - - - 10.0.0.1 - - [01/Jan/2026:00:0"), "{line}");
                assert!(line.contains(&format!(" +0000] {expected}")), "{line}");
            }
            let metrics = ask(peer, "GET /metrics HTTP/1.0\r\n\r\n").await;
            assert!(metrics.contains("web_log_lines_total{result=\"written\"} 4\n"), "{metrics}");
            running.shutdown().await;
            running.ended().await;
        });
    });
}

/// To the console there are only so many lines, whatever clients do.
#[test]
fn a_log_on_the_console_is_bounded() {
    check("a console", 2, |xen| {
        let command_line = "ip=10.0.0.2/24 connections=4 log=console";
        let guest = Guest::new(xen).command_line(command_line).read_only_disk("xvda", archive(&[("index.html", "x")]));
        let guest = guest.network();
        xen.run(async move {
            let running = guest.start(web::main).await;
            let peer = running.peer::<4>(PEER).await;
            running.wait_for("web: ready on port 80\n").await;
            let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            let last = "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let metrics = ask(peer, &(get.repeat(50) + last)).await;
            assert!(metrics.contains("web_log_lines_total{result=\"missed\"} 0\n"), "{metrics}");
            for _ in 0..8 {
                ask(peer, &(get.repeat(50) + last)).await;
            }
            running.sleep(Duration::from_secs(5)).await;
            ask(peer, last).await;
            running.wait_for(" requests were not logged\n").await;
            running.shutdown().await;
            let ended = running.ended().await;
            let lines = ended.console().matches("\"GET / HTTP/1.1\" 200 1 ").count();
            assert!((50..250).contains(&lines), "{lines}");
        });
    });
}
