"""curl with NTLM through the proxy, among clients that are nobody."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from curling import curl_in, field
from harness import ProxyProcess, need, serving
from ntlm_origin import PASSWORD, USER, NtlmOrigin

USERS = 12


@pytest.fixture
def ntlm() -> str:
    """The path of a curl that can do it."""
    program = need("curl")
    features = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stdout
    if "NTLM" not in features:
        pytest.skip("this curl does not speak NTLM")
    return program


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_handshakes_stay_on_their_connections(
    any_proxy: ProxyProcess, ntlm: str, tmp_path: Path, method: str
) -> None:
    origin = NtlmOrigin()
    over = threading.Event()
    with serving(origin.handle) as (host, port):
        url = f"http://{host}:{port}"

        def nobody() -> None:
            while not over.is_set():
                command = [ntlm, "-qs", "--noproxy", "", "-x", any_proxy.url, *[url + "/"] * 5]
                got = subprocess.run(command, capture_output=True, timeout=60, check=True)
                assert got.stdout == b"nobody" * 5

        others = [threading.Thread(target=nobody) for _ in range(2)]
        for other in others:
            other.start()
        try:
            command = [ntlm, "-qs", "--noproxy", "", "-x", any_proxy.url]
            command += ["--ntlm", "-u", f"{USER}:{PASSWORD}", *[url + "/private"] * 3]
            command += ["-d", "x" * 5000] if method == "POST" else []
            users = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(USERS)]
            bodies = [user.communicate(timeout=60)[0].decode() for user in users]
        finally:
            over.set()
            for other in others:
                other.join()
            origin.close()
    assert bodies == [USER * 3] * USERS
    assert origin.failures == 0
    assert origin.proofs >= USERS
    assert set(origin.anonymous) == {""}


def test_a_client_is_told_that_sessions_are_supported(
    any_proxy: ProxyProcess, ntlm: str, tmp_path: Path
) -> None:  # RFC 4559 section 6
    origin = NtlmOrigin()
    with serving(origin.handle) as (host, port):
        got = curl_in(tmp_path)(any_proxy.url, f"http://{host}:{port}/private")
    assert got.status == 401
    assert field(got, "WWW-Authenticate") == ["NTLM"]
    assert field(got, "Proxy-Support") == ["Session-Based-Authentication"]
