#!/usr/bin/env bash
# An elastic run: a supervisor and some worker processes on this machine; others may join and leave while it goes on.
#
#     [BIND=127.0.0.1] [PORT=29500] launch/elastic.sh WORKERS CONFIG [key=value ...]
#
# Workers on other machines, at any time:  zodist train HOST:PORT  (then BIND=0.0.0.0 here, and exchange.key_file=FILE
# on both sides unless all who can reach the port are trusted). The supervisor is started again if it is killed, and the
# workers wait for it; a worker that is killed is not missed. What workers say is in the run folder, worker-N.log.
# SIGTERM: all finish their step, and the script leaves with status 75; the same command goes on.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

[[ ${1:-} =~ ^[0-9]+$ && -n ${2:-} ]] || fail "usage: launch/elastic.sh WORKERS CONFIG [key=value ...]" 2
workers=$1 bind=${BIND:-127.0.0.1} port=${PORT:-29500}
shift

prepare demo
share_cores "$((workers > 0 ? workers : 1))"
folder=$("$python" -c 'import sys; from zodist.config.settings import load; print(load(sys.argv[1], sys.argv[2:]).run.folder)' "$@")
mkdir -p "$folder"
host=$bind
[[ $host != 0.0.0.0 ]] || host=127.0.0.1

pids=()
for ((n = 0; n < workers; n++)); do
    "$python" -m zodist train "$@" exchange.kind=store "exchange.address=$host:$port" \
        "run.threads=$OMP_NUM_THREADS" >>"$folder/worker-$n.log" 2>&1 &
    pids+=($!)
done

supervisor=0 asked=0
trap 'asked=1; kill -TERM "$supervisor"' TERM USR1
while true; do
    "$python" -m zodist supervise "$@" --bind "$bind" --port "$port" &
    supervisor=$! status=0
    wait "$supervisor" || status=$?
    while kill -0 "$supervisor" 2>/dev/null; do # a signal ends the wait, not the supervisor
        status=0
        wait "$supervisor" || status=$?
    done
    ((status > 128 && !asked)) || break
    echo "the supervisor ended with status $status and is started again" >&2
done
((status == 0 || status == 75)) || kill -TERM "${pids[@]}" 2>/dev/null || true
wait
exit "$status"
