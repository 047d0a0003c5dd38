# The first steps of process 1. They belong to a process inside the PID namespace: a procfs
# shows the namespace of the process that mounts it, and a process enters a control group
# by itself. That group is bound to /sys/fs/cgroup.
mount -t proc proc /proc
# /proc/sys/net is the node's. All other sysctls are the machine's, and a booting systemd
# would set some of them.
mount --bind /proc/sys/net /proc/sys/net
mount --rbind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
echo 0 > /sys/fs/cgroup/cgroup.procs
umount /sys/fs/cgroup
# From here on that group is the root of the hierarchy.
exec unshare --cgroup sh -euc '
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec /lib/systemd/systemd'
