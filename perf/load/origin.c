// origin.c: what tunnels and requests with a body lead to, on every address of 127.0.0.0/8, one
// epoll thread.
//
//     origin PORT
//
// PORT    echo: sends back what it reads
// PORT+1  chargen: sends the pattern of common.h for ever, by sendfile(2)
// PORT+2  discard: reads to the end, then says how many bytes that were, and closes
// PORT+3  take: HTTP/1.1 for requests with a Content-Length; answers 200 and "ok" if the body is
//         that of the pattern, else 422 and "no"; to a request without a body it says how many
//         bodies it has taken
// PORT+4  names, by UDP: the address of n000001.test is 127.0.0.1 and so on; there are no others
#define _GNU_SOURCE
#include "common.h"

#define HEAD_MAX 4096

#define DNS_HEADER 12  // bytes, RFC 1035 section 4.1.1
#define DNS_MAX 512

enum kind { ECHO, CHARGEN, DISCARD, TAKE, LISTENER, NAMES };

struct connection {
    int fd;
    enum kind kind, serves;  // serves: of a listener
    uint64_t moved;
    char *kept;  // what the echo could not send yet; the head of a request that is taken
    size_t kept_size, kept_sent;
    uint64_t left;  // of a body that is taken; `moved` are the bytes before
    int wrong;
};

static int epoll;
static uint64_t taken;

static void end(struct connection *c) {
    close(c->fd);
    free(c->kept);
    free(c);
}

static void echo_kept(struct connection *c) {
    ssize_t n = send(c->fd, c->kept + c->kept_sent, c->kept_size - c->kept_sent, 0);
    if (n < 0) {
        if (errno != EAGAIN) end(c);
        return;
    }
    c->kept_sent += n;
    if (c->kept_sent < c->kept_size) return;
    free(c->kept);
    c->kept = NULL;
    watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
}

static void echo(struct connection *c) {
    static char buffer[65536];  // memory of its own only for a connection that is blocked
    if (c->kept) return echo_kept(c);
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return end(c);
    ssize_t sent = send(c->fd, buffer, got, 0);
    if (sent < 0 && errno != EAGAIN) return end(c);
    if (sent < 0) sent = 0;
    if (sent == got) return;
    c->kept_size = got - sent;
    c->kept_sent = 0;
    c->kept = malloc(c->kept_size);
    if (!c->kept) die("malloc");
    memcpy(c->kept, buffer + sent, c->kept_size);
    watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLOUT, c);
}

static void chargen(struct connection *c, uint32_t events) {
    if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) return end(c);
    for (int i = 0; i < 4; i++) {
        off_t offset = c->moved % PATTERN;
        ssize_t sent = sendfile(c->fd, pattern_fd, &offset, PATTERN - offset);
        if (sent < 0 && errno == EAGAIN) return;
        if (sent <= 0) return end(c);
        c->moved += sent;
    }
}

static void discard(struct connection *c) {
    for (int i = 0; i < 4; i++) {
        ssize_t got = recv(c->fd, NULL, 1 << 20, MSG_TRUNC);
        if (got < 0 && errno == EAGAIN) return;
        if (got > 0) {
            c->moved += got;
            continue;
        }
        if (got == 0) dprintf(c->fd, "%lu\n", c->moved);
        return end(c);
    }
}

static int answer(struct connection *c, const char *status, const char *text) {  // -1: over
    static time_t dated;
    static char date[40];
    char head[256];
    time_t now = time(NULL);
    if (now != dated) strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
    dated = now;
    // As servers do: without Date a proxy has to add one (RFC 9110 section 6.6.1).
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 %s\r\nServer: origin\r\nDate: %s\r\nContent-Type: text/plain\r\n"
                        "Content-Length: %zu\r\n\r\n%s",
                        status, date, strlen(text), text);
    c->kept_size = c->moved = c->wrong = 0;
    return send(c->fd, head, size, 0) == size ? 0 : -1;
}

static int body_taken(struct connection *c) {
    taken++;
    return c->wrong ? answer(c, "422 Wrong Bytes", "no") : answer(c, "200 OK", "ok");
}

