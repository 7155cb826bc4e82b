# Sourced by the scripts beside it: what building and the lab need, with the names of Debian's packages.

export PATH="$PATH:${HOME:-/root}/.cargo/bin:/usr/sbin:/sbin"

# PROGRAM=PACKAGE
needed=(
    gcc=gcc ip=iproute2 nft=nftables ethtool=ethtool ping=iputils-ping curl=curl iperf3=iperf3 iptables=iptables
)
# For the store in etcd, which the demo does without: its client generates code from protocol definitions.
needed_for_etcd=(protoc=protobuf-compiler)

# Installs what is missing of `needed`.
prepare() {
    local pair missing=()
    for pair in "${needed[@]}"; do
        command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
    if [[ " ${needed[*]} " == *" protoc="* && ! -e /usr/include/google/protobuf/descriptor.proto ]]; then
        missing+=(libprotobuf-dev)
    fi
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
    # Nothing is started: tests run their own etcd and docker, and the packages' services stay off.
    local policy=/usr/sbin/policy-rc.d made='' result=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 0755 "$policy"
        made=1
    fi
    apt-get install -qq --no-install-recommends "$@" >/dev/null || result=$?
    [ -z "$made" ] || rm -f "$policy"
    local package unit
    for package in etcd-server=etcd docker.io=docker.socket docker.io=docker docker.io=containerd; do
        unit=${package#*=}
        if [[ " $* " == *" ${package%=*} "* ]] && command -v systemctl >/dev/null; then
            systemctl disable --quiet "$unit" 2>/dev/null || true
        fi
    done
    return "$result"
}

# Profiles: `dev` is quick to build and serves the demo and the tests, `dist` is for packages and benchmarks.
#
# The demo builds what it runs, which leaves etcd out. The selection of packages and the features that they need of
# their dependencies are those of `cargo test --workspace`, so that the tests reuse what is built here.
build_demo() {
    if [ ! -x "$(target_dir)/debug/testbed" ]; then
        echo "Building the programs and the lab, once: about 200 crates, 4 minutes on 2 cores"
    fi
    cargo build --locked --no-default-features --bins \
        -p cframe-controller -p cframe-edge -p cfctl -p cframe-testbed
}

# The programs and the testbed each by themselves: features that the testbed wants of a library are not theirs.
build_dist() {
    if [ ! -x "$(target_dir)/dist/testbed" ]; then
        echo "Building with every optimisation, once: 8 to 9 minutes on 2 cores"
    fi
    cargo build --profile dist --locked -p cframe-controller -p cframe-edge -p cfctl
    cargo build --profile dist --locked -p cframe-testbed
}

# Where cargo puts what it builds.
target_dir() {
    cargo metadata --no-deps --locked --format-version 1 |
        sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}
