"""The status page in headless Chromium, over a proxy that clients have tried their worst on: it
shows what there is as text, asks nobody else, and can be used without seeing or with a phone."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_rig import TOKEN, Admin, NewAdmin
from devtools import Page, chromium
from harness import refused_port, wait_for

from spliceproxy.admin.page import page

MARKUP = '<img src=x onerror="window.broken=1">'

POLICY = f"""
from spliceproxy.policy import Allow, Deny

def authorize(request):
    if "denied" in request.path:
        return Deny({MARKUP!r} + " is the reason.", rule="no-markup")
    return Allow()
"""

READ = """(() => {
  const cells = (id) => [...document.querySelectorAll("#" + id + " tbody tr")].map(
    (row) => [...row.cells].map((cell) => cell.textContent));
  return {
    state: document.getElementById("state").textContent,
    tiles: Object.fromEntries([...document.querySelectorAll(".tile")].map(
      (tile) => [tile.querySelector(".name").textContent,
                 tile.querySelector(".value").textContent])),
    denials: cells("denials"), failures: cells("failures"), errors: cells("errors"),
    workers: cells("workers"), tops: cells("tops"),
    images: document.images.length, broken: window.broken || 0,
    charts: document.querySelectorAll("#charts canvas").length,
    wide: document.documentElement.scrollWidth - window.innerWidth,
    violations: window.violations,
  };
})()"""

LISTEN = """
  window.violations = [];
  document.addEventListener("securitypolicyviolation",
    (event) => window.violations.push(event.violatedDirective + " " + event.blockedURI));
