#!/usr/bin/env bash
# Runs the test suite as other machines would:
#
#   bash tests/machines.sh [NAME]... [-- PYTEST ARGUMENT...]
#
#   isa       a processor with few instructions: no AVX, no bfloat16
#   bfloat16  a processor that is fast at bfloat16
#   threads   1, 2 and 4 threads per process
#   core      one core
#   user      an ordinary user
#   place     LANG=C, no HOME, TMPDIR on another file system, a checkout in a folder with a space and an umlaut
#   order     the tests in a random order
#   lowest    the lowest versions that requirements.txt allows, with the oldest Python
#   newest    the newest versions, with the newest Python
#
# Without names: all. What this machine cannot do is skipped with a reason. PYTHON runs the tests (default: the
# checkout's .venv, or python3), OLDEST_PYTHON and NEWEST_PYTHON those of `lowest` and `newest` (default: the first of
# PATH). Environments are made once, in the folder MACHINES_ENVS.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
names=(isa bfloat16 threads core user place order lowest newest)
chosen=()
while (($#)) && [[ $1 != -- ]]; do
    [[ " ${names[*]} " == *" $1 "* ]] || { echo "got \"$1\"; expected one of: ${names[*]}" >&2; exit 2; }
    chosen+=("$1") && shift
done
arguments=("${@:2}")
envs=${MACHINES_ENVS:-/var/tmp/wikiart-machines-$(id -un)}
scratch=$(mktemp -d) && chmod 755 "$scratch" && trap 'rm -rf "$scratch"' EXIT
[[ -x .venv/bin/python ]] && python=$PWD/.venv/bin/python || python=$(type -P python3)
python=${PYTHON:-$python}
table=() failed=0

row() { table+=("$(printf '%-14s %7s %7s %7s %8s  %s' "$@")"); }

skip() { row "$1" - - - - "$2"; }

suite() {  # suite NAME [COMMAND]...: one run of the tests in the current folder, started by the command
    local log=$scratch/log start=$SECONDS status numbers=() summary kind note=
    echo "== $1"
    "${@:2}" "$python" -m pytest "${arguments[@]}" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    summary=$(grep -E ' in [0-9.]+s' "$log" | tail -n 1)
    for kind in passed 'failed|errors?' skipped; do
        numbers+=("$(grep -oE "[0-9]+ ($kind)" <<<"$summary" | awk '{sum += $1} END {print sum + 0}')")
    done
    if ((status)); then failed=1 note="status $status"; fi
    row "$1" "${numbers[@]}" $((SECONDS - start)) "$note"
}

copy() {  # copy FOLDER: the checkout with its uncommitted changes, and the paintings beside it
    mkdir -p "$1"
    git ls-files -z --cached --others --exclude-standard | tar -c --null -T - --ignore-failed-read | tar -x -C "$1"
    [[ ! -e ../shared ]] || ln -s "$(realpath ../shared)" "$1/../shared"
}

first_python() {  # first_python NAME...: the first of these on PATH that runs and can make environments
    local found
    for found in $(type -aP "$@"); do
        "$found" -c "import ensurepip" 2>/dev/null && echo "$found" && break
    done
}

environment() {  # environment NAME PYTHON [PIP ARGUMENT]...: makes it, and sets `python` to its interpreter
    [[ -n $2 ]] || { skip "$1" "no Python for it on PATH"; return 1; }
    [[ -x $envs/$1/bin/python ]] || "$2" -m venv "$envs/$1"
    python=$envs/$1/bin/python
    "$python" -m pip install -q -r tests/requirements.txt "${@:3}" && return
    if "$python" -m pip download -q --no-deps -d "$scratch" tqdm &>/dev/null; then
        row "$1" 0 0 0 0 "cannot be installed"
        failed=1
    else
        skip "$1" "no packages can be had here"
    fi
    return 1
}

isa() {
    local lowered=(ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2)
    suite isa env "${lowered[@]}" TEST_PRECISION=float32
}

bfloat16() { suite bfloat16 env TEST_PRECISION=bfloat16; }

threads() {  # those that wait shall sleep: the suite has more threads than there are cores
    local number
    for number in 1 2 4; do suite "threads: $number" env TEST_THREADS=$number OMP_WAIT_POLICY=passive; done
}

core() {
    local first
    first=$(taskset -cp $$ 2>/dev/null | sed 's/.*: //; s/[-,].*//')
    if [[ -n $first ]]; then suite core taskset -c "$first"; else skip core "no taskset"; fi
}

user() {
    local nobody=(setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups env HOME=/nonexistent) other
    ((EUID == 0)) || { skip user "every run here is an ordinary user's"; return; }
    "${nobody[@]}" true || { skip user "no setpriv"; return; }
    if ! "${nobody[@]}" "$python" -c "" 2>/dev/null; then  # it lies in root's home
        other=$("${nobody[@]}" bash -c "$(declare -f first_python); first_python python3 python3.1{5,4,3,2,1,0}")
        environment user "$other" || return
    fi
    copy "$scratch/user/copy" && chown -hR nobody "$scratch/user" && cd "$scratch/user/copy" && suite user "${nobody[@]}"
}

place() {
    local other
    for other in /dev/shm /var/tmp "$HOME" /tmp; do
        [[ -w $other && $(stat -c %d "$other") != $(stat -c %d "$scratch") ]] && break
    done
    other=$(mktemp -d -p "$other")
    copy "$scratch/place/a cöpy" && cd "$scratch/place/a cöpy" && suite place env -u HOME -u LC_ALL LANG=C TMPDIR="$other"
    rm -rf "$other"
}

order() {
    local seed=${TEST_ORDER:-$RANDOM}  # that of a run which failed repeats it
    suite "order: $seed" env TEST_ORDER="$seed"
}

lowest() {
    sed 's/>=/==/' requirements.txt >"$scratch/lowest.txt"
    environment lowest "${OLDEST_PYTHON:-$(first_python python3.1{0,1,2,3,4,5})}" -c "$scratch/lowest.txt" && suite lowest
}

newest() { environment newest "${NEWEST_PYTHON:-$(first_python python3.1{5,4,3,2,1,0})}" -U && suite newest; }

checkout=$PWD runner=$python
for name in "${chosen[@]:-${names[@]}}"; do
    "$name"
    cd "$checkout" && python=$runner
done
row machine passed failed skipped seconds ""
printf '%s\n' "${table[-1]}" "${table[@]:0:${#table[@]}-1}"
exit $failed
