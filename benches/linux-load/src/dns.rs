//! A name server that knows a few names.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, anyhow};
use domain::base::iana::{Rcode, Rtype};
use domain::base::message_builder::MessageBuilder;
use domain::base::{Message, Ttl};
use domain::rdata::{A, Aaaa};

const TTL: Ttl = Ttl::from_secs(30);

/// Answers with the addresses of `names`, each `NAME=ADDRESS`; a name may be there several times. Others there are not.
pub fn serve(at: SocketAddr, names: &[&str]) -> Result<()> {
    let mut known = HashMap::<String, Vec<IpAddr>>::new();
    for name in names {
        let (name, address) = name.split_once('=').with_context(|| format!("{name}: expected NAME=ADDRESS"))?;
        known.entry(name.to_owned()).or_default().push(address.parse().with_context(|| address.to_owned())?);
    }
    let socket = UdpSocket::bind(at).with_context(|| at.to_string())?;
    println!("dns: {} names at {at}", known.len());
    let mut bytes = [0; 1500];
    loop {
        let (len, from) = socket.recv_from(&mut bytes)?;
        match answer(&bytes[..len], &known) {
            Ok(answer) => drop(socket.send_to(&answer, from)),
            Err(error) => println!("dns: {from}: {error:#}"),
        }
    }
}

fn answer(query: &[u8], known: &HashMap<String, Vec<IpAddr>>) -> Result<Vec<u8>> {
    let query = Message::from_octets(query).map_err(|_| anyhow!("not a message"))?;
    let question = query.sole_question()?;
    let name = question.qname().to_string().to_lowercase();
    println!("dns: {name} {}", question.qtype());
    let found = known.get(&name);
    let rcode = if found.is_some() { Rcode::NOERROR } else { Rcode::NXDOMAIN };
    let mut answer = MessageBuilder::new_vec().start_answer(&query, rcode)?;
    for address in found.into_iter().flatten() {
        match (address, question.qtype()) {
            (IpAddr::V4(address), Rtype::A) => answer.push((question.qname(), TTL, A::from(*address)))?,
            (IpAddr::V6(address), Rtype::AAAA) => answer.push((question.qname(), TTL, Aaaa::from(*address)))?,
            _ => {}
        }
    }
    Ok(answer.finish())
}
