//! The packets, and what is to differ.

/// A name, and packets in their order: from which side (`in`, the client's, or `out`), then as `linux-load lan judge` reads
/// them. Source ports are each case's own, for flows stay.
pub const CASES: [(&str, &str); 40] = [
    (
        "tcp: a handshake, data and an end pass both ways",
        "in tcp 10.7.0.5:1001 198.51.100.1:80 flags=S seq=1000
         out tcp 198.51.100.1:80 10.6.0.60:1001 flags=SA seq=5000 ack=1001
         in tcp 10.7.0.5:1001 198.51.100.1:80 flags=A seq=1001 ack=5001
         in tcp 10.7.0.5:1001 198.51.100.1:80 flags=PA seq=1001 ack=5001 size=100
         out tcp 198.51.100.1:80 10.6.0.60:1001 flags=A seq=5001 ack=1101
         out tcp 198.51.100.1:80 10.6.0.60:1001 flags=FA seq=5001 ack=1101
         in tcp 10.7.0.5:1001 198.51.100.1:80 flags=FA seq=1101 ack=5002
         out tcp 198.51.100.1:80 10.6.0.60:1001 flags=A seq=5002 ack=1102",
    ),
    ("tcp: a port that no rule names is dropped", "in tcp 10.7.0.5:1002 198.51.100.1:81 flags=S"),
    ("tcp: rejected, the sender gets a reset", "in tcp 10.7.0.5:1003 198.51.100.1:23 flags=S seq=77"),
    (
        "tcp: the ends of a range of ports, and what is beside it",
        "in tcp 10.7.0.5:1004 198.51.100.1:8000 flags=S
         in tcp 10.7.0.5:1004 198.51.100.1:8010 flags=S
         in tcp 10.7.0.5:1004 198.51.100.1:7999 flags=S
         in tcp 10.7.0.5:1004 198.51.100.1:8011 flags=S",
    ),
    ("order: an address that is dropped before its port is accepted", "in tcp 10.7.0.5:1005 198.51.100.9:80 flags=S"),
    (
        "order: an address that is accepted before its network is dropped",
        "in tcp 10.7.0.5:1006 198.51.100.10:8015 flags=S
         in tcp 10.7.0.5:1006 198.51.100.11:8015 flags=S",
    ),
    (
        "tcp: what answers nobody is dropped: a SYN with ACK, a reset",
        "in tcp 10.7.0.5:1007 198.51.100.1:80 flags=SA seq=1 ack=2
         out tcp 198.51.100.1:80 10.6.0.60:1008 flags=SA seq=1 ack=2
         in tcp 10.7.0.5:1008 198.51.100.1:80 flags=R seq=1
         out tcp 198.51.100.1:80 10.6.0.60:1008 flags=RA seq=1 ack=2",
    ),
    (
        "tcp: flags that no connection has",
        "in tcp 10.7.0.5:1009 198.51.100.1:80 flags=SF
         in tcp 10.7.0.5:1009 198.51.100.1:80 flags=SR
         in tcp 10.7.0.5:1009 198.51.100.1:80 flags=
         in tcp 10.7.0.5:1009 198.51.100.1:80 flags=FPU
         in tcp 10.7.0.5:1009 198.51.100.1:80 flags=F",
    ),
    (
        "tcp: a client's connection that is older than the router",
        "in tcp 10.7.0.5:1010 198.51.100.1:80 flags=A seq=9 ack=9",
    ),
    (
        "tcp: an ACK from outside that belongs to nothing",
        "out tcp 198.51.100.1:4000 10.6.0.60:1011 flags=A seq=9 ack=9
         out tcp 198.51.100.1:4000 10.7.0.5:80 flags=A seq=9 ack=9",
    ),
    (
        "tcp: an ACK to a published port that belongs to nothing",
        "out tcp 198.51.100.1:4001 10.6.0.60:8080 flags=A seq=9 ack=9",
    ),
    (
        "tcp: a reset where it is expected passes",
        "in tcp 10.7.0.5:1012 198.51.100.1:80 flags=S seq=1000
         out tcp 198.51.100.1:80 10.6.0.60:1012 flags=RA seq=0 ack=1001",
    ),
    ("tcp: a wrong checksum", "in tcp 10.7.0.5:1013 198.51.100.1:80 flags=S sum=bad"),
    (
        "udp: a question and its answer",
        "in udp 10.7.0.5:1014 198.51.100.1:5000 size=30
         out udp 198.51.100.1:5000 10.6.0.60:1014 size=40",
    ),
    ("udp: rejected, the sender is told", "in udp 10.7.0.5:1015 198.51.100.1:53 size=30"),
    ("udp: a port that no rule names is dropped", "in udp 10.7.0.5:1016 198.51.100.1:5001"),
    ("udp: without a checksum", "in udp 10.7.0.5:1017 198.51.100.1:5000 size=30 sum=none"),
    (
        "udp: a network, and what is beside it",
        "in udp 10.7.0.5:1018 203.0.113.255:1
         in udp 10.7.0.5:1018 203.0.112.255:1",
    ),
    (
        "udp: a rule about source ports",
        "in udp 10.7.0.5:700 198.51.100.1:2000
         in udp 10.7.0.5:701 198.51.100.1:2000",
    ),
    (
        "udp: an answer from another port, and to another one, is none",
        "in udp 10.7.0.5:1019 198.51.100.1:5000
         out udp 198.51.100.1:5002 10.6.0.60:1019
         out udp 198.51.100.1:5000 10.6.0.60:1020",
    ),
    (
        "icmp: an echo and its reply",
        "in icmp 10.7.0.5 198.51.100.1 type=8/0 id=21 size=56
         out icmp 198.51.100.1 10.6.0.60 type=0/0 id=21 size=56",
    ),
    (
        "icmp: other questions are dropped, and replies to nobody",
        "in icmp 10.7.0.5 198.51.100.1 type=13/0 id=22 size=12
         in icmp 10.7.0.5 198.51.100.1 type=0/0 id=22
         out icmp 198.51.100.1 10.6.0.60 type=0/0 id=23",
    ),
    (
        "icmp: an error about a client's packet reaches it, translated",
        "in udp 10.7.0.5:1023 198.51.100.1:5000 size=30
         out icmp 192.0.2.9 10.6.0.60 type=3/1 about udp 10.6.0.60:1023 198.51.100.1:5000 size=30
         out icmp 192.0.2.9 10.6.0.60 type=3/4 mtu=1300 about udp 10.6.0.60:1023 198.51.100.1:5000 size=30",
    ),
    (
        "icmp: an error about a packet that nobody sent",
        "out icmp 192.0.2.9 10.6.0.60 type=3/1 about udp 10.6.0.60:1024 198.51.100.1:5000 size=30",
    ),
    (
        "icmp: an error of a client's about what came by a published port",
        "out udp 198.51.100.1:4002 10.6.0.60:5001 size=30
         in icmp 10.7.0.5 198.51.100.1 type=3/3 about udp 198.51.100.1:4002 10.7.0.5:6001 size=30",
    ),
    (
        "a protocol without ports, and one that no rule names",
        "in 50 10.7.0.5 198.51.100.1 size=20
         in 132 10.7.0.5 198.51.100.1 size=20",
    ),
    (
        "published: a connection from outside, and its answer",
        "out tcp 198.51.100.1:4003 10.6.0.60:8080 flags=S seq=1000
         in tcp 10.7.0.5:80 198.51.100.1:4003 flags=SA seq=5000 ack=1001",
    ),
    (
        "published: a range of ports, to others",
        "out udp 198.51.100.1:4004 10.6.0.60:5010
         in udp 10.7.0.5:6010 198.51.100.1:4004
         out udp 198.51.100.1:4004 10.6.0.60:5011",
    ),
    (
        "from outside: what is not published, and a client's own address",
        "out tcp 198.51.100.1:4005 10.6.0.60:80 flags=S
         out tcp 198.51.100.1:4005 10.7.0.5:80 flags=S
         out udp 198.51.100.1:4005 10.7.0.5:5000
         out icmp 198.51.100.1 10.6.0.60 type=8/0 id=24",
    ),
    (
        "ttl: too many routers, either way, and just few enough",
        "in udp 10.7.0.5:1025 198.51.100.1:5000 ttl=1 size=30
         out tcp 198.51.100.1:4006 10.6.0.60:8080 flags=S ttl=1
         in udp 10.7.0.5:1025 198.51.100.1:5000 ttl=2 size=30",
    ),
    ("tos: kept", "in udp 10.7.0.5:1026 198.51.100.1:5000 tos=184"),
    (
        "too big: with and without leave to be cut",
        "in udp 10.7.0.5:1027 198.51.100.1:5000 size=1450 df
         in udp 10.7.0.5:1027 198.51.100.1:5000 size=1450",
    ),
    (
        "fragments: in order",
        "in udp 10.7.0.5:1028 198.51.100.1:5000 size=1000 number=1 part=0+808
         in udp 10.7.0.5:1028 198.51.100.1:5000 size=1000 number=1 part=808+200",
    ),
    (
        "fragments: the last one first",
        "in udp 10.7.0.5:1029 198.51.100.1:5000 size=1100 number=2 part=808+300
         in udp 10.7.0.5:1029 198.51.100.1:5000 size=1100 number=2 part=0+808",
    ),
    (
        "a source that is not the client's: another host's, a neighbour's, nobody's",
        "in udp 192.0.2.1:1030 198.51.100.1:5000
         in udp 10.7.0.6:1030 198.51.100.1:5000
         in udp 127.0.0.1:1030 198.51.100.1:5000
         in udp 224.0.0.1:1030 198.51.100.1:5000",
    ),
    (
        "groups and loopback are routed nowhere",
        "in udp 10.7.0.5:1031 224.0.0.5:5000
         in udp 10.7.0.5:1031 255.255.255.255:5000
         in udp 10.7.0.5:1031 127.0.0.1:5000",
    ),
    (
        "v6: a handshake, translated",
        "in tcp [fd00:7::5]:1032 [2001:db8::1]:80 flags=S seq=1000
         out tcp [2001:db8::1]:80 [fd00:6::60]:1032 flags=SA seq=5000 ack=1001
         in tcp [fd00:7::5]:1032 [2001:db8::1]:81 flags=S",
    ),
    (
        "v6: rejected by reset and by ICMP, and an echo",
        "in tcp [fd00:7::5]:1033 [2001:db8::1]:23 flags=S seq=77
         in udp [fd00:7::5]:1033 [2001:db8::1]:53 size=30
         in icmp fd00:7::5 2001:db8::1 type=128/0 id=34 size=56
         out icmp 2001:db8::1 fd00:6::60 type=129/0 id=34 size=56",
    ),
    (
        "v6: published, and what is not",
        "out tcp [2001:db8::1]:4007 [fd00:6::60]:8080 flags=S seq=1000
         in tcp [fd00:7::5]:80 [2001:db8::1]:4007 flags=SA seq=5000 ack=1001
         out tcp [2001:db8::1]:4007 [fd00:7::5]:80 flags=S seq=1000",
    ),
    (
        "v6: too many routers, and too big",
        "in udp [fd00:7::5]:1035 [2001:db8::1]:5000 ttl=1 size=30
         in udp [fd00:7::5]:1035 [2001:db8::1]:5000 size=1440
         in udp [fd00:7::5]:1035 [2001:db8::1]:5000 ttl=2 tos=184 size=30",
    ),
];

