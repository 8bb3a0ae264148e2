//! Our client, and OpenSSL's server.

mod support;

use std::io::Write as _;
use std::time::Duration;

use embedded_io_async::{ErrorKind, Read, Write};
use sarab_tls::rustls::{CertificateError, Error as Rustls, ProtocolVersion};
use sarab_tls::{Client, ClientOptions, Error, Roots, TlsStream};
use support::{Socket, block_on, client, connect, file, line, openssl, s_server};

/// Says a line, which `s_server -rev` returns backwards.
async fn talk(mut stream: TlsStream<Socket>) -> Result<TlsStream<Socket>, Error<ErrorKind>> {
    stream.write_all(b"hello\n").await?;
    assert_eq!(line(&mut stream).await?, "olleh");
    Ok(stream)
}

async fn ask(client: &Client, name: &str, port: u16) -> Result<TlsStream<Socket>, Error<ErrorKind>> {
    talk(client.connect(name, connect(port)).await?).await
}

#[test]
fn versions_suites_and_keys() {
    if !openssl() {
        return;
    }
    for (key, name, arguments, suite) in [
        ("p256", "one.test", "-tls1_3 -ciphersuites TLS_AES_128_GCM_SHA256", "TLS13_AES_128_GCM_SHA256"),
        ("p256", "one.test", "-tls1_3 -ciphersuites TLS_AES_256_GCM_SHA384", "TLS13_AES_256_GCM_SHA384"),
        ("p256", "a.wild.test", "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256", "TLS13_CHACHA20_POLY1305_SHA256"),
        ("p256", "127.0.0.1", "-tls1_3 -groups P-384", "TLS13_"),
        ("p384", "two.test", "-tls1_3 -cert_chain between.pem", "TLS13_"),
        ("ed25519", "three.test", "-tls1_3", "TLS13_"),
        ("rsa", "four.test", "-tls1_3", "TLS13_"),
        ("p256", "one.test", "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM"),
        ("p256", "one.test", "-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20"),
        ("p384", "two.test", "-tls1_2 -cert_chain between.pem", "TLS_ECDHE_ECDSA_WITH_AES"),
        ("rsa3072", "five.test", "-tls1_2 -cipher ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM"),
        ("rsa", "four.test", "-tls1_2 -sigalgs RSA+SHA512", "TLS_ECDHE_RSA_WITH"),
        ("ed25519", "three.test", "-tls1_2", "TLS_ECDHE_ECDSA_WITH"),
    ] {
        let (_running, port) = s_server(&format!("-rev -cert {key}.pem -key {key}.key {arguments}"));
        let version = if arguments.contains("-tls1_3") { ProtocolVersion::TLSv1_3 } else { ProtocolVersion::TLSv1_2 };
        let client = client(|_| {});
        // The second connection goes on with the session of the first.
        for resumed in [false, true] {
            let mut stream = block_on(ask(&client, name, port)).unwrap_or_else(|error| panic!("{arguments}: {error}"));
            let session = stream.session();
            assert_eq!((session.version, session.resumed), (Some(version), resumed), "{arguments}");
            assert!(format!("{:?}", session.suite).contains(suite), "{arguments}: {:?}", session.suite);
            block_on(stream.close()).unwrap();
        }
    }
}

