// tunnel.c: a client of CONNECT tunnels, one epoll thread; prints one JSON object.
//
//     tunnel MODE PORT TARGET_PORT [-c TUNNELS] [-t SECONDS] [-m COUNT] [-d down|up] [-r RATE]
//                                  [-s SOURCE] [-k HOSTS] [-N] [-D] [-5]
//
// setup     opens, sends 32 bytes, reads their echo, closes, again; -c at a time
// pingpong  each tunnel bounces 64 bytes off an echo; -r: so many messages a second in all,
//           evenly spaced, else each as fast as it can
// bulk      each tunnel moves bytes for -t seconds, down from a chargen or up to a discard
// idle      obeys standard input: "open N" opens until there are N tunnels and prints
//           "ready OPEN ERRORS SECONDS WHY"; "ping N" is pingpong on N of them, evenly
//           chosen; at the end of file it leaves
//
// It ends after -t seconds or -m tunnels or messages. Every byte of an echo is compared, in
// bulk every byte of the first read of a wake-up. -D: PORT is a relay or the origin, no
// CONNECT. -5: by SOCKS5, by turns, and a host is a name. Sources are 127.0.0.SOURCE and the 31 after it, targets the first 8 hosts of
// 127.0.0.0/8 by turns, or as many as -k says; -N: by their names.
#define _GNU_SOURCE
#include "common.h"

#define SOURCES 32
#define HANDSHAKES 128      // at a time
#define PATIENCE 20000000u  // µs for all handshakes, without one that succeeds
#define TOO_MANY 2000       // errors

enum state { CLOSED, CONNECTING, GREETED, ASKED, OPEN, LAST };
enum mode { SETUP, PINGPONG, BULK, IDLE };

struct tunnel {
    int fd;
    enum state state;
    size_t got;  // of the current message
    uint64_t since, moved;
    int active;
};

static enum mode mode;
static int epoll, port, target_port, count = 1, direct, socks, up, source = 1, stopping;
static int hosts = ADDRESSES;
static double seconds = 1e9, rate;
static uint64_t most = INT64_MAX, started, opened, finished, messages, bytes;
static int handshakes;
static struct tunnel *tunnels;
static size_t message = 64;

static void shut(struct tunnel *t) {
    if (t->state >= CONNECTING && t->state <= ASKED) handshakes--;
    close(t->fd);
    t->state = CLOSED;
}

static void broken(struct tunnel *t, const char *what, const char *detail) {
    failed(what, detail);
    shut(t);
}

static void start(struct tunnel *t) {
    started++;
    t->fd = connect_to(source + started % SOURCES, 1, port);
    t->since = now_us();
    t->moved = t->got = 0;
    if (t->fd < 0) return failed("connect", strerror(errno));
    t->state = CONNECTING;
    handshakes++;
    watch(epoll, EPOLL_CTL_ADD, t->fd, EPOLLOUT, t);
}

static void ping(struct tunnel *t) {
    t->got = 0;
    if (mode != SETUP) t->since = now_us();
    if (send(t->fd, pattern, message, 0) != (ssize_t)message) broken(t, "send", strerror(errno));
}

static void established(struct tunnel *t) {
    handshakes--;
    t->state = OPEN;
    opened++;
    watch(epoll, EPOLL_CTL_MOD, t->fd, mode == BULK && up ? EPOLLOUT | EPOLLIN : EPOLLIN, t);
    if (mode == SETUP) ping(t);
}

static void request(struct tunnel *t, const char *host) {
    char head[64] = "\5\1\0\3", reply[3];
    if (recv(t->fd, reply, sizeof reply, 0) != 2 || memcmp(reply, "\5", 2))
        return broken(t, "greeting", "no reply, or another");
    int size = strlen(host);
    head[4] = size;
    memcpy(head + 5, host, size);
    head[5 + size] = target_port >> 8;
    head[6 + size] = target_port;
    if (send(t->fd, head, 7 + size, 0) != 7 + size) return broken(t, "send", strerror(errno));
    t->state = ASKED;
}

static void reply(struct tunnel *t) {
    char reply[10];
    ssize_t got = recv(t->fd, reply, sizeof reply, MSG_PEEK);
    if ((got < 0 && errno == EAGAIN) || (got > 0 && got < 10)) return;
    if (got <= 0) return broken(t, "no reply to SOCKS", got ? strerror(errno) : "end");
    if (memcmp(reply, "\5\0\0\1\0\0\0\0\0", 10)) return broken(t, "SOCKS", "refused");
    if (recv(t->fd, reply, sizeof reply, 0) < 0) return broken(t, "recv", strerror(errno));
    established(t);
}

static void ask(struct tunnel *t) {
    int error = socket_error(t->fd);
    if (error) return broken(t, "connect", strerror(error));
    if (direct) return established(t);
    char head[512], host[16];
    if (socks && t->state == CONNECTING) {
        if (send(t->fd, "\5\1", 3, 0) != 3) return broken(t, "send greeting", strerror(errno));
        t->state = GREETED;
        return watch(epoll, EPOLL_CTL_MOD, t->fd, EPOLLIN, t);
    }
    host_name(host, 1 + started % hosts);
    if (socks) return request(t, host);
    int size = snprintf(head, sizeof head, "CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\n%s\r\n",
                        host, target_port, host, target_port, credentials());
    if (send(t->fd, head, size, 0) != size) return broken(t, "send CONNECT", strerror(errno));
    t->state = ASKED;
    watch(epoll, EPOLL_CTL_MOD, t->fd, EPOLLIN, t);
}

