#!/usr/bin/busybox sh
# PID 1 of the nested machine: KVM, then the jobs of /nested/jobs.json. KVM_AMD, a word of the kernel's command line: the module's.
export PATH=/usr/bin:/bin HOME=/root TERM=dumb TRAPGATE_CACHE=/root/cache PYTHONDONTWRITEBYTECODE=1
/usr/bin/busybox mount -t proc proc /proc
/usr/bin/busybox mount -t sysfs sys /sys
/usr/bin/busybox mount -t devtmpfs dev /dev
/usr/bin/busybox mkdir -p /dev/shm /dev/pts
/usr/bin/busybox mount -t tmpfs shm /dev/shm
/usr/bin/busybox mount -t devpts pts /dev/pts
/usr/bin/busybox ifconfig lo 127.0.0.1
for module in irqbypass kvm kvm-amd; do
    options=
    [ $module = kvm-amd ] && options=$KVM_AMD
    /usr/bin/busybox insmod /nested/$module.ko $options
done
cd "$(/usr/bin/busybox cat /nested/place)" && .venv/bin/python -m tools.nested.inside
/usr/bin/busybox poweroff -f
