// c_loop.c: the least that a proxy of CONNECT tunnels can do, to compare with.
//
//     c_loop PORT
//
// One epoll thread. Believes that each client of 127.0.0.1:PORT sends a whole CONNECT for an
// address of 127.0.0.0/8, connects, answers 200, and moves bytes both ways until both sides have
// ended: it copies, and a direction that has filled COPY bytes at once goes on by splice(2)
// through a pipe of 1 MiB of its own. No limits, no timeouts, no log, no errors told.
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>

#define COPY 4096  // a send of so many to an empty socket is never short
#define PIPE_SIZE (1 << 20)
#define MOVES 4  // splices of a direction in one wake-up
#define HEAD 1024

static const char established[] = "HTTP/1.1 200 Connection established\r\n\r\n";

enum state { ASKED, CONNECTING, OPEN, GONE };

struct flow {
    int pipe[2];  // none while it copies
    size_t held;  // bytes in the pipe
    int splices, ended;  // ended: the source has, and the target knows
};

struct side {
    int fd;
    uint32_t asked;       // of epoll
    struct relay *relay;  // NULL: this is the listener
};

struct relay {
    enum state state;
    struct side side[2];  // client, origin
    struct flow flow[2];  // flow[i] reads side[i] and writes side[1 - i]
    struct relay *next;   // of the dead
};

static int epoll;
static struct relay *dead;  // freed behind the batch, which may name them again

static int copy(struct relay *r, int i) {  // -1: it is over
    char data[COPY];
    ssize_t n = recv(r->side[i].fd, data, COPY, 0);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    if (n == 0) {
        r->flow[i].ended = 1;
        shutdown(r->side[1 - i].fd, SHUT_WR);
        return 0;
    }
    if (send(r->side[1 - i].fd, data, n, MSG_NOSIGNAL) != n) return -1;
    if (n < COPY) return 0;
    if (pipe2(r->flow[i].pipe, O_NONBLOCK)) die("pipe2");
    fcntl(r->flow[i].pipe[0], F_SETPIPE_SZ, PIPE_SIZE);  // else the size it has
    r->flow[i].splices = 1;
    return 0;
}

static int move(struct relay *r, int i) {  // -1: it is over
    struct flow *f = &r->flow[i];
    if (!f->splices) return f->ended ? 0 : copy(r, i);
    for (int turn = 0; turn < MOVES && !f->ended; turn++) {
        if (!f->held) {
            ssize_t n = splice(r->side[i].fd, NULL, f->pipe[1], NULL, PIPE_SIZE,
                               SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            if (n < 0) return errno == EAGAIN ? 0 : -1;
            if (n == 0) {
                f->ended = 1;
                shutdown(r->side[1 - i].fd, SHUT_WR);
                return 0;
            }
            f->held = n;
        }
        ssize_t n = splice(f->pipe[0], NULL, r->side[1 - i].fd, NULL, f->held,
                           SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        f->held -= n;
    }
    return 0;
}

static void ask(struct side *side, int op, uint32_t events) {
    watch(epoll, op, side->fd, events, side);
    side->asked = events;
}

static void ask_both(struct relay *r) {
    for (int i = 0; i < 2; i++) {
        uint32_t events = 0;
        if (!r->flow[i].held && !r->flow[i].ended) events |= EPOLLIN;
        if (r->flow[1 - i].held) events |= EPOLLOUT;
        if (events != r->side[i].asked) ask(&r->side[i], EPOLL_CTL_MOD, events);
    }
}

static void end(struct relay *r) {
    for (int i = 0; i < 2; i++) {
        if (r->side[i].fd >= 0) close(r->side[i].fd);
        if (!r->flow[i].splices) continue;
        close(r->flow[i].pipe[0]);
        close(r->flow[i].pipe[1]);
    }
    r->state = GONE;
    r->next = dead;
    dead = r;
}

static void connect_asked(struct relay *r) {
    char head[HEAD];
    unsigned a, b, c;
    int port;
    ssize_t n = recv(r->side[0].fd, head, HEAD - 1, 0);
    if (n < 0 && errno == EAGAIN) return;
    head[n > 0 ? n : 0] = 0;
    if (!strstr(head, "\r\n\r\n") ||
        sscanf(head, "CONNECT 127.%u.%u.%u:%d ", &a, &b, &c, &port) != 4)
        return end(r);
    r->side[1].fd = connect_to(0, a << 16 | b << 8 | c, port);
    if (r->side[1].fd < 0) return end(r);
    r->state = CONNECTING;
    ask(&r->side[1], EPOLL_CTL_ADD, EPOLLOUT);
}

static void connected(struct relay *r, uint32_t events) {
    if (events & ~EPOLLOUT) return end(r);
    ssize_t size = sizeof established - 1;
    if (send(r->side[0].fd, established, size, MSG_NOSIGNAL) != size) return end(r);
    r->state = OPEN;
    ask_both(r);
}

static void serve(struct side *side, uint32_t events) {
    struct relay *r = side->relay;
    int i = side == &r->side[1], over = 0;
    if (r->state == GONE) return;
    if (r->state == ASKED) return connect_asked(r);
    if (r->state == CONNECTING) {
        if (i) return connected(r, events);
        return end(r);  // it may not say more yet
    }
    if (r->flow[1 - i].held) over = move(r, 1 - i);
    if (!over && events & ~EPOLLOUT) over = move(r, i);
    if (over || (r->flow[0].ended && r->flow[1].ended)) return end(r);
    ask_both(r);
}

static void accept_some(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        int one = 1;
        struct relay *r = calloc(1, sizeof *r);
        if (!r) die("calloc");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        r->side[0] = (struct side){.fd = fd, .relay = r};
        r->side[1] = (struct side){.fd = -1, .relay = r};
        ask(&r->side[0], EPOLL_CTL_ADD, EPOLLIN);
        connect_asked(r);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: c_loop PORT\n");
        return 2;
    }
    prepare_process();
    epoll = epoll_create1(0);
    struct side listener = {.fd = listen_on(1, atoi(argv[1]))};
    ask(&listener, EPOLL_CTL_ADD, EPOLLIN);
    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct side *side = events[i].data.ptr;
            if (side->relay) serve(side, events[i].events);
            else accept_some(side->fd);
        }
        for (struct relay *r; (r = dead); free(r)) dead = r->next;
    }
}
