// origin.c: what tunnels lead to, on 127.0.0.1 to 127.0.0.8, one epoll thread.
//
//     origin PORT
//
// PORT    echo: sends back what it reads
// PORT+1  chargen: sends the pattern of common.h for ever, by sendfile(2)
// PORT+2  discard: reads to the end, then says how many bytes that were, and closes
#define _GNU_SOURCE
#include "common.h"

enum kind { ECHO, CHARGEN, DISCARD, LISTENER };

struct connection {
    int fd;
    enum kind kind, serves;  // serves: of a listener
    uint64_t moved;
    char *kept;  // what the echo could not send yet
    size_t kept_size, kept_sent;
};

static int epoll;

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
    for (enum kind kind = ECHO; kind <= DISCARD; kind++)
        for (int host = 1; host <= ADDRESSES; host++) {
            struct connection *c = calloc(1, sizeof *c);
            if (!c) die("calloc");
            c->fd = listen_on(host, atoi(argv[1]) + kind);
            c->kind = LISTENER;
            c->serves = kind;
            watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
        }
    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->kind == ECHO) echo(c);
            else if (c->kind == CHARGEN) chargen(c, events[i].events);
            else if (c->kind == DISCARD) discard(c);
            else accept_some(c);
        }
    }
}
