# Runs a domain to its end: @NAME@ from the xl file @CONFIG@. Its console comes on standard output. When standard input
# ends, which is when nobody is there any more, so does the domain. At its end stands a mark (SOH, @MARK@, `=`)
# with how it ended: a number of xen/include/public/sched.h, `gone`, or `failed`.
export PATH="$PATH:/usr/sbin:/sbin"
name='@NAME@'
config='@CONFIG@'
dir='@DIR@'
cleanup() {
  status=$?
  trap - EXIT HUP INT TERM PIPE
  xl destroy "$name" >/dev/null 2>&1
  kill $console 2>/dev/null
  rm -rf "$dir"
  exit $status
}
trap cleanup EXIT
trap 'exit 130' HUP INT TERM PIPE

if xl domid "$name" >/dev/null 2>&1; then
  echo "a domain named $name is running already: end it with \`xl destroy $name\`"
  trap - EXIT
  rm -rf "$dir"
  exit 1
fi
# It holds nothing that would keep standard output open.
exec 3<&0
{ cat <&3; kill -TERM $$; } >/dev/null 2>&1 &
while :; do
  # -e: nobody else reacts to its end. -p: the console is listened to before there is anything to hear.
  xl create -q -e -p "$config" || { printf '\001@MARK@=failed\n'; exit 1; }
  id=$(xl domid "$name") || exit 1
  # The console's terminal (docs/misc/console.txt).
  tries=100
  until tty=$(xenstore-read "/local/domain/$id/console/tty" 2>/dev/null) && [ -n "$tty" ]; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "xenconsoled has made no terminal for $name"; exit 1; }
    sleep 0.1
  done
  cat <"$tty" 3<&- 2>/dev/null &
  console=$!
  store="/local/domain/$id"
@STORE@  xl unpause "$id"
  while :; do
    reason=$(xl list -v "$id" 2>/dev/null | awk 'NR == 2 { print $8 }')
    [ "$reason" = - ] || break
    sleep 0.2
  done
  # What the guest printed has left its ring; give the toolstack's programs a moment to pass it on.
  sleep 0.3
  xl destroy "$id" >/dev/null 2>&1
  kill "$console" 2>/dev/null
  [ "$reason" = 1 ] || break
  echo '-- the guest reboots --'
done
printf '\001@MARK@=%s\n' "${reason:-gone}"
exit 0
