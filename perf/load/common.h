// What the load programs share: the byte pattern, addresses, the clock, latencies.
#ifndef COMMON_H
#define COMMON_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATTERN 1048583         // bytes, a prime: a block lost, doubled or moved does not match
#define PATTERN_MORE (1 << 20)  // it goes on behind its end, so that one memcmp is enough
#define ADDRESSES 8             // targets are 127.0.0.1 to 127.0.0.8, unless told otherwise
#define EVENTS 256

static int pattern_fd;
static unsigned char *pattern;

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

// The Proxy-Authorization line of $PROXY_AUTHORIZATION, "" without it.
static inline const char *credentials(void) {
    static char line[256];
    const char *value = getenv("PROXY_AUTHORIZATION");
    if (value && !*line) snprintf(line, sizeof line, "Proxy-Authorization: %s\r\n", value);
    return line;
}

static inline void pattern_make(void) {
    size_t size = PATTERN + PATTERN_MORE;
    pattern_fd = memfd_create("pattern", 0);
    if (pattern_fd < 0 || ftruncate(pattern_fd, size)) die("memfd_create");
    pattern = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, pattern_fd, 0);
    if (pattern == MAP_FAILED) die("mmap");
    uint64_t x = 88172645463325252ull;  // xorshift64
    for (int i = 0; i < PATTERN; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        pattern[i] = x;
    }
    memcpy(pattern + PATTERN, pattern, PATTERN_MORE);
}

static inline struct sockaddr_in address(uint32_t host, int port) {
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons(port),
                                .sin_addr.s_addr = htonl(0x7f000000 + host)};
}

static inline uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static inline void prepare_process(void) {
    struct rlimit limit;
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static inline void watch(int epoll, int op, int fd, uint32_t events, void *data) {
    struct epoll_event event = {events, {.ptr = data}};
    if (epoll_ctl(epoll, op, fd, &event)) die("epoll_ctl");
}

static int named;  // hosts have names that origin.c knows

// Writes host `number` of 127.0.0.0/8; the first is 1.
static inline const char *host_name(char name[16], uint32_t number) {
    if (named) snprintf(name, 16, "n%06u.test", number);
    else snprintf(name, 16, "127.%u.%u.%u", number >> 16 & 255, number >> 8 & 255, number & 255);
    return name;
}

// A listening socket on every address of the loopback interface, and of no other one.
static inline int listen_on_all(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) ||
        bind(fd, (void *)&at, sizeof at) || listen(fd, 4096))
        die("listen");
    return fd;
}

// A listening socket on 127.0.0.`host`.
static inline int listen_on(uint32_t host, int port) {
    struct sockaddr_in at = address(host, port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (void *)&at, sizeof at) || listen(fd, 4096)) die("listen");
    return fd;
}

// Begins to connect from host `source` (0: any) of 127.0.0.0/8 to host `host`; -1 with errno.
static inline int connect_to(uint32_t source, uint32_t host, int port) {
    struct sockaddr_in from = address(source, 0), to = address(host, port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    // The port is chosen at connect(2), by both addresses: 28,000 for each pair.
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if ((source && bind(fd, (void *)&from, sizeof from)) ||
        (connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static inline int socket_error(int fd) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
}

// ---- results: latencies, and the first thing that went wrong

static uint32_t *latencies;
static size_t latencies_used, latencies_size;
static uint64_t errors;
static char first_error[160];

static inline void latency(uint64_t us) {
    if (latencies_used == latencies_size) {
        latencies_size = latencies_size ? 2 * latencies_size : 65536;
        latencies = realloc(latencies, latencies_size * sizeof *latencies);
        if (!latencies) die("realloc");
    }
    latencies[latencies_used++] = us;
}

static inline int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static inline void latencies_sort(void) {
    if (latencies_used) qsort(latencies, latencies_used, sizeof *latencies, by_value);
}

static inline unsigned percentile(double p) {  // after latencies_sort
    return latencies_used ? latencies[(size_t)(p * (latencies_used - 1))] : 0;
}

static inline void failed(const char *what, const char *detail) {
    if (errors++) return;
    snprintf(first_error, sizeof first_error, "%s: %.120s", what, detail);
    for (char *p = first_error; *p; p++)  // it goes into JSON
        if (*p == '"' || *p == '\\' || *p < ' ' || *p > '~') *p = ' ';
}

#endif
