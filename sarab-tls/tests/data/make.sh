#!/bin/sh
# Makes the certificates and keys of the tests, valid for a hundred years. They protect nothing.
set -e
cd "$(dirname "$0")"
days=36500
ca() { # name, key's file, parent or nothing
    subject="/CN=Sarab test $1"
    if [ -z "$3" ]; then
        openssl req -x509 -new -key "$2" -sha256 -days $days -subj "$subject" -out "$1.pem" \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
    else
        sign "$1" "$2" "$3" "basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign"
    fi
}
sign() { # name, key's file, parent, extensions
    printf '%s\n' "$4" > extensions
    openssl req -new -key "$2" -subj "/CN=Sarab test $1" -out request
    openssl x509 -req -in request -CA "$3.pem" -CAkey "$3.key" -sha256 -days $days -extfile extensions -out "$1.pem" \
        -set_serial "0x$(openssl rand -hex 15)" 2> /dev/null
    rm request extensions
}
leaf() { # name, names, parent
    sign "$1" "$1.key" "${3:-root}" "basicConstraints=critical,CA:FALSE
extendedKeyUsage=serverAuth
subjectAltName=$2"
}
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out root.key
ca root root.key
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out stranger.key
ca stranger stranger.key
openssl ecparam -name secp384r1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out between.key
ca between between.key root
# P-256 as PKCS#8, directly below the root.
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out p256.key
leaf p256 "DNS:one.test,DNS:*.wild.test,IP:127.0.0.1"
# P-384 as SEC1, below an authority in between, which its file has, too.
openssl ecparam -name secp384r1 -genkey -noout -out p384.key
leaf p384 DNS:two.test between
cat between.pem >> p384.pem
openssl genpkey -algorithm ed25519 -out ed25519.key
leaf ed25519 DNS:three.test
# RSA as PKCS#1, and as PKCS#8.
openssl genrsa -traditional -out rsa.key 2048 2> /dev/null
leaf rsa DNS:four.test
openssl genrsa -out rsa3072.key 3072 2> /dev/null
leaf rsa3072 DNS:five.test
# For the same name as P-256, by somebody whom nobody trusts.
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out untrusted.key
leaf untrusted DNS:one.test stranger
# For the same name, and for a day alone.
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out expired.key
days=1
leaf expired DNS:one.test
days=36500
# What cannot be used: a key that is too short, a curve that is not supported, a key behind a passphrase.
openssl genrsa -out rsa1024.key 1024 2> /dev/null
leaf rsa1024 DNS:short.test
openssl ecparam -name secp521r1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out p521.key
leaf p521 DNS:p521.test
openssl pkcs8 -topk8 -in p256.key -passout pass:secret -out encrypted.key
rm between.key stranger.key
