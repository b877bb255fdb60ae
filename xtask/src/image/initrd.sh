#!/bin/busybox sh
# The first process of the initial RAM disk that `cargo xtask image` makes: loads /modules, waits for the root that the
# kernel's command line names, mounts it and hands over. It honours root=, rootfstype=, rootflags=, ro, rw, rootwait,
# rootdelay=, init= and a lone `single`.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
# Tells the machine that user space has begun.
printf '\001' | dd of=/sys/bus/pci/devices/0000:00:00.0/config bs=1 seek=64 conv=notrunc 2>/dev/null

# Says what is wrong and gives the console a shell; its end switches the machine off.
give_up() {
  echo "initrd: $1"
  echo "initrd: kernel command line: $(cat /proc/cmdline)"
  echo "initrd: block devices: $(ls /sys/block | tr '\n' ' ')"
  echo 'initrd: a shell follows; "exit" switches the machine off'
  setsid cttyhack sh
  poweroff -f
}

root=LABEL=enlight-root kind=ext4 mode=ro flags='' init=/sbin/init wait=10 level=''
for word in $(cat /proc/cmdline); do
  case $word in
    root=*) root=${word#root=} ;;
    rootfstype=*) kind=${word#rootfstype=} ;;
    rootflags=*) flags=,${word#rootflags=} ;;
    rootdelay=*) wait=${word#rootdelay=} ;;
    rootwait) wait=1000000 ;;
    init=*) init=${word#init=} ;;
    ro | rw) mode=$word ;;
    single) level=$word ;;
  esac
done

while read -r module; do
  insmod "/modules/$module" || echo "initrd: $module cannot be loaded"
done </modules/load

device=
find_root() {
  case $root in
    LABEL=* | UUID=*) device=$(findfs "$root" 2>/dev/null) ;;
    *) device=$root ;;
  esac
  [ -b "$device" ]
}
tenths=$((wait * 10))
until find_root; do
  [ $tenths -gt 0 ] || give_up "there is no root=$root after $wait s; name a disk that the machine has: /dev/vda, LABEL=, UUID="
  tenths=$((tenths - 1))
  sleep 0.1
done
mount -t "$kind" -o "$mode$flags" "$device" /root ||
  give_up "$device cannot be mounted as $kind ($mode$flags); what the kernel says of it is above. A read-only disk that was not unmounted takes rootflags=noload"
[ -x "/root$init" ] || [ -L "/root$init" ] || give_up "$device has no $init; name another with init=, or another root="
for directory in dev proc sys; do
  mount -o move "/$directory" "/root/$directory" || give_up "$device has no directory /$directory, which a root needs"
done
exec switch_root /root "$init" $level
