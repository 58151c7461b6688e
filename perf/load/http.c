// http.c: a client of HTTP/1.1 that looks at every byte of every answer, one epoll thread;
// prints one JSON object.
//
//     http PORT TARGET HOST FILE [-c CONNECTIONS] [-t SECONDS] [-n REQUESTS] [-r RATE] [-C]
//                                [-k HOSTS] [-u USERS] [-s SOURCES] [-b BYTES]
//
// Sends GET TARGET with Host: HOST to 127.0.0.1:PORT on kept-alive connections that are all
// open before the first request, from 127.0.0.1 to 127.0.0.32. An answer is right if it is a
// 200, has a Content-Length of FILE's size, and FILE's bytes. -C: a new connection for each
// request. -r: so many requests a second in all, else each connection asks as fast as it can.
// It ends after -t seconds or -n requests; what is under way then is waited for.
//
// By turns, each request with the next one: -k: so many hosts of 127.0.0.0/8 in place of the
// 127.0.0.1 of TARGET and HOST; -u: so many users, user000000 with the password secret and so
// on. -s: so many source addresses, each connection with the next one. -b: POST with so many
// bytes of the pattern of common.h.
//
// A kept-alive connection that ends before the first byte of an answer is opened anew and the
// request sent again (RFC 9110 section 9.2.2): "retries" counts these. A POST is not repeated.
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>
#include <sys/stat.h>

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
    int blocked;  // the rest of the request's body waits for EPOLLOUT
    uint64_t since, number;  // of the request, of all that were asked
    size_t sent;             // of the request's body
    size_t head_size, body;  // bytes so far
    char head[HEAD_MAX + 1];
};

static int epoll, port, count = 1, closing, handshakes, opening = 1;
static double seconds = 1e9, rate;
static uint64_t most = UINT64_MAX, asked, answered, retries, connects, begin;
static uint64_t hosts = 1, users, sources = 32;
static size_t post_size;
static struct client *clients;
static const char *target, *host;
static const char *want;
static size_t want_size;

// The Proxy-Authorization line of user `number`.
static const char *user_line(uint64_t number) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static char line[80];
    char plain[32];
    int size = snprintf(plain, sizeof plain, "user%06lu:secret", number);  // 17 bytes and more
    char *to = line + sprintf(line, "Proxy-Authorization: Basic ");
    for (int i = 0; i < size; i += 3) {
        unsigned char b = i + 1 < size ? plain[i + 1] : 0, c = i + 2 < size ? plain[i + 2] : 0;
        *to++ = digits[plain[i] >> 2];
        *to++ = digits[(plain[i] & 3) << 4 | b >> 4];
        *to++ = i + 1 < size ? digits[(b & 15) << 2 | c >> 6] : '=';
        *to++ = i + 2 < size ? digits[c & 63] : '=';
    }
    strcpy(to, "\r\n");
    return line;
}

// `text` with the host of request `number` in place of its 127.0.0.1.
static int with_host(char *to, size_t room, const char *text, uint64_t number) {
    const char *at = hosts > 1 ? strstr(text, "127.0.0.1") : NULL;
    char name[16];
    if (!at) return snprintf(to, room, "%s", text);
    host_name(name, 1 + number % hosts);
    return snprintf(to, room, "%.*s%s%s", (int)(at - text), text, name, at + strlen("127.0.0.1"));
}

static size_t request(char to[4096], uint64_t number) {  // its head; 0 if it does not fit
    static size_t size;
    static char made[4096];
    if (!size || hosts > 1 || users) {
        char where[2048], whom[512], length[64] = "";
        with_host(where, sizeof where, target, number);
        with_host(whom, sizeof whom, host, number);
        if (post_size) snprintf(length, sizeof length, "Content-Length: %zu\r\n", post_size);
        size = snprintf(made, sizeof made, "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s%s\r\n",
                        post_size ? "POST" : "GET", where, whom,
                        users ? user_line(number % users) : credentials(), length,
                        closing ? "Connection: close\r\n" : "");
        if (size >= sizeof made) return 0;
    }
    memcpy(to, made, size);
    return size;
}

static void send_failed(void) {
    if (errno == EPIPE || errno == ECONNRESET) return;  // the read says so too
    failed("send", strerror(errno));
}

static void give(struct client *c) {  // what is left of the request's body
    while (c->sent < post_size) {
        ssize_t n = send(c->fd, pattern + c->sent, post_size - c->sent, 0);
        if (n < 0 && errno == EAGAIN) {
            if (!c->blocked) watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLOUT, c);
            c->blocked = 1;
            return;
        }
        if (n < 0) return send_failed();
        c->sent += n;
    }
    if (c->blocked) watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
    c->blocked = 0;
}

static void ask(struct client *c) {
    char head[4096];
    size_t size = request(head, c->number);
    c->head_size = c->body = c->last = c->blocked = 0;
    c->sent = 0;
    c->state = WAITING;
    if (send(c->fd, head, size, post_size ? MSG_MORE : 0) != (ssize_t)size) return send_failed();
    if (post_size) give(c);
}

static int more_to_ask(void) { return !opening && asked < most && now_us() - begin < seconds * 1e6; }

static void reopen(struct client *c) {
    connects++;
    c->again = 0;
    c->fd = connect_to(1 + connects % sources, 1, port);
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
    c->number = asked++;
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
    if (c->sent < post_size) return wrong(c, "answer", "before the request's end");
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
    if (c->state == READING || c->head_size || !c->again || post_size)
        return wrong(c, "early end", how);
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
        else if (c->state != CLOSED && events[i].events & ~EPOLLOUT) readable(c);
        else if (c->state != CLOSED) give(c);
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
                    "[-n REQUESTS] [-r RATE] [-C] [-k HOSTS] [-u USERS] [-s SOURCES] "
                    "[-b BYTES]\n");
    return 2;
}

int main(int argc, char **argv) {
    if (argc < 5) return usage();
    optind = 5;
    for (int option; (option = getopt(argc, argv, "c:t:n:r:k:u:s:b:C")) > 0;) {
        if (option == 'c') count = atoi(optarg);
        else if (option == 't') seconds = atof(optarg);
        else if (option == 'n') most = atoll(optarg);
        else if (option == 'r') rate = atof(optarg);
        else if (option == 'k') hosts = atoll(optarg);
        else if (option == 'u') users = atoll(optarg);
        else if (option == 's') sources = atoll(optarg);
        else if (option == 'b') post_size = atoll(optarg);
        else if (option == 'C') closing = 1;
        else return usage();
    }
    port = atoi(argv[1]);
    expect(argv[4]);
    target = argv[2];
    host = argv[3];
    char head[4096];
    if (!hosts || !sources || post_size > PATTERN || !request(head, 0)) return usage();
    prepare_process();
    if (post_size) pattern_make();
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
