/* Says on a file whose path TRACE_CALLS holds what a process connects to and writes: loaded before all else (LD_PRELOAD), it
   stands before the C library's functions of these names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void say(const char *what, const char *path) {
    static int (*open_real)(const char *, int, ...);
    if (!open_real) *(void **)&open_real = dlsym(RTLD_NEXT, "open");
    const char *log = getenv("TRACE_CALLS");
    char line[4300];
    int length = snprintf(line, sizeof line, "%s %s\n", what, path ? path : "");
    int file = log ? open_real(log, O_WRONLY | O_APPEND | O_CREAT, 0644) : -1;
    if (file >= 0 && write(file, line, (size_t)length) >= 0) close(file);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)

int socket(int domain, int type, int protocol) {
    REAL(socket);
    say("socket", domain == AF_UNIX ? "unix" : "network");
    return real(domain, type, protocol);
}

int connect(int socket, const struct sockaddr *address, socklen_t length) {
    REAL(connect);
    say("connect", "");
    return real(socket, address, length);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    REAL(getaddrinfo);
    say("getaddrinfo", node);
    return real(node, service, hints, found);
}

static void say_open(const char *path, int flags) {
    if ((flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC)) say("write", path);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & O_CREAT) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = (mode_t)va_arg(rest, int); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) {
    REAL(open);
    MODE(flags)
    say_open(path, flags);
    return real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    MODE(flags)
    say_open(path, flags);
    return real(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    REAL(openat);
    MODE(flags)
    say_open(path, flags);
    return real(folder, path, flags, mode);
}

FILE *fopen(const char *path, const char *mode) {
    REAL(fopen);
    if (strpbrk(mode, "wa+")) say("write", path);
    return real(path, mode);
}

FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64);
    if (strpbrk(mode, "wa+")) say("write", path);
    return real(path, mode);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    say("write", path);
    return real(path, mode);
}
