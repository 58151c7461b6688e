// http.c: a client of HTTP/1.1 that looks at every byte of every answer, one epoll thread;
// prints one JSON object.
//
//     http PORT TARGET HOST FILE [-c CONNECTIONS] [-t SECONDS] [-n REQUESTS] [-r RATE] [-C]
//
// Sends GET TARGET with Host: HOST to 127.0.0.1:PORT on kept-alive connections that are all
// open before the first request, from 127.0.0.1 to 127.0.0.32. An answer is right if it is a
// 200, has a Content-Length of FILE's size, and FILE's bytes. -C: a new connection for each
// request. -r: so many requests a second in all, else each connection asks as fast as it can.
// It ends after -t seconds or -n requests; what is under way then is waited for.
//
// A kept-alive connection that ends before the first byte of an answer is opened anew and the
// request sent again (RFC 9110 section 9.2.2): "retries" counts these.
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>
#include <sys/stat.h>

#define SOURCES 32
#define HANDSHAKES 256     // at a time, while all are opened
#define HEAD_MAX 2048
#define PATIENCE 20000000u  // µs without a right answer, after which what waits has failed
#define TOO_MANY 1000       // errors

enum state { CLOSED, CONNECTING, READY, WAITING, READING };

struct client {
    int fd;
    enum state state;
    int again;  // the connection has carried an answer
    int last;   // the answer says that the connection ends
    uint64_t since;
    size_t head_size, body;  // bytes so far
    char head[HEAD_MAX + 1];
};

static int epoll, port, count = 1, closing, handshakes, opening = 1;
static double seconds = 1e9, rate;
static uint64_t most = UINT64_MAX, asked, answered, retries, connects, begin;
static struct client *clients;
static char request[4096];
static size_t request_size;
static const char *want;
static size_t want_size;

static void ask(struct client *c) {
    c->head_size = c->body = c->last = 0;
    c->state = WAITING;
    if (send(c->fd, request, request_size, 0) == (ssize_t)request_size) return;
    if (errno == EPIPE || errno == ECONNRESET) return;  // the read says so too
    failed("send", strerror(errno));
}

static int more_to_ask(void) { return !opening && asked < most && now_us() - begin < seconds * 1e6; }

static void reopen(struct client *c) {
    connects++;
    c->again = 0;
    c->fd = connect_to(1 + connects % SOURCES, 1, port);
    c->state = CONNECTING;
    if (c->fd < 0) {
        c->state = CLOSED;
        return failed("connect", strerror(errno));
    }
    handshakes++;
    watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLOUT, c);
}

static void leave(struct client *c) {
    if (c->state == CONNECTING) handshakes--;
    close(c->fd);
    c->state = CLOSED;
}

static void first_ask(struct client *c) {  // a request that was not asked before
    asked++;
    c->since = now_us();
    if (c->state == CLOSED) return reopen(c);
    ask(c);
}

static void wrong(struct client *c, const char *what, const char *detail) {
    failed(what, detail);
    leave(c);
    if (!rate && more_to_ask()) first_ask(c);
}

static void connected(struct client *c) {
    int error = socket_error(c->fd);
    if (error) return wrong(c, "connect", strerror(error));
    handshakes--;
    watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
    if (c->since) ask(c);
    else c->state = READY;
}

static void right(struct client *c) {
    latency(now_us() - c->since);
    answered++;
    c->since = 0;
    c->again = 1;
    c->state = READY;
    if (c->last || closing) leave(c);
    if (!rate && more_to_ask()) first_ask(c);
}

static void body(struct client *c, const char *data, size_t size) {
    if (c->body + size > want_size) return wrong(c, "body", "more than Content-Length");
    if (memcmp(data, want + c->body, size)) return wrong(c, "body", "wrong bytes");
    c->body += size;
    if (c->body == want_size) right(c);
}

static const char *field(struct client *c, const char *name) {  // its value or NULL
    char line[64];
    snprintf(line, sizeof line, "\r\n%s:", name);
    const char *at = strcasestr(c->head, line);
    return at ? at + strlen(line) + strspn(at + strlen(line), " \t") : NULL;
}

static void head(struct client *c, const char *data, size_t size) {
    size_t room = HEAD_MAX - c->head_size, part = size < room ? size : room;
    size_t before = c->head_size;
    memcpy(c->head + before, data, part);
    c->head[c->head_size += part] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        if (part < size || part == room) wrong(c, "head", "longer than 2 KiB");
        return;
    }
    size_t used = end + 4 - c->head - before;
    end[2] = 0;
    if (strncmp(c->head, "HTTP/1.", 7) || strncmp(c->head + 8, " 200", 4))
        return wrong(c, "answer", c->head);
    const char *length = field(c, "content-length");
    if (!length || strtoull(length, NULL, 10) != want_size)
        return wrong(c, "Content-Length", length ? "not the size of the file" : "none");
    const char *connection = field(c, "connection");
    c->last = connection ? !strncasecmp(connection, "close", 5) : c->head[7] == '0';
    c->state = READING;
    body(c, data + used, size - used);
}

