# Runs a domain to its end: @NAME@ from the xl file @CONFIG@. Its console comes on standard output; standard input goes
# to it; when standard input ends, so does the domain. The last line tells how it went: @sarab-end=REASON, a number of
# xen/include/public/sched.h, or `failed`.
name='@NAME@'
config='@CONFIG@'
cleanup() {
  status=$?
  trap - EXIT HUP INT TERM PIPE
  xl destroy "$name" >/dev/null 2>&1
  @CLEANUP@
  exit $status
}
trap cleanup EXIT
trap 'exit 130' HUP INT TERM PIPE
exec 3<&0

if xl domid "$name" >/dev/null 2>&1; then
  echo "a domain named $name is running already: end it with \`xl destroy $name\`"
  trap - EXIT
  exit 1
fi
while :; do
  # -e: nobody else reacts to its end. -p: the console is listened to before there is anything to hear.
  xl create -q -e -p "$config" || { echo '@sarab-end=failed'; exit 1; }
  id=$(xl domid "$name") || exit 1
  { cat <&3; kill -TERM $$; } | xl console -t pv "$id" &
  console=$!
  xl unpause "$id"
  while :; do
    reason=$(xl list -v "$id" 2>/dev/null | awk 'NR == 2 { print $8 }')
    [ "$reason" = - ] || break
    sleep 0.2
  done
  # What the guest printed has left its ring; give the toolstack's programs a moment to pass it on.
  sleep 0.3
  xl destroy "$id" >/dev/null 2>&1
  [ "$reason" = 1 ] || break
  kill "$console" 2>/dev/null
  echo '-- the guest reboots --'
done
echo
echo "@sarab-end=${reason:-gone}"
exit 0
