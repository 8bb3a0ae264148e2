# What `cargo xen run gate` shows, in the lab's dom0. $GUEST is the gate, $PORT the port of the user's machine that leads to
# its port 80. `web`, a guest of Sarab's behind it, has been started; the other client is a network namespace of Linux.

say() { printf '%s\n' "$@"; }

# Shows a command and what it prints, and ends the demo where it fails.
run() {
  printf '$ %s\n' "$1"
  sh -c "$1" 2>&1 || { say "this failed with status $?"; exit 1; }
}

# The same for one that has to fail.
refused() {
  printf '$ %s\n' "$1"
  ! sh -c "$1" 2>&1 || { say "this should have failed"; exit 1; }
}

# Waits until a command succeeds, for about half a minute.
await() {
  tries=150
  until sh -c "$2" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { say "waited in vain for $1: $2"; sh -c "$2" 2>&1; exit 1; }
    usleep 100000
  done
}

# Gives the gate other rules, and shows what it says of them.
rules() {
  xenstore-rm "$store/status" 2>/dev/null
  run "xenstore-write $store/rules '$1'"
  await "the gate's answer" "xenstore-read $store/status"
  run "xenstore-read $store/status"
}

inside='/usr/bin/ip netns exec laptop'
store=/local/domain/$(xl domid "$GUEST")/data/gate

say '' 'Two clients are behind the gate: `web`, which was just started, and `laptop`, a network namespace of Linux.'
say "The lines with a \$ run in the lab's dom0. Repeat them in another terminal: cargo xen lab exec 'COMMAND'" ''
mac=00:16:3e:00:86:0a
run "xl network-attach 0 backend=$GUEST mac=$mac"
await "the laptop's card" "grep -l $mac /sys/class/net/*/address"
card=$(basename "$(dirname "$(grep -l $mac /sys/class/net/*/address)")")
run "/usr/bin/ip netns add laptop && /usr/bin/ip link set $card netns laptop name eth0 && $inside ifconfig eth0 up"
# What busybox's DHCP client calls with an address.
cat >/tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
/usr/bin/ip addr add "$ip/$mask" dev "$interface" && /usr/bin/ip route add default via "$router"
echo "address $ip/$mask, router $router, name server $dns, domain $domain, name $hostname"
END
chmod +x /tmp/lease
run "$inside udhcpc -i eth0 -n -q -s /tmp/lease"

say '' 'It reaches what is outside; packets leave with the address of the gate:'
run "$inside ping -c 2 -W 5 10.0.2.2"
say '' 'The gate knows its clients by name:'
await 'web' "$inside nslookup web.lab.internal 10.86.0.1"
run "$inside nslookup web.lab.internal 10.86.0.1 | grep -A 1 Name:"
# Which DHCP has given it, and which stands on its console, where a log frame may be before it.
log=/var/log/xen/console/guest-$GUEST.log
await "the gate's address" "grep -q 'gate: vif/0: [0-9]' $log"
outer=$(sed -n 's|.*gate: vif/0: \([0-9.]*\)/.*|\1|p' $log | tail -n 1)
fetch="$inside wget -q -O - http://$outer/"
await 'the page' "$fetch"
say '' "Port 80 of the gate's outer address leads to web (\`publish tcp 80 to web\`), from inside too:"
run "$fetch | grep -m 1 -i '<h1>'"

base='clients 10.86.0.1/24\nsearch lab.internal\nhost 00:16:3e:00:86:09 web 10.86.0.9\nhost 00:16:3e:00:86:0a laptop'
base="$base"'\npublish tcp 80 to web'
say '' "Other rules, while it runs. By the last line the gate refuses web's pages to other clients:"
rules "$base"'\nreject tcp from inside to web port 80\n'
refused "$fetch"
say '... and nothing else:'
run "$inside ping -c 1 -W 5 10.0.2.2"

say '' 'A mistake is named with its line and column, and the rules stay as they were:'
rules "$base"'\nreject tcp from inside to web prot 80\n'
refused "$fetch"

say '' 'What the gate has done, on its console:'
run "xl sysrq $GUEST g"
await "the gate's console" "grep -q 'gate: names: ' $log"
say '' 'That is all. Rules are explained in docs/gate-rules.md, the gate itself in docs/gate.md.'
[ -z "$PORT" ] || say 'Both clients stay. From your machine, which is outside, web is reached all the time:'
