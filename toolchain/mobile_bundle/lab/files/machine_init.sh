#!/usr/bin/busybox sh
# Process 1 of the virtual machine. Says on the console when adbd runs; a line "kill-adbd" there kills adbd, and is
# answered when that is done.
busybox=/usr/bin/busybox
$busybox mount -t proc proc /proc
$busybox --install -s /usr/bin
export PATH=/usr/sbin:/usr/bin HOME=/data/local/tmp TMPDIR=/data/local/tmp
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=0666,mode=620 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -sf /proc/self/fd /dev/fd
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
hostname "$(sed -n 's/.*lab_name=\([^ ]*\).*/\1/p' /proc/cmdline)"
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
mount -t ext4 -o noinit_itable /dev/vda /data || echo "lab: there is no disk" >/dev/console
ADBD_PORT=5555 adbd >/dev/null 2>&1 </dev/null &
adbd=$!
(while read -r command; do
  [ "$command" = kill-adbd ] && kill -9 "$adbd" && echo "lab: adbd is dead" >/dev/console
done) </dev/console &
echo "lab: adbd runs" >/dev/console
while :; do sleep 60; done
