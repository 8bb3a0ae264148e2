//! Questions to name servers: as many as they answer, and whether two of them say the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use domain::base::iana::Rtype;
use domain::base::name::ToName;
use domain::base::{Message, Name, ParsedName};
use domain::rdata::AllRecordData;

/// Datagrams that are sent and received at once.
const BATCH: usize = 32;
const LARGEST: usize = 4096;

/// Questions of a file with `NAME TYPE [do]` in each line; all with EDNS but where it says `plain`.
fn questions(file: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| Ok((line.to_owned(), question(line)?))).collect()
}

fn question(line: &str) -> Result<Vec<u8>> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [name, qtype, ref options @ ..] = words[..] else { bail!("{line}: expected NAME TYPE") };
    let name = Name::<Vec<u8>>::from_str(name).with_context(|| line.to_owned())?;
    let qtype = Rtype::from_str(qtype).ok().with_context(|| line.to_owned())?;
    let edns = !options.contains(&"plain");
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    bytes.extend_from_slice(name.as_slice());
    bytes.extend_from_slice(&qtype.to_int().to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    if edns {
        let dnssec = if options.contains(&"do") { 0x80 } else { 0 };
        bytes.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, dnssec, 0, 0, 0]);
    }
    Ok(bytes)
}

fn socket(server: &str) -> Result<UdpSocket> {
    let server: SocketAddr = server.parse().with_context(|| server.to_owned())?;
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(server)?;
    Ok(socket)
}

/// Asks for so long, with so many questions on their way, and prints how many were answered in a second.
pub fn load(server: &str, time: Duration, in_flight: usize, file: &str) -> Result<()> {
    let questions = questions(file)?;
    ensure!(!questions.is_empty() && (1..=1024).contains(&in_flight), "no questions, or not 1 to 1024 on their way");
    let socket = socket(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut batch = Batch::new(&socket);
    let (mut sent, mut answered, mut lost, mut failed, mut outstanding) = (0u64, 0u64, 0u64, 0u64, 0);
    let begin = Instant::now();
    while begin.elapsed() < time {
        while outstanding < in_flight {
            let count = (in_flight - outstanding).min(BATCH);
            let group: Vec<_> = (0..count as u64)
                .map(|index| {
                    let number = sent + index;
                    let mut bytes = questions[number as usize % questions.len()].1.clone();
                    bytes[..2].copy_from_slice(&(number as u16).to_be_bytes());
                    bytes
                })
                .collect();
            let count = batch.send(&group)?;
            sent += count as u64;
            outstanding += count;
        }
        match batch.receive()? {
            // What has not come within the timeout does not come.
            None => {
                lost += outstanding as u64;
                outstanding = 0;
            }
            Some((count, bad)) => {
                answered += count as u64;
                failed += bad as u64;
                outstanding = outstanding.saturating_sub(count);
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(failed == 0, "{failed} of {answered} answers are errors");
    println!("{answered} answers, {lost} lost: {:.0} queries/s", answered as f64 / seconds);
    Ok(())
}

/// Room for many datagrams.
struct Batch<'a> {
    socket: &'a UdpSocket,
    buffers: Vec<[u8; LARGEST]>,
}

impl<'a> Batch<'a> {
    fn new(socket: &'a UdpSocket) -> Batch<'a> {
        Batch { socket, buffers: vec![[0; LARGEST]; BATCH] }
    }

    fn send(&mut self, group: &[Vec<u8>]) -> Result<usize> {
        use std::os::fd::AsRawFd;
        let mut parts: Vec<_> = group
            .iter()
            .map(|bytes| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() })
            .collect();
        let mut headers: Vec<_> = parts.iter_mut().map(header).collect();
        // SAFETY: the headers point to one vector each, these to bytes that live until it returns, which it reads.
        let count = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, 0) };
        ensure!(count > 0, "sendmmsg: {}", std::io::Error::last_os_error());
        Ok(count as usize)
    }

    /// How many came, and how many of them are errors; `None` where none came in time.
    fn receive(&mut self) -> Result<Option<(usize, usize)>> {
        use std::os::fd::AsRawFd;
        let mut parts: Vec<_> = self
            .buffers
            .iter_mut()
            .map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() })
            .collect();
        let mut headers: Vec<_> = parts.iter_mut().map(header).collect();
        let (fd, room) = (self.socket.as_raw_fd(), headers.len() as u32);
        // SAFETY: the headers point to one vector each, these to buffers of their lengths that nobody else uses meanwhile.
        let count =
            unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), room, libc::MSG_WAITFORONE, std::ptr::null_mut()) };
        if count <= 0 {
            let error = std::io::Error::last_os_error();
            return match error.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => Ok(None),
                _ => Err(error).context("recvmmsg"),
            };
        }
        let count = count as usize;
        let is_bad = |bytes: &&[u8; LARGEST]| !matches!(bytes[3] & 15, 0 | 3);
        Ok(Some((count, self.buffers[..count].iter().filter(is_bad).count())))
    }
}

