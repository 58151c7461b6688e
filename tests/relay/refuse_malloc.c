/* Refuses allocations of the compiled relay: malloc, calloc and realloc, called from
 * _native. For LD_PRELOAD; tests/relay/no_memory.py arms it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

static int armed;
static long count, first, last;

void refuse_arm(int from, int to) { count = 0; first = from; last = to; armed = 1; }

/* Whether anything was refused. */
int refuse_disarm(void) { armed = 0; return count > first; }

static int refused(void *caller)
{
    Dl_info info;
    long n;
    if (!armed || !dladdr(caller, &info) || !info.dli_fname || !strstr(info.dli_fname, "_native"))
        return 0;
    n = count++;
    return n >= first && (last == 0 || n < last);
}

void *malloc(size_t n)
{
    return refused(__builtin_return_address(0)) ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    return refused(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *at, size_t n)
{
    return refused(__builtin_return_address(0)) ? NULL : __libc_realloc(at, n);
}
