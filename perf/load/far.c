// far.c: a path between two network namespaces, with a rate and a delay, through two TUN devices.
//
//     far NEAR_NAMESPACE FAR_NAMESPACE MBIT_PER_SECOND DELAY_MS QUEUE_KIB
//
// It makes the device `far0` in the first namespace and `near0` in the second, prints "ready", and
// passes IP packets both ways until it gets SIGTERM or a line or the end of standard input. Each
// way has the rate and the delay of its own; a packet that finds more than the queue before it is
// dropped, as a router does it. At the end it says how many were passed and dropped.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define MTU 1500
#define SLOTS 16384  // packets on their way: 24 MiB

struct packet {
    uint64_t due;  // ns
    uint16_t size;
    char bytes[MTU];
};

struct way {
    int from, to;
    uint64_t free_at;  // ns, when the line has sent all that it was given
    unsigned first, count;
    uint64_t passed, dropped;
    struct packet *ring;
};

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static int device(const char *namespace, const char *name) {
    char path[256];
    struct ifreq request;
    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    int ns = open(path, O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET)) {
        perror(path);
        exit(1);
    }
    close(ns);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request)) {
        perror("/dev/net/tun");
        exit(1);
    }
    return fd;
}

// Takes what the device has, until it has no more.
static void take(struct way *w, double ns_per_byte, uint64_t delay, uint64_t queue) {
    char bytes[MTU];
    for (;;) {
        ssize_t n = read(w->from, bytes, sizeof bytes);
        if (n <= 0) return;
        uint64_t now = now_ns();
        if (w->free_at < now) w->free_at = now;
        if (w->count == SLOTS || w->free_at - now > queue) {
            w->dropped++;
            continue;
        }
        w->free_at += (uint64_t)(n * ns_per_byte);
        struct packet *p = &w->ring[(w->first + w->count++) % SLOTS];
        p->due = w->free_at + delay;
        p->size = n;
        memcpy(p->bytes, bytes, n);
    }
}

// Passes on what is due; ns until the next is, or -1.
static int64_t pass(struct way *w) {
    while (w->count) {
        struct packet *p = &w->ring[w->first];
        uint64_t now = now_ns();
        if (p->due > now) return p->due - now;
        if (write(w->to, p->bytes, p->size) < 0 && errno != EAGAIN) w->dropped++;
        w->passed++;
        w->first = (w->first + 1) % SLOTS;
        w->count--;
    }
    return -1;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: far NEAR FAR MBIT DELAY_MS QUEUE_KIB\n");
        return 2;
    }
    double ns_per_byte = 8000.0 / atof(argv[3]);
    uint64_t delay = atof(argv[4]) * 1e6, queue = atof(argv[5]) * 1024 * ns_per_byte;
    int near = device(argv[1], "far0"), far = device(argv[2], "near0");
    struct way ways[2] = {{.from = near, .to = far}, {.from = far, .to = near}};
    for (int i = 0; i < 2; i++) ways[i].ring = calloc(SLOTS, sizeof(struct packet));
    puts("ready");
    fflush(stdout);
    for (;;) {
        int64_t wait = -1;
        for (int i = 0; i < 2; i++) {
            int64_t due = pass(&ways[i]);
            if (due >= 0 && (wait < 0 || due < wait)) wait = due;
        }
        struct timespec limit = {wait / 1000000000, wait % 1000000000};
        struct pollfd fds[] = {{near, POLLIN, 0}, {far, POLLIN, 0}, {0, POLLIN, 0}};
        if (ppoll(fds, 3, wait < 0 ? NULL : &limit, NULL) < 0 && errno != EINTR) return 1;
        if (fds[2].revents) break;
        for (int i = 0; i < 2; i++) take(&ways[i], ns_per_byte, delay, queue);
    }
    printf("{\"passed\": %lu, \"dropped\": %lu}\n", ways[0].passed + ways[1].passed,
           ways[0].dropped + ways[1].dropped);
    return 0;
}
