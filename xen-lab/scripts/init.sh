#!/bin/busybox sh
# The lab's first process in dom0. @VALUES@ are filled in by `cargo xen` at each boot.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=${TERM:-vt100}
/bin/busybox --install -s /bin
for program in @XEN_BIN@/*; do ln -s "$program" /bin/; done
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /run/lock /run/xen /run/xenstored /var/lib/xenstored
mount -t devpts devpts /dev/pts
ln -sfn /run /var/run
ln -sfn /run/lock /var/lock
for module in /lib/modules/*.ko; do
  insmod "$module" || echo "lab: cannot load $module"
  # Block drivers have a queue for each processor that there is when they are loaded. One is enough for the rest: ext4
  # alone takes twelve seconds to load where a second processor has to hear of each of its trace points.
  case $module in *xen_blkfront*) echo 0 >/sys/devices/system/cpu/cpu1/online ;; esac
done
mount -t xenfs xenfs /proc/xen
hostname lab
echo 'root::0:0:root:/root:/bin/sh' >/etc/passwd

@STORE@ || echo "lab: @STORE@ failed"
until xenstore-read / >/dev/null 2>&1; do usleep 20000; done
xen-init-dom0
xenconsoled --log=all --log-dir=/var/log/xen/console

ifconfig lo 127.0.0.1 up
brctl addbr xenbr0
brctl addif xenbr0 eth0 2>/dev/null
ifconfig eth0 0.0.0.0 up 2>/dev/null
ifconfig xenbr0 10.0.2.10 netmask 255.255.255.0 up
route add default gw 10.0.2.2 2>/dev/null

nc -ll -p 5555 -e /bin/lab-agent </dev/null >/dev/null 2>&1 &
until grep -q ':15B3 ' /proc/net/tcp /proc/net/tcp6 2>/dev/null; do usleep 20000; done
echo "lab: ready"
if [ "@SHELL@" = yes ]; then
  echo "dom0 of the lab: xl, xenstore-ls, … ; 'exit' ends it"
  stty -F /dev/hvc0 rows @ROWS@ cols @COLS@
  setsid -c sh -l </dev/hvc0 >/dev/hvc0 2>&1
  poweroff -f
fi
while :; do sleep 3600; done
