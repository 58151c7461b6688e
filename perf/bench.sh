#!/usr/bin/env bash
# Compares spliceproxy with other proxies: see perf/README.md, and `bash perf/bench.sh --help`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

python=${PYTHON:-}
if [ -z "$python" ]; then
    python=$here/../.venv/bin/python
    [ -x "$python" ] || python=$(command -v python3) || python=python3
fi

missing=0
need() { # NAME, HOW TO INSTALL IT, what is done without it
    command -v "$1" > /dev/null && return
    printf '%s is not installed (%s)%s\n' "$1" "$2" "${3:+: $3}" >&2
    [ -n "${3:-}" ] || missing=1
}
need cc 'apt-get install gcc libc6-dev'
need "$python" 'apt-get install python3-venv, then see perf/README.md; PYTHON names another'
need nginx 'apt-get install nginx-light' 'pages come from spliceproxy --serve'
need wrk 'apt-get install wrk' 'its measurements are left out'
need siege 'apt-get install siege' 'its measurements are left out'
[ "$missing" = 0 ] || exit 2
# Not from here: what is installed counts, not the source beside it.
if ! (cd / && "$python" -c 'import spliceproxy.cli.main, matplotlib' > /dev/null 2>&1); then
    printf "%s has no spliceproxy with its bench extra: pip install '.[bench]'\n" "$python" >&2
    exit 2
fi

ulimit -n "$(ulimit -Hn)"
exec "$python" "$here/bench.py" "$@"
