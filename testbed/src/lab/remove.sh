# Usage: remove.sh ID DIRECTORY
# Waits for the end of its input, which ends with the lab's owner, and then removes the lab.
trap '' HUP INT TERM
while read -r _; do :; done

for path in /run/netns/"$1"-*; do
    [ -e "$path" ] || continue
    tries=0
    while pids=$(ip netns pids "${path##*/}" 2>/dev/null) && [ -n "$pids" ] && [ $tries -lt 50 ]; do
        kill -9 $pids 2>/dev/null
        tries=$((tries + 1))
        sleep 0.02
    done
    ip netns delete "${path##*/}" 2>/dev/null
done
# Cgroups of a docker engine.
for path in "*/$1/*" "*/$1"; do
    find /sys/fs/cgroup -depth -type d -path "$path" -delete 2>/dev/null
done
rm -rf -- "$2"