static void over(struct client *c, const char *how) {  // the connection has ended
    if (c->state == READY) return leave(c);
    if (c->state == READING || c->head_size || !c->again) return wrong(c, "early end", how);
    leave(c);
    retries++;
    reopen(c);
}

static void readable(struct client *c) {
    static char buffer[1 << 18];
    for (int i = 0; i < 4; i++) {
        ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) return over(c, got ? strerror(errno) : "closed");
        if (c->state == READY) return wrong(c, "answer", "that nobody asked for");
        if (c->state == WAITING) head(c, buffer, got);
        else body(c, buffer, got);
        if (got < (ssize_t)sizeof buffer || c->state != READING) return;
    }
}

static void turn(int milliseconds) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(epoll, events, EVENTS, milliseconds);
    for (int i = 0; i < n; i++) {
        struct client *c = events[i].data.ptr;
        if (c->state == CONNECTING) connected(c);
        else if (c->state != CLOSED) readable(c);
    }
}

static void open_all(void) {
    uint64_t limit = now_us() + PATIENCE;
    int next = 0;
    while ((next < count || handshakes) && errors < TOO_MANY && now_us() < limit) {
        while (next < count && handshakes < HANDSHAKES) reopen(&clients[next++]);
        turn(10);
    }
    for (int i = 0; i < count; i++)
        if (clients[i].state == CONNECTING) wrong(&clients[i], "connect", "not in time");
}

static void paced(void) {  // asks what is due
    static int next;
    while (more_to_ask() && asked < (now_us() - begin) * rate / 1e6) {
        struct client *c = NULL;
        for (int tries = 0; tries < count && !c; tries++) {
            c = &clients[next++ % count];
            if (c->since || c->state == CONNECTING) c = NULL;
        }
        if (!c) return;  // all are busy: later
        first_ask(c);
    }
}

static void run(void) {
    uint64_t limit = now_us() + PATIENCE, before = 0;
    begin = now_us();
    opening = 0;
    if (!rate)
        for (int i = 0; i < count && more_to_ask(); i++) first_ask(&clients[i]);
    while (answered + errors < asked || more_to_ask()) {
        if (errors >= TOO_MANY) return;
        if (rate) paced();
        turn(rate ? 5 : 100);
        if (answered != before || (rate && answered + errors >= asked)) limit = now_us() + PATIENCE;
        before = answered;
        if (now_us() < limit) continue;
        failed("answer", "none in time");
        return;
    }
}

static void expect(const char *path) {
    struct stat status;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status)) die(path);
    want_size = status.st_size;
    want = mmap(NULL, want_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (want == MAP_FAILED) die("mmap");
}

static int usage(void) {
    fprintf(stderr, "usage: http PORT TARGET HOST FILE [-c CONNECTIONS] [-t SECONDS] "
                    "[-n REQUESTS] [-r RATE] [-C]\n");
    return 2;
}

int main(int argc, char **argv) {
    if (argc < 5) return usage();
    optind = 5;
    for (int option; (option = getopt(argc, argv, "c:t:n:r:C")) > 0;) {
        if (option == 'c') count = atoi(optarg);
        else if (option == 't') seconds = atof(optarg);
        else if (option == 'n') most = atoll(optarg);
        else if (option == 'r') rate = atof(optarg);
        else if (option == 'C') closing = 1;
        else return usage();
    }
    port = atoi(argv[1]);
    expect(argv[4]);
    request_size = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n",
                            argv[2], argv[3], credentials(), closing ? "Connection: close\r\n" : "");
    if (request_size >= sizeof request) return usage();
    prepare_process();
    epoll = epoll_create1(0);
    clients = calloc(count, sizeof *clients);
    if (!clients) die("calloc");
    if (!closing) open_all();
    uint64_t opened = connects - errors;
    run();
    double spent = (now_us() - begin) / 1e6;
    latencies_sort();
    printf("{\"seconds\": %.4f, \"requests\": %lu, \"opened\": %lu, \"retries\": %lu, "
           "\"bytes\": %lu, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u, \"errors\": %lu, "
           "\"first_error\": \"%s\"}\n",
           spent, answered, opened, retries, answered * want_size, percentile(.5), percentile(.99),
           percentile(1), errors, first_error);
    return 0;
}
