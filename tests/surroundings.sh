#!/usr/bin/env bash
# The tests that meet files, terminals and processes (nothing numeric), in odd surroundings, one after the other.
#   tests/surroundings.sh                    tests/surroundings.sh signals locale
# As root, `network` and `user` run too. A surrounding that cannot be had here is named and left out.
set -uo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "${PYTHON:-.venv/bin/python}")
[[ $python == /* ]] || python=$PWD/$python
odd=$(mktemp -d)
chmod 755 "$odd"
trap 'rm -rf "$odd"' EXIT
export OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000
stopped=(tests/test_{interrupt,environment,evaluate,searches,tabulate}.py)
files=(
    tests/test_{backend,cli_methods,doctor,genotype_parse,spaces,interrupt}.py
    tests/test_{data_archives,data_sets,report_drawing,report_page,report_plots}.py
    tests/test_{runs_checkpoints,runs_folder,runs_records}.py
)
pytest=("$python" -m pytest -q -p no:benchmark -p no:cacheprovider)
other=(setpriv --reuid=12345 --regid=12345 --clear-groups) # a user without a name

left_out() { echo "$1 is left out: $2"; }

terminal() {
    FORCE_COLOR=1 GITHUB_ACTIONS=true COLUMNS=30 TERM=xterm-256color MPLBACKEND=module://none "${pytest[@]}" "${files[@]}"
}

dumb() {
    NO_COLOR=1 COLUMNS=20 LINES=2 TERM=dumb TZ=Pacific/Apia PYTHONSAFEPATH=1 "${pytest[@]}" "${files[@]}"
}

signals() {
    (trap '' INT TERM && "${pytest[@]}" "${stopped[@]}")
}

home() {
    (umask 077 && env -u HOME XDG_CACHE_HOME=/none XDG_CONFIG_HOME=/none "${pytest[@]}" "${files[@]}")
}

folder() {
    mkdir "$odd/mit Leerzeichen é☃"
    (umask 000 && HOME=/none TMPDIR="$odd/mit Leerzeichen é☃" "${pytest[@]}" "${files[@]}")
}

locale() {
    if localedef -i tr_TR -f ISO-8859-9 "$odd/tr_TR.ISO-8859-9" 2>/dev/null; then
        LOCPATH=$odd LC_ALL=tr_TR.ISO-8859-9 "${pytest[@]}" "${files[@]}" || return
    else
        left_out "locale tr_TR" "localedef cannot make it"
    fi
    PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 LC_ALL=C "${pytest[@]}" "${files[@]}"
}

network() {
    unshare -n true 2>/dev/null || { left_out network "unshare -n is not allowed" && return; }
    unshare -n "${pytest[@]}" "${files[@]}"
}

user() {
    "${other[@]}" "$python" -c "" 2>/dev/null || { left_out user "not root, or others cannot run $python" && return; }
    HOME=/none "${other[@]}" "${pytest[@]}" "${files[@]}"
}

[[ $# -gt 0 ]] || set -- terminal dumb signals home folder locale network user
red=()
for name in "$@"; do
    echo "== $name"
    "$name" || red+=("$name")
done
echo "red: ${red[*]:-none}"
[[ ${#red[@]} == 0 ]]