static void answer(struct tunnel *t) {
    char head[2048], *end;
    if (socks) return reply(t);
    ssize_t got = recv(t->fd, head, sizeof head - 1, MSG_PEEK);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return broken(t, "no answer to CONNECT", got ? strerror(errno) : "end");
    head[got] = 0;
    if (!(end = strstr(head, "\r\n\r\n"))) return;
    if (strncmp(head, "HTTP/1.", 7) || strncmp(head + 8, " 200", 4)) {
        head[60] = 0;
        return broken(t, "CONNECT", head);
    }
    if (recv(t->fd, head, end + 4 - head, 0) < 0) return broken(t, "recv", strerror(errno));
    established(t);
}

static void bounce(struct tunnel *t) {
    char buffer[256];
    ssize_t got = recv(t->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return broken(t, "tunnel", got ? strerror(errno) : "closed");
    if (t->got + got > message || memcmp(buffer, pattern + t->got, got))
        return broken(t, "echo", "wrong bytes");
    t->got += got;
    if (t->got < message) return;
    latency(now_us() - t->since);
    t->since = 0;  // nothing is under way
    messages++;
    if (mode == SETUP) {
        finished++;
        shut(t);
    } else if (!stopping && !rate) {
        ping(t);
    }
}

static void take(struct tunnel *t) {
    static unsigned char buffer[1 << 20];
    for (int i = 0; i < 4; i++) {
        ssize_t got = recv(t->fd, buffer, sizeof buffer, i ? MSG_TRUNC | MSG_DONTWAIT : 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) return broken(t, "tunnel", got ? strerror(errno) : "closed");
        if (!i && memcmp(buffer, pattern + t->moved % PATTERN, got))
            return broken(t, "download", "wrong bytes");
        t->moved += got;
        if (!stopping) bytes += got;
    }
}

static void give(struct tunnel *t) {
    for (int i = 0; i < 4; i++) {
        off_t offset = t->moved % PATTERN;
        ssize_t sent = sendfile(t->fd, pattern_fd, &offset, PATTERN - offset);
        if (sent < 0 && errno == EAGAIN) return;
        if (sent < 0) return broken(t, "sendfile", strerror(errno));
        t->moved += sent;
        bytes += sent;
    }
}

static void count_of_discard(struct tunnel *t) {
    char text[32] = "";
    ssize_t got = recv(t->fd, text, sizeof text - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (t->state != LAST || got <= 0) return broken(t, "upload", got ? "early" : "no count");
    if (strtoull(text, NULL, 10) != t->moved) return broken(t, "upload", "wrong count");
    shut(t);
}

static void turn(int milliseconds) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(epoll, events, EVENTS, milliseconds);
    for (int i = 0; i < n; i++) {
        struct tunnel *t = events[i].data.ptr;
        uint32_t got = events[i].events;
        if (t->state == CONNECTING || t->state == GREETED) ask(t);
        else if (t->state == ASKED) answer(t);
        else if (mode != BULK) bounce(t);
        else if (!up) take(t);
        else if (got & ~EPOLLOUT) count_of_discard(t);
        else if (t->state == OPEN) give(t);
    }
}

static void open_until(int wanted) {
    static int next;
    uint64_t limit = now_us() + PATIENCE, before = opened;
    while ((next < wanted || handshakes) && errors < TOO_MANY && now_us() < limit) {
        while (next < wanted && handshakes < HANDSHAKES) start(&tunnels[next++]);
        turn(10);
        if (opened != before) limit = now_us() + PATIENCE;
        before = opened;
    }
    for (int i = 0; i < next; i++)
        if (tunnels[i].state >= CONNECTING && tunnels[i].state <= ASKED)
            broken(&tunnels[i], "tunnel", "no answer in time");
}

static void run_setup(void) {
    uint64_t end = now_us() + seconds * 1e6, look = now_us() + 1000000;
    while (now_us() < end && finished < most && errors < TOO_MANY) {
        for (int i = 0; i < count && started < most + errors; i++)
            if (tunnels[i].state == CLOSED) start(&tunnels[i]);
        turn(10);
        if (now_us() < look) continue;
        look = now_us() + 1000000;
        for (int i = 0; i < count; i++)
            if (tunnels[i].state != CLOSED && look - tunnels[i].since > PATIENCE)
                broken(&tunnels[i], "set-up", "no echo in time");
    }
}

static void paced(uint64_t begin) {  // starts the messages that are due
    static int next;
    static uint64_t sent;
    while (sent < (now_us() - begin) * rate / 1e6) {
        sent++;
        for (int tries = 0; tries < count; tries++) {
            struct tunnel *t = &tunnels[next++ % count];
            if (!t->active || t->state != OPEN || t->since) continue;
            ping(t);
            break;
        }
    }
}

static void run_pingpong(int active) {
    messages = latencies_used = stopping = 0;
    for (int i = 0; i < count; i++) tunnels[i].active = 0;
    for (int k = 0; k < active; k++) {
        struct tunnel *t = &tunnels[(uint64_t)k * count / active];
        t->active = 1;
        t->since = 0;
        if (!rate && t->state == OPEN) ping(t);
    }
    uint64_t begin = now_us(), end = begin + seconds * 1e6;
    while (now_us() < end && messages < most && errors < TOO_MANY) {
        if (rate) paced(begin);
        turn(rate ? 1 : 100);
    }
    stopping = 1;
    // A message that is still under way after a second is lost.
    for (uint64_t limit = now_us() + 1000000; now_us() < limit;) {
        int waiting = 0;
        for (int k = 0; k < active; k++) {
            struct tunnel *t = &tunnels[(uint64_t)k * count / active];
            waiting += t->state == OPEN && t->since;
        }
        if (!waiting) return;
        turn(10);
    }
    failed("echo", "not back within a second");
}

static void run_bulk(void) {
    bytes = 0;  // what moved while the others opened does not count
    uint64_t end = now_us() + seconds * 1e6;
    while (now_us() < end && errors < TOO_MANY) turn(100);
}

static void end_upload(void) {  // the half-close: what is under way must arrive, and be counted
    int left = 1;
    for (int i = 0; i < count; i++) {
        struct tunnel *t = &tunnels[i];
        if (t->state != OPEN) continue;
        t->state = LAST;
        shutdown(t->fd, SHUT_WR);
        watch(epoll, EPOLL_CTL_MOD, t->fd, EPOLLIN, t);
    }
    for (uint64_t limit = now_us() + PATIENCE; left && now_us() < limit;) {
        turn(50);
        left = 0;
        for (int i = 0; i < count; i++) left += tunnels[i].state == LAST;
    }
    if (left) failed("upload", "no end in time");
}

static void report(double spent) {
    latencies_sort();
    printf("{\"seconds\": %.4f, \"opened\": %lu, \"finished\": %lu, \"messages\": %lu, "
           "\"bytes\": %lu, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u, \"errors\": %lu, "
           "\"first_error\": \"%s\"}\n",
           spent, opened, finished, messages, bytes, percentile(.5), percentile(.99),
           percentile(1), errors, first_error);
    fflush(stdout);
}

static void obey(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        int n = atoi(line + 5);
        uint64_t begin = now_us();
        if (!strncmp(line, "open ", 5) && n <= count) {
            open_until(n);
            printf("ready %lu %lu %.3f %s\n", opened, errors, (now_us() - begin) / 1e6, first_error);
            fflush(stdout);
        } else if (!strncmp(line, "ping ", 5) && n > 0 && n <= count) {
            run_pingpong(n);
            report((now_us() - begin) / 1e6);
        } else {
            fprintf(stderr, "tunnel: not understood: %s", line);
            exit(2);
        }
    }
}

