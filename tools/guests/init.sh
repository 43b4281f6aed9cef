#!/bin/sh
# First process of the guest: `trapgate.run=CMD` on the kernel command line runs CMD (commas stand for spaces) and powers off;
# without it there is a shell on the console, and the machine powers off when that ends.
export PATH=/bin HOME=/ TERM=vt100
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -e /dev/null ] || mount -t devtmpfs devtmpfs /dev
echo "trapgate: init reached"
command=
for word in $(cat /proc/cmdline); do
    case $word in
    trapgate.run=*) command=${word#trapgate.run=} ;;
    esac
done
if [ -n "$command" ]; then
    sh -c "$(echo "$command" | tr , ' ')"
    echo "trapgate: exit status $?"
else
    setsid -c sh -i < /dev/ttyS0 > /dev/ttyS0 2>&1
fi
poweroff -f
