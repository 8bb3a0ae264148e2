//! Cookies by which a client shows that it is where its packets say (RFC 7873, RFC 9018).

use core::hash::Hasher;
use core::net::IpAddr;

use siphasher::sip::SipHasher24;

/// Seconds that a cookie is good for, and by which its time may be ahead (RFC 9018, section 4.3).
const LIFETIME: u32 = 3600;
const AHEAD: u32 = 300;

/// Bytes of ours with the client's.
pub(crate) const LEN: usize = 24;

/// What a client has sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    client: [u8; 8],
    server: Option<[u8; 16]>,
}

impl Received {
    pub fn new(bytes: &[u8]) -> Option<Received> {
        let client = *bytes.first_chunk()?;
        match bytes.len() {
            8 => Some(Received { client, server: None }),
            16..=40 => Some(Received { client, server: bytes[8..].try_into().ok() }),
            _ => None,
        }
    }

    /// Whether it has a cookie that was made for it here, not long ago.
    pub fn is_valid(&self, secret: &[u8; 16], address: IpAddr, now: u32) -> bool {
        let Some(server) = self.server else { return false };
        let time = u32::from_be_bytes([server[4], server[5], server[6], server[7]]);
        let age = now.wrapping_sub(time);
        let is_fresh = age <= LIFETIME || age.wrapping_neg() <= AHEAD;
        // Nobody learns the hash by how long this takes: the secret is not in it, and each try is a packet.
        is_fresh && server[0] == 1 && self.make(secret, address, time) == server
    }

    fn make(&self, secret: &[u8; 16], address: IpAddr, now: u32) -> [u8; 16] {
        let mut cookie = [0; 16];
        cookie[0] = 1;
        cookie[4..8].copy_from_slice(&now.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(secret);
        hasher.write(&self.client);
        hasher.write(&cookie[..8]);
        match address {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        cookie[8..].copy_from_slice(&hasher.finish().to_le_bytes());
        cookie
    }

    /// What is sent back.
    pub fn answer(&self, secret: &[u8; 16], address: IpAddr, now: u32) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&self.client);
        bytes[8..].copy_from_slice(&self.make(secret, address, now));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9018, appendix A.1.
    #[test]
    fn cookies_are_those_of_the_rfc() {
        let secret = 0xe5e973e5a6b2a43f48e7dc849e37bfcf_u128.to_be_bytes();
        let client = 0x2464c4abcf10c957_u64.to_be_bytes();
        let address = [198, 51, 100, 100].into();
        let answer = Received::new(&client).unwrap().answer(&secret, address, 1_559_731_985);
        assert_eq!(answer[8..], 0x010000005cf79f111f8130c3eee29480_u128.to_be_bytes());
        let again = Received::new(&answer).unwrap();
        assert!(again.is_valid(&secret, address, 1_559_731_985 + 3600));
        assert!(!again.is_valid(&secret, address, 1_559_731_985 + 3601));
        assert!(again.is_valid(&secret, address, 1_559_731_985 - 300));
        assert!(!again.is_valid(&secret, [198, 51, 100, 101].into(), 1_559_731_985));
        assert!(Received::new(&answer[..15]).is_none() && Received::new(&[0; 41]).is_none());
    }
}
