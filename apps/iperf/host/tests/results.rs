//! What the server tells a client at a test's end, on this machine.

use iperf::protocol::{Count, results};

#[test]
fn the_client_finds_its_streams_in_the_results() {
    let counts = [
        Count { bytes: 1 << 40, packets: 7, lost: 2, jitter: 0.25 },
        Count { bytes: 1, ..Count::default() },
        Count::default(),
    ];
    let told: serde_json::Value = serde_json::from_str(&results(&counts, 1.5, false)).unwrap();
    let streams = told["streams"].as_array().unwrap();
    // As iperf3 counts them.
    let ids: Vec<_> = streams.iter().map(|stream| stream["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 3, 4]);
    assert_eq!(streams[0]["bytes"], 1_u64 << 40);
    assert_eq!((&streams[0]["packets"], &streams[0]["errors"]), (&7.into(), &2.into()));
    assert_eq!((streams[0]["jitter"].as_f64(), streams[0]["end_time"].as_f64()), (Some(0.25), Some(1.5)));
    assert_eq!(told["sender_has_retransmits"], -1);
    let told: serde_json::Value = serde_json::from_str(&results(&[], 0.0, true)).unwrap();
    assert_eq!((told["streams"].as_array().unwrap().len(), &told["sender_has_retransmits"]), (0, &0.into()));
}
