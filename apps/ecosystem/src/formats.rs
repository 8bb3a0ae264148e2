//! What is written and read.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::Trial;

#[derive(serde::Serialize, serde::Deserialize, PartialEq)]
struct Guest {
    name: String,
    memory: u32,
}

fn guest() -> Guest {
    Guest { name: "web".into(), memory: 16 }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(string, tag = "1")]
    name: String,
}

pub const ALL: &[Trial] = &[
    ("serde", || serde_json::to_value(guest()).is_ok_and(|value| value["memory"] == 16)),
    ("serde_json", || serde_json::from_str(r#"{"name":"web","memory":16}"#).is_ok_and(|found: Guest| found == guest())),
    ("postcard", || {
        let Ok(bytes) = postcard::to_allocvec(&guest()) else { return false };
        bytes.len() == 5 && postcard::from_bytes(&bytes).is_ok_and(|found: Guest| found == guest())
    }),
    ("ciborium", || {
        let mut bytes = Vec::new();
        ciborium::into_writer(&guest(), &mut bytes).is_ok()
            && ciborium::from_reader(&*bytes).is_ok_and(|found: Guest| found == guest())
    }),
    ("minicbor", || {
        let Ok(bytes) = minicbor::to_vec([1_u32, 2]) else { return false };
        minicbor::decode(&bytes).is_ok_and(|found: [u32; 2]| found == [1, 2])
    }),
    ("prost", || {
        use prost::Message as _;
        let message = Message { name: "web".into() };
        Message::decode(&*message.encode_to_vec()).is_ok_and(|found| found == message)
    }),
    ("httparse", || {
        let mut fields = [httparse::EMPTY_HEADER; 4];
        let mut request = httparse::Request::new(&mut fields);
        request.parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok_and(|status| status.is_complete())
    }),
    ("miniz_oxide", || {
        let text = [7; 5000];
        let packed = miniz_oxide::deflate::compress_to_vec(&text, 6);
        packed.len() < 100 && miniz_oxide::inflate::decompress_to_vec(&packed).is_ok_and(|found| found == text)
    }),
    ("lz4_flex", || {
        let text = [7; 5000];
        let packed = lz4_flex::compress_prepend_size(&text);
        packed.len() < 100 && lz4_flex::decompress_size_prepended(&packed).is_ok_and(|found| found == text)
    }),
    ("chrono", || {
        chrono::DateTime::from_timestamp(1_000_000_000, 0)
            .is_some_and(|time| time.to_rfc3339() == "2001-09-09T01:46:40+00:00")
    }),
    ("jiff", || {
        jiff::Timestamp::from_second(1_000_000_000).is_ok_and(|time| time.to_string() == "2001-09-09T01:46:40Z")
    }),
    ("time", || time::OffsetDateTime::from_unix_timestamp(1_000_000_000).is_ok_and(|time| time.year() == 2001)),
];
