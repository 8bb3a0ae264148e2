use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const GATE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

fn mac(number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    [0, 0x16, 0x3e, 0, high, low]
}

fn pool(network: &str) -> Pool {
    let mut pool = Pool::new(7);
    pool.set_v4(network.parse().unwrap());
    pool.reserve(GATE.into());
    pool
}

fn v4(pool: &mut Pool, number: u16) -> Result<Ipv4Addr, PoolError> {
    pool.assign(mac(number)).map(|addresses| addresses.v4.unwrap())
}

#[test]
fn an_address_is_the_same_after_a_restart() {
    let mut first = pool("10.1.0.0/16");
    let all: BTreeSet<_> = (0..500).map(|number| v4(&mut first, number).unwrap()).collect();
    assert_eq!(all.len(), 500);
    let mut second = pool("10.1.0.0/16");
    let same = (0..500).rev().filter(|number| v4(&mut second, *number) == v4(&mut first, *number)).count();
    assert!(same > 480, "only those that met have others: {same}");
}

#[test]
fn a_small_network_is_used_to_the_last_address() {
    for (network, count) in [("10.1.0.0/29", 5), ("10.1.0.0/31", 1), ("10.1.0.5/32", 1), ("10.1.0.1/32", 0)] {
        let mut pool = pool(network);
        let all: BTreeSet<_> = (0..count).map(|number| v4(&mut pool, number).unwrap()).collect();
        assert_eq!(all.len(), usize::from(count));
        assert!(!all.contains(&GATE));
        let error = v4(&mut pool, count).unwrap_err();
        assert_eq!(error.to_string(), alloc::format!("all addresses of {network} are taken"));
        if count > 2 {
            assert!(all.iter().all(|address| !matches!(address.octets()[3], 0 | 7)));
            // What was released is there again.
            let old = v4(&mut pool, 2).unwrap();
            pool.release(mac(2));
            assert_eq!(v4(&mut pool, count), Ok(old));
        }
    }
}

#[test]
fn released_addresses_are_the_owners_first_and_others_last() {
    let mut pool = pool("10.1.0.0/28");
    let all: Vec<_> = (0..6).map(|number| v4(&mut pool, number).unwrap()).collect();
    (0..6).for_each(|number| pool.release(mac(number)));
    // There are 13, of which 7 nobody had.
    let fresh: Vec<_> = (10..17).map(|number| v4(&mut pool, number).unwrap()).collect();
    assert!(fresh.iter().all(|address| !all.contains(address)));
    assert_eq!(v4(&mut pool, 20), Ok(all[0]), "the oldest");
    assert_eq!(v4(&mut pool, 3), Ok(all[3]), "its own");
    assert_eq!(v4(&mut pool, 21), Ok(all[1]));
}

#[test]
fn fixed_addresses_go_first() {
    let mut pool = pool("10.1.0.0/24");
    let taken = v4(&mut pool, 1).unwrap();
    let fixed = |address: Ipv4Addr| Addresses { v4: Some(address), v6: None };
    assert_eq!(pool.fix(mac(2), fixed(taken)), Err(PoolError::Taken(taken.into())));
    assert_eq!(pool.fix(mac(2), fixed(GATE)), Err(PoolError::Taken(GATE.into())));
    let outside = Ipv4Addr::new(192, 0, 2, 9);
    pool.fix(mac(2), fixed(outside)).unwrap();
    assert_eq!(v4(&mut pool, 2), Ok(outside));
    pool.release(mac(2));
    assert_eq!(pool.client_of(outside.into()), Some(mac(2)), "it stays his");
    // One that is in use already moves.
    let next = Ipv4Addr::new(10, 1, 0, 77);
    pool.fix(mac(1), fixed(next)).unwrap();
    assert_eq!((v4(&mut pool, 1), pool.client_of(taken.into())), (Ok(next), None));
    pool.unfix(mac(1));
    assert_eq!(pool.client_of(next.into()), None);
    pool.set_max_clients(0);
    assert_eq!(pool.assign(mac(9)), Err(PoolError::TooMany(0)));
    assert_eq!(pool.fix(mac(9), fixed(next)), Err(PoolError::TooMany(0)));
}

#[test]
fn ipv6_addresses_end_in_the_mac() {
    let mut pool = Pool::new(1);
    pool.set_v6("fd00:1::/64".parse().unwrap());
    let address = pool.assign(mac(1)).unwrap().v6.unwrap();
    assert_eq!(address, "fd00:1::216:3eff:fe00:1".parse::<Ipv6Addr>().unwrap());
    pool.reserve("fd00:1::216:3eff:fe00:2".parse().unwrap());
    let next = pool.assign(mac(2)).unwrap().v6.unwrap();
    assert_eq!(next, "fd00:1::216:3eff:fe00:3".parse::<Ipv6Addr>().unwrap());
    pool.set_v6("fd00:2::/126".parse().unwrap());
    let all: BTreeSet<_> = (10..13).map(|number| pool.assign(mac(number)).unwrap().v6.unwrap()).collect();
    assert!(all.len() == 3 && !all.contains(&"fd00:2::".parse().unwrap()));
    assert!(matches!(pool.assign(mac(13)), Err(PoolError::ExhaustedV6(_))));
}

proptest! {
    #[test]
    fn nobody_has_anothers(
        actions in proptest::collection::vec((0_u16..20, 0_u8..8, 0_u8..16), 0..200),
        len in 27_u8..=31,
    ) {
        let mut pool = pool(&alloc::format!("10.1.0.0/{len}"));
        pool.set_v6("fd00::/122".parse().unwrap());
        pool.set_max_clients(12);
        for (client, action, last) in actions {
            let client = mac(client);
            match action {
                0 => pool.release(client),
                1 => drop(pool.fix(client, Addresses { v4: Some(Ipv4Addr::new(10, 1, 0, last)), v6: None })),
                2 => pool.unfix(client),
                _ => drop(pool.assign(client)),
            }
            let all: Vec<_> = pool.iter().collect();
            prop_assert!(all.len() <= 12 && pool.released.len() <= 12);
            let addresses: BTreeSet<_> = all.iter().flat_map(|(_, addresses)| addresses.iter()).collect();
            let count: usize = all.iter().map(|(_, addresses)| addresses.iter().count()).sum();
            prop_assert!(addresses.len() == count && !addresses.contains(&GATE.into()));
            for (client, addresses) in all {
                prop_assert!(addresses.iter().all(|address| pool.client_of(address) == Some(client)));
            }
        }
    }
}
