#!/usr/bin/env bash
# BBR congestion control paces loopback as well: where a receiver was slow for a while and then reads as
# fast as it can, the sender's kernel holds bytes back at the rate of before, on a path that has
# no rate. cubic does not. Guides for servers often make BBR the default of all sockets
# (net.ipv4.tcp_congestion_control), and then what is measured on loopback is BBR as well.
#
# Linux 6.18, loopback with its usual noqueue. Output of one run (the times vary):
#
#   cubic: 8 MiB after a slow phase in 2.5 ms
#   bbr: 8 MiB after a slow phase in 11.4 ms
#   bbr takes 2 times as long or more: True
#
# A socket can choose for itself: setsockopt(IPPROTO_TCP, TCP_CONGESTION, "cubic"), tcp(7).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uname -r
sysctl net.ipv4.tcp_available_congestion_control
cat > "$work/pacing.py" <<'PYTHON'
import socket
import sys
import threading
import time
from statistics import median

SLOW_SECONDS = 2.0
MIB = 1 << 20


def catching_up(control: str) -> float:
    """Seconds until 8 MiB have come, once the receiver is fast."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sender:
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
        sender.connect(listener.getsockname())
        receiver, _ = listener.accept()

        def send() -> None:
            for _ in range(256):
                sender.sendall(bytes(MIB >> 4))
            sender.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        buffer = memoryview(bytearray(MIB))
        end = time.monotonic() + SLOW_SECONDS
        while time.monotonic() < end:
            receiver.recv_into(buffer[: 16 << 10])
            time.sleep(0.02)
        begin, got = time.monotonic(), 0
        while got < 8 * MIB:
            got += receiver.recv_into(buffer)
        taken = time.monotonic() - begin
        while receiver.recv_into(buffer):
            pass
        thread.join()
        receiver.close()
    return taken


try:
    times = {control: median(catching_up(control) for _ in range(5)) for control in ("cubic", "bbr")}
except FileNotFoundError:
    sys.exit("this kernel has no BBR or no cubic: modprobe tcp_bbr")
for control, seconds in times.items():
    print(f"{control}: 8 MiB after a slow phase in {1000 * seconds:.1f} ms")
paced = times["bbr"] >= 2 * times["cubic"]
print("bbr takes 2 times as long or more:", paced)
sys.exit(not paced)
PYTHON
python3 "$work/pacing.py" || { echo 'it behaves otherwise now'; exit 1; }
