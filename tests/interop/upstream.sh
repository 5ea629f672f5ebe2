#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Upstream's own tests of its cluster daemon, run against ours or against the one they were built with.
set -eu

usage() {
    cat <<'TEXT'
usage: tests/interop/upstream.sh FOLDER build
       tests/interop/upstream.sh FOLDER clients ours|theirs
       tests/interop/upstream.sh FOLDER tests ours|theirs [TEST ...]

build    fetch Debian's source package of samba into FOLDER and build its ctdb/ there. Needs source entries
         (deb-src) among the package sources, and the packages named in docs/upstream-tests.md.
clients  run upstream's test clients on three daemons, all three nodes at a time
tests    run upstream's test scripts, INTEGRATION/database unless TESTs are named

Needs root: everything runs in a network namespace with nothing but a loopback interface.
A daemon of ours is that of this tree, run by .venv/bin/python. In UNIT/tool and UNIT/onnode, where upstream's
stand-in for a daemon is asked, ours are the programs `ctdb` and `onnode` instead.
TEXT
    exit 2
}

fail() {
    printf 'upstream.sh: cannot %s\n' "$*" >&2
    exit 1
}

# -- building -----------------------------------------------------------------------------------------

build() {
    mkdir -p "$folder"
    cd "$folder"
    [ -n "$(find_ctdb)" ] || apt-get -q source samba
    cd "$(find_ctdb)"
    [ -x bin/transaction_loop ] && return
    ./configure --prefix="$folder/installed" --disable-rpath-install
    make
}

find_ctdb() { find -L "$folder" -maxdepth 2 -path "$folder/samba-*/ctdb" -type d | sort | tail -n 1; }

# -- substituting -------------------------------------------------------------------------------------

# Upstream's runner prefers the programs in ./bin, so a folder of links with one of them replaced is enough.
substitute() {
    stage=$folder/ours
    mkdir -p "$stage/bin" "$stage/python"
    for program in "$ctdb"/bin/*; do
        ln -sfn "$program" "$stage/bin/${program##*/}"
    done
    [ -x "$tree/.venv/bin/python" ] || fail "find .venv/bin/python: run ./dev setup"
    # One test wants the file that the daemon's process runs to be called ctdbd.
    cp -L --remove-destination "$tree/.venv/bin/python" "$stage/python/ctdbd"
    CTDBPY_PATH=$tree:$("$tree/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    CTDBPY_PYTHON=$stage/python/ctdbd
    export CTDBPY_PATH CTDBPY_PYTHON
    rm -f "$stage/bin/ctdbd"
    # The tests expect a command that returns when the daemon runs in the background.
    cat >"$stage/bin/ctdbd" <<'TEXT'
#!/bin/sh
mkdir -p "$CTDB_BASE/run"
PYTHONPATH=$CTDBPY_PATH setsid "$CTDBPY_PYTHON" -m ctdbpy.daemon </dev/null >>"$CTDB_BASE/ctdbd.out" 2>&1 &
pid=$!
tries=0
while [ $tries -lt 300 ]; do
    kill -0 $pid 2>/dev/null || { wait $pid; exit; }
    [ -S "$CTDB_BASE/run/ctdbd.socket" ] && [ "$(cat "$CTDB_BASE/run/ctdbd.pid")" = $pid ] && exit 0
    tries=$((tries + 1))
    sleep 0.1
done
echo "the daemon has no socket after 30 seconds, see $CTDB_BASE/ctdbd.out" >&2
exit 1
TEXT
    chmod +x "$stage/bin/ctdbd"
    case " $* " in *" UNIT/tool"*)
        rm -f "$stage/bin/ctdb"
        cat >"$stage/bin/ctdb" <<'TEXT'
#!/bin/sh
PYTHONPATH=$CTDBPY_PATH exec "$CTDBPY_PYTHON" -m ctdbpy.cli.ctdb "$@"
TEXT
        chmod +x "$stage/bin/ctdb"
        ;;
    esac
    case " $* " in *" UNIT/onnode"*)
        ONNODE=$stage/bin/onnode
        export ONNODE
        rm -f "$ONNODE"
        cat >"$ONNODE" <<'TEXT'
#!/bin/sh
PYTHONPATH=$CTDBPY_PATH exec "$CTDBPY_PYTHON" -m ctdbpy.cli.onnode "$@"
TEXT
        chmod +x "$ONNODE"
        ;;
    esac
    cd "$stage"
}

