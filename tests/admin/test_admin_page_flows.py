"""The table of live tunnels and requests on the status page, in headless Chromium: order, words,
bounds, how one is ended by mouse and by keyboard, and what a screen reader is told."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_rig import Admin, NewAdmin
from devtools import Page
from harness import read_exactly, serving, wait_for
from test_admin_page import MARKUP, axe, evaluate, opened, shot

READ = """(() => {
  const rows = [...document.querySelectorAll("#flows tbody tr")];
  return {
    rows: rows.map((row) => [...row.cells].map((cell) => cell.textContent)),
    ids: rows.map((row) => row.flow.id),
    sorted: [...document.querySelectorAll("#flows th[aria-sort]")].map(
      (head) => [head.textContent, head.getAttribute("aria-sort")]),
    note: document.getElementById("flows-note").textContent,
    said: document.getElementById("flows-said").textContent,
    open: document.getElementById("sure").open,
    dialog: document.getElementById("sure").textContent,
    focus: document.activeElement.id || document.activeElement.className,
    images: document.images.length,
  };
})()"""


def look(browser: Page, until: Callable[[Any], object], what: str) -> Any:
    """What the table says as soon as it says that."""
    found: Any = None

    def seen() -> bool:
        nonlocal found
        found = evaluate(browser, READ)
        return bool(until(found))

    try:
        wait_for(seen, what)
    except TimeoutError:
        raise AssertionError(f"{what}: {json.dumps(found)[:3000]}") from None
    return found


def press(browser: Page, key: str, code: int) -> None:
    for kind in ("rawKeyDown", "keyUp"):
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
        )
    if key == "Enter":
        browser.call("Input.dispatchKeyEvent", type="char", text="\r")


@pytest.fixture
def busy(new_admin: NewAdmin) -> Iterator[tuple[Admin, dict[int, socket.socket]]]:
    """Six tunnels that have moved 1,000, 2,000, ... bytes each way, by that number; and a request
    with markup in it that has no answer."""
    admin = new_admin("--guard", "off", workers=2)

    def echo(s: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while got := s.recv(1 << 16):
                if not got.startswith(b"GET"):
                    s.sendall(got)

    with serving(echo) as (host, port), contextlib.ExitStack() as stack:
        tunnels = {}
        for size in range(1, 7):
            tunnels[size] = stack.enter_context(admin.proxy.tunnel(host, port))
            tunnels[size].sendall(bytes(1000 * size))
            read_exactly(tunnels[size], 1000 * size)
        waiting = stack.enter_context(admin.proxy.connect())
        path = MARKUP.replace(" ", "%20")
        waiting.sendall(f"GET http://{host}:{port}/{path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        yield admin, tunnels


def order_by(browser: Page, heading: str) -> None:
    evaluate(
        browser,
        "[...document.querySelectorAll('#flows th button')]"
        f".find((one) => one.textContent === {heading!r}).click()",
    )


def show(browser: Page) -> None:
    """Scrolls to the table: it is not asked for where nobody sees it."""
    there = """(() => {
      const table = document.querySelector("#flows table");
      if (table) document.getElementById("flows-section").scrollIntoView();
      return Boolean(table);
    })()"""
    wait_for(lambda: evaluate(browser, there), "the page")


def running(browser: Page) -> None:
    """Waits for the first answer."""
    state = "(document.getElementById('state') || {}).textContent"
    wait_for(lambda: evaluate(browser, state) == "running", "the first answer")


def test_order_words_and_what_is_shown(
    busy: tuple[Admin, dict[int, socket.socket]], tmp_path: Path
) -> None:
    admin, _ = busy
    with opened(admin, tmp_path) as browser:
        show(browser)
        found = look(browser, lambda it: len(it["rows"]) == 7, "all of them")
        assert found["note"] == "7 tunnels and requests."
        assert found["sorted"] == [["To client", "descending"]]
        assert found["images"] == 0
        (request,) = [row for row in found["rows"] if row[0].startswith("GET ")]
        assert request[0].endswith('onerror="window.broken=1">served by Python127.0.0.1')
        order_by(browser, "To, so far")
        found = look(browser, lambda it: it["rows"][0][7] == "6.04 kB", "the largest first")
        assert found["sorted"] == [["To, so far", "descending"]]
        order_by(browser, "To, so far")
        found = look(browser, lambda it: it["rows"][6][7] == "6.04 kB", "the largest last")
        assert found["sorted"] == [["To, so far", "ascending"]]
        order_by(browser, "Target")
        found = look(browser, lambda it: it["rows"][6][0].startswith("GET "), "by target")
        assert found["sorted"] == [["Target", "ascending"]]
        evaluate(
            browser,
            """const field = document.getElementById("flows-words");
            field.value = "GET served";
            field.dispatchEvent(new Event("input"));""",
        )
        found = look(browser, lambda it: len(it["rows"]) == 1, "the one with the words")
        assert found["note"] == "1 tunnel or request with these words."
        evaluate(
            browser,
            """document.getElementById("flows-words").value = "none such";
            document.getElementById("flows-words").dispatchEvent(new Event("input"));""",
        )
        look(browser, lambda it: not it["rows"], "that there is none")


def test_one_is_ended_behind_a_question(
    busy: tuple[Admin, dict[int, socket.socket]], tmp_path: Path
) -> None:
    """By the keyboard alone: the question has the focus, Escape and the first button say no."""
    admin, tunnels = busy
    with opened(admin, tmp_path) as browser:
        show(browser)
        look(browser, lambda it: len(it["rows"]) == 7, "all of them")
        order_by(browser, "To, so far")
        found = look(browser, lambda it: it["rows"][0][7] == "6.04 kB", "the largest first")
        ident = found["ids"][0]
        ask = "document.querySelector('#flows tbody .end').focus()"
        for key, code in (("Escape", 27), ("Enter", 13)):
            evaluate(browser, ask)
            press(browser, "Enter", 13)
            found = look(browser, lambda it: it["open"], "the question")
            assert found["focus"] == "sure-no"
            assert "End this tunnel?" in found["dialog"]
            assert f"{ident}, of worker" in found["dialog"]
            press(browser, key, code)
            found = look(browser, lambda it: not it["open"], "that it is closed")
            assert found["focus"] == "end"  # back where it was
        press(browser, "Enter", 13)
        look(browser, lambda it: it["open"], "the question")
        shot(browser, tmp_path / "sure.png")
        press(browser, "Tab", 9)
        assert evaluate(browser, READ)["focus"] == "sure-yes"
        press(browser, "Enter", 13)
        found = look(browser, lambda it: ident not in it["ids"], "that it is gone")
        assert found["said"].endswith(" was ended.")
        assert found["focus"] == "flows"
        assert len(found["rows"]) == 6
    with pytest.raises(ConnectionResetError):
        tunnels[6].recv(1)
    tunnels[5].setblocking(False)
    with pytest.raises(BlockingIOError):
        tunnels[5].recv(1)


def test_rows_stay_in_their_places_under_the_hand(
    busy: tuple[Admin, dict[int, socket.socket]], tmp_path: Path
) -> None:
    admin, tunnels = busy
    with opened(admin, tmp_path) as browser:
        show(browser)
        look(browser, lambda it: len(it["rows"]) == 7, "all of them")
        order_by(browser, "To, so far")
        sizes = [f"{size}.04 kB" for size in range(6, 0, -1)]
        found = look(
            browser, lambda it: [row[7] for row in it["rows"][:6]] == sizes, "the largest first"
        )
        before = found["ids"]
        evaluate(browser, "document.querySelector('#flows tbody .end').focus()")
        tunnels[1].sendall(bytes(50_000))
        read_exactly(tunnels[1], 50_000)
        found = look(browser, lambda it: "51.0 kB" in [row[7] for row in it["rows"]], "its bytes")
        assert found["ids"] == before
        evaluate(browser, "document.activeElement.blur()")
        look(browser, lambda it: it["rows"][0][7] == "51.0 kB", "that it goes to the top")


def test_it_asks_nothing_where_nobody_looks(
    busy: tuple[Admin, dict[int, socket.socket]], tmp_path: Path
) -> None:
    admin, _ = busy
    with opened(admin, tmp_path) as browser:
        running(browser)
        evaluate(browser, "document.body.style.paddingBottom = '2000px'")  # as high as can be
        evaluate(browser, "scrollTo(0, document.body.scrollHeight)")
        evaluate(
            browser,
            """window.asked = [];
            const ask = window.fetch;
            window.fetch = (url, ...rest) => {
              window.asked.push(url);
              return ask(url, ...rest);
            };""",
        )

        def elsewhere() -> bool:
            """The browser has told the page what is seen, and nothing asks for the rest."""
            last = evaluate(browser, "window.asked.slice(-3)")
            return len(last) == 3 and not any("/tunnels" in url for url in last)

        wait_for(elsewhere, "three other questions")
        show(browser)
        wait_for(lambda: any("/tunnels" in url for url in evaluate(browser, "window.asked")), "one")


def test_of_many_the_first_are_shown(new_admin: NewAdmin, tmp_path: Path) -> None:
    admin = new_admin("--guard", "off")
    with serving(lambda s: s.recv(1) and None) as (host, port), contextlib.ExitStack() as stack:
        for _ in range(110):
            stack.enter_context(admin.proxy.tunnel(host, port))
        with opened(admin, tmp_path) as browser:
            show(browser)
            found = look(browser, lambda it: len(it["rows"]) == 100, "a hundred")
            assert found["note"] == "The first 100 of 110 tunnels and requests."


def test_workers_that_are_silent_are_told(new_admin: NewAdmin, tmp_path: Path) -> None:
    """As ``silent`` of /stats.json has them."""
    admin = new_admin()
    script = """
      const ask = window.fetch;
      window.fetch = async (url, ...rest) => {
        const answer = await ask(url, ...rest);
        if (!String(url).includes("stats.json")) return answer;
        const said = await answer.json();
        return Response.json({ ...said, silent: window.silent });
      };
    """
    with opened(admin, tmp_path) as browser:
        running(browser)
        evaluate(browser, f"window.silent = [1, 3]; {script}")
        state = "document.getElementById('state').textContent"
        wait_for(lambda: evaluate(browser, state) == "no answer of workers 1, 3", "that it is told")
        alert = evaluate(browser, "document.getElementById('silent').textContent")
        assert alert.startswith("No answer of workers 1, 3. ")
        evaluate(browser, "window.silent = []")
        wait_for(lambda: evaluate(browser, state) == "running", "that it is well")
        assert evaluate(browser, "document.getElementById('silent').hidden")


def test_axe_finds_nothing_in_the_table_and_the_question(
    busy: tuple[Admin, dict[int, socket.socket]], tmp_path: Path
) -> None:
    script = axe()
    admin, _ = busy
    with opened(admin, tmp_path) as browser:
        show(browser)
        look(browser, lambda it: len(it["rows"]) == 7, "all of them")
        evaluate(browser, f"{script}; undefined")
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.call("Emulation.setEmulatedMedia", features=[feature])
            for question in (False, True):
                if question:
                    evaluate(browser, "document.querySelector('#flows tbody .end').click()")
                found = evaluate(
                    browser,
                    "axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa',"
                    " 'best-practice'] }).then("
                    "(r) => r.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]))",
                )
                assert found == [], f"{scheme}, {question}: {json.dumps(found, indent=1)}"
            evaluate(browser, "document.getElementById('sure').close()")


def test_it_fits_on_a_phone(busy: tuple[Admin, dict[int, socket.socket]], tmp_path: Path) -> None:
    admin, _ = busy
    with opened(admin, tmp_path, 390) as browser:
        show(browser)
        look(browser, lambda it: len(it["rows"]) == 7, "all of them")
        wide = "document.documentElement.scrollWidth - window.innerWidth"
        assert evaluate(browser, wide) <= 0
        evaluate(browser, "document.querySelector('#flows tbody .end').click()")
        assert evaluate(browser, wide) <= 0
        box = evaluate(
            browser,
            "(({left, right}) => [left, right])"
            "(document.getElementById('sure').getBoundingClientRect())",
        )
        assert box[0] >= 0
        assert box[1] <= 390
        shot(browser, tmp_path / "phone-sure.png")
