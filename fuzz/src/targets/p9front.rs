//! The 9pfs frontend, against a backend that answers anything.

use std::collections::VecDeque;
use std::time::Duration;

use xen_9pfs::front::{self, Changes, Error, OpenOptions, Share};
use xen_9pfs::protocol::{
    Attributes, DirEntry, HEADER_SIZE, Header, Kind, Message, NOTAG, Qid, Qids, Stat, Text, Time, VERSION, VERSION_U,
};
use xen_9pfs::protocol::{Data, FileSystem};
use xen_9pfs::ring;
use xen_hal::{Access, Clock, EventChannels, GrantRef, GrantTable, MapRequest, Port, PortNumber};
use xen_ring::{ByteRing, SharedMapping};
use xen_sim::{Domain, SimMapping, Xen};

use crate::input::Input;
use crate::peer::{attach, map, pause, read, until_state, write};
use crate::second::second_processor;

pub(super) const SHORT: u32 = 600;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // A ring of 16 pages, no second processor, version and attach answered, and what comes then; then something else.
    let begin = [0, 4, 0].into_iter().chain([0x82, 0, 0].repeat(2));
    let steps: [&[u8]; 5] = [
        &[0x82, 0, 0].repeat(60),
        &[0x82, 1, 0].repeat(40),
        &[0x84, 0, 105, 13, 1, 2, 3],
        &[0x83, 0, 2, 0x85, 1, 2, 3, 4],
        &[0xa3, 5, 0x81, 0x82, 3, 7, 9],
    ];
    steps.iter().map(|step| begin.clone().chain(step.iter().copied()).collect()).collect()
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let (guest, server) = (xen.domain(), xen.domain());
    let order = u32::from(input.byte());
    let (front, back) = attach(&xen, "9pfs", (&guest, &server), 0, &[]);
    start_users(&guest);
    let offers = [("versions", 1), ("max-rings", 1), ("max-ring-page-order", order.max(1)), ("state", 2)];
    for (key, value) in offers {
        write(&xen, server.id(), &format!("{back}/{key}"), value);
    }
    until_state(&xen, &front, 3);
    let reference = GrantRef(read(&xen, &format!("{front}/ring-ref0")).expect("it is written"));
    let port = PortNumber(read(&xen, &format!("{front}/event-channel-0")).expect("it is written"));
    let interface = map(&server, guest.id(), reference);
    let order = ring::read_order(&interface);
    assert!((ring::MIN_ORDER..=ring::MAX_ORDER).contains(&order), "ring_order = {order}");
    let references = (0..1 << order).map(|index| ring::read_reference(&interface, index));
    let request = |reference| MapRequest { peer: guest.id(), reference, access: Access::ReadWrite };
    let requests: Vec<_> = [reference].into_iter().chain(references).map(request).collect();
    let memory = SharedMapping::new(server.map(&requests).expect("a mapping")).expect("the frontend grants it");
    let port = server.bind_interdomain(guest.id(), port).expect("a port");
    write(&xen, server.id(), &format!("{back}/state"), 4);
    pause(&xen, Duration::from_micros(200));
    second_processor(&server, &mut input);
    let (responses, requests) = (ring::responses(order), ring::requests(order));
    let (mut produced, mut pending) = (0_u32, VecDeque::new());
    while !input.0.is_empty() {
        let choice = input.byte();
        // It takes all requests, or leaves them.
        if choice & 0x40 == 0 {
            take(&memory, requests, &mut pending);
        }
        let tag = |input: &mut Input<'_>| if choice & 0x20 == 0 { input.byte().into() } else { NOTAG };
        let qid = Qid { kind: 0x80, version: 1, path: 2 };
        let bytes = match choice & 7 {
            0 => (0..input.byte() % 40).map(|_| input.byte()).collect(),
            1 => encode(NOTAG, Message::Rversion { msize: 8192, version: VERSION }),
            // What was asked, as a server might answer it, and perhaps a byte of it changed.
            2 => {
                let how = input.byte();
                let mut bytes = match pending.pop_front() {
                    Some(asked) => plausible(asked, how, &mut input),
                    None => encode(tag(&mut input), Message::Rattach { qid }),
                };
                let (at, change) = (usize::from(input.byte()), if how & 2 == 0 { 0 } else { input.byte() });
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= change;
                }
                bytes
            }
            3 => encode(tag(&mut input), Message::Rlerror { ecode: input.byte().into() }),
            // A header of any size, and a body of another.
            4 => {
                let (tag, kind, size) = (tag(&mut input), Kind(input.byte()), u32::from(input.byte()));
                let header = Header { size: if choice & 8 == 0 { size + 7 } else { size << 10 }, kind, tag };
                let body = (0..size.min(60)).map(|_| input.byte());
                header.to_bytes().into_iter().chain(body).collect()
            }
            5 => encode(NOTAG, Message::Rversion { msize: input.word() % 40_000, version: VERSION }),
            // An index moves.
            _ => {
                let index = [responses.producer, responses.consumer, requests.consumer, requests.producer]
                    [usize::from(input.byte() % 4)];
                memory.store(index, memory.load(index).wrapping_add(input.word()));
                Vec::new()
            }
        };
        for byte in bytes {
            memory.write(responses.data + (produced & (responses.size - 1)) as usize, &[byte]);
            produced = produced.wrapping_add(1);
        }
        if choice & 7 < 6 {
            memory.store(responses.producer, produced);
        }
        if choice & 0x80 != 0 {
            port.notify();
            pause(&xen, Duration::from_micros(30));
        }
    }
    port.notify();
    pause(&xen, Duration::from_millis(2));
    server.one_processor();
    drop((interface, memory, port));
    xen.check_budgets();
    xen.end();
}

