#!/bin/sh
# Hotplug of a network backend: puts the interface on the bridge. The toolstack sets $vif and $XENBUS_PATH.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
# The device model's interface of an HVM guest, beside the backend's: there is nothing of it in the store.
if [ "$2" = type_if=tap ]; then
  case "$1" in online | add)
    bridge=$(xenstore-read "$XENBUS_PATH/bridge" 2>/dev/null)
    brctl addif "${bridge:-xenbr0}" "$INTERFACE" && ifconfig "$INTERFACE" up || exit 1
    ;;
  esac
  exit 0
fi
case "$1" in
online | add)
  bridge=$(xenstore-read "$XENBUS_PATH/bridge" 2>/dev/null)
  brctl addif "${bridge:-xenbr0}" "$vif" && ifconfig "$vif" up || {
    xenstore-write "$XENBUS_PATH/hotplug-error" "cannot put $vif on ${bridge:-xenbr0}" "$XENBUS_PATH/hotplug-status" error
    exit 1
  }
  # As Xen's own script does (tools/hotplug/Linux/xen-network-common.sh).
  if mtu=$(xenstore-read "$XENBUS_PATH/mtu" 2>/dev/null); then
    ifconfig "$vif" mtu "$mtu" && xenstore-write "$(xenstore-read "$XENBUS_PATH/frontend")/mtu" "$mtu"
  fi
  xenstore-write "$XENBUS_PATH/hotplug-status" connected
  ;;
offline | remove)
  ifconfig "$vif" down 2>/dev/null
  ;;
esac
exit 0
