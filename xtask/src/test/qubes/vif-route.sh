#!/bin/sh
# Hotplug of a network backend as a router, as Qubes OS has it: every interface has the same MAC and the same address,
# and each address of the frontend's is a route. @GATEWAY@ is filled in by the check. The toolstack sets $vif and $XENBUS_PATH.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
ip=/usr/bin/ip
fail() {
  xenstore-write "$XENBUS_PATH/hotplug-error" "$1" "$XENBUS_PATH/hotplug-status" error
  exit 1
}
case "$1" in
online | add)
  addresses=$(xenstore-read "$XENBUS_PATH/ip") || fail "no ip"
  echo 1 >/proc/sys/net/ipv4/ip_forward
  echo 1 >"/proc/sys/net/ipv4/conf/$vif/proxy_arp"
  echo 0 >"/proc/sys/net/ipv6/conf/$vif/accept_dad"
  $ip link set "$vif" address fe:ff:ff:ff:ff:ff && $ip link set "$vif" up && $ip addr add "@GATEWAY@/32" dev "$vif" \
    || fail "cannot set $vif up"
  for address in $addresses; do
    $ip route replace "$address" dev "$vif" || fail "no route to $address"
  done
  xenstore-write "$XENBUS_PATH/hotplug-status" connected
  ;;
offline | remove)
  $ip link set "$vif" down 2>/dev/null
  ;;
esac
exit 0
