"""Files for squid, made up for the test of what becomes of them: over everything that is converted,
and over all in which squid is not what one expects."""

from __future__ import annotations

from typing import NamedTuple

from passlib.hash import apr_md5_crypt, bcrypt, sha512_crypt
from squid_rig import Probe


class File(NamedTuple):
    """``files``: others beside it, by name; {folder} in the text is where they are. ``closed``:
    something has no counterpart, and a message says so. ``starts``: squid takes it."""

    name: str
    text: str
    probes: tuple[Probe, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    closed: bool = False
    starts: bool = True


def C(host: str, port: int = 443, **more: str) -> Probe:
    return Probe("CONNECT", host, port, **more)


def G(host: str, port: int = 80, **more: str) -> Probe:
    return Probe(more.pop("method", "GET"), host, port, **more)


LAN, HERE, FAR = "10.1.2.3", "127.0.0.1", "203.0.113.7"

NAMES = {
    **dict.fromkeys(
        """good.test a.good.test a.b.good.test evilgood.test fine.test x.test bad.test a.bad.test
        three.test four.test goodbad.test facebook.test www.facebook.test intranet
        intranet.corp.test b.corp.test deep.a.corp.test test""".split(),  # noqa: SIM905
        "127.0.0.9",
    ),
    "private.test": "127.9.9.9",
    "other.test": "127.8.8.8",
}

GRID = (
    *(C(host, client=LAN) for host in ("good.test", "a.good.test", "bad.test", "x.test")),
    *(G(host, client=LAN) for host in ("good.test", "a.good.test", "bad.test", "x.test")),
    *(C(host, client=FAR) for host in ("good.test", "bad.test", "x.test")),
    *(G(host, client=FAR) for host in ("good.test", "bad.test", "x.test")),
    *(C(host, client=HERE) for host in ("good.test", "bad.test")),
    C("evilgood.test"),
    C("GOOD.test."),
    C("good.test", 80),
    C("good.test", 22),
    G("good.test", 22),
    G("good.test", 8080),
    C("127.0.0.77"),
    C("127.9.9.8"),
    C("private.test"),
    G("private.test"),
    C("other.test"),
    C("0x7f.9"),
    C("good.test", client="127.0.0.9"),
    G("x.test", method="PUT"),
)
"""What each file is asked."""

_HASHED = apr_md5_crypt.hash
PASSWORDS = (
    f"amy:{_HASHED('a')}\nbob:{sha512_crypt.using(rounds=1000).hash('b')}\n"
    f"Carl:{_HASHED('c')}\ndora:{bcrypt.using(rounds=4, ident='2y').hash('d')}\n"
)
USERS = ("amy:a", "bob:b", "dora:d")
WRONG = ("Carl:c", "carl:c")
AS_USERS = (
    *(C(host, user=user) for host in ("good.test", "bad.test", "x.test") for user in USERS),
    C("good.test", user="Carl:c"),
    C("x.test", user="carl:c"),
)
AUTH = """
auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder}/users
auth_param basic realm those of {folder}
auth_param basic children 2 startup=1
"""
WITH_USERS = (("users", PASSWORDS),)
LISTS = (
    ("good.txt", "# ours\n\n.good.test\r\n  fine.test \n"),
    ("odd.txt", "three.test four.test\n*.good.test\ngood.test # with a comment\n"),
    ("empty.txt", ""),
    ("words.txt", "-i\nFACEBOOK\\.\n+i\n^GOOD\n"),
    ("nets.txt", "10.0.0.0/8\n203.0.113.0/24\n"),
)

ORDER = (
    File(
        "usual",
        """
acl localnet src 10.0.0.0/8
acl SSL_ports port 443
acl Safe_ports port 80 443 1025-65535
http_access deny !Safe_ports
http_access deny CONNECT !SSL_ports
http_access allow localhost manager
http_access deny manager
http_access allow localnet
http_access allow localhost
http_access deny all
http_port 3128
coredump_dir /var/spool/squid
refresh_pattern . 0 20% 4320
""",
    ),
    File(
        "last-allows",
        """
acl lan src 10.0.0.0/8
http_access allow lan
""",
    ),
    File(
        "last-denies",
        """
acl bad dstdomain .bad.test
http_access deny bad
""",
    ),
    File(
        "last-denies-manager",
        """
acl b dstdomain .bad.test
http_access deny b
http_access deny manager
""",
    ),
    File("nothing", "http_port 3128\n"),
    File(
        "no-acl",
        """
http_access allow
acl b dstdomain .bad.test
http_access deny b
http_access
""",
    ),
    File(
        "and-or",
        """
acl a dstdomain .good.test
acl a dstdomain .fine.test
acl b port 443
http_access deny !a !b
http_access allow a b
http_access allow b
""",
        (C("fine.test"), C("bad.test", 22)),
    ),
    File(
        "not",
        """
acl a dstdomain .good.test
acl b dstdomain a.good.test
http_access allow a !b
http_access deny all
""",
        (C("a.b.good.test"),),
    ),
    File(
        "not-goes-on",
        """
acl a dstdomain .good.test
acl lan src 10.0.0.0/8
http_access deny !lan
http_access allow !a !CONNECT
http_access allow a CONNECT
""",
    ),
    File(
        "not-all",
        """
acl g dstdomain .good.test
http_access allow !all
http_access deny !g
http_access allow all
""",
    ),
    File(
        "two-of-a-kind",
        """
acl below dstdomain .good.test
acl narrow dstdomain a.good.test .x.test
acl lan src 10.0.0.0/8 203.0.113.0/24
acl some src 10.1.0.0/16
acl high port 80-1000
acl web port 443 80
http_access allow below narrow lan some high web
http_access deny all
""",
    ),
    File(
        "names-in-any-case",
        """
acl LAN src 10.0.0.0/8
acl lan src 203.0.113.0/24
http_access allow Lan LOCALHOST
http_access allow lan
http_access deny ALL
""",
    ),
    File(
        "built-in-ones-again",
        """
acl all src all
acl manager proto cache_object
acl localhost src 127.0.0.9
http_access allow localhost
http_access deny all
""",
    ),
    File(
        "groups",
        """
acl lan src 10.0.0.0/8
acl g dstdomain .good.test
acl b dstdomain .bad.test
acl either any-of g b
acl both all-of lan g
acl both all-of CONNECT b
http_access deny !either
http_access allow both
http_access deny all
""",
    ),
)

LINES = (
    File(
        "continued",
        """
acl g dstdomain \\
   .good.test \\
# a comment
   .fine.test # .bad.test\r
http_access allow g
http_access deny all
""",
        (C("fine.test"),),
    ),
    File(
        "if",
        """
if 1 = 2
http_access allow all
else
acl g dstdomain .good.test
endif
if true
http_access allow g
endif
http_access deny all
""",
    ),
    File(
        "included",
        """
acl g dstdomain .good.test
include {folder}/part*.inc
http_access deny all
""",
        files=(
            ("part1.inc", "http_access deny !g\n"),
            (
                "part2.inc",
                """
acl p port 443
http_access allow p
""",
            ),
        ),
    ),
    File(
        "included-twice",
        "include {folder}/a.inc {folder}/b.inc\n",
        files=(("a.inc", "acl g dstdomain good.test\n"), ("b.inc", "http_access allow g\n")),
    ),
    File(
        "not-included",
        """
include {folder}/none.inc
http_access allow all
""",
        starts=False,
    ),
    File("undefined", "http_access allow nobody\n", starts=False),
    File(
        "defined-later",
        """
http_access allow g
acl g dstdomain .good.test
""",
        starts=False,
    ),
    File(
        "two-types",
        """
acl g dstdomain .good.test
acl g src 10.0.0.0/8
http_access allow g
""",
        starts=False,
    ),
)

FILES_OF_VALUES = (
    File(
        "values-in-a-file",
        """
acl g dstdomain "{folder}/good.txt"
acl n src "{folder}/nets.txt"
http_access allow g n
http_access deny all
""",
        (C("fine.test"),),
        LISTS,
    ),
    File(
        "odd-values",
        """
acl g dstdomain "{folder}/odd.txt"
http_access deny g
http_access allow all
""",
        (C("three.test"), C("four.test")),
        LISTS,
    ),
    File(
        "behind-a-file",
        """
acl g dstdomain .x.test "{folder}/good.txt" .bad.test "{folder}/odd.txt"
http_access allow g
http_access deny all
""",
        (C("fine.test"), C("three.test")),
        LISTS,
    ),
    File(
        "empty-file",
        """
acl g dstdomain "{folder}/empty.txt"
http_access allow g
http_access deny all
""",
        files=LISTS,
    ),
    File(
        "missing-file",
        """
acl g dstdomain "{folder}/none.txt"
acl b dstdomain .bad.test
http_access deny g b
http_access deny b
http_access allow !g
""",
        files=LISTS,
    ),
    File(
        "not-empty",
        """
acl g src "{folder}/empty.txt"
http_access deny !g
http_access allow all
""",
        files=LISTS,
    ),
)

CLIENTS = (
    File(
        "ranges",
        """
acl a src 10.1.2.1-10.1.2.5
acl b src 203.0.113.77/24
acl c src 127.0.0.0/255.255.255.252
acl d src 10.0.1.0-10.0.3.0/24
http_access deny d
http_access allow a
http_access allow b CONNECT
http_access allow c
http_access deny all
""",
        (
            C("good.test", client="10.1.2.6"),
            C("good.test", client="10.0.2.9"),
            C("x.test", client="10.0.4.1"),
        ),
    ),
    File(
        "everybody",
        """
acl world src 0.0.0.0/0
acl v6 src fd00::/8
http_access deny v6
http_access allow world
""",
        (C("good.test", client="fd00::1"), C("good.test", client="2001:db8::1")),
    ),
    File(
        "by-name",
        """
acl here src localhost
http_access allow here
http_access deny all
""",
    ),
    File(
        "an-odd-network",
        """
acl a src 10
http_access deny a
http_access allow all
""",
        closed=True,
    ),
    File(
        "an-odd-network-that-allows",
        """
acl a src 10
acl b src 203.0.113.0/24
http_access allow a
http_access allow b
http_access deny all
""",
        closed=True,
    ),
)

OVERLAPPING = (
    File(
        "wider-first",
        """
acl a src 10.0.0.0/8 10.1.2.3 10.1.0.0-10.2.0.0
acl d dst 127.0.0.0/8 127.9.0.0/16
http_access deny a d
http_access allow all
""",
    ),
    File(
        "narrower-first",
        """
acl a src 10.9.9.9 10.0.0.0/8
http_access deny a
http_access allow all
""",
        closed=True,
    ),
    File(
        "all-of-them-last",
        """
acl a src 10.1.2.3 all
acl d dst 127.9.0.0/16 127.0.0.0/8
http_access allow a
http_access deny d
http_access allow localhost
http_access deny all
""",
        closed=True,
    ),
)

HOSTS = (
    File(
        "exact-and-below",
        """
acl a dstdomain good.test
acl b dstdomain .test
acl c dstdomain .GOOD.test
http_access allow a
http_access deny c
http_access allow b
http_access deny all
""",
        (C("test"), C("intranet")),
    ),
    File(
        "no-hosts",
        """
acl a dstdomain *.good.test bad.test, x.test .fine.test.
acl a dstdomain https://three.test four.test:443 127.0.0.0/8
http_access deny a
http_access allow all
""",
        (C("fine.test"), C("three.test"), C("four.test")),
    ),
    File(
        "an-address",
        """
acl a dstdomain 127.0.0.9 [::1]
http_access allow a
http_access deny all
""",
        (C("2130706441"), C("::ffff:127.0.0.9"), C("::1"), C("::2")),
    ),
    File(
        "a-part-of-an-address",
        """
acl a dstdomain .9
http_access deny a
http_access allow all
""",
        closed=True,
    ),
    File(
        "domain-appended",
        """
append_domain .corp.test
acl c dstdomain .corp.test
acl i dstdomain intranet
acl b dstdomain b.corp.test
http_access deny i
http_access deny b
http_access allow c
http_access deny all
""",
        (C("intranet"), C("b"), C("b.corp.test"), C("intranet.corp.test"), C("x")),
    ),
    File(
        "domain-appended-to-an-expression",
        """
append_domain .corp.test
acl c dstdom_regex corp
http_access deny c
http_access allow all
""",
        (C("intranet"),),
        closed=True,
    ),
)

EXPRESSIONS = (
    File(
        "hosts",
        """
acl a dstdom_regex good\\.test$
acl b dstdom_regex -i ^BAD
acl c dstdom_regex ^X
http_access deny b
http_access allow a
http_access allow c
http_access deny all
""",
    ),
    File(
        "hosts-and-case",
        """
acl a dstdom_regex good -i BAD +i ^X
http_access allow a
http_access deny all
""",
        (C("goodbad.test"),),
    ),
    File(
        "hosts-of-a-file",
        """
acl a dstdom_regex "{folder}/words.txt"
http_access deny a
http_access allow all
""",
        (C("www.facebook.test"),),
        LISTS,
    ),
    File(
        "hosts-or",
        """
acl a dstdom_regex -n (^|\\.)good\\.test$ ^(x|bad)\\.
http_access allow a
http_access deny all
""",
    ),
    File(
        "digits",
        """
acl a dstdom_regex -n ^[0-9.]+$
http_access deny a
http_access allow all
""",
        (C("2001:db8::1"),),
    ),
    File(
        "backslash-d",
        """
acl a dstdom_regex ^\\d+
http_access deny a
http_access allow all
""",
        closed=True,
    ),
    File(
        "the-word-none",
        """
acl a dstdom_regex ^[a-z]+$
http_access deny a
http_access allow all
""",
        (C("127.0.0.77"), C("intranet")),
        closed=True,
    ),
    File(
        "urls-of-hosts",
        """
acl a url_regex ^http://good\\.test/
acl b url_regex -i ^https?://([^/]+\\.)?BAD\\.test(:|/|$)
acl c url_regex ^https://x\\.test
http_access deny b
http_access allow a
http_access deny c
http_access allow CONNECT
""",
        (G("good.test", path="/x"), G("bad.test", 8080), G("x.test", path="/good.test/")),
    ),
    File(
        "urls-of-tunnels",
        """
acl a url_regex facebook bad\\.test
http_access deny CONNECT a
http_access allow all
""",
        (C("www.facebook.test"), G("facebook.test")),
    ),
    File(
        "urls",
        """
acl a url_regex -i facebook
http_access deny a
http_access allow all
""",
        (C("www.facebook.test"), G("x.test", path="/?facebook")),
        closed=True,
    ),
    File(
        "urls-that-allow",
        """
acl a url_regex good\\.test
http_access allow a
http_access deny all
""",
        (G("x.test", path="/good.test"),),
        closed=True,
    ),
    File(
        "a-dot",
        """
acl a url_regex ^http://www.facebook.test
http_access deny a
http_access allow all
""",
        (G("www.facebook.test"), G("facebook.test")),
        closed=True,
    ),
    File(
        "a-port",
        """
acl a url_regex :22$ test:8
http_access deny a
http_access allow all
""",
        closed=True,
    ),
    File(
        "paths",
        """
acl a urlpath_regex \\.exe$
http_access deny a
http_access allow all
""",
        (G("x.test", path="/a.exe"), C("x.test")),
        closed=True,
    ),
    File(
        "not-paths",
        """
acl a urlpath_regex \\.exe$
acl g dstdomain .good.test
http_access allow g !a
http_access deny all
""",
        (G("good.test", path="/a.exe"),),
        closed=True,
    ),
)

OTHERS = (
    File(
        "addresses",
        """
acl p dst 127.9.0.0/16
acl o dst 127.8.8.8 127.9.9.7
http_access deny p
http_access allow o
http_access deny !CONNECT
http_access allow all
""",
    ),
    File(
        "not-addresses",
        """
acl p dst 127.9.0.0/16 127.8.0.0-127.8.255.255
http_access deny !p
http_access allow all
""",
    ),
    File(
        "this-machine",
        """
acl g dstdomain .test
http_access deny to_localhost
http_access allow g
http_access deny all
""",
        (C("0.0.0.0"), C("::1"), C("::"), C("::ffff:127.0.0.1"), C("192.0.2.7")),
    ),
    File(
        "named-address",
        """
acl l dst localhost
http_access deny l
http_access allow all
""",
        (C("127.0.0.1"),),
    ),
    File(
        "two-addresses",
        """
acl a dst 127.9.0.0/16
acl b dst 127.9.9.9
http_access deny a b
http_access allow all
""",
        closed=True,
    ),
    File(
        "ports",
        """
acl p port 22 8000-9000
acl q port 70000 443 0
http_access deny p
http_access allow q
http_access allow !CONNECT
http_access deny all
""",
        starts=False,
    ),
    File(
        "more-ports",
        """
acl p port 22 8000-9000
acl q port 443 1-79
http_access deny p
http_access allow q
http_access allow !CONNECT
http_access deny all
""",
    ),
    File(
        "methods",
        """
acl m method get HEAD
acl t method CONNECT
http_access deny t !m
http_access allow m
http_access deny all
""",
        (G("good.test", method="HEAD"), G("good.test", method="POST")),
    ),
    File(
        "protocols",
        """
acl h proto HTTP
acl s proto HTTPS FTP
http_access deny s
http_access allow h
http_access deny all
""",
    ),
    File(
        "not-protocols",
        """
acl h proto http
http_access allow !h
""",
    ),
    File(
        "always",
        """
acl w time 00:00-24:00
acl d time SMTWHFA
acl n time D A S 00:00-23:59
http_access deny !w
http_access deny !d
http_access deny !n
http_access allow CONNECT
http_access deny all
""",
    ),
    File(
        "never",
        """
acl w time 00:00-24:00
http_access deny w CONNECT
http_access allow w
""",
    ),
    File(
        "a-night",
        """
acl w time 22:00-06:00
http_access allow w
""",
        starts=False,
    ),
    File(
        "browsers",
        """
acl b browser curl
http_access deny b
http_access allow all
""",
        closed=True,
    ),
    File(
        "browsers-that-are-allowed",
        """
acl b browser curl
acl g dstdomain .good.test
http_access allow b
http_access allow g
http_access deny all
""",
        closed=True,
    ),
    File(
        "connections",
        """
acl m maxconn 3
acl lan src 10.0.0.0/8
http_access deny m lan
http_access allow all
""",
    ),
    File(
        "delay pools",
        """
acl lan src 10.0.0.0/8
acl b dstdomain .bad.test
delay_pools 2
delay_class 1 1
delay_class 2 3
delay_parameters 1 64000/128000
delay_parameters 2 -1/-1 512000/512000 64000/64000
delay_access 1 allow lan !b
delay_access 1 deny all
delay_access 2 deny CONNECT
delay_access 2 allow all
http_access deny b
http_access allow all
""",
    ),
    File(
        "delay pools of clients",
        """
client_delay_pools 1
client_delay_parameters 1 64000 128000
client_delay_access 1 allow all
http_access deny CONNECT
http_access allow all
""",
    ),
    File(
        "pages",
        """
acl b dstdomain .bad.test
acl g dstdomain x.test
deny_info 404:ERR_ACCESS_DENIED b
deny_info http://go.test/ g
http_access deny b
http_access deny g
http_access allow all
""",
    ),
    File(
        "other-pages",
        """
acl b dstdomain .bad.test
acl g dstdomain x.test
deny_info TCP_RESET b
deny_info 451:ERR_ACCESS_DENIED g all
http_access deny b
http_access deny CONNECT g
http_access allow CONNECT
http_access deny all
""",
    ),
    File(
        "helpers",
        """
external_acl_type e %SRC /bin/true
acl e external e
acl g dstdomain .good.test
http_access allow g
http_access deny e
http_access allow all
""",
        closed=True,
    ),
    File(
        "fields",
        """
acl lan src 10.0.0.0/8
request_header_access Via deny all
request_header_access Cookie deny all
forwarded_for transparent
http_access allow lan
""",
        closed=True,
    ),
    File(
        "words",
        """
via off
forwarded_for delete
visible_hostname p
access_log none
logformat mine %ts %>a
dns_nameservers 127.0.0.1
http_access allow all
""",
    ),
    File(
        "answers",
        """
acl lan src 10.0.0.0/8
http_access allow all
http_reply_access deny !lan
""",
        closed=True,
    ),
    File(
        "sizes",
        """
request_body_max_size 10 KB
http_access allow all
""",
        closed=True,
    ),
    File(
        "not-a-directive",
        """
what_is_this on
http_access allow all
""",
        closed=True,
        starts=False,
    ),
)

WITH_AUTH = (
    File(
        "users",
        AUTH
        + """
acl u proxy_auth REQUIRED
http_access allow u
http_access deny all
""",
        AS_USERS,
        WITH_USERS,
    ),
    File(
        "users-first",
        AUTH
        + """
acl u proxy_auth REQUIRED
acl g dstdomain .good.test
http_access deny !u
http_access allow g
http_access deny all
""",
        AS_USERS,
        WITH_USERS,
    ),
    File(
        "some-hosts",
        AUTH
        + """
acl u proxy_auth REQUIRED
acl g dstdomain .good.test
http_access allow g u
http_access deny all
""",
        AS_USERS,
        WITH_USERS,
    ),
    File(
        "hosts-or-users",
        AUTH
        + """
acl u proxy_auth REQUIRED
acl g dstdomain .good.test
http_access allow localhost
http_access allow g
http_access allow u
http_access deny all
""",
        AS_USERS,
        WITH_USERS,
    ),
    File(
        "named",
        AUTH
        + """
acl amy proxy_auth amy
acl b dstdomain .bad.test
http_access deny !amy b
http_access deny !CONNECT
http_access allow all
""",
        AS_USERS,
        WITH_USERS,
    ),
    File(
        "not-users",
        AUTH
        + """
acl u proxy_auth REQUIRED
acl g dstdomain .good.test
http_access allow !u g
""",
        AS_USERS,
        WITH_USERS,
    ),
    File(
        "named-in-capitals",
        AUTH
        + """
acl a proxy_auth AMY
acl b proxy_auth -i BOB
http_access allow a
http_access allow b
http_access deny all
""",
        AS_USERS,
        WITH_USERS,
    ),
    File(
        "case-counts",
        AUTH
        + """
auth_param basic casesensitive on
acl c proxy_auth Carl amy
http_access allow c
http_access deny all
""",
        AS_USERS,
        WITH_USERS,
    ),
    File(
        "kerberos",
        """
auth_param negotiate program /bin/false
acl u proxy_auth REQUIRED
acl g dstdomain .good.test
http_access allow g
http_access allow u
http_access deny all
""",
        closed=True,
    ),
    File(
        "no-scheme",
        """
acl u proxy_auth REQUIRED
http_access allow u
""",
        starts=False,
    ),
)

ALL = (
    *ORDER,
    *LINES,
    *FILES_OF_VALUES,
    *CLIENTS,
    *OVERLAPPING,
    *HOSTS,
    *EXPRESSIONS,
    *OTHERS,
    *WITH_AUTH,
)

_PEERS = """
cache_peer 127.0.0.1 parent {a} 0 no-query no-digest name=a
cache_peer 127.0.0.1 parent {b} 0 no-query no-digest name=b
acl g dstdomain .good.test
acl b dstdomain .bad.test
acl s port 443 80
"""

WAYS = (
    File("never", _PEERS + "never_direct allow all\n"),
    File("always", _PEERS + "always_direct allow g\nnever_direct allow all\n"),
    File("not-always", _PEERS + "always_direct deny !g\nnever_direct allow all\n"),
    File(
        "by-peer",
        _PEERS
        + """
cache_peer_access a allow g
cache_peer_access a deny all
cache_peer_access b deny g
cache_peer_access b allow s
never_direct allow all
""",
    ),
    File(
        "the-last-one",
        _PEERS
        + "cache_peer_access a deny g\ncache_peer_access b allow b\nnever_direct allow all\n",
    ),
    File(
        "some-never",
        _PEERS + "nonhierarchical_direct off\nnever_direct allow g\nalways_direct allow b\n",
        closed=True,
    ),
    File("maybe", _PEERS, closed=True),
    File(
        "by-client",
        _PEERS + "acl l src 10.0.0.0/8\ncache_peer_access a allow l\nnever_direct allow all\n",
        closed=True,
    ),
    File("nowhere", "acl g dstdomain .good.test\nnever_direct allow g\n"),
    File("all-siblings", "cache_peer 127.0.0.1 sibling {a} 0 no-query\nnever_direct allow all\n"),
    File(
        "from-elsewhere-by-client",
        """
acl lan src 10.0.0.0/8
tcp_outgoing_address 127.0.0.3 lan
tcp_outgoing_address 127.0.0.4
""",
        closed=True,
    ),
    File("from-elsewhere", "acl g dstdomain .good.test\ntcp_outgoing_address 127.0.0.3 g\n"),
)
"""Which way requests go. {a} and {b} are ports of peers."""