/// A case in which the gate does otherwise than Linux.
pub struct Allowed {
    /// Its name.
    pub case: &'static str,
    /// All that comes out of the gate.
    pub ours: &'static [&'static str],
    /// Why the gate is right.
    pub why: &'static str,
}

/// All of them.
pub const ALLOWED: [Allowed; 4] = [
    Allowed {
        case: "tcp: an ACK to a published port that belongs to nothing",
        ours: &[],
        why: "only clients' connections are taken over that are older than the router: of those from outside, a SYN is to be \
              seen, or ports that rules hide are found with ACKs",
    },
    Allowed {
        case: "tcp: a wrong checksum",
        ours: &["out tcp 10.6.0.60:1013 198.51.100.1:80 flags=S seq=1000 ack=0 ttl=63 tos=0 sum=bad"],
        why: "a checksum is for the ends (RFC 1122, section 4.2.2.7): it is changed by what translation changes, and stays \
              wrong; to sum up all of every packet is what costs most",
    },
    Allowed {
        case: "fragments: in order",
        ours: &[
            "out udp 10.6.0.60:1028 198.51.100.1:5000 ttl=63 tos=0 part=0+808 more",
            "out udp 10.6.0.60 198.51.100.1 ttl=63 tos=0 part=808+200",
        ],
        why: "the same fragments, but each as it comes: Linux waits for all of them, and keeps them until then",
    },
    Allowed {
        case: "a source that is not the client's: another host's, a neighbour's, nobody's",
        ours: &[],
        why: "a client has its own addresses alone; Linux knows the network that they are in, and no more",
    },
];