fn header(part: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: a header of zeroes is one without names, parts and control data.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    header
}

/// Prints what a server says to a question.
pub fn print(server: &str, question: &str) -> Result<()> {
    let mut bytes = self::question(question)?;
    bytes[..2].copy_from_slice(&(std::process::id() as u16).to_be_bytes());
    print!("{}", describe(&ask(&socket(server)?, &bytes)?, true)?);
    Ok(())
}

/// Asks two servers the same, and tells where their answers differ.
pub fn compare(ours: &str, theirs: &str, file: &str) -> Result<()> {
    let questions = questions(file)?;
    let sockets = [socket(ours)?, socket(theirs)?];
    let (mut differences, mut wrong) = (String::new(), 0);
    for (number, (line, question)) in questions.iter().enumerate() {
        let mut question = question.clone();
        question[..2].copy_from_slice(&(number as u16).to_be_bytes());
        let mut answers = Vec::new();
        for (index, socket) in sockets.iter().enumerate() {
            // NSD repeats aliases that lead to themselves.
            let answer = ask(socket, &question).and_then(|bytes| describe(&bytes, index == 1));
            answers.push(answer.with_context(|| line.clone())?);
        }
        if answers[0] != answers[1] {
            wrong += 1;
            if wrong <= 5 {
                writeln!(differences, "{line}\nours: {}theirs: {}", answers[0], answers[1])?;
            }
        }
    }
    ensure!(wrong == 0, "{wrong} of {} answers differ:\n{differences}", questions.len());
    println!("{} answers are the same", questions.len());
    Ok(())
}

fn ask(socket: &UdpSocket, question: &[u8]) -> Result<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    for _ in 0..5 {
        socket.send(question)?;
        loop {
            let mut bytes = vec![0; LARGEST];
            // An answer to one before may still come.
            match socket.recv(&mut bytes) {
                Ok(len) if bytes[..2] == question[..2] => {
                    bytes.truncate(len);
                    return Ok(bytes);
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    bail!("{} does not answer", socket.peer_addr()?)
}

/// What a message says, with the records of each section in the order of their text; each once, and no record may be there
/// twice unless that is allowed.
fn describe(bytes: &[u8], repeats: bool) -> Result<String> {
    let message = Message::from_slice(bytes)?;
    let header = message.header();
    let mut text = format!("{} {}\n", header.rcode(), header.flags());
    if header.tc() {
        // What is left out is the server's choice.
        return Ok(text);
    }
    let sections = [message.answer()?, message.authority()?, message.additional()?];
    for (name, section) in ["answer", "authority", "additional"].into_iter().zip(sections) {
        let mut records = BTreeSet::new();
        for record in section {
            let record = record?;
            if record.rtype() == Rtype::OPT {
                continue;
            }
            let owner = record.owner().to_vec();
            let record = record.to_any_record::<AllRecordData<_, ParsedName<_>>>()?;
            let line = format!("{owner} {} {} {}", record.ttl().as_secs(), record.rtype(), record.data());
            ensure!(records.insert(line.to_lowercase()) || repeats, "twice: {line}");
        }
        for record in records {
            writeln!(text, "  {name}: {record}")?;
        }
    }
    Ok(text)
}