fn encode(tag: u16, message: Message<'_>) -> Vec<u8> {
    message.encode(tag, u32::MAX).expect("it is short")
}

/// A request: its tag, its type, and how many bytes or names it asks for.
type Asked = (u16, Kind, u32);

/// Takes the requests that are there.
fn take(memory: &SharedMapping<SimMapping>, ring: ByteRing, pending: &mut VecDeque<Asked>) {
    let (consumer, producer) = (memory.load(ring.consumer), memory.load(ring.producer));
    let there = producer.wrapping_sub(consumer).min(ring.size);
    let mut bytes = vec![0; there as usize];
    for (index, byte) in bytes.iter_mut().enumerate() {
        let at = consumer.wrapping_add(index as u32) & (ring.size - 1);
        let mut one = [0];
        memory.read(ring.data + at as usize, &mut one);
        [*byte] = one;
    }
    let mut rest = &bytes[..];
    while let Some((header, _)) = rest.split_first_chunk::<HEADER_SIZE>() {
        let header = Header::from_bytes(*header);
        let Some(body) = rest.get(HEADER_SIZE..header.size as usize) else { break };
        let count = match Message::decode(header.kind, body) {
            Ok(Message::Tread { count, .. } | Message::Treaddir { count, .. }) => count,
            Ok(Message::Twrite { data, .. }) => data.0.len() as u32,
            Ok(Message::Twalk { names, .. }) => names.len() as u32,
            _ => 0,
        };
        if pending.len() < 64 {
            pending.push_back((header.tag, header.kind, count));
        }
        rest = &rest[header.size as usize..];
    }
    memory.store(ring.consumer, producer);
}

