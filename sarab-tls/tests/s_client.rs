//! Our server, and OpenSSL's client.

mod support;

use embedded_io_async::{ErrorKind, Read, Write};
use sarab_tls::rustls::ProtocolVersion;
use sarab_tls::{Certificates, Error, TlsStream};
use support::{Socket, line, openssl, server, with_s_client};

/// Answers a line, and closes.
async fn echo(
    stream: Result<TlsStream<Socket>, Error<ErrorKind>>,
) -> Result<(Option<ProtocolVersion>, bool), Error<ErrorKind>> {
    let mut stream = stream?;
    let line = line(&mut stream).await?;
    stream.write_all(format!("answer to {line}\n").as_bytes()).await?;
    let session = (stream.session().version, stream.session().resumed);
    stream.close().await?;
    while stream.read(&mut [0]).await.is_ok_and(|len| len > 0) {}
    Ok(session)
}

#[test]
fn versions_suites_groups_and_keys() {
    if !openssl() {
        return;
    }
    let all = ["p256", "p384", "ed25519", "rsa", "rsa3072"];
    for (arguments, seen) in [
        ("-tls1_3 -servername one.test -ciphersuites TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_3 -servername one.test -ciphersuites TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
        ("-tls1_3 -servername one.test -ciphersuites TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-tls1_3 -servername one.test -groups X25519", "Server Temp Key: X25519"),
        ("-tls1_3 -servername one.test -groups P-256", "Server Temp Key: ECDH, prime256v1"),
        // The client's guess is none of ours: it is asked again.
        ("-tls1_3 -servername one.test -groups P-521:P-384", "Server Temp Key: ECDH, secp384r1"),
        ("-tls1_3 -servername two.test", "Peer signature type: ECDSA"),
        ("-tls1_3 -servername three.test", "Peer signature type: ed25519"),
        ("-tls1_3 -servername four.test", "Peer signature type: RSA-PSS"),
        ("-tls1_3 -servername five.test", "Peer signature type: RSA-PSS"),
        ("-tls1_2 -servername one.test -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("-tls1_2 -servername one.test -cipher ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("-tls1_2 -servername one.test -cipher ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ("-tls1_2 -servername four.test -cipher ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
        ("-tls1_2 -servername four.test -cipher ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
        ("-tls1_2 -servername four.test -cipher ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
        ("-tls1_2 -servername four.test -sigalgs RSA+SHA256", "Peer signature type: RSA"),
        ("-tls1_2 -servername two.test", "Peer signature type: ECDSA"),
        ("-tls1_2 -servername three.test", "Peer signature type: ed25519"),
    ] {
        let name = arguments.split("-servername ").nth(1).unwrap().split(' ').next().unwrap();
        let arguments = format!("{arguments} -verify_return_error -verify_hostname {name}");
        let (output, sessions) = with_s_client(&server(&all, |_| {}), 1, &arguments, b"hello\n", echo);
        println!("{arguments}");
        output.has("answer to hello");
        output.has(seen);
        output.has("Verify return code: 0 (ok)");
        let version = if arguments.contains("-tls1_3") { ProtocolVersion::TLSv1_3 } else { ProtocolVersion::TLSv1_2 };
        assert_eq!(sessions[0], Ok((Some(version), false)));
    }
}

#[test]
fn which_certificate_a_name_gets() {
    if !openssl() {
        return;
    }
    for (arguments, seen) in [
        ("-servername one.test", "CN = Sarab test p256"),
        ("-servername any.wild.test", "CN = Sarab test p256"),
        ("-servername TWO.test", "CN = Sarab test p384"),
        // One level alone: the first of all.
        ("-servername a.b.wild.test", "CN = Sarab test rsa"),
        ("-servername unknown.test", "CN = Sarab test rsa"),
        ("-noservername", "CN = Sarab test rsa"),
        // The first whose key the client can use.
        ("-noservername -sigalgs ECDSA+SHA256", "CN = Sarab test p256"),
    ] {
        let all = ["rsa", "p256", "p384"];
        let (output, _) = with_s_client(&server(&all, |_| {}), 1, arguments, b"hello\n", echo);
        output.has(&format!("subject={seen}\n"));
        output.has("answer to hello");
    }
}

#[test]
fn what_is_refused() {
    if !openssl() {
        return;
    }
    for (arguments, only_tls13, told) in [
        ("-tls1_1 -cipher ALL:@SECLEVEL=0", false, "alert handshake failure"),
        ("-tls1_2", true, "alert protocol version"),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA", false, "alert"),
        ("-tls1_2 -cipher AES128-GCM-SHA256", false, "alert"),
        ("-tls1_3 -groups P-521", false, "alert handshake failure"),
        ("-tls1_3 -sigalgs RSA-PSS+SHA256", false, "alert"),
        ("-alpn unknown", false, "alert no application protocol"),
    ] {
        let server = server(&["p256"], |options| {
            options.only_tls13 = only_tls13;
            options.alpn = vec![b"http/1.1".to_vec()];
        });
        let (output, ended) = with_s_client(&server, 1, arguments, b"hello\n", echo);
        println!("{arguments}: {:?}", ended[0]);
        output.has(told);
        assert!(!output.success, "{arguments}: {}", output.text);
        assert!(matches!(ended[0], Err(Error::Protocol(_))), "{arguments}: {:?}", ended[0]);
    }
}

#[test]
fn application_protocols() {
    if !openssl() {
        return;
    }
    let server = server(&["p256"], |options| options.alpn = vec![b"http/1.1".to_vec(), b"other".to_vec()]);
    let alpn = async |stream: Result<TlsStream<_>, Error<_>>| {
        let mut stream = stream.unwrap();
        stream.close().await.unwrap();
        stream.session().alpn.map(<[u8]>::to_vec)
    };
    let (output, ended) = with_s_client(&server, 1, "-alpn other,http/1.1", b"", alpn);
    output.has("ALPN protocol: http/1.1");
    assert_eq!(ended, [Some(b"http/1.1".to_vec())]);
    let (output, ended) = with_s_client(&server, 1, "", b"", alpn);
    output.has("No ALPN negotiated");
    assert_eq!(ended, [None]);
}

#[test]
fn sessions_are_resumed() {
    if !openssl() {
        return;
    }
    // s_client reconnects five times with the session of the first connection.
    for (version, connections) in [("-tls1_2", 6), ("-tls1_3", 6)] {
        let arguments = format!("{version} -reconnect -servername one.test");
        let quiet = async |stream: Result<TlsStream<_>, Error<_>>| {
            let mut stream = stream.unwrap();
            let resumed = stream.session().resumed;
            // With TLS 1.3 tickets come behind the handshake, and s_client reads them with what it waits for.
            let _ = stream.write_all(b"x").await;
            let _ = stream.flush().await;
            let _ = stream.read(&mut [0]).await;
            resumed
        };
        let (output, resumed) = with_s_client(&server(&["p256"], |_| {}), connections, &arguments, b"Q\n", quiet);
        println!("{version}: {resumed:?}");
        if version == "-tls1_2" {
            assert_eq!(resumed, [false, true, true, true, true, true], "{}", output.text);
            output.has("Reused, TLSv1.2");
        }
    }
    // As files, which both versions can do.
    for version in ["-tls1_2", "-tls1_3"] {
        let folder = tempfile::tempdir().unwrap();
        let session = folder.path().join("session").display().to_string();
        let server = server(&["p256"], |_| {});
        let arguments = format!("{version} -servername one.test");
        let (output, first) = with_s_client(&server, 1, &format!("{arguments} -sess_out {session}"), b"1\n", echo);
        assert!(!first[0].as_ref().unwrap().1, "{}", output.text);
        // Another certificate, in the meantime, changes nothing for those who were here before.
        server.replace(support::with(Certificates::new(), "p384")).unwrap();
        let (output, second) = with_s_client(&server, 1, &format!("{arguments} -sess_in {session}"), b"2\n", echo);
        assert!(second[0].as_ref().unwrap().1, "{version} is resumed: {}", output.text);
        output.has("Reused, TLSv1");
        output.has("answer to 2");
        // A server that was started again has other keys.
        let other = support::server(&["p256"], |_| {});
        let (output, third) = with_s_client(&other, 1, &format!("{arguments} -sess_in {session}"), b"3\n", echo);
        assert!(!third[0].as_ref().unwrap().1);
        output.has("answer to 3");
    }
}

#[test]
fn keys_are_updated_from_both_ends() {
    if !openssl() {
        return;
    }
    // K has s_client send an update and ask for ours; k an update alone.
    let handle = async |stream: Result<TlsStream<_>, Error<_>>| {
        let mut stream = stream.unwrap();
        stream.write_all(b"before\n").await.unwrap();
        stream.update_keys().await.unwrap();
        stream.write_all(b"between\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut lines = Vec::new();
        for _ in 0..2 {
            lines.push(line(&mut stream).await.unwrap());
            stream.write_all(b"got it\n").await.unwrap();
            stream.update_keys().await.unwrap();
        }
        stream.write_all(b"after\n").await.unwrap();
        stream.close().await.unwrap();
        // What is cut while the other end still sends loses it the end.
        while stream.read(&mut [0]).await.is_ok_and(|len| len > 0) {}
        lines
    };
    let (output, lines) = with_s_client(&server(&["p256"], |_| {}), 1, "-tls1_3 -msg", b"one\ntwo\n", handle);
    assert_eq!(lines, [["one", "two"]]);
    for text in ["before", "between", "got it", "after", "KeyUpdate"] {
        output.has(text);
    }
}
