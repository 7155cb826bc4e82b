# Sourced by `demo` and `test`: what building and the lab need. Debian's package names.

export PATH="$PATH:${HOME:-/root}/.cargo/bin:/usr/sbin:/sbin"

# PROGRAM=PACKAGE
needed=(
    gcc=gcc ip=iproute2 nft=nftables ethtool=ethtool ping=iputils-ping curl=curl iperf3=iperf3
    etcd=etcd-server etcdctl=etcd-client openssl=openssl
)

# Installs what is missing.
prepare() {
    local pair missing=()
    for pair in "${needed[@]}"; do
        command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
    if [ ${#missing[@]} -gt 0 ]; then
        install_packages "${missing[@]}"
    fi
    if ! command -v cargo >/dev/null; then
        echo "Rust is missing: see https://rustup.rs" >&2
        exit 1
    fi
    if [ ! -e /dev/net/tun ] && [ "$(id -u)" = 0 ]; then
        modprobe tun 2>/dev/null || true
        [ -e /dev/net/tun ] || { mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200; }
    fi
}

install_packages() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "these packages are missing: as root, apt-get install $*" >&2
        exit 1
    fi
    echo "Installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq --no-install-recommends "$@" >/dev/null
}

# One selection for both scripts: another could give dependencies other features, and build them again.
build_programs() {
    cargo build --release --locked -p cframe-controller -p cframe-edge -p cfctl -p cframe-testbed
}

# Where cargo puts what it builds.
target_dir() {
    cargo metadata --no-deps --locked --format-version 1 |
        sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}