"""


def evaluate(browser: Page, expression: str) -> Any:
    result = browser.call(
        "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
    )
    assert "exceptionDetails" not in result, result
    return result["result"].get("value")


def look(browser: Page, until: Callable[[Any], object], what: str) -> Any:
    """What the page says as soon as it says that."""
    found: Any = None

    def seen() -> bool:
        nonlocal found
        with contextlib.suppress(AssertionError):  # it is not there yet
            found = evaluate(browser, READ)
        return bool(found) and bool(until(found))

    try:
        wait_for(seen, what)
    except TimeoutError:
        raise AssertionError(f"{what}: {json.dumps(found)[:3000]}") from None
    return found


def send(admin: Admin, head: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", admin.proxy.port), 20) as client:
        client.sendall(head)
        return client.recv(65536)


@pytest.fixture
def attacked(new_admin: NewAdmin, tmp_path: Path) -> Iterator[Admin]:
    """A proxy after requests with markup in all that a client can choose."""
    policy = tmp_path / "policy.py"
    policy.write_text(POLICY)
    admin = new_admin("--policy", str(policy), "--auth", f"{MARKUP}:secret", "--guard", "off")
    name = base64.b64encode(f"{MARKUP}:secret".encode()).decode().encode()
    with refused_port() as port:
        at = b"127.0.0.1:%d" % port
        for path in (b"/denied", b"/", b"/" + MARKUP.replace(" ", "+").encode()):
            send(
                admin,
                b"GET http://%b%b HTTP/1.1\r\nHost: %b\r\nProxy-Authorization: Basic %b\r\n\r\n"
                % (at, path, at, name),
            )
        send(admin, b"CONNECT <img>.example:1 HTTP/1.1\r\nHost: <img>.example:1\r\n\r\n")
        send(admin, b"<IMG> http://%b/ HTTP/1.1\r\nHost: %b\r\n\r\n" % (at, at))
        send(admin, MARKUP.encode() + b"\r\n\r\n")
        yield admin


@contextlib.contextmanager
def opened(admin: Admin, folder: Path, width: int = 1280) -> Iterator[Page]:
    """The page in a browser whose user has given the token."""
    with chromium(folder, "direct://") as browser:
        for domain in ("Page", "Runtime", "Network", "Log"):
            browser.call(f"{domain}.enable")
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
        resize(browser, width)
        url = f"http://operator:{TOKEN}@127.0.0.1:{admin.port}/"
        browser.call("Page.navigate", url=url)
        yield browser


def resize(browser: Page, width: int) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
    )  # fmt: skip


def shot(browser: Page, path: Path) -> None:
    """A picture, for whoever wants to look at it."""
    data = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
    path.write_bytes(base64.b64decode(data["data"]))


def test_it_shows_what_happens_and_nothing_runs(attacked: Admin, tmp_path: Path) -> None:
    with opened(attacked, tmp_path) as browser:
        found = look(browser, lambda it: it["denials"] and it["failures"], "the lists")
        shot(browser, tmp_path / "page.png")
        # What it has asked for, and what it was not allowed to.
        asked = {
            event["params"]["request"]["url"].replace(f"operator:{TOKEN}@", "")
            for event in browser.events
            if event["method"] == "Network.requestWillBeSent"
        }
        faults = [
            event
            for event in browser.events
            if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")
        ]
    assert found["state"] == "running"
    assert (found["images"], found["broken"], found["violations"]) == (0, 0, [])
    assert faults == []
    own = f"http://127.0.0.1:{attacked.port}/"
    found_at = {url.split("?")[0] for url in asked if not url.startswith("data:")}
    assert found_at - {f"{own}tunnels"} == {own, f"{own}stats.json"}
    assert found["charts"] == 4
    denied = found["denials"][-1]
    assert denied[2] == MARKUP
    assert denied[4:] == ["no-markup", f"{MARKUP} is the reason."]
    assert [row[2] for row in found["failures"]].count("connection_refused") == 1
    users = [row[0] for row in found["tops"]]
    assert MARKUP in users
    assert len(found["workers"]) == 1


def test_it_goes_on_when_the_admin_process_is_another(attacked: Admin, tmp_path: Path) -> None:
    with opened(attacked, tmp_path) as browser:
        look(browser, lambda it: it["state"] == "running", "the first answer")
        before = attacked.proxy.admin_process()
        os.kill(before, 19)  # SIGSTOP: nobody answers
        evaluate(browser, "document.getElementById('pause').click()")
        assert evaluate(browser, READ)["state"] == "paused"
        evaluate(browser, "document.getElementById('pause').click()")
        look(browser, lambda it: it["state"].startswith("no answer"), "that nobody answers")
        os.kill(before, 9)
        look(browser, lambda it: it["state"] == "running", "that it goes on")
        assert attacked.proxy.admin_process() != before


def test_a_pause_and_a_page_that_is_not_seen_ask_nothing(
    new_admin: NewAdmin, tmp_path: Path
) -> None:
    admin = new_admin()
    with opened(admin, tmp_path) as browser:
        look(browser, lambda it: it["state"] == "running", "the first answer")
        evaluate(browser, "document.getElementById('pause').click()")
        evaluate(
            browser,
            """window.asked = 0;
            const ask = window.fetch;
            window.fetch = (...rest) => { window.asked += 1; return ask(...rest); };
            Object.defineProperty(document, 'hidden', { get: () => window.unseen });""",
        )
        time.sleep(2.5)  # more than the time between two questions
        assert evaluate(browser, "window.asked") == 0
        evaluate(browser, "window.unseen = true; document.getElementById('pause').click()")
        time.sleep(2.5)
        assert evaluate(browser, "window.asked") == 0
        evaluate(
            browser,
            "window.unseen = false; document.dispatchEvent(new Event('visibilitychange'))",
        )
        look(browser, lambda it: it["state"] == "running", "that it goes on")
        wait_for(lambda: evaluate(browser, "window.asked") >= 2, "that it goes on asking")


def test_it_fits_on_a_phone(attacked: Admin, tmp_path: Path) -> None:
    with opened(attacked, tmp_path, 390) as browser:
        found = look(browser, lambda it: it["denials"] and it["failures"], "the lists")
        shot(browser, tmp_path / "phone.png")
        assert found["wide"] <= 0
        resize(browser, 320)
        look(browser, lambda it: it["wide"] <= 0, "that it fits on a small phone")


def test_light_and_dark_by_the_system_and_by_choice(new_admin: NewAdmin, tmp_path: Path) -> None:
    admin = new_admin()
    colour = "getComputedStyle(document.body).backgroundColor"
    click = "document.getElementById('theme').click()"
    with opened(admin, tmp_path) as browser:
        look(browser, lambda it: it["state"] == "running", "the first answer")

        def prefer(scheme: str) -> Any:
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.call("Emulation.setEmulatedMedia", features=[feature])
            return evaluate(browser, colour)

        light, dark = prefer("light"), prefer("dark")
        assert light != dark
        evaluate(browser, click)
        assert evaluate(browser, colour) == light
        browser.call("Page.reload")
        look(browser, lambda it: it["state"] == "running", "the page again")
        assert evaluate(browser, colour) == light  # it is remembered
        evaluate(browser, click)
        prefer("light")
        assert evaluate(browser, colour) == dark


def test_axe_finds_nothing(attacked: Admin, tmp_path: Path) -> None:
    """The rules of WCAG 2.1 A and AA, light and dark (https://github.com/dequelabs/axe-core)."""
    script = axe()
    with opened(attacked, tmp_path) as browser:
        look(browser, lambda it: it["denials"] and it["failures"], "the lists")
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.call("Emulation.setEmulatedMedia", features=[feature])
            browser.call("Runtime.evaluate", expression=script)
            found = evaluate(
                browser,
                "axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] }).then("
                "(r) => r.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]))",
            )
            assert found == [], f"{scheme}: {json.dumps(found, indent=1)}"


def axe() -> str:
    for folder in os.environ.get("NODE_PATH", "").split(":"):
        path = Path(folder) / "axe-core" / "axe.min.js"
        if folder and path.exists():
            return path.read_text()
    pytest.skip("axe-core is not in NODE_PATH")


def test_its_parts_are_named_for_who_cannot_see(new_admin: NewAdmin, tmp_path: Path) -> None:
    admin = new_admin()
    with opened(admin, tmp_path) as browser:
        look(browser, lambda it: it["state"] == "running", "the first answer")
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    }
    roles = {role for role, _ in named}
    assert {"banner", "main", "contentinfo", "status", "table", "heading"} <= roles
    for role in ("button", "table", "region", "img", "group", "image"):
        assert (role, "") not in named
    charts = [name for role, name in named if role in ("img", "image")]
    assert len(charts) == 4
    assert all("the last 15 minutes" in name for name in charts)


def test_its_policy_allows_its_own_parts_only(new_admin: NewAdmin) -> None:
    admin = new_admin()
    answer = admin.ask("/")
    assert answer.fields["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.fields["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy == page().policy
    assert answer.body == page().text
    assert b"@STYLE@" not in answer.body
    assert admin.ask("/", token=None).status == 401