#[test]
fn certificates_that_are_refused() {
    if !openssl() {
        return;
    }
    let refused = |key: &str, name: &str, arguments: &str, now: u64| {
        let (_running, port) = s_server(&format!("-rev -cert {key}.pem -key {key}.key {arguments}"));
        let roots = Roots::from_pem(&file("root.pem")).unwrap();
        let client = Client::new(roots, ClientOptions::default(), move || Duration::from_secs(now)).unwrap();
        block_on(ask(&client, name, port)).unwrap_err()
    };
    let certificate = |error: Error<ErrorKind>| match error {
        Error::Protocol(Rustls::InvalidCertificate(error)) => error,
        error => panic!("{error}"),
    };
    const NOW: u64 = 2_000_000_000;
    let error = certificate(refused("p256", "two.test", "", NOW));
    assert!(matches!(error, CertificateError::NotValidForNameContext { .. }), "{error:?}");
    let error = certificate(refused("p256", "a.b.wild.test", "", NOW));
    assert!(matches!(error, CertificateError::NotValidForNameContext { .. }), "{error:?}");
    let error = certificate(refused("untrusted", "one.test", "", NOW));
    assert_eq!(error, CertificateError::UnknownIssuer);
    // An authority in between is missing.
    let error = certificate(refused("p384", "two.test", "", NOW));
    assert_eq!(error, CertificateError::UnknownIssuer);
    let error = certificate(refused("expired", "one.test", "", NOW));
    assert!(matches!(error, CertificateError::ExpiredContext { .. }), "{error:?}");
    let error = certificate(refused("p256", "one.test", "", 1_767_225_601));
    assert!(matches!(error, CertificateError::NotValidYetContext { .. }), "{error:?}");
    // Too short a key to be believed.
    let error = refused("rsa1024", "short.test", "-cipher DEFAULT@SECLEVEL=0", NOW);
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    // A clock that was never set, and one far ahead.
    for (now, year) in [(0, "1970"), (1_700_000_000, "2023"), (5_000_000_000, "2128")] {
        let error = refused("p256", "one.test", "", now);
        assert!(matches!(error, Error::Clock(_)) && error.to_string().contains(year), "{error}");
    }
    let error = refused("p256", "no name", "", NOW);
    assert!(matches!(error, Error::Name(_)), "{error:?}");
}

#[test]
fn versions_and_suites_that_are_refused() {
    if !openssl() {
        return;
    }
    let client = client(|_| {});
    for arguments in ["-tls1_1 -cipher ALL:@SECLEVEL=0", "-tls1_2 -cipher AES128-GCM-SHA256", "-tls1_3 -groups P-521"] {
        let key = if arguments.contains("AES128-GCM") { "rsa" } else { "p256" };
        let (_running, port) = s_server(&format!("-rev -cert {key}.pem -key {key}.key {arguments}"));
        let error = block_on(ask(&client, "one.test", port)).unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{arguments}: {error:?}");
    }
}

#[test]
fn keys_are_updated_by_both_ends() {
    if !openssl() {
        return;
    }
    let client = client(|_| {});
    let (mut running, port) = s_server("-cert p256.pem -key p256.key -tls1_3");
    let mut stdin = running.0.stdin.take().unwrap();
    block_on(async {
        let mut stream = client.connect("one.test", connect(port)).await.unwrap();
        // Until s_server has told that somebody is there it takes no commands; what it prints then comes before that.
        stream.write_all(b"hello\n").await.unwrap();
        stream.update_keys().await.unwrap();
        stream.write_all(b"after our update\n").await.unwrap();
        stream.flush().await.unwrap();
        let out = running.0.stdout.as_mut().unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"after our update\n") {
            let mut byte = [0];
            assert_eq!(std::io::Read::read(out, &mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        // K: an update that asks for ours. A line that comes with it is taken for a part of it, so another one follows until
        // one has arrived.
        stdin.write_all(b"K\n").unwrap();
        let (arrived, waits) = std::sync::mpsc::channel::<()>();
        let lines = std::thread::spawn(move || {
            while waits.recv_timeout(Duration::from_millis(100)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                stdin.write_all(b"after theirs\n").unwrap();
            }
            stdin
        });
        assert_eq!(line(&mut stream).await.unwrap(), "after theirs");
        drop(arrived);
        // At its end s_server would say goodbye.
        let _stdin = lines.join().unwrap();
        stream.write_all(b"with new keys\n").await.unwrap();
        stream.flush().await.unwrap();
        said.clear();
        while !said.ends_with(b"with new keys\n") {
            let mut byte = [0];
            assert_eq!(std::io::Read::read(out, &mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        // Killed, the server says no goodbye.
        running.0.kill().unwrap();
        let end = stream.read(&mut [0; 10]).await;
        assert!(matches!(end, Err(Error::Truncated | Error::Transport(_))), "{end:?}");
    });
}
