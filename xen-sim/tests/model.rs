//! The simulation's store against a model that is too simple to be wrong.

use std::collections::BTreeMap;

use proptest::prelude::*;
use xen_hal::{DomId, Errno};
use xen_sim::store::Server;
use xenstore_client::wire::{HEADER_SIZE, Header, Op, Request};

/// What dom0 asks for, in one of three transactions or in none.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, u8),
    Mkdir(usize),
    Remove(usize),
    Read(usize),
    List(usize),
    Start,
    End(bool),
}

const PATHS: [&str; 8] = ["/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f", "/e/f/g", "/h"];

type Nodes = BTreeMap<&'static str, Vec<u8>>;

/// All nodes, as they would be with one domain and no transactions.
fn apply(nodes: &mut Nodes, step: &Step) -> Result<Vec<u8>, Errno> {
    let above = |nodes: &mut Nodes, path: &'static str| {
        for (at, _) in path.match_indices('/').skip(1) {
            nodes.entry(&path[..at]).or_default();
        }
    };
    match *step {
        Step::Write(path, value) => {
            above(nodes, PATHS[path]);
            nodes.insert(PATHS[path], vec![value]);
            Ok(b"OK\0".to_vec())
        }
        Step::Mkdir(path) => {
            above(nodes, PATHS[path]);
            nodes.entry(PATHS[path]).or_default();
            Ok(b"OK\0".to_vec())
        }
        Step::Remove(path) => {
            let path = PATHS[path];
            let parent = &path[..path.rfind('/').unwrap()];
            if !parent.is_empty() && !nodes.contains_key(parent) {
                return Err(Errno::ENOENT);
            }
            nodes.retain(|known, _| !(*known == path || known.starts_with(&format!("{path}/"))));
            Ok(b"OK\0".to_vec())
        }
        Step::Read(path) => nodes.get(PATHS[path]).cloned().ok_or(Errno::ENOENT),
        Step::List(path) => {
            if !nodes.contains_key(PATHS[path]) {
                return Err(Errno::ENOENT);
            }
            let prefix = format!("{}/", PATHS[path]);
            let names = nodes.keys().filter_map(|known| known.strip_prefix(&prefix)).filter(|name| !name.contains('/'));
            Ok(names.flat_map(|name| name.bytes().chain([0])).collect())
        }
        Step::Start | Step::End(_) => Ok(Vec::new()),
    }
}

fn request(step: &Step) -> (Op, Vec<u8>) {
    let value;
    let request = match *step {
        Step::Write(path, byte) => {
            value = [byte];
            Request::Write { path: PATHS[path], value: &value }
        }
        Step::Mkdir(path) => Request::Mkdir { path: PATHS[path] },
        Step::Remove(path) => Request::Rm { path: PATHS[path] },
        Step::Read(path) => Request::Read { path: PATHS[path] },
        Step::List(path) => Request::Directory { path: PATHS[path] },
        Step::Start => Request::TransactionStart,
        Step::End(commit) => Request::TransactionEnd { commit },
    };
    let mut packet = Vec::new();
    request.encode(0, 0, &mut packet).unwrap();
    (request.op(), packet.split_off(HEADER_SIZE))
}

fn ask(server: &mut Server, transaction: u32, step: &Step) -> Result<Vec<u8>, Errno> {
    let (op, payload) = request(step);
    let header = Header { op: op as u32, request: 1, transaction, len: payload.len() as u32 };
    server.handle(DomId::DOM0, header, &payload);
    let packet = server.take_output(DomId::DOM0, 0).expect("an answer");
    assert_eq!(server.outstanding(DomId::DOM0), 0);
    let answer = Header::from_bytes(packet[..HEADER_SIZE].try_into().unwrap());
    let payload = packet[HEADER_SIZE..].to_vec();
    match answer.op == Op::Error as u32 {
        false => Ok(payload),
        true => {
            let name = std::str::from_utf8(payload.strip_suffix(b"\0").unwrap()).unwrap();
            Err(Errno::from_name(name).unwrap())
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let path = 0..PATHS.len();
    prop_oneof![
        3 => (path.clone(), any::<u8>()).prop_map(|(path, value)| Step::Write(path, value)),
        1 => path.clone().prop_map(Step::Mkdir),
        2 => path.clone().prop_map(Step::Remove),
        3 => path.clone().prop_map(Step::Read),
        2 => path.prop_map(Step::List),
        1 => Just(Step::Start),
        2 => prop::bool::weighted(0.8).prop_map(Step::End),
    ]
}

struct Open {
    id: u32,
    view: Nodes,
    steps: Vec<(Step, Result<Vec<u8>, Errno>)>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each transaction sees the store as it was at its start with its own changes; one that goes through has the
    /// effect, and has given the answers, that its steps would have at that moment; one that does not has none.
    #[test]
    fn transactions_are_as_if_one_came_after_the_other(steps in prop::collection::vec((0_usize..4, step()), 1..60)) {
        let mut server = Server::new();
        server.introduce(DomId::DOM0);
        let mut nodes = Nodes::new();
        let mut open: [Option<Open>; 4] = [None, None, None, None];
        for (slot, step) in steps {
            match (&step, &mut open[slot]) {
                // The slot 0 is for steps outside of transactions.
                (Step::Start | Step::End(_), _) if slot == 0 => {}
                (Step::Start, Some(_)) | (Step::End(_), None) => {}
                (Step::Start, place @ None) => {
                    let payload = ask(&mut server, 0, &step).unwrap();
                    let id = std::str::from_utf8(payload.strip_suffix(b"\0").unwrap()).unwrap().parse().unwrap();
                    *place = Some(Open { id, view: nodes.clone(), steps: Vec::new() });
                }
                (Step::End(commit), place) => {
                    let done = place.take().unwrap();
                    let outcome = ask(&mut server, done.id, &step);
                    match outcome {
                        Err(errno) => prop_assert_eq!(errno, Errno::EAGAIN),
                        Ok(_) if *commit => {
                            for (step, answer) in &done.steps {
                                prop_assert_eq!(&apply(&mut nodes, step), answer, "{:?} when committed", step);
                            }
                        }
                        Ok(_) => {}
                    }
                }
                (_, Some(transaction)) if slot > 0 => {
                    let expected = apply(&mut transaction.view, &step);
                    let answer = ask(&mut server, transaction.id, &step);
                    prop_assert_eq!(&answer, &expected, "{:?} in a transaction", step);
                    transaction.steps.push((step, answer));
                }
                _ => {
                    let expected = apply(&mut nodes, &step);
                    prop_assert_eq!(ask(&mut server, 0, &step), expected, "{:?}", step);
                }
            }
            let known: Vec<&str> = server.tree().paths().filter(|path| *path != "/").collect();
            prop_assert_eq!(known, nodes.keys().copied().collect::<Vec<_>>());
        }
    }
}
