#!/bin/sh
# tinyproxy 1.11.1 (Debian 12): once an IPv4 client has connected, IPv6 clients are judged by half
# of their address.
#
# accept(2) gets the length that it has returned the time before: 16 after an IPv4 client. Of the 28
# bytes of an IPv6 address structure only 16 are then filled in, up to the middle of the address. So
# "Allow ::1" serves the client ::1 if it is the first, and refuses it if an IPv4 client was.
#
# Output seen:
#   tinyproxy 1.11.1
#   ::1 is the first client: 500
#   127.0.0.1 is the first client: 500
#   ::1 is the second: 403
# (500: allowed, but nobody listens where it asks to go.)
#
# Needs Debian's tinyproxy-bin and curl, IPv6 on the loopback interface and port 18932 free.
set -eu
folder=$(mktemp -d)
process=
trap 'test -z "$process" || kill "$process" 2>/dev/null; rm -rf "$folder"' EXIT

ask() { # address of the proxy: the status of a CONNECT
    curl -q -s -o /dev/null -w '%{http_connect}' --retry 20 --retry-delay 1 --retry-connrefused \
        -m 20 --noproxy '' -p -x "http://$1:18932" http://127.77.0.1:9/ || true
}

failed=0
check() { # what, expected, seen
    echo "$1: $3"
    test "$2" = "$3" || failed=1
}

start() {
    tinyproxy -d -c "$folder/conf" > /dev/null 2>&1 &
    process=$!
}

stop() {
    kill "$process"
    wait "$process" 2> /dev/null || true
    process=
}

tinyproxy -v
printf 'Port 18932\nListen 127.0.0.1\nListen ::1\nAllow 127.0.0.1\nAllow ::1\n' > "$folder/conf"
start
check '::1 is the first client' 500 "$(ask '[::1]')"
stop
start
check '127.0.0.1 is the first client' 500 "$(ask 127.0.0.1)"
check '::1 is the second' 403 "$(ask '[::1]')"
stop
exit "$failed"
