#!/bin/sh
# squid 5.7 (Debian 12): of `acl NAME src ADDRESS NETWORK`, where the address is one of the network,
# it forgets the network and keeps the address, so that nobody else of the network matches.
#
# It says so in a warning, the third line of which recommends to remove the address, of all things.
# With the network first it forgets the address, which changes nothing, and the warning is right.
#
# Output seen:
#   Squid Cache: Version 5.7
#   src 127.1.2.3 127.0.0.0/8: ignored '127.0.0.0/8'; 127.1.2.3 gets 503, 127.0.0.5 gets 403
#   src 127.0.0.0/8 127.1.2.3: ignored '127.1.2.3'; 127.1.2.3 gets 503, 127.0.0.5 gets 503
#
# Needs Debian's squid and curl.
set -eu
folder=$(mktemp -d)
squid=
trap 'test -z "$squid" || kill "$squid" 2> /dev/null || true; rm -rf "$folder"' EXIT
chmod 755 "$folder"
port=$(python3 -c '
import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')

status() { # of a client with this address: 403, or 503 where it may, for nobody listens there
    curl -s -o /dev/null -w '%{http_code}' --interface "$1" -x "http://127.0.0.1:$port" \
        http://127.0.0.1:1/
}

failed=0
look() { # list, what is ignored of it, status of 127.1.2.3, status of 127.0.0.5
    cat > "$folder/squid.conf" << CONF
http_port 127.0.0.1:$port
acl a src $1
http_access allow a
http_access deny all
pid_filename $folder/pid
cache_log $folder/log
access_log none
cache deny all
coredump_dir $folder
shutdown_lifetime 0 seconds
CONF
    squid -N -f "$folder/squid.conf" > "$folder/said" 2>&1 &
    squid=$!
    for _ in $(seq 100); do
        curl -s -o /dev/null "http://127.0.0.1:$port/" && break
        sleep 0.1
    done
    one=$(status 127.1.2.3)
    other=$(status 127.0.0.5)
    kill "$squid"
    wait "$squid" || true
    squid=
    ignored=$(sed -n "s/.*because of this '\(.*\)' is ignored.*/\1/p" "$folder/said" | head -n 1)
    echo "src $1: ignored '$ignored'; 127.1.2.3 gets $one, 127.0.0.5 gets $other"
    test "$ignored" = "$2" && test "$one" = "$3" && test "$other" = "$4" || failed=1
}

squid -v | head -n 1
look '127.1.2.3 127.0.0.0/8' 127.0.0.0/8 503 403
look '127.0.0.0/8 127.1.2.3' 127.1.2.3 503 503
exit "$failed"
