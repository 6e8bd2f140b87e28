#!/usr/bin/env bash
# Fine-tunes a pretrained language model with forward passes only, on worker processes of this machine.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<HELP
usage: launch/quickstart.sh [--model NAME] [--task NAME] [--workers N] [key=value ...]

Makes .venv if need be, then runs  zodist train configs/quickstart.toml  in N worker processes on this machine.
Without arguments it needs no network after the installation: model and data come from Python packages.

  --model NAME   a causal language model: hub name or folder     (default: smollm2-135m)
  --task NAME    a built-in task, or the path of a task's TOML    (default: the one in configs/quickstart.toml)
  --workers N    number of worker processes                       (default: 2)
  key=value      any setting of the config, e.g.  run.steps=50  rule.lr=1e-4  method.probes=8

With --model or --task the run folder is named after them, unless run.folder=... is given. Running the same command
again continues an interrupted run. Examples:

  launch/quickstart.sh run.steps=20 run.folder=runs/short
  launch/quickstart.sh --model facebook/opt-125m --task sst2
HELP
}

need_value() { # OPTION [VALUE]
    [[ -n ${2:-} ]] || fail "$1 needs a value; see launch/quickstart.sh --help." 2
}

workers=2
name=""
folder=""
overrides=()
while (($#)); do
    case $1 in
    --help | -h) usage && exit ;;
    --model=* | --task=* | --workers=*)
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
        continue
        ;;
    --model | --task)
        need_value "$@"
        overrides+=("${1#--}.name=$2")
        stem=${2##*/}
        name+=-${stem%.toml}
        shift
        ;;
    --workers)
        need_value "$@"
        [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "--workers $2 is not a whole number of at least 1." 2
        workers=$2
        shift
        ;;
    run.folder=*) folder=$1 ;;
    *=*) overrides+=("$1") ;;
    *) fail "unknown argument '$1'; see launch/quickstart.sh --help." 2 ;;
    esac
    shift
done
if [[ -z $folder && -n $name ]]; then
    folder=run.folder=runs/quickstart$name
fi
if [[ -n $folder ]]; then
    overrides+=("$folder")
fi

exec "$root/launch/local.sh" "$workers" "$root/configs/quickstart.toml" "${overrides[@]}"
