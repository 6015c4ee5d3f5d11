# native_init.sh ROOT RUN NAME [PRESSURE]: process 1 of the native device, in its own namespaces; standard input is the
# socket that adbd listens on. ROOT: the system that all native devices share; RUN: this device's folder, with data/,
# root/ and the files that stand for /proc/meminfo and /proc/vmstat; PRESSURE: the cgroup's file, where it has one.
set -eu
root=$1 run=$2 name=$3 pressure=${4:-}
new=$run/root

mount --bind "$root" "$new"
mount -o remount,bind,ro "$new"
mount --bind "$run/data" "$new/data"
mount -t sysfs -o ro sysfs "$new/sys"
mount -t tmpfs -o mode=755,size=64m tmpfs "$new/dev"
mkdir "$new/dev/pts" "$new/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$new/dev/pts"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
  set -- $node
  mknod -m 666 "$new/dev/$1" c "$2" "$3"
done

mount -t proc proc "$new/proc"
for file in meminfo vmstat; do
  mount --bind "$run/$file" "$new/proc/$file"
  mount -o remount,bind,ro "$new/proc/$file"
done
# Pressure is the device's own or, with a cgroup that does not count it, not there; never the host's.
if [ -n "$pressure" ]; then
  mount --bind "$pressure" "$new/proc/pressure/memory"
elif [ -d "$new/proc/pressure" ]; then
  mount -t tmpfs -o ro tmpfs "$new/proc/pressure"
fi
# Of the host's settings root may drop caches, as on a phone, and change nothing.
: >"$new/dev/drop_caches"
mount --bind "$new/proc/sys/vm/drop_caches" "$new/dev/drop_caches"
mount --bind "$new/proc/sys" "$new/proc/sys"
mount -o remount,bind,ro "$new/proc/sys"
mount --bind "$new/dev/drop_caches" "$new/proc/sys/vm/drop_caches"
[ ! -e "$new/proc/sysrq-trigger" ] || mount --bind "$new/dev/null" "$new/proc/sysrq-trigger"

cd "$new"
pivot_root . mnt
cd /
export PATH=/usr/sbin:/usr/bin HOME=/data/local/tmp TMPDIR=/data/local/tmp
umount -l /mnt
hostname "$name"
ip link set lo up
# A shell gives what it starts in the background an empty standard input, so the socket goes by another number.
exec 3<&0 </dev/null
LD_PRELOAD=/usr/lib/adbd_loopback.so ADBD_PORT=5555 adbd <&3 3<&- &
exec 3<&-
# Without adbd the device lives on; sleeping, this shell buries what its processes leave behind.
while :; do sleep 60; done