/// What a server might answer.
fn plausible((tag, kind, count): Asked, how: u8, input: &mut Input<'_>) -> Vec<u8> {
    let qid = Qid { kind: if how & 4 == 0 { 0x80 } else { how & 0x82 }, version: 1, path: 2 };
    let time = Time { seconds: 1, nanoseconds: 2 };
    let mut data = Vec::new();
    let few = count.min(u32::from(input.byte()));
    let message = match kind {
        Kind::TVERSION => Message::Rversion { msize: 8192, version: if how & 1 == 0 { VERSION } else { VERSION_U } },
        Kind::TATTACH => Message::Rattach { qid },
        Kind::TWALK => {
            let found = if how & 8 == 0 { count } else { few };
            data = vec![qid.kind; found as usize * Qid::SIZE];
            Message::Rwalk { qids: Qids::of(&data) }
        }
        Kind::TLOPEN => Message::Rlopen { qid, iounit: few },
        Kind::TOPEN => Message::Ropen { qid, iounit: few },
        Kind::TLCREATE => Message::Rlcreate { qid, iounit: 0 },
        Kind::TCREATE => Message::Rcreate { qid, iounit: 0 },
        Kind::TREAD if how & 16 == 0 => {
            data = vec![how; few as usize];
            Message::Rread { data: Data(&data) }
        }
        Kind::TREAD => {
            let name: Vec<u8> = (0..few % 9).map(|_| input.byte()).collect();
            let _ = Stat { qid, name: Text(&name), ..Stat::UNCHANGED }.write(&mut data);
            Message::Rread { data: Data(&data) }
        }
        Kind::TREADDIR => {
            let name: Vec<u8> = (0..few % 9).map(|_| input.byte()).collect();
            let _ = DirEntry { qid, offset: few.into(), kind: how, name: Text(&name) }.write(&mut data);
            data.extend((0..few % 5).map(|_| input.byte()));
            Message::Rreaddir { data: Data(&data) }
        }
        Kind::TWRITE => Message::Rwrite { count: if how & 8 == 0 { count } else { few } },
        Kind::TGETATTR => Message::Rgetattr {
            attributes: Attributes {
                valid: 0x7ff,
                qid,
                mode: u32::from(how) << 8,
                uid: 0,
                gid: 0,
                links: 1,
                device: 0,
                size: few.into(),
                block_size: 1,
                blocks: 1,
                accessed: time,
                modified: time,
                changed: time,
                created: time,
                generation: 0,
                data_version: 0,
            },
        },
        Kind::TSTAT => Message::Rstat { stat: Stat { qid, size: few.into(), ..Stat::UNCHANGED } },
        Kind::TREADLINK => Message::Rreadlink { target: Text(b"../x") },
        Kind::TMKDIR => Message::Rmkdir { qid },
        Kind::TSYMLINK => Message::Rsymlink { qid },
        Kind::TSETATTR => Message::Rsetattr {},
        Kind::TRENAMEAT => Message::Rrenameat {},
        Kind::TUNLINKAT => Message::Runlinkat {},
        Kind::TSTATFS => Message::Rstatfs {
            system: FileSystem {
                kind: 0,
                block_size: !0,
                blocks: !0,
                free: 0,
                available: 0,
                files: 0,
                free_files: 0,
                id: 0,
                name_length: 0,
            },
        },
        Kind::TCLUNK => Message::Rclunk {},
        _ => Message::Rlerror { ecode: how.into() },
    };
    let message = if how & 32 == 0 { message } else { Message::Rlerror { ecode: few } };
    encode(tag, message)
}

/// Some who use the share, and some who give up.
fn start_users(guest: &Domain) {
    let store = guest.store();
    let (share, runner) = front::connect(&store, guest.clone(), "device/9pfs/0", front::Options::default());
    guest.spawn(async move { drop(runner.await) }).detach();
    for number in 0..10_u32 {
        let (share, clock) = (share.clone(), guest.clone());
        let user = async move {
            for _ in 0..10 {
                let _ = use_once(&share, number).await;
                clock.sleep(Duration::from_micros(10)).await;
            }
        };
        let (user, clock) = (guest.spawn(user), guest.clone());
        guest
            .spawn(async move {
                clock.sleep(Duration::from_micros(300 * u64::from(number))).await;
                match number % 3 {
                    2 => drop(user),
                    _ => user.await,
                }
            })
            .detach();
    }
}

async fn use_once(share: &Share, number: u32) -> Result<(), Error> {
    let root = share.root();
    match number % 8 {
        0 => drop(root.read("a/b", 5000).await?),
        1 => root.write("a", [7; 10_000]).await?,
        2 => {
            let mut entries = root.read_dir("a").await?;
            for _ in 0..50 {
                let Some(entry) = entries.next().await? else { break };
                assert!(xen_9pfs::protocol::is_name(&entry.name), "{entry:?}");
            }
        }
        3 => root.rename("a/b", "c/d").await?,
        4 => {
            root.change("a", &Changes::new().size(3)).await?;
            root.remove_file("a").await?;
        }
        5 => {
            let _ = root.read_link("a").await;
            root.create_dir("a/b").await?;
        }
        6 => drop(root.space().await),
        _ => {
            let file = root.open_with("a", &OpenOptions::new().read().write().create(0o644)).await?;
            let mut bytes = [0; 20_000];
            let read = file.read_at(0, &mut bytes).await?;
            assert!(read <= bytes.len());
            file.close().await?;
        }
    }
    Ok(())
}
