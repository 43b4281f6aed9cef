#!/bin/sh
# First process of the soaked guest: rounds that compile, compress, sum and check themselves. A result that is wrong is a line with
# WRONG; `trapgate.rounds=N` on the kernel command line ends after N rounds, without it there is no end.
export PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -e /dev/null ] || mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
cd /tmp || exit 1
say() { echo "soak: $*"; }
expect() { [ "$2" = "$3" ] || say "WRONG $1: '$3', not '$2'"; }
rounds=0
for word in $(cat /proc/cmdline); do
    case $word in
    trapgate.rounds=*) rounds=${word#trapgate.rounds=} ;;
    esac
done
sum=$(sha256sum < /usr/bin/bash)
round=0
say begins
while :; do
    round=$((round + 1))
    rm -f primes
    tcc -o primes /primes.c || say "WRONG tcc: status $?"
    expect "compiled program" "78498 primes, sum 37550402023" "$(./primes)"
    expect gzip "$sum" "$(gzip -c /usr/bin/bash | gzip -dc | sha256sum)"
    expect xz "$sum" "$(xz -1 -c /usr/bin/bash | xz -dc | sha256sum)"
    for task in cpu:40 fp:20 matrix:40 qsort:2 mergesort:2 hash:20 zlib:3 str:100 memcpy:20 bsearch:10 radixsort:2 tsearch:2 vecmath:20 atomic:20 vm:2000 crypt:10; do
        name=${task%:*}
        stress-ng --quiet --verify --temp-path /tmp "--$name" 1 "--$name-ops" "${task#*:}" --vm-bytes 16M --timeout 300 > log 2>&1
        status=$?
        case $status in
        0) ;;
        3 | 4) say "stress-ng cannot run $name here" ;;
        *) say "WRONG stress-ng $name: status $status: $(tail -n 1 log)" ;;
        esac
        say "$round $name"
    done
    say "round $round done"
    [ "$round" = "$rounds" ] && break
done
say ends
sync
echo o > /proc/sysrq-trigger
sleep 60
