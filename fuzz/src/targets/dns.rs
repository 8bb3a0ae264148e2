//! A stack's questions for names, to a DNS server that answers anything.

use std::net::Ipv4Addr;
use std::time::Duration;

use embassy_net::Stack;
use embassy_net::dns::DnsQueryType;
use futures_util::future::{Either, select};
use sarab_net::{Config, Ipv4Cidr, Route};

use crate::input::Input;
use crate::stack::{Network, arp_answer, run as run_stack, udp};

pub(super) const SHORT: u32 = 150;

const MESSAGE: usize = 14 + 20 + 8;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let address = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 9];
    let name = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4, 1, b'b', 0xc0, 14];
    let looped = [0xc0, 29, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 9];
    let answer = |records: &[&[u8]]| {
        let bytes = records.concat();
        [&[0x81, 0x80, records.len() as u8, bytes.len() as u8][..], &bytes].concat()
    };
    vec![answer(&[&address]), answer(&[&name, &address]), answer(&[&looped]), answer(&[&name, &name, &name])]
}

pub(super) fn run(data: &[u8]) {
    let bytes = data.to_vec();
    let server = Ipv4Addr::new(10, 0, 0, 1);
    let config = Config {
        routes: vec![Route::default_via(server)],
        name_servers: vec![server.into()],
        ..Config::static_v4(Ipv4Cidr::new(Ipv4Addr::new(10, 0, 0, 2), 24))
    };
    run_stack(config, async move |network, stack| {
        let script = std::pin::pin!(talk(&bytes, &network));
        let questions = std::pin::pin!(ask(stack));
        if let Either::Left(((), questions)) = select(script, questions).await {
            // It gives up by itself where nobody answers.
            questions.await;
        }
    });
}

async fn ask(stack: Stack<'_>) {
    for (name, kind) in [("www.example.org", DnsQueryType::A), ("a", DnsQueryType::Aaaa), ("b.c", DnsQueryType::A)] {
        if let Ok(addresses) = stack.dns_query(name, kind).await {
            for address in addresses {
                let v4 = matches!(address, embassy_net::IpAddress::Ipv4(_));
                assert_eq!(v4, matches!(kind, DnsQueryType::A));
            }
        }
    }
}

async fn talk(data: &[u8], network: &Network) {
    let mut input = Input(data);
    while !input.0.is_empty() {
        network.pause(Duration::from_millis(5)).await;
        let mut asked = false;
        for frame in network.sent() {
            if let Some(answer) = arp_answer(&frame) {
                network.send(answer);
            } else if frame.get(36..38) == Some(&[0, 53]) && frame.len() > MESSAGE + 12 {
                asked = true;
                let port = u16::from_be_bytes([frame[34], frame[35]]);
                network.send(udp(([10, 0, 0, 1], 53), ([10, 0, 0, 2], port), &answer(&frame[MESSAGE..], &mut input)));
            }
        }
        if !asked {
            input.byte();
            network.pause(Duration::from_millis(500)).await;
        }
    }
}

/// The question, with flags, counts and records of the input's.
fn answer(question: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let flags = [input.byte(), input.byte()];
    let (count, len) = (input.byte(), input.byte());
    let mut message = question[..2].to_vec();
    message.extend(flags);
    message.extend([0, 1, 0, count, 0, 0, 0, 0]);
    message.extend(&question[12..]);
    message.extend((0..len).map(|_| input.byte()));
    for _ in 0..input.byte().saturating_sub(0xf8) {
        let at = usize::from(input.word() as u16) % message.len();
        message[at] = input.byte();
    }
    message
}