# -- running ------------------------------------------------------------------------------------------

run_tests() {
    [ $# -gt 0 ] || set -- INTEGRATION/database
    exec "$ctdb/tests/run_tests.sh" -L -V "$folder/var.$whose" "$@"
}

daemons() { "$ctdb/tests/local_daemons.sh" "$state" "$@"; }

run_clients() {
    state=$folder/clients.$whose
    rm -rf "$state"
    export CTDB_TEST_MODE=yes PATH="$PWD/bin:$PATH"
    daemons setup -n 3 >/dev/null
    trap 'daemons stop all >/dev/null 2>&1 || true' EXIT
    daemons start all >"$state/started" 2>&1 || fail "start the daemons: $(cat "$state/started")"
    tries=0
    until CTDB_BASE=$state/node.0 ctdb nodestatus all >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 120 ] || fail "wait longer: the daemons are not healthy after 120 seconds"
        sleep 1
    done
    for name in volatile.tdb hot.tdb copies.tdb; do
        on 0 ctdb attach $name
    done
    on 0 ctdb attach persistent.tdb persistent
    on 0 ctdb attach replicated.tdb replicated
    for node in 0 1 2; do
        on $node ctdb setdbreadonly copies.tdb
    done
    is_good=true
    may_stay=0
    client message_ring -n 3 -t 10
    client tunnel_test -n 3 -t 10
    client fetch_ring -n 3 -t 10 -D volatile.tdb -k ring
    endless_when_alone fetch_loop -n 3 -t 10
    endless_when_alone fetch_loop_key -n 3 -t 10 -D hot.tdb -k hot
    client update_record -D copies.tdb -k record -v value
    client fetch_readonly -D copies.tdb -k record
    endless_when_alone fetch_readonly_loop -n 3 -t 10
    client transaction_loop -n 3 -t 10 -D persistent.tdb -T persistent -k counters
    client transaction_loop -n 3 -t 10 -D replicated.tdb -T replicated -k counters
    client g_lock_loop -n 3 -t 10
    client update_record_persistent -D persistent.tdb -k record -v value
    $is_good
}

on() {
    node=$1
    shift
    CTDB_BASE=$state/node.$node "$@"
}

# These never look at the time while their record stays where they are. The last one to run does not end, with
# whatever daemon, when its record comes to it after the others have gone.
endless_when_alone() {
    may_stay=1
    client "$@"
}

# The same client on all nodes at a time; one that tells how many turns it made says so last.
client() {
    printf '%s\n' "== $*"
    started=
    for node in 0 1 2; do
        on $node timeout 30 "$@" >"$state/said.$node" 2>&1 &
        started="$started $!"
    done
    node=0
    for pid in $started; do
        code=0
        wait "$pid" || code=$?
        if [ $code -eq 124 ] && [ "$may_stay" -gt 0 ]; then
            may_stay=$((may_stay - 1))
        elif [ $code -ne 0 ]; then
            is_good=false
        fi
        printf 'node %d: exit code %d: %s\n' $node $code "$(tr '\r' '\n' <"$state/said.$node" | grep . | tail -n 1)"
        node=$((node + 1))
    done
    may_stay=0
}

# -- command line -------------------------------------------------------------------------------------

[ $# -ge 2 ] || usage
folder=$(mkdir -p "$1" && cd "$1" && pwd)
command=$2
tree=$(cd "$(dirname "$0")/../.." && pwd)
case $command in
build) build && exit 0 ;;
clients | tests) ;;
*) usage ;;
esac
whose=${3:-}
[ "$whose" = ours ] || [ "$whose" = theirs ] || usage
[ "$(id -u)" -eq 0 ] || fail "run the tests: they need root for a network namespace of their own"
if [ -z "${CTDBPY_UPSTREAM_NAMESPACE:-}" ]; then
    CTDBPY_UPSTREAM_NAMESPACE=yes exec unshare --net -- "$0" "$@"
fi
ip link set lo up
shift 3
ctdb=$(find_ctdb)
[ -x "$ctdb/bin/transaction_loop" ] || fail "find upstream's programs: run 'tests/interop/upstream.sh $folder build'"
if [ "$whose" = ours ]; then
    substitute "$@"
else
    cd "$ctdb"
fi
"run_$command" "$@"
