// splice_loop.c: the least that a splicing relay can do, to compare with.
//
//     splice_loop PORT TARGET_PORT [PORT TARGET_PORT]...
//
// One epoll thread; connects each client of 127.0.0.1:PORT to 127.0.0.1:TARGET_PORT and moves
// bytes by splice(2) through a pipe of 1 MiB for each direction, until both sides have ended.
// No limits, no timeouts, no log, no resets passed on.
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>

#define PIPE_SIZE (1 << 20)
#define MOVES 4  // reads of a direction in one wake-up

struct flow {
    int pipe[2];
    size_t held;  // bytes in the pipe
    int ended;    // the source has, and the target knows
};

struct side {
    int fd;
    uint32_t asked;       // of epoll
    struct relay *relay;  // NULL: this is a listener
    int target_port;      // of a listener
};

struct relay {
    struct side side[2];
    struct flow flow[2];  // flow[i] reads side[i] and writes side[1 - i]
    int gone;
};

static int epoll;
static struct relay *dead[EVENTS];  // freed behind the batch, which may name them again
static int dead_count;

static int move(struct relay *r, int i) {  // -1: an error
    struct flow *f = &r->flow[i];
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

static void ask(struct relay *r) {
    for (int i = 0; i < 2; i++) {
        uint32_t events = 0;
        if (!r->flow[i].held && !r->flow[i].ended) events |= EPOLLIN;
        if (r->flow[1 - i].held) events |= EPOLLOUT;
        if (events == r->side[i].asked) continue;
        r->side[i].asked = events;
        watch(epoll, EPOLL_CTL_MOD, r->side[i].fd, events, &r->side[i]);
    }
}

static void end(struct relay *r) {
    r->gone = 1;
    for (int i = 0; i < 2; i++) {
        close(r->side[i].fd);
        close(r->flow[i].pipe[0]);
        close(r->flow[i].pipe[1]);
    }
    dead[dead_count++] = r;
}

static void serve(struct side *side, uint32_t events) {
    struct relay *r = side->relay;
    if (r->gone) return;
    int i = side == &r->side[1];
    int bad = 0;
    if (events & ~EPOLLIN) bad = move(r, 1 - i);
    if (!bad && events & ~EPOLLOUT) bad = move(r, i);
    if (bad || (r->flow[0].ended && r->flow[1].ended)) return end(r);
    ask(r);
}

static void accept_some(struct side *listener) {
    for (int fd; (fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        int one = 1;
        struct relay *r = calloc(1, sizeof *r);
        if (!r) die("calloc");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        r->side[0].fd = fd;
        r->side[1].fd = connect_from(0, listener->target_port);
        if (r->side[1].fd < 0) die("connect");
        for (int i = 0; i < 2; i++) {
            if (pipe2(r->flow[i].pipe, O_NONBLOCK)) die("pipe2");
            fcntl(r->flow[i].pipe[0], F_SETPIPE_SZ, PIPE_SIZE);  // else the size it has
            r->side[i].relay = r;
            r->side[i].asked = EPOLLIN;
            watch(epoll, EPOLL_CTL_ADD, r->side[i].fd, EPOLLIN, &r->side[i]);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 3 || argc % 2 == 0) {
        fprintf(stderr, "usage: splice_loop PORT TARGET_PORT [PORT TARGET_PORT]...\n");
        return 2;
    }
    prepare_process();
    epoll = epoll_create1(0);
    for (int i = 1; i < argc; i += 2) {
        struct side *listener = calloc(1, sizeof *listener);
        if (!listener) die("calloc");
        listener->fd = listen_on(1, atoi(argv[i]));
        listener->target_port = atoi(argv[i + 1]);
        watch(epoll, EPOLL_CTL_ADD, listener->fd, EPOLLIN, listener);
    }
    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct side *side = events[i].data.ptr;
            if (side->relay) serve(side, events[i].events);
            else accept_some(side);
        }
        while (dead_count) free(dead[--dead_count]);
    }
}
