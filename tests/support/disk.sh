# Guests with a disk, one after the other. Each line "@@ NAME VALUE" is a fact for tests/lab_disk.rs.
enlight=$1 image=$2 disk=$3 qcow2=$4 dir=$5
export ENLIGHT_VM_DIR="$dir/vm" ENLIGHT_CONTROL="$dir/switch.sock"

fact() { echo "@@ $*"; }
# The lines of a guest's console that have something, as one line.
lines() { grep -a "$2" "$dir/$1.log" | tr -d '\r' | tr '\n' ' ' | sed 's/ $//'; }

# start NAME DISK COMMAND [WORDS [NIC]]: a machine whose guest runs a command, and its process in $process.
start() {
  "$enlight" vm run --name "$1" --kernel "$image/vmlinuz" --initrd "$image/initrd.img" --memory 192M --disk "$2" ${5:+--nic "$5"} \
    --cmdline "console=ttyS0 root=LABEL=enlight-root ${4:-rw quiet} enlight.run=\"$3\"" \
    </dev/null >"$dir/$1.log" 2>"$dir/$1.err" &
  process=$!
}

# expect NAME TEXT: waits until the guest has said something.
expect() {
  tries=0
  until grep -aq "$2" "$dir/$1.log"; do
    tries=$((tries + 1))
    if [ $tries -gt 600 ]; then
      echo "$1 does not say: $2" >&2
      cat "$dir/$1.log" "$dir/$1.err" >&2
      exit 1
    fi
    sleep 0.3
  done
}

# refused NAME DISK: a machine that must not start.
refused() {
  start "$1" "$2" true
  wait "$process"
  fact "$1-exit" $?
  fact "$1" "$(cat "$dir/$1.err")"
}

ended() {
  wait "$2"
  fact "$1-exit" $?
  fact "$1-end" "$(cat "$dir/$1.err" | tr '\n' ' ')"
}

info() { "$enlight" vm info "$1" --json | tr -d '\n'; }
check() { e2fsck -fn "$disk" >"$dir/fsck" 2>&1; echo $?; cat "$dir/fsck" >&2; }

# Writes at the first start, looks at the second.
twice='if [ -e /one ]; then sha256sum -c /one.sum; echo second start; else head -c 8M /dev/urandom >/one; sha256sum /one >/one.sum; sync; reboot; fi'

start one "$disk" "$twice"
one=$process
expect one 'second start'
expect one 'automatic login'
fact one-info "$(info one)"
fact one-login "$(lines one 'automatic login')"
kill -0 "$one" && fact one-same-process yes
refused thief "$disk"
refused reader "$disk,ro"
fact one-after-thief "$("$enlight" vm list | grep '^one ' | grep -o running)"
"$enlight" vm stop one >&2
fact one-stop $?
ended one "$one"
fact one-fsck "$(check)"

# Is killed while it writes.
start two "$disk" 'sha256sum -c /one.sum; head -c 4M /dev/urandom >/two; sha256sum /two >/two.sum; sync; echo synchronised; while :; do head -c 1M /dev/urandom >/three; done'
two=$process
expect two synchronised
kill -9 "$two"
ended two "$two"
fact two-first-data "$(lines two '^/one: ')"
e2fsck -n "$disk" >"$dir/fsck" 2>&1
fact two-fsck "$(tr '\n' ' ' <"$dir/fsck")"

# The kernel's messages are to be seen here, and there is a network with a host that answers.
"$enlight" switch run --control "$ENLIGHT_CONTROL" >"$dir/switch.log" 2>&1 &
switch=$!
tries=0
until "$enlight" port list >"$dir/ports" 2>&1 || [ $tries -gt 100 ]; do
  tries=$((tries + 1))
  sleep 0.3
done
"$enlight" port add v0 --vhost-user "$dir/v0.sock" >&2
"$enlight" port add probe --endpoint 192.0.2.254/24 >&2
start three "$disk" 'sha256sum -c /one.sum /two.sum; ping -c 1 -W 60 192.0.2.254; ip route' \
  'rw enlight.ip=192.0.2.1/24 enlight.gateway=192.0.2.254' port=v0
three=$process
expect three 'enlight.run: exit status'
fact three-recovery "$(lines three 'recovery complete')"
fact three-data "$(lines three '^/[a-z]*: ')"
fact three-ping "$(lines three '1 packets transmitted')"
fact three-route "$(lines three '^default via')"
"$enlight" vm stop three >&2
ended three "$three"
kill "$switch"
wait "$switch"
fact three-fsck "$(check)"

start left "$disk,ro" 'sha256sum -c /one.sum /two.sum; touch /four' 'ro quiet'
left=$process
start right "$disk,ro" 'sha256sum -c /one.sum /two.sum; touch /four' 'ro quiet'
right=$process
for guest in left right; do
  expect $guest 'enlight.run: exit status'
  fact $guest-data "$(lines $guest '^/[a-z]*: ')"
  fact $guest-write "$(lines $guest touch)"
  fact $guest-info "$(info $guest)"
done
refused writer "$disk"
for guest in left right; do "$enlight" vm stop --force $guest >&2; done
wait "$left" "$right"
fact shared-fsck "$(check)"

cp "$qcow2" "$dir/root.qcow2"
start qcow2 "$dir/root.qcow2" "$twice"
qcow2=$process
expect qcow2 'second start'
fact qcow2-data "$(lines qcow2 '^/one: ')"
"$enlight" vm stop qcow2 >&2
ended qcow2 "$qcow2"
for guest in one two three left right qcow2; do echo "--- $guest"; cat "$dir/$guest.log" "$dir/$guest.err"; done >&2
