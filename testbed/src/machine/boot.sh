# Usage: boot.sh DIRECTORY NAME HOSTS [OUTSIDE INSIDE]...
# The first process of a machine, in its own mount, process and UTS namespaces: makes the file system below DIRECTORY,
# binds what the machine shares with the outside, and waits. HOSTS are lines of /etc/hosts.
set -eu
dir=$1 name=$2 hosts=$3
shift 3

# One tmpfs, which is gone with the namespace.
mount -t tmpfs -o mode=0755 tmpfs "$dir"
cd "$dir"
mkdir -m 0755 etc home opt run usr var
mkdir -m 0555 proc
mkdir -m 0700 root
mkdir -m 1777 tmp
mkdir sys old
mount -t proc proc proc
mount --rbind /sys sys

# As udev makes them; any user may open the TUN device.
mkdir -p dev/net dev/shm
for node in null zero full random urandom; do
    : >"dev/$node" && mount --bind "/dev/$node" "dev/$node"
done
mknod -m 0666 dev/net/tun c 10 200 2>/dev/null ||
    { : >dev/net/tun && mount --bind /dev/net/tun dev/net/tun; }
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr

# Only programs and libraries are shared with the outside.
mount --rbind /usr usr
mount -t tmpfs -o mode=0755 tmpfs usr/local
mkdir -p usr/local/bin usr/local/sbin
for path in /bin /sbin /lib /lib32 /lib64 /libx32; do
    if [ -L "$path" ]; then
        cp -d "$path" .
    elif [ -d "$path" ]; then
        mkdir ".$path" && mount --rbind "$path" ".$path"
    fi
done
# Without root, files that only root may read are left out.
cp -dR --preserve=mode /etc/. etc 2>/dev/null || true
rm -rf etc/cframe etc/systemd/system/cframe* etc/default/etcd etc/etcd
mkdir -p var/cache var/lib var/log var/spool var/tmp etc/default etc/systemd/system
chmod 1777 var/tmp
ln -s ../run var/run
echo "$name" >etc/hostname
printf '127.0.0.1 localhost %s\n%s\n' "$name" "$hosts" >etc/hosts
hostname "$name"

# Users of packages that are installed outside stay, users of a cframe outside do not.
sed -i '/^cframe:/d' etc/passwd etc/group 2>/dev/null || true
[ ! -f etc/shadow ] || sed -i '/^cframe:/d' etc/shadow
if [ "$(wc -l </proc/self/uid_map)" = 1 ] && ! grep -q '^ *0 *0 *4294967295$' /proc/self/uid_map; then
    # In a user namespace with root alone, every user is root.
    sed -i 's/^etcd:\([^:]*\):[0-9]*:[0-9]*:/etcd:\1:0:0:/' etc/passwd
    cat >usr/local/sbin/useradd <<'END'
#!/bin/sh
for name; do :; done
groupadd --non-unique --gid 0 "$name"
exec /usr/sbin/useradd --non-unique --uid 0 --gid 0 "$@"
END
    cat >usr/local/sbin/runuser <<'END'
#!/bin/sh
shift 2
[ "$1" != -- ] || shift
exec "$@"
END
    chmod 0755 usr/local/sbin/useradd usr/local/sbin/runuser
fi
# As the package of etcd does.
if grep -q '^etcd:' etc/passwd; then
    mkdir -m 0700 var/lib/etcd
    chroot . chown etcd: /var/lib/etcd
fi

while [ $# -ge 2 ]; do
    if [ -d "$1" ]; then
        mkdir -p ".$2"
    else
        mkdir -p ".${2%/*}"
        : >".$2"
    fi
    mount --bind -o ro "$1" ".$2"
    shift 2
done

pivot_root . old
cd /
umount -l /old
rmdir /old
echo up
# As the first process it reaps orphans, while it waits.
sleep infinity &
wait
