#!/bin/sh
# tinyproxy 1.11.1 (Debian 12): switches of the filter are never set back, and numbers with a
# leading zero are octal.
#
# FilterDefaultDeny, FilterURLs, FilterExtended and FilterCaseSensitive are ORed into one word, so
# "FilterDefaultDeny Yes" and, lines later, "FilterDefaultDeny No" stays Yes, unlike every other
# switch of the file, of which the last line counts. "ConnectPort 0443" allows port 291.
#
# Output seen:
#   tinyproxy 1.11.1
#   FilterDefaultDeny Yes, then No: CONNECT to a host that no pattern names: 403
#   ConnectPort 0443: CONNECT to port 443: 403
#   ConnectPort 0443: CONNECT to port 291: 500
# (500: allowed, but nobody listens there.)
#
# Needs Debian's tinyproxy-bin and curl, and the ports 18931, 443 and 291 of 127.77.0.1 free.
set -eu
folder=$(mktemp -d)
process=
trap 'test -z "$process" || kill "$process" 2>/dev/null; rm -rf "$folder"' EXIT

ask() { # lines of the file, target: the status of a CONNECT
    printf 'Port 18931\nListen 127.77.0.1\n%b' "$1" > "$folder/conf"
    tinyproxy -d -c "$folder/conf" > /dev/null 2> "$folder/errors" &
    process=$!
    curl -q -s -o /dev/null -w '%{http_connect}' --retry 20 --retry-delay 1 --retry-connrefused \
        -m 20 --noproxy '' -p -x http://127.77.0.1:18931 "http://$2/" || true
    kill "$process" 2> /dev/null || cat "$folder/errors" >&2
    wait "$process" 2> /dev/null || true
    process=
}

failed=0
check() { # what, expected, seen
    echo "$1: $3"
    test "$2" = "$3" || failed=1
}

tinyproxy -v
echo '^other\.example$' > "$folder/filter"
filter="Filter \"$folder/filter\"\\n"
check 'FilterDefaultDeny Yes, then No: CONNECT to a host that no pattern names' 403 \
    "$(ask "${filter}FilterDefaultDeny Yes\\nFilterDefaultDeny No\\n" 127.77.0.1:291)"
check 'ConnectPort 0443: CONNECT to port 443' 403 "$(ask 'ConnectPort 0443\n' 127.77.0.1:443)"
check 'ConnectPort 0443: CONNECT to port 291' 500 "$(ask 'ConnectPort 0443\n' 127.77.0.1:291)"
exit "$failed"