static size_t take_head(struct connection *c, const char *data, size_t size) {  // 0: it is over
    size_t before = c->kept_size, room = HEAD_MAX - before;
    size_t part = size < room ? size : room;
    if (!c->kept && !(c->kept = malloc(HEAD_MAX + 1))) die("malloc");
    memcpy(c->kept + before, data, part);
    c->kept[c->kept_size += part] = 0;
    char *end = strstr(c->kept, "\r\n\r\n");
    if (!end) return c->kept_size < HEAD_MAX ? part : 0;
    end[2] = 0;
    const char *length = strcasestr(c->kept, "\r\ncontent-length:");
    c->left = length ? strtoull(length + strlen("\r\ncontent-length:"), NULL, 10) : 0;
    size_t used = end + 4 - c->kept - before;
    if (c->left > PATTERN) return 0;
    if (c->left) return used;
    char count[32];
    snprintf(count, sizeof count, "%lu", taken);
    return answer(c, "200 OK", count) ? 0 : used;
}

static void take(struct connection *c) {
    static char buffer[1 << 17];
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return end(c);
    for (size_t at = 0, size = got; at < size;) {
        if (!c->left) {
            size_t used = take_head(c, buffer + at, size - at);
            if (!used) return end(c);
            at += used;
            continue;
        }
        size_t part = size - at < c->left ? size - at : c->left;
        if (memcmp(buffer + at, pattern + c->moved, part)) c->wrong = 1;
        at += part;
        c->moved += part;
        c->left -= part;
        if (!c->left && body_taken(c)) return end(c);
    }
}

// An answer to `query` in the same buffer (RFC 1035 section 4.1): its size, 0 for none.
static size_t resolve(unsigned char *query, size_t size) {
    size_t at = DNS_HEADER;
    while (at < size && query[at]) at += 1 + query[at];
    size_t end = at + 5;  // behind the question: the root label, type, class
    if (end > size || end + 16 > DNS_MAX) return 0;
    unsigned number = 0;
    int known = sscanf((char *)query + DNS_HEADER + 1, "n%6u", &number) == 1;
    int address = known && query[at + 2] == 1;  // A; of AAAA there are none
    query[2] = 0x81;                            // a response, recursion desired
    query[3] = known ? 0x80 : 0x83;             // NXDOMAIN for others
    memset(query + 6, 0, 6);                    // no answers, and nothing behind them
    if (!address) return end;
    query[7] = 1;
    const unsigned char record[] = {0xc0, DNS_HEADER, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4,  // 300 s
                                    127, number >> 16, number >> 8, number};
    memcpy(query + end, record, sizeof record);
    return end + sizeof record;
}

static void names(int fd) {
    for (int i = 0; i < 64; i++) {
        unsigned char message[DNS_MAX + 1];
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t got = recvfrom(fd, message, DNS_MAX, 0, (void *)&from, &length);
        if (got < 0) return;
        message[got] = 0;
        size_t size = resolve(message, got);
        if (size) sendto(fd, message, size, 0, (void *)&from, length);
    }
}

static int names_on(int port) {
    struct sockaddr_in at = address(1, port);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (void *)&at, sizeof at)) die("names");
    return fd;
}

static void accept_some(struct connection *listener) {
    for (int i = 0; i < 64; i++) {
        int one = 1, fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno != EAGAIN) {
                perror("accept");
                usleep(10000);  // no descriptor: what waits is not lost
            }
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct connection *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        c->kind = listener->serves;
        uint32_t events = c->kind == CHARGEN ? EPOLLOUT | EPOLLRDHUP : EPOLLIN;
        watch(epoll, EPOLL_CTL_ADD, fd, events, c);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: origin PORT\n");
        return 2;
    }
    prepare_process();
    pattern_make();
    epoll = epoll_create1(0);
    for (enum kind kind = ECHO; kind < LISTENER; kind++) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = listen_on_all(atoi(argv[1]) + kind);
        c->kind = LISTENER;
        c->serves = kind;
        watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
    }
    struct connection by_name = {.fd = names_on(atoi(argv[1]) + 4), .kind = NAMES};
    watch(epoll, EPOLL_CTL_ADD, by_name.fd, EPOLLIN, &by_name);
    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->kind == ECHO) echo(c);
            else if (c->kind == CHARGEN) chargen(c, events[i].events);
            else if (c->kind == DISCARD) discard(c);
            else if (c->kind == TAKE) take(c);
            else if (c->kind == NAMES) names(c->fd);
            else accept_some(c);
        }
    }
}