static int usage(void) {
    fprintf(stderr, "usage: tunnel setup|pingpong|bulk|idle PORT TARGET_PORT [-c TUNNELS] "
                    "[-t SECONDS] [-m COUNT] [-d down|up] [-r RATE] [-s SOURCE] [-k HOSTS] [-N] [-D] [-5]\n");
    return 2;
}

int main(int argc, char **argv) {
    static const char *const names[] = {"setup", "pingpong", "bulk", "idle"};
    if (argc < 4) return usage();
    while (strcmp(argv[1], names[mode]))
        if (++mode > IDLE) return usage();
    port = atoi(argv[2]);
    target_port = atoi(argv[3]);
    optind = 4;
    for (int option; (option = getopt(argc, argv, "c:t:m:d:r:s:k:ND5")) > 0;) {
        if (option == 'c') count = atoi(optarg);
        else if (option == 't') seconds = atof(optarg);
        else if (option == 'm') most = atoll(optarg);
        else if (option == 'd') up = *optarg == 'u';
        else if (option == 'r') rate = atof(optarg);
        else if (option == 's') source = atoi(optarg);
        else if (option == 'k') hosts = atoi(optarg);
        else if (option == 'N') named = 1;
        else if (option == 'D') direct = 1;
        else if (option == '5') socks = 1;
        else return usage();
    }
    if (hosts < 1) return usage();
    prepare_process();
    pattern_make();
    epoll = epoll_create1(0);
    tunnels = calloc(count, sizeof *tunnels);
    if (!tunnels) die("calloc");
    if (mode == SETUP) message = 32;
    if (mode == IDLE) {
        obey();
        return 0;
    }
    if (mode != SETUP) open_until(count);
    uint64_t begin = now_us();
    if (mode == SETUP) run_setup();
    else if (mode == PINGPONG) run_pingpong(count);
    else run_bulk();
    stopping = 1;
    double spent = (now_us() - begin) / 1e6;
    if (mode == BULK && up) end_upload();
    report(spent);
    return 0;
}
