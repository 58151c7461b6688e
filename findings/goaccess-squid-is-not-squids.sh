#!/bin/sh
# goaccess 1.7 (Debian 12): its preset SQUID does not read a line of squid's own access log.
#
# The preset expects what syslog puts in front of a line: date, host, program. A file that squid
# writes by itself (logformat squid, the default) begins with the Unix time, so goaccess ends with
# format errors. Its sums are right with a format that names the ten fields.
#
# Output seen:
#   GoAccess - 1.7.
#   --log-format=SQUID, two lines of squid's log: exit status 1, "Format Errors"
#   the ten fields named: exit status 0, 2 valid requests, 900 bytes
#
# Needs Debian's goaccess.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/log" <<'LOG'
1700000000.450    180 192.0.2.1 TCP_MISS/200 411 GET http://site.example/a - HIER_DIRECT/192.0.2.2 text/html
1700000001.450     12 192.0.2.1 TCP_MISS/200 489 GET http://site.example/b - HIER_DIRECT/192.0.2.2 text/html
LOG

look() { # options; sets status
    status=0
    goaccess "$folder/log" --no-global-config -o "$folder/out.json" "$@" \
        > "$folder/said" 2>&1 < /dev/null || status=$?
}

failed=0
goaccess --version | head -n 1
look --log-format=SQUID
word=$(grep -o 'Format Errors' "$folder/said" || true)
echo "--log-format=SQUID, two lines of squid's log: exit status $status, \"$word\""
test "$status" = 1 && test "$word" = 'Format Errors' || failed=1

look --date-format=%s --time-format=%s --log-format='%x.%^ %~%L %h %^/%s %b %m %U %e %^ %M'
number() { sed -n "s/.*\"$1\": *\\([0-9]*\\).*/\\1/p" "$folder/out.json" | head -n 1; }
echo "the ten fields named: exit status $status, $(number valid_requests) valid requests," \
    "$(number bandwidth) bytes"
test "$status" = 0 && test "$(number valid_requests)" = 2 && test "$(number bandwidth)" = 900 ||
    failed=1
exit "$failed"
