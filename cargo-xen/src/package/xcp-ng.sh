#!/bin/sh
# Makes the VM @NAME@ on this host, with an interface on each network that is named: ./create.sh [NETWORK-UUID ...]
set -eu

name=@NAME@
# XAPI takes kernels from this folder alone.
kernel=/var/lib/xcp/guest/$name
memory=$((@MEMORY@ * 1024 * 1024))

fail() {
    echo "error: $*" >&2
    exit 1
}

[ -f "./$name" ] || fail "no file $name in this folder: run this script where the package was unpacked"
command -v xe >/dev/null || fail "xe not found: run this script as root in dom0 of an XCP-ng host"
[ -z "$(xe vm-list name-label="$name" --minimal)" ] || fail "a VM $name exists: xe vm-destroy uuid=UUID removes it"
for network in "$@"; do
    [ -n "$(xe network-list uuid="$network" --minimal)" ] || fail "no network $network: xe network-list shows them"
done

mkdir -p "${kernel%/*}"
cp "./$name" "$kernel.new"
chmod 644 "$kernel.new"
mv "$kernel.new" "$kernel"

vm=$(xe vm-create name-label="$name")
# Half a VM is of no use.
trap 'xe vm-destroy uuid="$vm"' EXIT
xe vm-param-set uuid="$vm" domain-type=pvh PV-kernel="$kernel" PV-args=@ARGUMENTS@
xe vm-param-set uuid="$vm" platform:pae=true platform:nx=true
xe vm-memory-limits-set uuid="$vm" static-min=$memory dynamic-min=$memory dynamic-max=$memory static-max=$memory
device=0
for network in "$@"; do
    xe vif-create vm-uuid="$vm" network-uuid="$network" device=$device >/dev/null
    device=$((device + 1))
done
trap - EXIT
echo "$vm"
