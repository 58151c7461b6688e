"""The system calls, structures and constants that the relay uses, by header."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EINTR, EINVAL, ENOSYS, EPERM, EEXIST, ENOMEM, EINPROGRESS, ECONNREFUSED
    int ECONNRESET, EPIPE

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int dup(int fd)
    int usleep(unsigned int microseconds)
    ssize_t read(int fd, void *buffer, size_t count)

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC, O_NONBLOCK, F_SETPIPE_SZ, F_GETPIPE_SZ
    unsigned int SPLICE_F_MOVE, SPLICE_F_NONBLOCK
    int pipe2(int *fds, int flags)
    int fcntl(int fd, int command, ...)
    ssize_t splice(int fd_in, void *off_in, int fd_out, void *off_out,
                   size_t length, unsigned int flags)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)
    unsigned long FIONREAD

cdef extern from "<linux/sockios.h>" nogil:
    unsigned long SIOCOUTQ

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct linger:
        int l_onoff
        int l_linger
    struct sockaddr:
        pass
    struct ucred:
        unsigned int uid
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    int SOL_SOCKET, SO_LINGER, SO_ERROR, SO_KEEPALIVE, SO_OOBINLINE, SO_PEERCRED, SO_RCVBUF
    int SHUT_WR
    int SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC
    int socket(int family, int type, int protocol)
    int bind(int fd, const sockaddr *address, socklen_t size)
    int connect(int fd, const sockaddr *address, socklen_t size)
    int getsockname(int fd, sockaddr *address, socklen_t *size)
    int accept4(int fd, sockaddr *address, socklen_t *size, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK
    ssize_t recv(int fd, void *buffer, size_t length, int flags)
    ssize_t send(int fd, const void *buffer, size_t length, int flags)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *length)

cdef extern from *:
    """
    /* Linux 5.14; the headers of glibc may be older than the kernel. */
    #ifndef SO_BUF_LOCK
    #define SO_BUF_LOCK 72
    #endif
    #define SOCK_RCVBUF_LOCK 2
    #ifndef SO_MAX_PACING_RATE
    #define SO_MAX_PACING_RATE 47
    #endif
    """
    const int SO_MAX_PACING_RATE
    const int SO_BUF_LOCK
    const int SOCK_RCVBUF_LOCK


cdef inline ssize_t send_two(
    int fd, const void *a, size_t na, const void *b, size_t nb
) noexcept nogil:
    """Sends two parts in one call, which does not wait; the number of bytes, or -1 and errno."""
    cdef iovec parts[2]
    cdef msghdr message
    parts[0].iov_base = <void *>a
    parts[0].iov_len = na
    parts[1].iov_base = <void *>b
    parts[1].iov_len = nb
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    message.msg_iovlen = 2
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)


cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET, AF_INET6
    unsigned short htons(unsigned short value)
    int inet_pton(int family, const char *text, void *address)
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_IP, IPPROTO_TCP, IP_BIND_ADDRESS_NO_PORT

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_INFO, TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT
    int TCP_NOTSENT_LOWAT, TCP_WINDOW_CLAMP

cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    struct timespec:
        long tv_sec
        long tv_nsec
    clockid_t CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_REALTIME
    int clock_gettime(clockid_t clock, timespec *now)
