#!/bin/sh
# Hotplug of a disk backend: attaches a loop device to the file that the toolstack names and tells blkback about it.
# Keys: xen/include/public/io/blkif.h, "Backend XenBus Nodes"; `physical-device` is "major:minor" in hex.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
fail() {
  xenstore-write "$XENBUS_PATH/hotplug-error" "$1" "$XENBUS_PATH/hotplug-status" error
  exit 1
}
case "$1" in
add)
  params=$(xenstore-read "$XENBUS_PATH/params") || fail "no params"
  mode=$(xenstore-read "$XENBUS_PATH/mode")
  if [ -b "$params" ]; then
    node=$params
  else
    [ -f "$params" ] || fail "$params does not exist"
    case "$mode" in *w*) readonly= ;; *) readonly=-r ;; esac
    # A guest's disks are attached at the same time, and two may find the same device free.
    tries=50
    until node=$(losetup -f) && losetup $readonly "$node" "$params"; do
      tries=$((tries - 1))
      [ $tries -gt 0 ] || fail "losetup $params"
      usleep 20000
    done
  fi
  major_minor=$(stat -L -c '%t:%T' "$node")
  xenstore-write "$XENBUS_PATH/node" "$node" "$XENBUS_PATH/physical-device" "$major_minor" \
    "$XENBUS_PATH/hotplug-status" connected
  ;;
remove)
  node=$(xenstore-read "$XENBUS_PATH/node" 2>/dev/null)
  case "$node" in /dev/loop*) losetup -d "$node" ;; esac
  ;;
esac
exit 0
