#!/usr/bin/env bash
# Python's ipaddress (CPython 3.9 to 3.13): the zone of an IPv6 network is kept, printed, and not looked at.
#
# ip_network("fe80::1%eth0") is accepted since scope ids are (3.9). The documentation has them for
# addresses only. str() shows the zone, and == of addresses and of networks tells zones apart. But
# "in" does not: an address of the link eth1 is in the network that was written for eth0. So an
# access list that is made of ip_network() and asked by "in" lets in every link. Output:
#
#   fe80::1%eth0/128
#   the same address: False
#   the same network: False
#   in the network:   True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/zones.py" << 'PYTHON'
from ipaddress import ip_address, ip_network

network = ip_network("fe80::1%eth0")
print(network)
print("the same address:", ip_address("fe80::1%eth1") == ip_address("fe80::1%eth0"))
print("the same network:", ip_network("fe80::1%eth1") == network)
print("in the network:  ", ip_address("fe80::1%eth1") in network)
PYTHON
python3 --version
python3 "$folder/zones.py" | tee "$folder/seen"
diff "$folder/seen" - << 'SEEN' || { echo 'it behaves otherwise now'; exit 1; }
fe80::1%eth0/128
the same address: False
the same network: False
in the network:   True
SEEN
